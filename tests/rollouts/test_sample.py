"""Rollouts: shuffled choices map back, seeds belong to (stage, question, index), nothing is lost."""

import pytest

from neuron_opsd.config import PromptSettings
from neuron_opsd.engines.base import Completion, Sampling
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.errors import DataError
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.random_state import derive_seed
from neuron_opsd.records import Question
from neuron_opsd.rollouts.pseudo_label import group_by_question, vote
from neuron_opsd.rollouts.sample import choice_orders, sample_rollouts
from neuron_opsd.text.answers import map_answer_back

CHOICES = ("Paris", "Rome", "Oslo", "Bern")
QUESTIONS = [
    Question(question_id=f"q{i}", domain="d", question=f"Capital {'x' * i}?", choices=CHOICES)
    for i in range(3)
]
SAMPLING = Sampling(temperature=1.0, max_new_tokens=5)


class ScriptedEngine:
    """Always picks the line that says `favourite`; yields its requests backwards."""

    def __init__(self, encoder: ChatEncoder, favourite: str) -> None:
        self.encoder, self.favourite = encoder, favourite
        self.requests, self.seeds = 0, []

    def generate(self, requests, sampling):
        self.requests = len(requests)
        for index in reversed(range(len(requests))):
            prompt = self.encoder.decode(requests[index].prompt_ids)
            (letter,) = [line[0] for line in prompt.splitlines() if line[1:] == f". {self.favourite}"]
            ids = self.encoder.tokenizer(f"The answer is {letter}", add_special_tokens=False)["input_ids"]
            self.seeds += requests[index].seeds
            reply = Completion(token_ids=(*ids, 2), log_probs=(-0.5,) * (len(ids) + 1), finish_reason="stop")
            yield index, [reply for _ in requests[index].seeds]

    def identity(self):
        return {}


@pytest.fixture(scope="module")
def encoder(tiny_tokenizer):
    return ChatEncoder(tiny_tokenizer)


def sample(
    engine, encoder, *, questions=QUESTIONS, num_rollouts=6, shuffle=True, sampling=SAMPLING, **options
):
    return sample_rollouts(
        questions,
        engine,
        encoder,
        prompts=PromptSettings(answer_format="letter"),
        sampling=sampling,
        num_rollouts=num_rollouts,
        shuffle_choices=shuffle,
        **{"seed": 0, "stage": "rollouts", **options},
    )


@pytest.mark.parametrize("favourite", CHOICES)
def test_shuffled_choices_map_back(encoder, favourite):
    rollouts = sample(ScriptedEngine(encoder, favourite), encoder)
    assert {rollout.answer for rollout in rollouts} == {"ABCD"[CHOICES.index(favourite)]}
    assert len({rollout.reply for rollout in rollouts}) > 1  # other letters were said
    assert len({rollout.choice_order for rollout in rollouts}) > 3
    for rollout in rollouts:
        shown = CHOICES[rollout.choice_order["ABCD".index(rollout.reply[-1])]]
        assert shown == favourite


def test_rollouts_come_in_order_whatever_the_engine_does(encoder):
    rollouts = sample(ScriptedEngine(encoder, "Rome"), encoder, num_rollouts=4)
    expected = [(f"q{i}", r) for i in range(3) for r in range(4)]
    assert [(rollout.question_id, rollout.rollout_index) for rollout in rollouts] == expected


def test_one_prompt_a_question_unless_shuffled(encoder):
    engine = ScriptedEngine(encoder, "Oslo")
    finished = []
    rollouts = sample(
        engine, encoder, shuffle=False, on_finished=lambda prompts, tokens: finished.append((prompts, tokens))
    )
    assert engine.requests == 3
    assert {rollout.choice_order for rollout in rollouts} == {(0, 1, 2, 3)}
    assert sorted(engine.seeds) == sorted(
        derive_seed(0, "rollouts", f"q{i}", r) for i in range(3) for r in range(6)
    )
    assert sum(tokens for _, tokens in finished) == sum(len(rollout.completion_ids) for rollout in rollouts)


