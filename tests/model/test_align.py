"""Student and teacher states of the same completion line up token by token."""

import pytest
import torch

from neuron_opsd.model.align import pad_right, predicting_states
from neuron_opsd.model.unembedding import logits_from_hidden

PROMPTS = [[5, 6, 7], [8]]
COMPLETIONS = [[10, 11], [12, 13, 14]]


def test_places_by_hand():
    ids, predicting = pad_right(PROMPTS, COMPLETIONS)
    assert ids.tolist() == [[5, 6, 7, 10, 11], [8, 12, 13, 14, 0]]
    assert predicting.int().tolist() == [[0, 0, 1, 1, 0], [1, 1, 1, 0, 0]]


def test_each_row_has_as_many_places_as_completion_tokens():
    _, predicting = pad_right([[1] * n for n in (4, 1, 9)], [[2] * n for n in (1, 6, 3)])
    assert predicting.sum(dim=1).tolist() == [1, 6, 3]


def test_gathered_states_predict_the_completion_tokens(tiny_model):
    batch = pad_right(PROMPTS, COMPLETIONS)
    hidden = predicting_states(tiny_model, tiny_model, *batch)
    assert hidden.shape == (5, tiny_model.config.hidden_size)
    found = logits_from_hidden(tiny_model, hidden)
    rows = []
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        logits = tiny_model(torch.tensor([[*prompt, *completion]])).logits[0]
        rows.append(logits[len(prompt) - 1 : -1])
    torch.testing.assert_close(found, torch.cat(rows), rtol=1e-4, atol=1e-5)


def test_student_and_teacher_states_line_up_when_the_prompts_are_the_same_tail(tiny_model):
    """Another prompt length in another row moves nothing: the row alone gives the same states."""
    together = predicting_states(tiny_model, tiny_model, *pad_right(PROMPTS, COMPLETIONS))
    alone = [
        predicting_states(tiny_model, tiny_model, *pad_right([p], [c]))
        for p, c in zip(PROMPTS, COMPLETIONS, strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_the_hook_is_taken_off_even_after_an_error(tiny_model):
    backbone = tiny_model.base_model
    before = len(backbone._forward_hooks)
    batch = pad_right(PROMPTS, COMPLETIONS)
    predicting_states(tiny_model, tiny_model, *batch)
    with pytest.raises(IndexError):
        predicting_states(tiny_model, tiny_model, batch[0] + 10_000, *batch[1:])
    assert len(backbone._forward_hooks) == before


def test_the_head_reads_rows_that_lie_together(tiny_model):
    """Half precision on a CPU copies the unembedding, transposed, for each row of a strided view."""
    seen = []
    handle = tiny_model.get_output_embeddings().register_forward_pre_hook(
        lambda _, args: seen.append(args[0])
    )
    predicting_states(tiny_model, tiny_model, *pad_right(PROMPTS, COMPLETIONS))
    handle.remove()
    assert [tuple(hidden.shape[:2]) for hidden in seen] == [(2, 1)]
    assert seen[0].is_contiguous()
