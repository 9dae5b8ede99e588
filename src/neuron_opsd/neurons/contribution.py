"""The equation: how much one neuron contributes to one token (docs/method.md, section 2).

A neuron (l, i) is coordinate i of the FFN of layer l: column i of its down projection. For a completion
token y and the hidden state that predicts it, the contribution by early unembedding is

    S[l, i, y] = k[l, i] * ( w_down[l][:, i] . e[y] )

k is the neuron's activation, w_down[l] the down projection of layer l, e[y] the row of the unembedding for
token y: what the neuron writes to the residual stream, read as if the unembedding followed at once. The
bracket depends on the token id alone, never on the context, so it is computed once for each distinct token of
a batch. Everything in float32.
"""

# torch leaves some of its functions without types.
# pyright: reportUnknownMemberType=false

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor


def token_readout(
    down_weight: Float[Tensor, "hidden neurons"], token_rows: Float[Tensor, "ids hidden"]
) -> Float[Tensor, "ids neurons"]:
    """The bracket, w_down[:, i] . e[y]: how strongly neuron i speaks for token y when it is on.

    Args:
        down_weight: The down projection of one layer. Column i is what neuron i writes.
        token_rows: e[y], the rows of the unembedding for some token ids.
    """
    if down_weight.dtype == token_rows.dtype == torch.bfloat16:
        with _bfloat16_products():
            return token_rows.float() @ down_weight.float()
    return token_rows.float() @ down_weight.float()


def contribution(
    activation: Float[Tensor, "tokens neurons"],
    readout: Float[Tensor, "ids neurons"],
    token_index: Int[Tensor, " tokens"],
) -> Float[Tensor, "tokens neurons"]:
    """S = k * (w_down . e[y]) for the completion tokens of one layer.

    Args:
        activation: k of the state that predicts each token, in any dtype.
        readout: `token_readout` of the distinct ids.
        token_index: The row of `readout` that belongs to each token.
    """
    return readout.index_select(0, token_index).mul_(activation)


def column_norm(down_weight: Float[Tensor, "hidden neurons"]) -> Float[Tensor, " neurons"]:
    """||w_down[:, i]|| of every neuron of one layer."""
    return cast("Tensor", down_weight.float().norm(dim=0))


def magnitude(
    activation: Float[Tensor, "tokens neurons"], column_norm: Float[Tensor, " neurons"]
) -> Float[Tensor, "tokens neurons"]:
    """The option that asks no token: |k| * ||w_down[:, i]||, how much the neuron writes, whatever it says."""
    return activation.float().abs() * column_norm


@contextmanager
def _bfloat16_products() -> Generator[None]:
    """Let a CPU with bfloat16 units multiply float32 matrices that hold bfloat16 values.

    The product of two bfloat16 numbers is exact in float32 and the sum stays in float32: nothing is lost, and
    it is three times as fast.
    """
    matmul = cast("Any", torch.backends.mkldnn).matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before
