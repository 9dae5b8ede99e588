"""The teacher's weights: the student's network with other values of the trained parameters (method, section 6).

    ema      teacher <- (1 - rate) teacher + rate student, after each optimiser step. Kept in float32, because a rate of
             0.01 rounds to nothing in bfloat16
    frozen   the values that training began with. With LoRA the model without its adapter, which begins at zero
    live     the student's own, at every moment

Only trained parameters are kept twice. With LoRA these are the adapter's factors A and B, averaged apart: the product
of the averages is not the average of the products.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from peft import PeftModel
from torch import Tensor, nn


class TeacherWeights:
    """Float32 copies of the trained parameters, swapped into the network while the teacher reads."""

    def __init__(self, model: nn.Module, *, kind: str, ema_rate: float) -> None:
        self.model, self.kind, self.ema_rate = model, kind, ema_rate
        self.values: dict[str, Tensor] = {}
        self.is_base = kind == "frozen" and isinstance(model, PeftModel)
        if kind != "live" and not self.is_base:
            self.values = {name: p.detach().float().clone() for name, p in self._trained()}

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]

    @torch.no_grad()
    def update(self) -> None:
        """Once after each optimiser step."""
        if self.kind == "ema":
            for name, parameter in self._trained():
                self.values[name].lerp_(parameter.detach().float(), self.ema_rate)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The network is the teacher inside this block, and the student again after it."""
        if self.kind == "live" or self.is_base:
            with self.model.disable_adapter() if self.is_base else nullcontext():  # pyright: ignore[reportCallIssue]
                yield
            return
        trained = self._trained()
        student = {name: parameter.data for name, parameter in trained}
        try:
            for name, parameter in trained:
                parameter.data = self.values[name].to(parameter.dtype)
            yield
        finally:
            for name, parameter in trained:
                parameter.data = student[name]

    def value_of(self, parameter: Tensor) -> Tensor:
        """The teacher's value of one of the student's parameters: its own copy if that is trained, else the same."""
        for name, trained in self._trained() if self.values else ():
            if trained is parameter:
                return self.values[name].to(parameter.dtype)
        return parameter

    def state_dict(self) -> dict[str, Tensor]:
        """For the checkpoint. Empty where nothing is kept twice."""
        return self.values

    def load_state_dict(self, values: dict[str, Tensor]) -> None:
        """Restore from a checkpoint.

        Raises:
            KeyError: the checkpoint was made with other trained parameters.
        """
        for name in self.values:
            self.values[name].copy_(values[name])
