"""What the stages of one run share in a process: a model, loaded at most once at a time, and how a stage runs."""

import gc
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
)

from neuron_opsd import processes
from neuron_opsd.config import EngineSettings
from neuron_opsd.engines.base import Engine
from neuron_opsd.engines.choose import other_engine
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.environment import describe_environment
from neuron_opsd.errors import ConfigError
from neuron_opsd.model.load import (
    CausalLM,
    configured_context,
    load_model,
    load_model_config,
    max_context_tokens,
)
from neuron_opsd.progress import Tracker
from neuron_opsd.run.prompts import RunPrompts
from neuron_opsd.run.runners import InProcessRunner, Runner
from neuron_opsd.store.run_folder import HARNESS_RESULTS, RESULTS, TEACHER_GAP, RunFolder
from neuron_opsd.store.stage_cache import default_cache
from neuron_opsd.store.stage_folder import StageFolder
from neuron_opsd.text.prompts import student_messages

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class StageRun:
    """Whether a stage has work to do, and what it did."""

    is_needed: bool
    num_tokens: int = 0


class Workbench(RunPrompts):
    """One run in this process."""

    def __init__(self, folder: RunFolder, *, runner: Runner | None = None) -> None:
        super().__init__(folder)
        self.runner = runner or InProcessRunner()
        _check_runner(self.config.engine, self.runner)
        self.cache = default_cache()
        if self.config.num_threads:
            torch.set_num_threads(self.config.num_threads)
        self._loaded: tuple[str, PreTrainedModel, PreTrainedTokenizerBase] | None = None
        self._engine: tuple[str, Engine] | None = None  # one that is not hf, and the model it serves

    @contextmanager
    def stage_run(
        self,
        stage: StageFolder,
        inputs: dict[str, Any],
        *,
        outdates: Sequence[str] = (RESULTS, TEACHER_GAP, HARNESS_RESULTS),
    ) -> Iterator[StageRun]:
        """Skip a finished stage, or take it from the shared cache; time, announce and share one that has work to do.

        Args:
            stage: The stage's folder.
            inputs: What its records depend on.
            outdates: Results that no longer belong to this run once the stage is made again.
        """
        run = StageRun(is_needed=processes.from_main(not stage.is_finished(inputs)))
        started = time.monotonic()
        if run.is_needed and processes.is_main():
            self.folder.write_json("environment.json", describe_environment())
            for results in outdates:  # evaluation writes them again
                self.folder.remove_result(results)
        is_taken = processes.from_main(
            run.is_needed and processes.is_main() and self.cache.take(stage, inputs)
        )
        run.is_needed = run.is_needed and not is_taken
        yield run
        if not processes.is_main():
            return
        self.cache.publish(stage, self.folder.path)
        if not run.is_needed:
            how = f"taken from the cache {self.cache.root}" if is_taken else "finished before"
            logger.info("%s: %s, nothing to do", stage.name, how)
            return
        seconds = time.monotonic() - started
        count = stage.num_records()
        row = {
            "stage": stage.name,
            "seconds": round(seconds, 1),
            "num_items": count,
            "num_tokens": run.num_tokens,
        }
        self.folder.add_timing(row)
        logger.info("%s: %d records in %s", stage.name, count, stage.path)

    def base_model(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The frozen model, loaded if it is not."""
        return self._load(self.config.model.name)

    def model_config(self) -> PretrainedConfig:
        """The base model's configuration, without its weights."""
        return load_model_config(self.config.model)

    def release_model(self) -> None:
        """Free the memory of whatever model was loaded or trained here.

        A trainer and its student refer to one another: without the collector both would stay.
        """
        self._close_engine()
        self._loaded = None
        gc.collect()
        torch.cuda.empty_cache()

    def take_base_model(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The frozen model for training, which changes it: this workbench forgets it."""
        model, training = self.config.model, self.config.training
        if training.quantization != "none" or training.dtype != model.dtype:
            self.release_model()  # neurons are read from whole matrices in their own dtype; training has its own copy
            dtype = getattr(torch, training.dtype)
            return load_model(model, dtype=dtype, quantization=training.quantization)
        taken = self.base_model()
        self._loaded = None
        return taken

    def engine(self, model_name: str, *, batch_size: int) -> Engine:
        """An engine on a model by name. A server has the base model alone: the trained one is sampled here."""
        if self._is_sampled_here(model_name):
            model, tokenizer = self._load(model_name)
            return HFEngine(
                model, tokenizer, batch_size=batch_size, cache_tokens=self.config.engine.cache_tokens
            )
        if self._engine is None or self._engine[0] != model_name:
            self.release_model()  # one model in memory at a time
            self._engine = (
                model_name,
                other_engine(
                    self.config, self.tokenizer, model_name=model_name, longest_text=self.longest_text
                ),
            )
        return self._engine[1]

    def engine_identity(self, model_name: str) -> dict[str, str]:
        """Name and version of the engine on a model, for the record; no model is loaded."""
        if self._is_sampled_here(model_name):
            return HFEngine.identity()
        if self.config.engine.name == "vllm":
            from neuron_opsd.engines.vllm import VLLMEngine

            return VLLMEngine.identity()
        return self.engine(model_name, batch_size=1).identity()

    def _is_sampled_here(self, model_name: str) -> bool:
        name = self.config.engine.name
        return name == "hf" or (name == "server" and model_name != self.config.model.name)

    def model(self, model_name: str) -> PreTrainedModel:
        """A model by name, loaded if it is not."""
        return self._load(model_name)[0]

    def make_engine(self, model: CausalLM) -> Engine:
        """The engine that samples from the student in training."""
        if self.config.engine.name != "hf":
            name = self.config.model.name
            engine = other_engine(
                self.config, self.tokenizer, model_name=name, student=model, longest_text=self.longest_text
            )
            self._engine = ("the student", engine)
            return engine
        return HFEngine(
            model,
            self.tokenizer,
            batch_size=self.config.rollouts.batch_size,
            cache_tokens=self.config.engine.cache_tokens,
        )

    def longest_text(self) -> int:
        """Tokens of the longest prompt and completion of this run, within what the model reads."""
        config, encoder = self.config, self.encoder()
        asked = [*self.inputs.questions, *self.inputs.general_questions, *self.other_questions]
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
        limit = self.max_context()
        return longest + new if limit is None else min(longest + new, limit)

    def max_context(self) -> int | None:
        """Tokens that the model can read."""
        return max_context_tokens(self._loaded[1]) if self._loaded else configured_context(self.config.model)

    @staticmethod
    def progress_callback(tracker: Tracker, *, tells_rest: bool = True) -> TrainerCallback:
        """Shows steps as they end, with the divergence; and how long the rest takes, where that is known."""
        return _ProgressCallback(tracker, tells_rest=tells_rest)

    def _load(self, name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        if self._loaded is None or self._loaded[0] != name:
            self.release_model()  # one model in memory at a time
            self._loaded = (name, *load_model(self.config.model, name=name))
        return self._loaded[1], self._loaded[2]

    def _close_engine(self) -> None:
        if self._engine is not None:
            self._engine[1].close()
            self._engine = None


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


class _ProgressCallback(TrainerCallback):
    def __init__(self, tracker: Tracker, *, tells_rest: bool) -> None:
        self.tracker, self.has_told = tracker, not tells_rest

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.tracker.done = self.tracker.resumed_from = state.global_step
        self.tracker.restart_clock()

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs and "loss" in logs:  # not the Trainer's closing summary
            note = f"loss {logs['loss']:.4f}"
            if "divergence" in logs:
                note = f"divergence {logs['divergence']:.4f}, {logs['completion_tokens_mean']:.0f} tokens a completion"
            steps = state.global_step - self.tracker.done
            self.tracker.advance(steps, tokens=int(logs.get("num_completion_tokens", 0)), note=note)
            left = state.max_steps - state.global_step
            if self.tracker.done - self.tracker.resumed_from >= 2 and left and not self.has_told:
                self.has_told = True
                logger.info("train: about %s for the remaining %d steps", self.tracker.describe_left(), left)
