"""A Ray cluster: the shards are rows of a Ray Data set, and a pool of actors, each with a model of its own, maps them.

RAY_ADDRESS names the cluster. Without it a cluster of this machine is started and ended. The run folder and the model
must lie where every machine finds them under the same path. An actor or a machine that dies is replaced, and its shard
is made again: same composition, same bytes.
"""

import logging
import os
import pickle
import traceback
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from neuron_opsd.errors import ConfigError, NeuronOpsdError, WorkerError
from neuron_opsd.run.runners.base import Entry, OnProgress, ShardWork

logger = logging.getLogger(__name__)

MAX_RETRIES = 3  # of one shard whose actor died. Endless ones would hide a shard that always kills its actor
LOCAL_STORE_BYTES = 100_000_000  # shard numbers and manifest entries are all that travels


class RayRunner:
    """`num_processes` actors."""

    is_here = False

    def __init__(self, num_processes: int) -> None:
        self.num_processes = num_processes
        _import_ray()  # refused now, not after an hour

    def run(
        self, work: ShardWork, indices: Sequence[int], on_progress: OnProgress
    ) -> Generator[Entry, None, None]:
        """See `Runner.run`."""
        if not indices:
            return
        ray = _import_ray()
        num_cpus = work.num_threads or 1
        with _cluster(self.num_processes * num_cpus):
            options: dict[str, Any] = {"num_cpus": num_cpus}
            if work.device in ("auto", "cuda") and ray.cluster_resources().get("GPU", 0):
                options["num_gpus"] = 1
            _check_room(ray.cluster_resources(), options, self.num_processes)
            num_actors = min(self.num_processes, len(indices))
            logger.info("%s: %d shards over %d Ray actors", work.name, len(indices), num_actors)
            rows = ray.data.from_items([{"index": i} for i in indices], override_num_blocks=len(indices))
            made = rows.map_batches(
                _ShardActor,
                fn_constructor_args=(pickle.dumps(work), num_cpus),
                batch_size=1,
                batch_format="numpy",
                compute=ray.data.ActorPoolStrategy(size=num_actors, max_tasks_in_flight_per_actor=1),
                max_restarts=-1,  # machines come and go
                max_task_retries=MAX_RETRIES,
                **options,
            )
            yield from _entries(made, work.name, on_progress)

    def release(self) -> None:
        """See `Runner.release`. Actors end with their stage."""


def _entries(made: Any, name: str, on_progress: OnProgress) -> Generator[Entry, None, None]:
    from ray.exceptions import RayError

    try:
        for row in made.iter_rows():
            answer = pickle.loads(row["answer"])  # from our own actor
            if "error" in answer:
                raise answer["error"]
            on_progress(answer["num_items"], answer["num_tokens"])
            yield answer["entry"]
    except RayError as error:
        cause = str(error).strip().splitlines()[-1][:300]
        raise WorkerError(
            f"{name}: Ray gave up after {MAX_RETRIES} attempts at a shard ({cause}). "
            "Finished shards are kept, and the same command resumes."
        ) from None


class _ShardActor:
    """Holds the model on one worker of the cluster."""

    def __init__(self, work: bytes, num_threads: int) -> None:
        self.pickled, self.num_threads = work, num_threads
        self.work: ShardWork | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        return {"answer": [pickle.dumps(self._answer(int(index))) for index in batch["index"]]}

    def _answer(self, index: int) -> dict[str, Any]:
        counts = [0, 0]

        def on_progress(items: int, tokens: int) -> None:
            counts[0] += items
            counts[1] += tokens

        name = "a stage"
        try:
            work = self._open()
            name = work.name
            entry = work.write_shard(index, on_progress)
        except NeuronOpsdError as error:
            return {"error": type(error)(f"{name}, shard {index}: {error}")}
        except Exception:
            return {
                "error": RuntimeError(f"{name}, shard {index}, in a Ray actor:\n{traceback.format_exc()}")
            }
        return {"entry": entry, "num_items": counts[0], "num_tokens": counts[1]}

    def _open(self) -> ShardWork:
        """The work, opened at the first shard: an error then is an answer, not an actor that cannot start."""
        if self.work is None:
            self.work = cast(ShardWork, pickle.loads(self.pickled))
            self.work.use_threads(self.num_threads)
        return self.work


@contextmanager
def _cluster(num_cpus: int) -> Iterator[None]:
    """Connect to the cluster of RAY_ADDRESS, or start one here: loopback alone, no dashboard, nothing sent out."""
    ray = _import_ray()
    ray.data.DataContext.get_current().enable_progress_bars = False
    if ray.is_initialized():  # the caller's own cluster
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if address:
        ray.init(address=address, **quiet)
    else:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            object_store_memory=LOCAL_STORE_BYTES,
            _node_ip_address="127.0.0.1",
            **quiet,
        )
    try:
        yield
    finally:
        ray.shutdown()


def _check_room(resources: dict[str, float], options: dict[str, Any], num_actors: int) -> None:
    """Refuse what the cluster can never hold: its actors would wait for ever.

    Raises:
        ConfigError: names what is asked for and what is there.
    """
    for resource, key in (("CPU", "num_cpus"), ("GPU", "num_gpus")):
        needed, there = options.get(key, 0) * num_actors, resources.get(resource, 0)
        if needed > there:
            raise ConfigError(
                f"--num-processes {num_actors} needs {needed:g} {resource}s, and the Ray cluster has {there:g}. "
                "Lower it, or add machines to the cluster."
            )


def _import_ray() -> Any:
    os.environ.setdefault("RAY_usage_stats_enabled", "0")  # read on import. Nothing is reported to anyone
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
    except ImportError:
        raise ConfigError(
            "--runner ray needs Ray, which is not installed: pip install 'neuron-opsd[ray]'. "
            "Without --runner, --num-processes uses this machine."
        ) from None
    return ray
