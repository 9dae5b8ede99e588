"""One run in this process: its settings, the records of its stages, its models, and how a stage runs."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from neuron_opsd import processes
from neuron_opsd.config import EngineSettings
from neuron_opsd.errors import ConfigError, DataError, ModelError
from neuron_opsd.model.defaults import resolve
from neuron_opsd.model.environment import describe_environment
from neuron_opsd.run.inputs import StageInputs
from neuron_opsd.run.models import Models
from neuron_opsd.run.runners import InProcessRunner, Runner
from neuron_opsd.run.stage_records import StageRecords
from neuron_opsd.run.tracking import Tracking
from neuron_opsd.store.files import JsonDict
from neuron_opsd.store.run_folder import HARNESS_RESULTS, RESULTS, TEACHER_GAP, RunFolder
from neuron_opsd.store.stage_cache import default_cache
from neuron_opsd.store.stage_folder import StageFolder, add_only_shard
from neuron_opsd.text.prompts import student_messages

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class StageWork:
    """Whether a stage has work to do, and what it did."""

    is_needed: bool
    num_tokens: int = 0
    figures: JsonDict = field(default_factory=dict)  # more for its row of timings.jsonl


class Run:
    """What the stages of one run share.

    Attributes:
        folder: The run on disk.
        config: Its settings, with the values that depend on the model.
        inputs: What each stage depends on.
        records: What earlier stages made.
        models: The models, one in memory at a time.
        runner: Where shards are made.
        cache: Stages that runs share.
        tracking: Sends what the run finds to an experiment tracker, if one was asked for.
    """

    def __init__(
        self, folder: RunFolder, *, runner: Runner | None = None, tracking: Tracking | None = None
    ) -> None:
        self.folder = folder
        self.config = resolve(folder.config())
        self.inputs = StageInputs(self.config, folder)
        self.records = StageRecords(folder, self.config, self.inputs)
        self.runner = runner or InProcessRunner()
        self.models = Models(
            self.config, folder, longest_text=self.longest_text, make_room=self.runner.release
        )
        _check_runner(self.config.engine, self.runner)
        self.cache = default_cache()
        self.tracking = tracking
        if self.config.num_threads:
            torch.set_num_threads(self.config.num_threads)

    def ready_inputs(self, name: str) -> JsonDict:
        """What a stage depends on, once those that it reads are there.

        Raises:
            RunFolderError: one of them is missing, unfinished or made from other settings. Says which, and why.
        """
        for before in self.inputs.before(name):
            self.folder.stage(before).require(self.inputs.of(before))
        return self.inputs.of(name)

    def is_current(self, name: str) -> bool:
        """Whether a stage is finished, and made from the settings as they are."""
        if not self.folder.stage(name).manifest():
            return False
        try:
            inputs = self.inputs.of(name)
        except (ModelError, DataError) as error:  # a report is still possible where the model is not
            logger.warning("%s: not compared with the settings: %s", name, error)
            return self.folder.is_current(name)
        return self.folder.stage(name).is_finished(inputs)

    def make_stage(
        self, name: str, record_type: type, make: Callable[[], tuple[list[Any], JsonDict]]
    ) -> JsonDict:
        """Make a stage of one shard, unless it is finished, and return its summary.

        Args:
            name: The stage.
            record_type: Of its records.
            make: Makes the records and the summary. Called where there is work to do.
        """
        stage, inputs = self.folder.stage(name), self.ready_inputs(name)
        with self.stage_work(stage, inputs) as work:
            if work.is_needed and processes.is_main():
                records, summary = make()
                add_only_shard(stage, inputs, records, record_type)
                stage.finish(summary, record_type)
            processes.wait_for_all()
        return stage.summary()

    @contextmanager
    def stage_work(
        self,
        stage: StageFolder,
        inputs: JsonDict,
        *,
        outdates: Sequence[str] = (RESULTS, TEACHER_GAP, HARNESS_RESULTS),
    ) -> Iterator[StageWork]:
        """Skip a finished stage, or take it from the shared cache. One that has work to do is timed, and shared after.

        Args:
            stage: The stage's folder.
            inputs: What its records depend on.
            outdates: Results that no longer belong to this run once the stage is made again.
        """
        is_needed = processes.from_main(not stage.is_finished(inputs))
        if is_needed and processes.is_main():
            self._prepare(stage, inputs, outdates)
        is_taken = processes.from_main(is_needed and processes.is_main() and self.cache.take(stage, inputs))
        work, started = StageWork(is_needed=is_needed and not is_taken), time.monotonic()
        yield work
        if not processes.is_main():
            return
        self.cache.publish(stage, self.folder.path)
        if work.is_needed:
            self._note(stage, work, seconds=time.monotonic() - started)
        else:
            how = f"taken from the cache {self.cache.root}" if is_taken else "finished before"
            logger.info("%s: %s, nothing to do", stage.name, how)

    def _prepare(self, stage: StageFolder, inputs: JsonDict, outdates: Sequence[str]) -> None:
        """Say why a stage is made again, and remove the results that no longer belong to this run."""
        if (why := stage.why_again(inputs)) is not None:
            logger.info("%s: recomputed, because %s", stage.name, why)
        self.folder.write_json("environment.json", describe_environment())
        for results in outdates:
            self.folder.remove_result(results)

    def _note(self, stage: StageFolder, work: StageWork, *, seconds: float) -> None:
        """Log what a stage did, and add it to timings.jsonl."""
        count = stage.num_records()
        row = {
            "stage": stage.name,
            "seconds": round(seconds, 1),
            "num_items": count,
            "num_tokens": work.num_tokens,
            **work.figures,
        }
        self.folder.add_timing(row)
        logger.info("%s: %d records in %s", stage.name, count, stage.path)

    def longest_text(self) -> int:
        """Tokens of the longest prompt and completion of this run, within what the model reads."""
        config, encoder = self.config, self.models.encoder()
        asked = [*self.inputs.questions, *self.inputs.general_questions, *self.inputs.other_questions]
        prompts = (
            encoder.encode(
                student_messages(
                    question,
                    choice_order=tuple(range(len(question.choices))),
                    answer_format=config.prompts.answer_format,
                    system=config.prompts.system,
                )
            )
            for question in asked
        )
        # Another order of the choices can be cut into a few tokens more.
        longest = max(map(len, prompts), default=0) + 16
        if config.preflight.num_questions or config.evaluation.context:
            longest = max(longest, self.inputs.context_settings.max_prompt_tokens)
        new = max(
            config.rollouts.max_new_tokens,
            config.training.max_new_tokens,
            config.evaluation.max_new_tokens,
            config.evaluation.for_general().max_new_tokens,
        )
        limit = self.models.max_context()
        return longest + new if limit is None else min(longest + new, limit)


def _check_runner(engine: EngineSettings, runner: Runner) -> None:
    """Refuse several GPUs for one model in a worker, which has one.

    Raises:
        ConfigError: names both ways out.
    """
    if engine.name == "vllm" and engine.tensor_parallel > 1 and not runner.is_here:
        raise ConfigError(
            f"engine.tensor_parallel is {engine.tensor_parallel}, but a worker of --num-processes or --runner ray has "
            "one GPU. Leave these options out, or start one task for each group of GPUs: CUDA_VISIBLE_DEVICES=... "
            "neuron-opsd rollouts RUN --shards K/N (docs/engines.md)."
        )
