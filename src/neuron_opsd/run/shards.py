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
from neuron_opsd.run.models import Models
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
        return self.run.ready_inputs(self.name)

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
        """Items of one shard, as progress counts them (`unit`)."""
        return len(self.shard_questions(index)) * self.num_per_question()

    def num_per_question(self) -> int:
        """Items of one question, as progress counts them."""
        return 1

    def is_ready(self) -> bool:
        """Whether the stages of the same command whose records this one reads are finished."""
        before = (self.run.folder.stage(name) for name in self.run.inputs.before(self.name))
        return all(stage.is_finished() for stage in before if stage.command == self.folder.command)

    def read_again(self) -> None:
        """Put stored replies, read again, into the inbox, if only the reader changed. Most stages store none."""
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


kept_models: dict[Path, Models] = {}  # by run folder: of the stage that this worker made last


def _reopen(kind: type[ShardedStage], path: Path, name: str, inbox: ShardInbox | None) -> ShardedStage:
    """The stage in another process. A worker that made a stage of this run before still has its model."""
    run, before = Run(RunFolder.open(path)), kept_models.get(path)
    if before is not None and before.config == run.config:
        run.models = before
    kept_models.clear()
    kept_models[path] = run.models
    return kind(run, name, inbox=inbox)


def make_sharded(stage: ShardedStage) -> None:
    """Make what is missing of a stage, wherever its run's runner works."""
    folder = stage.folder
    with stage.run.stage_work(folder, stage.inputs) as work:
        if work.is_needed:
            stage.read_again()
            missing = folder.begin(stage.inputs, stage.num_shards())
            work.num_tokens = _make_shards(stage, missing, range(stage.num_shards()), folder.enter)
            folder.finish(stage.summary(), stage.record_type if stage.is_readable else None)
        folder.clear_inboxes()


def make_share(stage: ShardedStage, part: int, num_parts: int) -> None:
    """One array task's share of a stage: every `num_parts`-th shard, into the stage's inbox."""
    folder = stage.folder
    if folder.is_finished(stage.inputs):
        logger.info("%s: finished before, nothing to do", stage.name)
        return
    stage.read_again()
    stage.inbox = inbox = folder.inbox(stage.inputs)
    share = range(part, stage.num_shards(), num_parts)
    _make_shards(stage, inbox.missing(share), share, inbox.enter)
    logger.info("%s: %d shards of part %d/%d in %s", stage.name, len(share), part, num_parts, inbox.path)


def _make_shards(
    stage: ShardedStage, missing: Sequence[int], share: Sequence[int], enter: Callable[[JsonDict], None]
) -> int:
    """Run the missing shards of a share.

    Returns:
        The tokens that were sampled or read.
    """
    if not stage.run.runner.is_here:
        stage.run.models.release()  # the workers need the memory
    total = sum(stage.num_items(index) for index in share)
    num_done = total - sum(stage.num_items(index) for index in missing)
    with track(stage.name, total=total, unit=stage.unit, done=num_done) as progress:

        def on_progress(items: int, tokens: int) -> None:
            progress.advance(items, tokens=tokens)

        num_made = 0
        with closing(stage.run.runner.run(stage, missing, on_progress)) as entries:
            for entry in entries:
                enter(entry)
                num_made += 1
    if num_made != len(missing):  # a finished stage is trusted to be whole
        raise WorkerError(
            f"{stage.name}: {num_made} of {len(missing)} shards were made. Run it again. It resumes."
        )
    return progress.num_tokens
