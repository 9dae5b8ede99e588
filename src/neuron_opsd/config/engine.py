"""Settings of the engine that writes completions."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from neuron_opsd.config.section import Count, Fraction, Section


class EngineSettings(Section):
    """Who writes completions (docs/engines.md)."""

    name: Literal["hf", "vllm", "server"] = Field(
        default="hf",
        description="hf runs transformers, vllm runs in this process, server is an OpenAI-compatible URL. [ours]",
    )
    cache_tokens: Count | None = Field(
        default=None,
        description="For hf: tokens whose keys and values are held at once, over all completions. Default: as many as "
        "60 % of the free memory holds. [ours]",
    )
    url: str | None = Field(
        default=None,
        description="For server: the base URL, ending in /v1. A key comes from NEURON_OPSD_API_KEY alone.",
    )
    served_model: str | None = Field(
        default=None, description="For server: the model's name there. Default: the only one it serves."
    )
    concurrency: Count = Field(default=32, description="For server: completions asked for at once.")
    timeout_s: float = Field(
        default=300.0, gt=0, description="For server: seconds that one completion may take."
    )
    max_retries: int = Field(
        default=5, ge=0, description="For server: attempts again while it is busy or cannot be reached."
    )
    adapter_root: Path | None = Field(
        default=None,
        description="For server: folder that both see, for the student's adapters in training.",
    )
    max_model_len: Count | None = Field(
        default=None,
        description="For vllm: tokens of the longest prompt and completion. Default: what this run needs. vLLM sets "
        "its cache aside for all of it.",
    )
    tensor_parallel: Count = Field(default=1, description="For vllm: GPUs that share one model.")
    gpu_memory_share: Fraction = Field(
        default=0.5, description="For vllm: share of the GPU's memory it takes."
    )
    enforce_eager: bool = Field(
        default=False, description="For vllm: use no CUDA graphs. A CPU never has them."
    )

    @model_validator(mode="after")
    def _server_needs_a_url(self) -> "EngineSettings":
        if self.name == "server" and not (self.url or "").startswith(("http://", "https://")):
            raise ValueError(
                f"engine.name is server, and engine.url is {self.url}. "
                "Give the server's base URL, such as http://127.0.0.1:8000/v1."
            )
        return self
