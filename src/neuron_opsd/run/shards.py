"""Stages that take hours, shard by shard, wherever there are processors.

Any process makes any shard: it needs the run folder and the stage's name, and loads the model by itself. What is in a
shard is a setting (rollouts.shard_size), so its bytes are the same wherever it is made. `run.runner` says where, the
process that holds the run's lock enters the shards in the manifest. Tasks of a scheduler's array share the lock and
leave their shards in the stage's inbox, from which the next run takes them.
"""

import abc
import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from neuron_opsd.errors import WorkerError
from neuron_opsd.progress import track
from neuron_opsd.records import Question
from neuron_opsd.run.runners import OnProgress
from neuron_opsd.run.session import Run
from neuron_opsd.store.files import JsonDict, explain_full_disk
from neuron_opsd.store.run_folder import RunFolder
from neuron_opsd.store.shard_inbox import ShardInbox
from neuron_opsd.store.stage_folder import StageFolder

logger = logging.getLogger(__name__)


class ShardedStage(abc.ABC):
    """One stage of one run, as a runner sees it (`runners.ShardWork`)."""

    record_type: type
    is_readable = True  # whether records.jsonl shows its records
    unit = "completions"

    def __init__(self, run: Run, name: str, *, inbox: ShardInbox | None = None) -> None:
        self.run, self.name, self.inbox = run, name, inbox

    def __reduce__(self) -> tuple[Callable[..., "ShardedStage"], tuple[type, Path, str, ShardInbox | None]]:
        inbox = self.inbox and ShardInbox(self.inbox.path.resolve())
        return _reopen, (type(self), self.run.folder.path.resolve(), self.name, inbox)

    @property
    def num_threads(self) -> int | None:
        """See `runners.ShardWork`."""
        return self.run.config.num_threads

    @property
    def device(self) -> str:
        """See `runners.ShardWork`."""
        return self.run.config.model.device

    @property
    def folder(self) -> StageFolder:
        """Where finished shards are read."""
        return self.run.folder.stage(self.name)

    @property
    def model_name(self) -> str:
        """The model that the stage asks: the base model, but in evaluation."""
        return self.run.config.model.name

    @property
    def shard_size(self) -> int:
        """Questions a shard."""
        return self.run.config.rollouts.shard_size

    @cached_property
    def inputs(self) -> JsonDict:
        """All that the records depend on."""
        return self.run.inputs_of(self.name)

    @property
    @abc.abstractmethod
    def questions(self) -> Sequence[Question]:
        """The questions, in the order of the shards. Read once, for they are many."""

    def num_shards(self) -> int:
        """How many shards all questions make."""
        return -(-len(self.questions) // self.shard_size)

    def shard_questions(self, index: int) -> Sequence[Question]:
        """The questions of one shard."""
        return self.questions[index * self.shard_size : (index + 1) * self.shard_size]

    def num_items(self, index: int) -> int:
        """What progress counts, of one shard."""
        return len(self.shard_questions(index)) * self.num_per_question()

    def num_per_question(self) -> int:
        """What progress counts, of one question."""
        return 1

    def is_ready(self) -> bool:
        """Whether the stages of the same command whose records this one reads are finished."""
        before = (self.run.folder.stage(name) for name in self.run.inputs.before(self.name))
        return all(stage.is_finished() for stage in before if stage.command == self.folder.command)

    def read_again(self) -> None:
        """Leave what is stored where `begin` finds it, if only its answers are to be read anew. Most have none."""
        return

    def use_threads(self, num_threads: int) -> None:
        """See `runners.ShardWork`."""
        torch.set_num_threads(num_threads)

    def write_shard(self, index: int, on_progress: OnProgress) -> JsonDict:
        """See `runners.ShardWork`."""
        with explain_full_disk(self.folder.path):
            records = self.make_shard(index, on_progress)
        return (self.inbox or self.folder).write_shard(index, records, self.record_type)

    @abc.abstractmethod
    def make_shard(self, index: int, on_progress: OnProgress) -> list[Any]:
        """The records of one shard."""

    @abc.abstractmethod
    def summary(self) -> JsonDict:
        """The figures of the finished stage."""


def _reopen(kind: type[ShardedStage], run: Path, name: str, inbox: ShardInbox | None) -> ShardedStage:
    """The stage in another process."""
    return kind(Run(RunFolder.open(run)), name, inbox=inbox)


def make_sharded(work: ShardedStage) -> None:
    """Make what is missing of a stage, wherever its run's runner works."""
    stage = work.folder
    with work.run.stage_work(stage, work.inputs) as done:
        if done.is_needed:
            work.read_again()
            missing = stage.begin(work.inputs, work.num_shards())
            done.num_tokens = _make_shards(work, missing, range(work.num_shards()), stage.enter)
            stage.finish(work.summary(), work.record_type if work.is_readable else None)
        stage.clear_inboxes()


def make_share(work: ShardedStage, part: int, num_parts: int) -> None:
    """One array task's share of a stage: every `num_parts`-th shard, into the stage's inbox."""
    stage = work.folder
    if stage.is_finished(work.inputs):
        logger.info("%s: finished before, nothing to do", work.name)
        return
    work.read_again()
    work.inbox = inbox = stage.inbox(work.inputs)
    share = range(part, work.num_shards(), num_parts)
    _make_shards(work, inbox.missing(share), share, inbox.enter)
    logger.info("%s: %d shards of part %d/%d in %s", work.name, len(share), part, num_parts, inbox.path)


def _make_shards(
    work: ShardedStage, missing: Sequence[int], share: Sequence[int], enter: Callable[[JsonDict], None]
) -> int:
    """Run the missing shards of a share.

    Returns:
        The tokens that were sampled or read.
    """
    if not work.run.runner.is_here:
        work.run.models.release()  # the workers need the memory
    total = sum(work.num_items(index) for index in share)
    done = total - sum(work.num_items(index) for index in missing)
    with track(work.name, total=total, unit=work.unit, done=done) as progress:

        def on_progress(items: int, tokens: int) -> None:
            progress.advance(items, tokens=tokens)

        num_made = 0
        with closing(work.run.runner.run(work, missing, on_progress)) as entries:
            for entry in entries:
                enter(entry)
                num_made += 1
    if num_made != len(missing):  # a finished stage is trusted to be whole
        raise WorkerError(
            f"{work.name}: {num_made} of {len(missing)} shards were made. Run it again. It resumes."
        )
    return progress.num_tokens
