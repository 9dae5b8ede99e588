"""Votes that stop: the majority answer is that of all samples, no sooner and no later than the answers allow."""

from itertools import product

import pytest

from neuron_opsd.config import PromptSettings
from neuron_opsd.engines.base import Sampling
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.records import Question
from neuron_opsd.rollouts.pseudo_label import group_by_question
from neuron_opsd.rollouts.sample import sample_rollouts
from neuron_opsd.rollouts.stopping import least_needed, next_wave
from neuron_opsd.text.answers import majority_answer


def winner(answers, *, skip: bool) -> str | None:
    return majority_answer(answers, skip_unparsable=skip).answer


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("total", [1, 2, 5, 6])
def test_a_vote_is_decided_exactly_when_no_answers_to_come_change_it(total: int, skip: bool) -> None:
    for drawn in range(total):
        for answers in product(["A", "B", None], repeat=drawn):
            ends = {
                winner([*answers, *rest], skip=skip)
                for rest in product(["A", "B", "C", None], repeat=total - drawn)
            }
            # Where nothing was readable, the winner is None until something is.
            is_decided = len(ends) == 1
            assert (least_needed(answers, total, skip_unparsable=skip) == 0) == is_decided, answers


@pytest.mark.parametrize("skip", [True, False])
def test_waves_end_with_the_majority_of_all_samples(skip: bool) -> None:
    total, num_drawn = 7, []
    for answers in product(["A", "B", None], repeat=total):
        drawn = 0
        while more := next_wave(answers[:drawn], total=total, skip_unparsable=skip):
            drawn += more
        assert winner(answers[:drawn], skip=skip) == winner(answers, skip=skip)
        num_drawn.append(drawn)
    assert (min(num_drawn), max(num_drawn)) == (4, 7)


def test_no_wave_is_smaller_than_an_eighth_and_none_draws_too_many() -> None:
    answers = [*"ABABABABABABABAB"]
    assert next_wave(answers, total=32, skip_unparsable=True) == 8
    assert next_wave([*answers, *"AAAAAAA"], total=32, skip_unparsable=True) == 4  # 1 might do
    assert next_wave([*answers, *"AAAAAABABAB"], total=28, skip_unparsable=True) == 0
    assert (
        next_wave([*"ABAB" * 7, "A", "B", "A"], total=32, skip_unparsable=True) == 0
    )  # a tie goes to the first


def test_the_samples_drawn_are_the_first_of_all(tiny_model, tiny_tokenizer) -> None:
    questions = [
        Question(question_id=f"q{i}", domain="d", question="y" * i + "?", choices=("no", "yes"))
        for i in range(6)
    ]

    def sample(next_wave=None, *, told):
        return sample_rollouts(
            questions, HFEngine(tiny_model, tiny_tokenizer, batch_size=5), ChatEncoder(tiny_tokenizer),
            prompts=PromptSettings(answer_format="letter"), sampling=Sampling(temperature=0.1, max_new_tokens=2),
            num_rollouts=6, shuffle_choices=True, seed=0, stage="s", next_wave=next_wave,
            on_finished=lambda items, _: told.append(items),
        )  # fmt: skip

    def written(rollouts, most: int) -> dict:
        return {
            (r.question_id, r.rollout_index): (r.choice_order, r.completion_ids)
            for r in rollouts
            if r.rollout_index < most
        }

    # This model gives no letters, so the test says what is enough.
    everything, finished = sample(told=[]), []
    in_waves = sample(lambda answers: 3 if len(answers) in (0, 3) else 0, told=finished)
    assert sum(finished) == 36
    assert written(in_waves, 6) == written(everything, 6)
    finished = []
    fewer = sample(lambda answers: 4 - len(answers), told=finished)
    assert written(fewer, 6) == written(everything, 4)
    assert {len(group) for group in group_by_question(fewer).values()} == {4}
    assert sum(finished) == 36  # those that are not drawn are done, too