def test_ids_and_finish_reason_are_kept_as_sampled(encoder):
    rollout = sample(ScriptedEngine(encoder, "Bern"), encoder)[0]
    assert rollout.completion_ids[-1] == 2
    assert rollout.finish_reason == "stop"
    assert len(rollout.token_log_probs) == len(rollout.completion_ids)
    assert "<|im_end|>" not in rollout.reply
    assert encoder.decode(rollout.prompt_ids).endswith("<|im_start|>assistant\n")


def test_a_question_sampled_alone_gives_the_same(encoder, tiny_model, tiny_tokenizer):
    engine = HFEngine(tiny_model, tiny_tokenizer)
    together = sample(engine, encoder, num_rollouts=2)
    alone = sample(engine, encoder, questions=QUESTIONS[1:2], num_rollouts=2)
    assert [r.completion_ids for r in together if r.question_id == "q1"] == [r.completion_ids for r in alone]
    more = sample(engine, encoder, num_rollouts=3)
    assert [r.completion_ids for r in more if r.rollout_index < 2] == [r.completion_ids for r in together]
    assert len({r.completion_ids for r in more}) == 9


def test_stage_and_seed_draw_apart(encoder, tiny_model, tiny_tokenizer):
    engine = HFEngine(tiny_model, tiny_tokenizer)
    draws = [
        tuple(r.completion_ids for r in sample(engine, encoder, shuffle=False, **options))
        for options in ({}, {"stage": "evaluation"}, {"seed": 1})
    ]
    assert len(set(draws)) == 3


def test_orders():
    assert choice_orders(QUESTIONS[0], 2, shuffle=False, seed=0, stage="s") == [(0, 1, 2, 3)] * 2
    orders = choice_orders(QUESTIONS[0], 50, shuffle=True, seed=0, stage="s")
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert choice_orders(QUESTIONS[0], 20, shuffle=True, seed=0, stage="s") == orders[:20]
    free = Question(question_id="f", domain="d", question="Why?")
    assert choice_orders(free, 3, shuffle=True, seed=0, stage="s") == [(), (), ()]


def test_map_answer_back_by_hand():
    assert map_answer_back("A", (2, 0, 1)) == "C"
    assert map_answer_back("C", (2, 0, 1)) == "B"
    assert map_answer_back(None, (2, 0, 1)) is None
    assert map_answer_back("42", ()) == "42"


def test_a_question_that_does_not_fit_is_named(encoder, tiny_model, tiny_tokenizer):
    long = Question(question_id="long", domain="d", question="x" * 300, choices=CHOICES)
    engine = HFEngine(tiny_model, tiny_tokenizer)
    with pytest.raises(DataError, match=r"Question long needs \d+ prompt tokens, and up to 5 .* reads 256"):
        sample(engine, encoder, questions=[*QUESTIONS, long], max_context=256)


def test_votes_follow_rollout_order(encoder):
    rollouts = sample(ScriptedEngine(encoder, "Rome"), encoder, num_rollouts=3)
    groups = group_by_question(reversed(rollouts))
    assert [r.rollout_index for r in groups["q0"]] == [0, 1, 2]
    found = vote(rollouts)
    assert (found["q2"].answer, found["q2"].votes, found["q2"].total) == ("B", 3, 3)


def test_derived_seeds_are_63_bits_fixed_for_all_time_and_unambiguous():
    assert derive_seed(0, "rollouts", "q1", 0) == derive_seed(0, "rollouts", "q1", 0)
    assert 0 <= derive_seed(0) < 2**63
    assert derive_seed(0, "a", "b") != derive_seed(0, "ab")
    assert derive_seed(0, 1) != derive_seed(0, "1")
    assert derive_seed(1, "é") != derive_seed(1, "e")
    assert derive_seed(0, "rollouts", "q", 0) == EXPECTED_SEED


EXPECTED_SEED = 2233203752251112770
