"""What a server may answer: the fields that are read, of the types that they must have. Others are ignored."""

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, Field, StrictInt, StrictStr, ValidationError

from neuron_opsd.errors import EngineError

LogProb = Annotated[float, Field(strict=True)]


class _Row(BaseModel):
    id: StrictInt | None = None
    logprob: LogProb | None = None


class _LogProbs(BaseModel):
    content: list[_Row] | None = None
    token_logprobs: list[LogProb | None] | None = None


class Choice(BaseModel):
    """One completion."""

    text: StrictStr = ""
    finish_reason: Literal["stop", "length"]
    token_ids: list[StrictInt] | None = None
    logprobs: _LogProbs | None = None

    def ids_and_log_probs(self) -> tuple[list[int] | None, list[float | None]]:
        """Token ids and log-probabilities, of vLLM or llama.cpp. No ids if a server gives text alone."""
        given = self.logprobs or _LogProbs()
        rows = given.content or []
        if self.token_ids is None and rows:
            ids = [row.id for row in rows if row.id is not None]
            if len(ids) == len(rows):
                return ids, [row.logprob for row in rows]
        return self.token_ids, given.token_logprobs or []


class Completions(BaseModel):
    """The answer of /completions."""

    choices: Annotated[list[Choice], Field(min_length=1)]


class _Model(BaseModel):
    id: StrictStr


class Models(BaseModel):
    """The answer of /models."""

    data: list[_Model]


Answer = TypeVar("Answer", bound=BaseModel)


def read_answer(answer: object, kind: type[Answer], *, source: str) -> Answer:
    """An answer of the kind expected.

    Raises:
        EngineError: names the server, the field and what it holds.
    """
    try:
        return kind.model_validate(answer)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the answer"
        held = "" if first["type"] == "missing" else f", and is {str(first['input'])[:100]!r}"
        raise EngineError(
            f"{source} gives an answer that cannot be used: {where}: {first['msg'].lower()}{held}. "
            "Serve with vLLM, SGLang or llama.cpp (docs/engines.md)."
        ) from None


def check_ids(ids: list[int], *, vocabulary: int, limit: int, source: str) -> None:
    """Refuse token ids that the model does not have, and more of them than were asked for.

    Raises:
        EngineError: names the first of them, or both counts.
    """
    unknown = next((i for i in ids if not 0 <= i < vocabulary), None)
    if unknown is not None:
        raise EngineError(
            f"{source} gives token id {unknown}, but the tokenizer has ids 0 to {vocabulary - 1}. Serve the model of "
            "model.name."
        )
    if len(ids) > limit:
        raise EngineError(f"{source} gives {len(ids)} tokens where at most {limit} were asked for.")
