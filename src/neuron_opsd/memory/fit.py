"""What a run takes against what there is: a warning, a refusal, or settings that make it fit."""

import re
from collections.abc import Sequence
from typing import Any

from transformers import PretrainedConfig

from neuron_opsd.config import Config
from neuron_opsd.errors import ConfigError
from neuron_opsd.memory.count import in_words
from neuron_opsd.memory.estimate import RunLengths, StageMemory, estimate_run, num_kept_contexts

ROOM = 0.9  # of what is free: the estimate is right within a quarter, mostly above, and allocators keep some back

LARGER_THAN_ONE_CARD = (
    "Take a smaller model, a larger card, or several: engine.name=vllm engine.tensor_parallel=N for rollouts, "
    "model.device_map=auto for neurons, and `accelerate launch` with fsdp2.yaml for training (docs/memory.md)"
)


def parse_size(text: str, *, flag: str = "--fit") -> int:
    """Bytes of `24GB`.

    Raises:
        ConfigError: it is no size.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?GB", text.strip(), flags=re.IGNORECASE)
    if found is None or float(found[1]) <= 0:
        raise ConfigError(
            f"{flag} is {text!r}. It must be a size such as 24GB, or `free` for what is free now."
        )
    return int(float(found[1]) * 1e9)


def refuse_too_large(stages: Sequence[StageMemory], limit: int) -> None:
    """Refuse a model whose weights alone do not fit.

    Raises:
        ConfigError: both sizes, and what to do.
    """
    # What evaluation reads may be narrower than the estimate has it, so it is no reason to refuse.
    needed = [stage for stage in stages if stage.stage != "evaluation"] or stages
    worst = max(needed, key=lambda stage: stage.weights, default=None)
    if worst and worst.weights > limit:
        raise ConfigError(
            f"The weights alone take {in_words(worst.weights)} in {worst.stage}, and {in_words(limit)} are free. "
            f"{LARGER_THAN_ONE_CARD}."
        )


def too_large(stages: Sequence[StageMemory], limit: int, *, engine_adapts: bool = False) -> list[StageMemory]:
    """The stages that may not fit.

    Args:
        stages: Of the run.
        limit: Bytes.
        engine_adapts: The limit is what is free: then the hf engine holds fewer completions at once by itself.
    """
    large = [stage for stage in stages if stage.peak > ROOM * limit]
    return [stage for stage in large if not (engine_adapts and stage.is_sampling)]


def fit(
    config: Config,
    model: PretrainedConfig,
    lengths: RunLengths,
    limit: int,
    *,
    until: str = "report",
    engine_adapts: bool = False,
) -> tuple[Config, list[str]]:
    """The settings with batches so small that every stage fits, and what was set. Results change by rounding alone.

    Args:
        config: Resolved settings.
        model: The architecture.
        lengths: Of this run.
        limit: Bytes.
        until: The command after whose stage the run stops.
        engine_adapts: As in `too_large`.

    Raises:
        ConfigError: the smallest batches are still too large. Says what else there is.
    """

    def estimate(config: Config) -> list[StageMemory]:
        return estimate_run(config, model, lengths, until)

    stages = estimate(config)
    refuse_too_large(stages, limit)
    changes: dict[str, Any] = {}
    while excess := too_large(stages, limit, engine_adapts=engine_adapts):
        smaller = _smaller(config, excess[0], lengths)
        if smaller is None:
            raise ConfigError(_nothing_left(config, excess[0], limit))
        (section, name), value = smaller
        setting = getattr(config, section).model_copy(update={name: value})
        config = config.model_copy(update={section: setting})
        changes[f"{section}.{name}"] = value
        stages = estimate(config)
    return config, [f"{name}={_as_yaml(value)}" for name, value in changes.items()]


def _smaller(config: Config, stage: StageMemory, lengths: RunLengths) -> tuple[tuple[str, str], Any] | None:
    """The next setting to change for a stage, and its value. None where nothing is left."""
    training = config.training
    if stage.stage == "training" and num_kept_contexts(config, lengths):
        return ("training", "keep_prefixes"), 0
    if stage.stage != "training" or stage.is_sampling:
        if stage.stage == "training" and training.by_trl:
            return None  # TRL samples a whole step's completions at once
        section = "rollouts" if stage.stage == "training" else stage.stage
        size = getattr(config, section).batch_size
        return ((section, "batch_size"), size // 2) if size > 1 else None
    if not training.trainer.get("gradient_checkpointing"):
        return ("training", "trainer"), {**training.trainer, "gradient_checkpointing": True}
    if training.micro_batch_size > 1:
        per_step = training.completions_per_step()
        fewer = range(training.micro_batch_size // 2, 0, -1)
        return ("training", "micro_batch_size"), next(size for size in fewer if per_step % size == 0)
    return None


def _nothing_left(config: Config, stage: StageMemory, limit: int) -> str:
    more = "a lower max_new_tokens"
    if stage.stage == "evaluation" and config.training.method == "lora" and config.training.save == "merged":
        # Merged weights may have to be float32. An adapter is evaluated on the base in its own dtype.
        more = f"training.save=adapter, or {more}"
    if stage.stage == "training":
        more = (
            "training.quantization=4bit with training.save=adapter (a GPU), a lower training.max_new_tokens, "
            "contexts.max_prompt_tokens or training.loss_chunk_tokens"
        )
    return (
        f"{stage.describe()} is more than {ROOM:.0%} of {in_words(limit)}, even with the smallest batches. "
        f"What is left: {more}. {LARGER_THAN_ONE_CARD}."
    )


def _as_yaml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_as_yaml(item)}" for name, item in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)
