"""The equation: how much one neuron contributes to one token (docs/method.md, section 2).

A neuron (l, i) is coordinate i of the FFN of layer l: column i of its down projection. For a completion token y and the
hidden state that predicts it, the contribution by early unembedding is

    S[l, i, y] = k[l, i] * ( w_down[l][:, i] . e[y] )

k is the neuron's activation, w_down[l] the down projection of layer l, e[y] the row of the unembedding for token y: what
the neuron writes to the residual stream, read as if the unembedding followed at once. The bracket depends on the token
id alone, never on the context, so it is computed once for each distinct token of a batch. Everything in float32.
"""

from jaxtyping import Float
from torch import Tensor


def token_readout(
    down_weight: Float[Tensor, "hidden neurons"], token_rows: Float[Tensor, "ids hidden"]
) -> Float[Tensor, "ids neurons"]:
    """The bracket, w_down[:, i] . e[y]: how strongly neuron i speaks for token y when it is on.

    Args:
        down_weight: The down projection of one layer; column i is what neuron i writes.
        token_rows: e[y], the rows of the unembedding for some token ids.
    """
    return token_rows.float() @ down_weight.float()


def contribution(
    activation: Float[Tensor, "tokens neurons"], readout: Float[Tensor, "tokens neurons"]
) -> Float[Tensor, "tokens neurons"]:
    """S = k * (w_down . e[y]), for the completion tokens of one layer.

    Args:
        activation: k of the state that predicts each token.
        readout: The row of `token_readout` for each token.
    """
    return activation.float() * readout


def magnitude(
    activation: Float[Tensor, "tokens neurons"], column_norm: Float[Tensor, " neurons"]
) -> Float[Tensor, "tokens neurons"]:
    """The option that asks no token: |k| * ||w_down[:, i]||, how much the neuron writes, whatever it says."""
    return activation.float().abs() * column_norm


def column_norm(down_weight: Float[Tensor, "hidden neurons"]) -> Float[Tensor, " neurons"]:
    """||w_down[:, i]|| of every neuron of one layer."""
    return down_weight.float().norm(dim=0)
