"""Several processes of one machine, each with a model of its own on a GPU or a share of the cores.

Fresh interpreters (spawn): a forked process can neither use CUDA nor trust the locks of torch's threads. A worker is
given one shard at a time over a pipe, so that its death is seen at once and names the shard. Workers stay from stage to
stage with the model that they hold, until the command needs that memory for a model of its own.
"""

import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from neuron_opsd.errors import NeuronOpsdError, WorkerError
from neuron_opsd.progress import listening, tell
from neuron_opsd.run.runners.base import Entry, OnProgress, ShardWork

logger = logging.getLogger(__name__)


class ProcessRunner:
    """`num_processes` workers on this machine."""

    is_here = False

    def __init__(self, num_processes: int) -> None:
        self.num_processes = num_processes
        self._workers: list[_Worker] = []
        weakref.finalize(self, _end, self._workers)

    def run(
        self, work: ShardWork, indices: Sequence[int], on_progress: OnProgress
    ) -> Generator[Entry, None, None]:
        """See `Runner.run`. Workers wait for the next stage. They end if this fails or is closed."""
        todo = deque(indices)
        is_finished = False
        try:
            workers = self._workers_for(work, len(todo))
            logger.info("%s: %d shards over %d processes", work.name, len(todo), len(workers))
            for worker in workers:
                worker.begin(work)
                worker.give(todo)
            while busy := {worker.pipe: worker for worker in workers if worker.shard is not None}:
                for pipe in wait(list(busy)):
                    kind, value = busy[pipe].receive()  # pyright: ignore[reportArgumentType]
                    if kind == "progress":
                        on_progress(*value)
                    elif kind == "told":
                        tell(tokens=value)
                    else:
                        yield value
                        busy[pipe].give(todo)  # pyright: ignore[reportArgumentType]
            is_finished = True
        finally:
            if not is_finished:
                self.release()

    def release(self) -> None:
        """See `Runner.release`."""
        _end(self._workers)

    def _workers_for(self, work: ShardWork, num_shards: int) -> "list[_Worker]":
        """Those that wait and are still alive, and new ones for the rest."""
        # Threads by the number asked for, not by the shards left: a resumed run must give the same bytes.
        options = worker_options(work, self.num_processes)
        if any(not worker.is_fit(option) for worker, option in zip(self._workers, options, strict=False)):
            self.release()
        with _interrupts_held_back():
            self._workers += [_Worker(**option) for option in options[len(self._workers) : num_shards]]
        return self._workers[:num_shards]


def worker_options(work: ShardWork, num_processes: int) -> list[dict[str, Any]]:
    """CPU threads and GPU of each worker: the cores are shared out, the GPUs go round."""
    num_threads = work.num_threads or max(1, _num_cores() // num_processes)
    gpus = _visible_gpus() if work.device in ("auto", "cuda") else []
    if gpus and num_processes > len(gpus):
        logger.warning("%s: %d processes share %d GPUs", work.name, num_processes, len(gpus))
    return [
        {"num_threads": num_threads, "gpu": gpus[place % len(gpus)] if gpus else None}
        for place in range(num_processes)
    ]


class _Worker:
    """The parent's side of one worker."""

    def __init__(self, *, num_threads: int, gpu: str | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.work_name, self.shard = "", None
        self.option = {"num_threads": num_threads, "gpu": gpu}
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, num_threads, gpu), daemon=True)
        self.process.start()
        theirs.close()  # so that the pipe ends when the worker does

    def is_fit(self, option: dict[str, Any]) -> bool:
        """Whether it is alive, with these threads and this GPU."""
        return self.process.is_alive() and self.option == option

    def begin(self, work: ShardWork) -> None:
        """Tell it which stage the next shards belong to."""
        self.work_name = work.name
        self._send(pickle.dumps(work))

    def give(self, todo: "deque[int]") -> None:
        """Hand over the next shard, if there is one."""
        self.shard = todo.popleft() if todo else None
        if self.shard is not None:
            self._send(self.shard)

    def _send(self, message: bytes | int) -> None:
        with contextlib.suppress(BrokenPipeError):  # it died: `receive` says so
            self.pipe.send(message)

    def receive(self) -> tuple[str, Any]:
        """Its next message.

        Raises:
            WorkerError: it died.
            NeuronOpsdError: what it met.
        """
        try:
            kind, value = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(10)
            raise WorkerError(
                f"{self.work_name}: the process that made shard {self.shard} died ({_cause(self.process.exitcode)}). "
                "Finished shards are kept, and the same command resumes. Use fewer --num-processes."
            ) from None
        if kind == "error":
            raise type(value)(f"{self.work_name}, shard {self.shard}: {value}")
        if kind == "bug":
            raise RuntimeError(f"{self.work_name}, shard {self.shard}, in a worker process:\n{value}")
        return kind, value

    def stop(self) -> None:
        """Wait for its end, whatever it does: its files appear by rename, whole."""
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


def _end(workers: list[_Worker]) -> None:
    """End them all, and forget them."""
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.stop()
    workers.clear()


def _cause(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"exit status {exitcode}"
    hint = ", often because the machine ran out of memory" if exitcode == -signal.SIGKILL else ""
    return f"{signal.Signals(-exitcode).name}{hint}"


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Ctrl-C reaches the whole group, but workers are the parent's to end: they inherit that SIGINT is blocked."""
    resource_tracker.ensure_running()  # its start would unblock it
    held: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()
    # Another thread may still take the signal, and Python would interrupt this one with a worker half started.
    handler = signal.signal(signal.SIGINT, lambda number, frame: held.append(number)) if is_main else None
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if is_main:
            signal.signal(signal.SIGINT, handler)
    if held:
        raise KeyboardInterrupt


def _serve(pipe: Connection, num_threads: int, gpu: str | None) -> None:
    """A worker's life: a stage and its shards in, entries out, until its parent ends it or is gone."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # read when CUDA starts, which is with the first model
    stage: ShardWork | bytes = b""
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            message = pipe.recv()
            if isinstance(message, bytes):
                stage = message
                continue
            try:
                if isinstance(stage, bytes):  # opened at its first shard: an error then has an answer
                    stage = _open(stage, num_threads)
                pipe.send(("done", _make(pipe, stage, message)))
            except NeuronOpsdError as error:
                pipe.send(("error", error))
            except BrokenPipeError:
                raise
            except Exception:
                pipe.send(("bug", traceback.format_exc()))


def _open(pickled: bytes, num_threads: int) -> ShardWork:
    work = pickle.loads(pickled)  # from our own parent. Imports torch
    work.use_threads(num_threads)
    return work


def _make(pipe: Connection, work: ShardWork, index: int) -> Entry:
    report = lambda items, tokens: pipe.send(("progress", (items, tokens)))  # noqa: E731
    with listening(lambda tokens, doing: pipe.send(("told", tokens))):
        return work.write_shard(index, report)


def _die_with_parent() -> None:
    """A killed parent cannot end its workers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _num_cores() -> int:
    """Cores this process may use, which a scheduler or a container can limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _visible_gpus() -> list[str]:
    """The GPUs of this process, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()  # asks the driver. Starts no CUDA in this process
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[:count] if named else [str(i) for i in range(count)]
