"""The interface of every engine: prompt ids in, completion ids out."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from neuron_opsd.config import EvaluationSettings, RolloutSettings
from neuron_opsd.errors import EngineError


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to sample. Nothing is taken from a model's generation_config."""

    temperature: float  # 0 is greedy
    top_p: float = 1.0
    top_k: int | None = None  # sample from this many of the likeliest tokens. None: from all
    max_new_tokens: int


def sampling_of(settings: RolloutSettings | EvaluationSettings) -> Sampling:
    """The engine's settings from a section of the configuration."""
    return Sampling(
        temperature=settings.temperature, top_p=settings.top_p, max_new_tokens=settings.max_new_tokens
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt and the seeds of its completions: as many completions as seeds."""

    prompt_ids: tuple[int, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """Token ids as sampled (the end token included), their log-probabilities at temperature 1, and why it ended."""

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    finish_reason: str  # "stop" or "length"


def check_room(request: Request, sampling: Sampling, *, limit: int | None, name: str) -> None:
    """Refuse a prompt whose completion could not be written to its end.

    Raises:
        EngineError: both counts, and the limit by its name.
    """
    count = len(request.prompt_ids)
    if limit is not None and count + sampling.max_new_tokens > limit:
        raise EngineError(
            f"A prompt of {count} tokens and {sampling.max_new_tokens} new ones exceed {name} of {limit}. "
            "Lower max_new_tokens, or leave the question out."
        )


def check_finite(log_probs: Iterable[float | None], *, source: str, way_out: str) -> None:
    """Refuse what an engine sampled from logits that are NaN or infinite.

    Args:
        log_probs: Of the sampled tokens. None is how JSON may write a NaN.
        source: Who gave them, for the message.
        way_out: What to set there.

    Raises:
        EngineError: names the value, and what to do.
    """
    for value in log_probs:
        # vLLM's server writes -9999 for minus infinity. No token of probability zero is ever sampled.
        if value is None or not math.isfinite(value) or value <= -9999:
            raise EngineError(
                f"{source} gives a sampled token the log-probability {value}: its logits are NaN or infinite. {way_out}"
            )


class Engine(Protocol):
    """What rollouts, training and evaluation need of an engine."""

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Yield (index of the request, its completions) as they finish, in any order.

        Raises:
            EngineError: a prompt leaves no room for a single token.
        """
        ...

    def refresh(self) -> None:
        """The weights of the student that the engine samples from have changed."""
        ...

    def identity(self) -> dict[str, str]:
        """Name and version of the engine, for the record."""
        ...

    def close(self) -> None:
        """Free what the engine holds. It is not used again."""
        ...
