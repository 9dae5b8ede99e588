"""Numbers that are NaN or infinite: where in the model they begin, and the way out.

A NaN logit would be sampled without a word: inverse transform sampling then ends at the last token of the vocabulary.
Whoever reads logits therefore looks at the one log-probability that it keeps anyway, and asks here for the error.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuron_opsd.errors import NotFiniteError
from neuron_opsd.model.load import CausalLM


def all_finite(log_probs: Iterable[float]) -> bool:
    """Whether every value is a number. A NaN or infinite logit in a row makes the row's log-probabilities NaN."""
    return all(map(math.isfinite, log_probs))


@torch.no_grad()
def not_finite(model: CausalLM, texts: Sequence[Sequence[int]], *, what: str) -> NotFiniteError:
    """The error to raise when a pass over one of `texts` gave NaN or infinite values.

    Args:
        model: Reads the texts again, one by one, until the module is found.
        texts: Token ids.
        what: The values, as the message calls them.
    """
    dtype = _name(model.dtype)
    found = next((module for text in texts if (module := _first_not_finite(model, text))), None)
    where, culprit = "", None
    if found:
        name, culprit, dtype = found
        where = f": {name} ({dtype}) is the first module that gives such values"
    if culprit is not None and not all(bool(p.isfinite().all()) for p in culprit.parameters(recurse=False)):
        where += ", and its own weights are not finite"
    return NotFiniteError(f"{what} are NaN or infinite{where}. {_way_out(dtype)}")


def _way_out(dtype: str) -> str:
    if dtype == "float16":
        return "float16 holds nothing above 65,504. Set model.dtype=bfloat16 or float32."
    other = "model.dtype=float32" if dtype == "bfloat16" else "model.dtype=bfloat16 or float32"
    return (
        f"A wider type may help ({other}). If it does not, the weights are damaged: check the model's files, or "
        "lower training.learning_rate if they were trained here."
    )


def _first_not_finite(model: CausalLM, ids: Sequence[int]) -> tuple[str, nn.Module, str] | None:
    """Name, module and dtype of the first module to give such values when the model reads `ids`."""
    found: list[tuple[str, nn.Module, str]] = []

    def look_at(name: str, module: nn.Module, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        if isinstance(output, Tensor) and not found and not bool(output.isfinite().all()):
            found.append((name, module, _name(output.dtype)))

    hooks = [
        module.register_forward_hook(lambda module, _, output, name=name: look_at(name, module, output))
        for name, module in model.named_modules()
        if name
    ]
    try:
        model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
