"""The equation, worked by hand."""

import pytest
import torch

from neuron_opsd.neurons.contribution import column_norm, contribution, magnitude, token_readout

# Two residual coordinates, three neurons. Neuron 0 writes (1, 0), neuron 1 (0, 2), neuron 2 (3, -4).
DOWN = torch.tensor([[1.0, 0.0, 3.0], [0.0, 2.0, -4.0]])
# Token a reads the first coordinate, token b both.
ROWS = torch.tensor([[1.0, 0.0], [2.0, 1.0]])


def test_readout_by_hand():
    # a: 1, 0, 3. b: 2*1 + 1*0, 2*0 + 1*2, 2*3 - 1*4.
    assert token_readout(DOWN, ROWS).tolist() == [[1.0, 0.0, 3.0], [2.0, 2.0, 2.0]]


def test_contribution_by_hand():
    activation = torch.tensor([[0.5, -1.0, 2.0], [1.0, 1.0, -1.0], [0.0, 3.0, 0.25]])
    text = torch.tensor([1, 0, 1])  # b a b
    expected = [[1.0, -2.0, 4.0], [1.0, 0.0, -3.0], [0.0, 6.0, 0.5]]
    readout = token_readout(DOWN, ROWS)
    assert contribution(activation, readout, text).tolist() == expected
    assert readout.tolist() == [[1.0, 0.0, 3.0], [2.0, 2.0, 2.0]]  # untouched: it serves every completion


def test_magnitude_by_hand():
    assert column_norm(DOWN).tolist() == [1.0, 2.0, 5.0]
    activation = torch.tensor([[0.5, -1.0, -2.0]])
    assert magnitude(activation, column_norm(DOWN)).tolist() == [[0.5, 2.0, 10.0]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_everything_is_float32_whatever_the_model_is(dtype):
    torch.manual_seed(0)
    down, rows = torch.randn(256, 96).to(dtype), torch.randn(40, 256).to(dtype)
    activation, text = torch.randn(40, 96).to(dtype), torch.arange(40)
    exact = rows.double() @ down.double()
    readout = token_readout(down, rows)
    assert readout.dtype == torch.float32
    torch.testing.assert_close(readout.double(), exact, rtol=1e-5, atol=2e-5)  # bfloat16 would miss by 1e-1
    scores = contribution(activation, readout, text)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), exact * activation.double(), rtol=1e-5, atol=1e-4)


def test_the_precision_of_other_matrix_products_is_left_alone():
    before = torch.backends.mkldnn.matmul.fp32_precision
    token_readout(DOWN.bfloat16(), ROWS.bfloat16())
    assert torch.backends.mkldnn.matmul.fp32_precision == before
