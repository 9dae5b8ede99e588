"""Options at other temperatures: by hand, and a model that is only surer than another."""

import math

import numpy as np
import pytest

from neuron_opsd.config import EvaluationSettings
from neuron_opsd.evaluation.benchmark import compare
from neuron_opsd.evaluation.temperatures import (
    COLDEST,
    HOTTEST,
    matching_temperature,
    mean_entropy,
    tempered,
)
from neuron_opsd.records import OptionScores, Question, Rollout


def test_another_temperature_by_hand() -> None:
    shares = np.array([0.5, 0.4, 0.1, 0.0])
    assert tempered(shares, 1.0) == pytest.approx(shares)
    assert tempered(shares, 0.5) == pytest.approx(np.array([25, 16, 1, 0]) / 42)  # their squares
    assert tempered(shares, 0).tolist() == [1, 0, 0, 0]
    assert tempered(np.array([0.5, 0.5]), 0).tolist() == [1, 0]  # of equal ones the first


def test_the_matching_temperature_undoes_a_sharpening() -> None:
    base = [np.array([0.5, 0.3, 0.2]), np.array([0.6, 0.3, 0.1])]
    sharper = [tempered(shares, 0.4) for shares in base]
    assert matching_temperature(sharper, mean_entropy(base)) == pytest.approx(2.5, rel=1e-4)
    assert mean_entropy([np.array([0.5, 0.5]), np.array([1.0, 0.0])]) == pytest.approx(math.log(2) / 2)


def test_where_no_temperature_matches_it_is_an_end() -> None:
    assert matching_temperature([np.array([0.5, 0.5])], 0.1) == COLDEST  # equal ones stay equal
    assert matching_temperature([np.array([1.0, 0.0])], 0.1) == HOTTEST


@pytest.mark.parametrize("seed", range(8))
def test_a_model_matches_itself_at_temperature_1(seed: int) -> None:
    options = list(np.random.default_rng(seed).dirichlet(np.ones(4), size=60))
    assert matching_temperature(options, mean_entropy(options)) == 1
    assert matching_temperature([np.eye(4)[0]] * 3, 0.0) == 1  # sure of one throughout


def test_a_model_that_is_only_surer_has_the_bases_error_at_its_entropy() -> None:
    questions = [
        Question(question_id=f"q{i:02}", domain="d", question="?", choices=("x", "y", "z")) for i in range(20)
    ]
    key = {
        question.question_id: "B" for question in questions
    }  # all wrong, so that the ECE is the confidence
    shares = [np.array([0.5 + i / 100, 0.3, 0.2 - i / 100]) for i in range(20)]

    def scores(temperature: float) -> list[OptionScores]:
        made = zip(questions, shares, strict=True)
        return [
            OptionScores(
                question_id=question.question_id,
                probabilities=tuple(tempered(own, temperature).tolist()), option_mass=1.0, num_orders=1,
            )
            for question, own in made
        ]  # fmt: skip

    rollouts = [
        Rollout(
            question_id=question.question_id, rollout_index=0, choice_order=(0, 1, 2), prompt_ids=(1,),
            completion_ids=(2,), token_log_probs=(0.0,), finish_reason="stop", reply="A", answer="A",
        )
        for question in questions
    ]  # fmt: skip
    block = compare(
        questions, rollouts, rollouts, key, EvaluationSettings(num_samples=1, num_bootstrap=50, temperature=0.5),
        train_domains=["d"], seed=0, options=(scores(1.0), scores(0.25)),
    ).in_domain  # fmt: skip
    assert block is not None
    assert block.matched_temperatures is not None
    assert block.matched_temperatures.trained == pytest.approx(4, rel=1e-4)
    ece = {name: block.metrics[name] for name in ("option_ece", "option_ece_use", "option_ece_matched")}
    assert (ece["option_ece"].trained.value or 0) > (ece["option_ece"].base.value or 0) + 0.2
    assert ece["option_ece_matched"].trained.value == pytest.approx(ece["option_ece"].base.value, abs=1e-4)
    confidence = float(np.mean([tempered(own, 0.5).max() for own in shares]))
    assert ece["option_ece_use"].base.value == pytest.approx(confidence)
    assert ece["option_ece_use"].label == "ECE-15 at temperature 0.5 (option probability)"
