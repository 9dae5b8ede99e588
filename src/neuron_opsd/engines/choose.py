"""The engine that the settings name. vLLM and the HTTP client are imported only where they are asked for."""

from collections.abc import Callable
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from neuron_opsd import processes
from neuron_opsd.config import Config
from neuron_opsd.engines.base import Engine
from neuron_opsd.errors import EngineError
from neuron_opsd.model.load import CausalLM, configured_end_ids
from neuron_opsd.model.locate import is_adapter_folder, saved_dtype


def other_engine(
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    *,
    model_name: str,
    student: CausalLM | None = None,
    longest_text: Callable[[], int] | None = None,
) -> Engine:
    """`engine.name`, where it is not hf.

    Args:
        config: The run's settings.
        tokenizer: The model's.
        model_name: The model to sample from.
        student: The model in training that the engine is to follow.
        longest_text: Gives the tokens of the longest prompt and completion there will be: vLLM's default length.

    Raises:
        EngineError: the engine is not installed, cannot be reached, or cannot follow the student.
    """
    end_ids = sorted(configured_end_ids(config.model, tokenizer))
    if config.engine.name == "server":
        try:
            from neuron_opsd.engines.server import ServerEngine
        except ImportError as error:
            raise EngineError(
                f"engine.name=server needs an HTTP client: {error}. Run pip install 'neuron-opsd[server]'."
            ) from error
        assert student is None or isinstance(student, PeftModel), (
            "Config refuses a server with training.method=full"
        )
        return ServerEngine(config.engine, tokenizer, end_ids, student=student)
    if student is not None and processes.num_processes() > 1:
        raise EngineError(
            f"engine.name is vllm, which follows a student in one process. accelerate launch started "
            f"{processes.num_processes()}. Train with engine.name=server, or in one process."
        )
    from neuron_opsd.engines.vllm import VLLMEngine

    settings = config.engine
    if settings.max_model_len is None and longest_text is not None:
        settings = settings.model_copy(update={"max_model_len": longest_text()})
    is_adapter = model_name != config.model.name and is_adapter_folder(model_name)
    served = {
        "name": config.model.name if is_adapter else model_name,
        "dtype": saved_dtype(config.model, model_name) or config.model.dtype,
    }
    return VLLMEngine(
        settings,
        config.model.model_copy(update=served),
        end_ids,
        seed=config.seed,
        student=student,
        adapter=Path(model_name) if is_adapter else None,
        lora_rank=config.training.lora.rank,
    )
