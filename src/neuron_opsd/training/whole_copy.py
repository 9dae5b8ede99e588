"""One whole copy of a sharded student in every process (FSDP, ZeRO-3), for what shards are bad at.

Sampling and teacher scoring make other numbers of forward passes in each process, while every pass through sharded
weights needs all processes at once. So the student is copied before it is sharded. Sampling, the teacher and publishing
use the copy, and after each optimiser step it takes the trained weights from the shards. The price is one more copy of
the weights in each process. Gradients, optimiser and the student's own weights stay sharded.
"""

import copy
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from neuron_opsd.model.load import CausalLM


class WholeCopy:
    """The copy, and how it follows the student."""

    def __init__(self, student: CausalLM) -> None:
        self.student = student
        self.model: CausalLM = copy.deepcopy(student).eval()

    @torch.no_grad()
    def follow(self) -> None:
        """Take the trained weights over. Every process takes part, in the same order."""
        mine = dict(self.model.named_parameters())
        for name, parameter in self.student.named_parameters():
            if parameter.requires_grad:
                mine[_plain_name(name)].copy_(_whole(parameter))


def _whole(parameter: nn.Parameter) -> Tensor:
    """All of a sharded parameter."""
    if hasattr(parameter, "full_tensor"):
        return parameter.full_tensor()  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    with _gathered_by_deepspeed(parameter):
        return parameter.detach().clone()


def _gathered_by_deepspeed(parameter: nn.Parameter) -> Any:
    if not hasattr(parameter, "ds_id"):
        return nullcontext()
    import deepspeed  # pyright: ignore[reportMissingImports]

    return deepspeed.zero.GatheredParameters([parameter])


def _plain_name(name: str) -> str:
    """Activation checkpointing puts a wrapper's name in between."""
    return name.replace("_checkpoint_wrapped_module.", "")
