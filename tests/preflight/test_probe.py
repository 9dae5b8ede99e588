"""The preflight: both roles' answers, token sums against plain torch, and the samples it chooses."""

import pytest
import torch

from neuron_opsd.config import PromptSettings
from neuron_opsd.engines.base import Sampling
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.preflight.probe import (
    PromptPair,
    answer_prompts,
    make_item,
    sample_ids,
    score_under_both,
)
from neuron_opsd.records import Question


def pair(student: list[int], teacher: list[int], *, order=(0, 1), seed=0) -> PromptPair:
    return PromptPair(
        question_id="q",
        choice_order=order,
        student_ids=tuple(student),
        teacher_ids=tuple(teacher),
        seed=seed,
    )


def log_probs(model, prompt: list[int], completion: list[int]) -> torch.Tensor:
    logits = model(torch.tensor([[*prompt, *completion]])).logits[0]
    return logits[len(prompt) - 1 : -1].double().log_softmax(-1)


@pytest.mark.parametrize("chunk_tokens", [1, 3, 100])
def test_sums_are_those_of_plain_torch(tiny_model, chunk_tokens: int) -> None:
    student, teacher, completion = [5, 6, 7], [9, 8, 3, 5, 6, 7], [11, 12, 13, 14]
    ours, theirs = (log_probs(tiny_model, prompt, completion) for prompt in (student, teacher))
    expected = [
        -(ours.exp() * ours).sum().item(),
        -(theirs.exp() * theirs).sum().item(),
        (ours.exp() * (ours - theirs)).sum().item(),
    ]
    pairs, completions = [pair(student, teacher)], [completion]
    (sums,) = score_under_both(tiny_model, pairs, completions, chunk_tokens=chunk_tokens)
    assert sums == pytest.approx(expected, rel=1e-4)


def test_equal_prompts_have_no_divergence(tiny_model) -> None:
    (sums,) = score_under_both(tiny_model, [pair([5, 6], [5, 6])], [[7, 8]], chunk_tokens=8)
    assert sums[0] == sums[1]
    assert sums[2] == 0


def test_equal_prompts_give_both_roles_equal_samples_whatever_stands_beside_them(
    tiny_model, tiny_tokenizer
) -> None:
    sampling = Sampling(temperature=1.0, max_new_tokens=6)
    engine = HFEngine(tiny_model, tiny_tokenizer, batch_size=3)
    prompts, seeds = [(5, 6), (9, 8, 7), (5, 6), (5, 6)], [1, 2, 3, 1]
    together = answer_prompts(prompts, seeds, engine, sampling)
    alone = [
        answer_prompts([prompt], [seed], engine, sampling)[0]
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]
    assert together[0].token_ids == together[3].token_ids != together[2].token_ids


def test_answers_are_mapped_back_to_the_original_order(tiny_model, tiny_tokenizer) -> None:
    encoder, sampling = ChatEncoder(tiny_tokenizer), Sampling(temperature=0, max_new_tokens=1)
    (any_completion,) = answer_prompts([(5,)], [0], HFEngine(tiny_model, tiny_tokenizer), sampling)

    def reply(text: str):
        ids = tuple(tiny_tokenizer(text, add_special_tokens=False)["input_ids"])
        return type(any_completion)(token_ids=ids, log_probs=(0.0,) * len(ids), finish_reason="stop")

    item = make_item(
        Question(question_id="q", domain="d", question="?", choices=("red", "blue")),
        [pair([1], [2]), pair([1], [2], order=(1, 0))],
        [reply("A"), reply("A")],
        [reply("B."), reply("no idea")],
        (1.0, 2.0, 3.0),
        (encoder, encoder),
        prompts=PromptSettings(answer_format="letter"),
    )
    assert item.student_answers == ("A", "B")  # the second sample saw blue first
    assert item.teacher_answers == ("B", None)
    assert (item.student_reply, item.teacher_reply, item.num_completion_tokens) == ("A", "B.", 1)
    assert (item.student_entropy, item.teacher_entropy, item.reverse_kl) == (1.0, 2.0, 3.0)


def test_the_sample_depends_on_ids_alone() -> None:
    ids = [f"q{i}" for i in range(50)]
    chosen = sample_ids(ids, 10, seed=0)
    assert chosen == sample_ids(ids[::-1], 10, seed=0)
    assert chosen[:5] == sample_ids(ids, 5, seed=0)
    assert chosen != sample_ids(ids, 10, seed=1)
    assert sorted(sample_ids(ids, 100, seed=0)) == sorted(ids)
