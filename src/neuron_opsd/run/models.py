"""The models of a run: one in memory at a time, and the engines that sample from it."""

import gc
import logging
from collections.abc import Callable
from functools import cached_property

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from neuron_opsd.config import Config
from neuron_opsd.engines.base import Engine
from neuron_opsd.engines.choose import other_engine
from neuron_opsd.engines.hf import HFEngine, OnRead
from neuron_opsd.errors import ModelError
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.load import (
    CausalLM,
    configured_context,
    load_model,
    load_model_config,
    load_tokenizer,
    max_context_tokens,
)
from neuron_opsd.store.run_folder import RunFolder

logger = logging.getLogger(__name__)


class Models:
    """The base model, the student and the trained model of one run, each loaded when it is asked for.

    Args:
        config: The settings of the run.
        folder: Its folder, which has the trained model.
        longest_text: Counts the tokens of the longest prompt and completion, for engines that reserve them.
        make_room: Frees memory elsewhere that the next model may need. Called before each load.
    """

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        *,
        longest_text: Callable[[], int],
        make_room: Callable[[], None],
    ) -> None:
        self.config, self.folder, self.longest_text = config, folder, longest_text
        self.make_room = make_room
        self._loaded: tuple[str, PreTrainedModel, PreTrainedTokenizerBase] | None = None
        self._engine: tuple[str, Engine] | None = None  # one that is not hf, and the model it serves

    def base(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The frozen model, loaded if it is not."""
        return self._load(self.config.model.name)

    def base_config(self) -> PretrainedConfig:
        """The base model's configuration, without its weights."""
        return load_model_config(self.config.model)

    def named(self, name: str) -> PreTrainedModel:
        """A model by name, loaded if it is not."""
        return self._load(name)[0]

    def take_base(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The frozen model for training, which changes it. So it is forgotten here."""
        model, training = self.config.model, self.config.training
        if training.quantization != "none" or training.dtype != model.dtype:
            self._release_all()  # neurons are read from whole matrices in their own dtype. Training has its own copy
            dtype = getattr(torch, training.dtype)
            return load_model(model, dtype=dtype, quantization=training.quantization)
        taken = self.base()
        self._loaded = None
        return taken

    def release(self) -> None:
        """Free the memory of whatever model was loaded or trained here.

        A trainer and its student refer to one another: without the collector both would stay.
        """
        if self._engine is not None:
            self._engine[1].close()
            self._engine = None
        self._loaded = None
        gc.collect()
        torch.cuda.empty_cache()

    def engine(self, name: str, *, batch_size: int, on_read: OnRead | None = None) -> Engine:
        """An engine on a model by name. A server has the base model alone: the trained one is sampled here.

        `on_read` is called by hf alone, whose prompts are read here.
        """
        if self._is_sampled_here(name):
            model, tokenizer = self._load(name)
            return HFEngine(
                model,
                tokenizer,
                batch_size=batch_size,
                cache_tokens=self.config.engine.cache_tokens,
                on_read=on_read,
            )
        if self._engine is None or self._engine[0] != name:
            self._release_all()
            engine = other_engine(
                self.config, self.tokenizer, model_name=name, longest_text=self.longest_text
            )
            self._engine = (name, engine)
        return self._engine[1]

    def engine_of_student(self, student: CausalLM) -> Engine:
        """The engine that samples from the student in training."""
        if self.config.engine.name == "hf":
            return HFEngine(
                student,
                self.tokenizer,
                batch_size=self.config.rollouts.batch_size,
                cache_tokens=self.config.engine.cache_tokens,
            )
        engine = other_engine(
            self.config,
            self.tokenizer,
            model_name=self.config.model.name,
            student=student,
            longest_text=self.longest_text,
        )
        self._engine = ("the student", engine)
        return engine

    def engine_identity(self, name: str) -> dict[str, str]:
        """Name and version of the engine on a model, for the record. No model is loaded."""
        if self._is_sampled_here(name):
            return HFEngine.identity()
        if self.config.engine.name == "vllm":
            from neuron_opsd.engines.vllm import VLLMEngine

            return VLLMEngine.identity()
        return self.engine(name, batch_size=1).identity()

    def max_context(self) -> int | None:
        """Tokens that the model can read."""
        return max_context_tokens(self._loaded[1]) if self._loaded else configured_context(self.config.model)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer. Where that model is gone, the one published with the trained model."""
        try:
            return load_tokenizer(self.config.model)
        except ModelError as error:
            published = self.folder.model_folder
            if not (published / "tokenizer_config.json").is_file():
                raise
            logger.warning("model: using the trained model's tokenizer, because: %s", error)
            own = self.config.model.model_copy(update={"chat_template": None})
            return load_tokenizer(own, name=str(published))

    def encoder(self, *, teacher: bool = False) -> ChatEncoder:
        """The one door from messages to token ids. The teacher's prompt may have template arguments of its own."""
        return ChatEncoder.of(self.config.model, self.tokenizer, teacher=teacher)

    def _is_sampled_here(self, name: str) -> bool:
        engine = self.config.engine.name
        return engine == "hf" or (engine == "server" and name != self.config.model.name)

    def _load(self, name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        if self._loaded is None or self._loaded[0] != name:
            self._release_all()
            self._loaded = (name, *load_model(self.config.model, name=name))
        return self._loaded[1], self._loaded[2]

    def _release_all(self) -> None:
        """One model in memory at a time, those of idle workers counted."""
        self.release()
        self.make_room()
