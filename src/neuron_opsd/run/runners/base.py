"""What a runner and the work it is given agree on. A runner knows no stage, and the work no runner.

The worker that makes a shard writes its file. The process that holds the run's lock alone enters it in the manifest. So
a shard that two workers make (one was thought dead) does no harm: both write the same bytes, by rename.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

OnProgress = Callable[[int, int], None]  # (finished items, tokens)
Entry = dict[str, Any]  # what the manifest keeps of a shard


class ShardWork(Protocol):
    """One stage of one run. Pickled, it is an address: the process that unpickles it loads a model of its own."""

    @property
    def name(self) -> str:
        """The stage, for messages."""
        ...

    @property
    def num_threads(self) -> int | None:
        """CPU threads that the settings ask for."""
        ...

    @property
    def device(self) -> str:
        """The device that the settings ask for. `auto` lets a runner spread workers over the GPUs."""
        ...

    def use_threads(self, num_threads: int) -> None:
        """Compute with so many CPU threads from now on, in this process."""
        ...

    def write_shard(self, index: int, on_progress: OnProgress) -> Entry:
        """Make the records of one shard and write its file."""
        ...


class Runner(Protocol):
    """A place where shards are made."""

    @property
    def is_here(self) -> bool:
        """Whether it is this process, so that a model loaded here is used."""
        ...

    def run(
        self, work: ShardWork, indices: Sequence[int], on_progress: OnProgress
    ) -> Generator[Entry, None, None]:
        """Make these shards, in any order.

        Yields:
            The entry of each shard once its file lies on the disk.

        Raises:
            WorkerError: a worker died.
        """
        ...

    def release(self) -> None:
        """Free the memory that workers hold between stages: a model is about to be loaded in this process."""
        ...


class InProcessRunner:
    """The default: one shard after another, here."""

    is_here = True

    def run(
        self, work: ShardWork, indices: Sequence[int], on_progress: OnProgress
    ) -> Generator[Entry, None, None]:
        """See `Runner.run`."""
        for index in indices:
            yield work.write_shard(index, on_progress)

    def release(self) -> None:
        """See `Runner.release`. The model here is the run's to free."""
