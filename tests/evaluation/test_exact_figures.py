"""`evaluation.exact`: the probabilities by hand, and which tokens give an answer."""

import math
from dataclasses import replace

import pytest
import torch

from helpers import build_tiny_model, build_tiny_tokenizer
from neuron_opsd.config import EvaluationSettings, ModelSettings, PromptSettings
from neuron_opsd.engines.base import Sampling
from neuron_opsd.engines.sampling import sample_tokens, token_probs
from neuron_opsd.evaluation.benchmark import compare
from neuron_opsd.evaluation.exact import OneTokenReader, answer_exactly, exact_options
from neuron_opsd.evaluation.votes import count_votes
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.load import load_tokenizer
from neuron_opsd.records import ExactRollout, Question
from neuron_opsd.results import dump
from neuron_opsd.rollouts.pseudo_label import group_by_question

PROMPTS = PromptSettings(answer_format="letter")
QUESTION = Question(question_id="q0", domain="d", question="Colour?", choices=("red", "blue", "green"))


def exact(question_id: str, *probabilities: float, index: int = 0, logs=(-1.0, -2.0, -3.0)) -> ExactRollout:
    orders = [(0, 1, 2), (1, 2, 0)]
    return ExactRollout(
        question_id=question_id, rollout_index=index, choice_order=orders[index], prompt_ids=(1,),
        completion_ids=(2,), token_log_probs=(0.0,), finish_reason="stop", reply="A", answer="A",
        answer_probabilities=probabilities, option_log_probs=logs,
    )  # fmt: skip


@pytest.fixture(scope="module")
def reader() -> OneTokenReader:
    return OneTokenReader(ChatEncoder(load_tokenizer(ModelSettings(name="embedded:smollm2-135m"))), PROMPTS)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.7), (0.0, 1.0)])
def test_token_probabilities_are_those_of_the_draws(temperature: float, top_p: float) -> None:
    sampling = Sampling(temperature=temperature, top_p=top_p, max_new_tokens=1)
    logits = torch.tensor([[2.0, 1.0, 0.5, -1.0]])
    uniforms = (torch.arange(20_000) + 0.5) / 20_000
    drawn, _ = sample_tokens(logits.expand(20_000, 4), uniforms, sampling)
    shares = torch.bincount(drawn, minlength=4) / 20_000
    assert token_probs(logits, sampling)[0].tolist() == pytest.approx(shares.tolist(), abs=1e-4)


def test_the_spellings_of_a_letter_are_added_and_mapped_back(reader: OneTokenReader) -> None:
    probs = torch.zeros(len(reader.encoder.tokenizer))
    for text, value in (("A", 0.3), (" A", 0.2), ("B", 0.25), (" C", 0.1), ("The", 0.1), ("D", 0.05)):
        (token,) = reader.encoder.tokenizer.encode(text, add_special_tokens=False)
        probs[token] = value
    # Shown as A is choice 2, as B choice 0, as C choice 1. There is no D.
    assert reader.answer_probabilities(probs, QUESTION, (2, 0, 1)) == pytest.approx((0.25, 0.1, 0.5))


def test_a_token_that_is_a_choice_counts_where_it_is_likely(reader: OneTokenReader) -> None:
    probs = torch.zeros(len(reader.encoder.tokenizer))
    (token,) = reader.encoder.tokenizer.encode("blue", add_special_tokens=False)
    probs[token] = 0.4
    assert reader.answer_probabilities(probs, QUESTION, (0, 1, 2)) == pytest.approx((0.0, 0.4, 0.0))


def test_no_other_short_token_is_read_as_a_letter(reader: OneTokenReader) -> None:
    question = Question(question_id="q", domain="d", question="?", choices=("123", "456", "789", "135"))
    known = {token for letter in "ABCD" for token in reader.letter_tokens[letter]}
    others = [
        (text, token) for text, token in reader.encoder.tokenizer.get_vocab().items()
        if len(text) <= 2 and token not in known
    ]  # fmt: skip
    assert len(others) > 500
    assert [text for text, token in others if reader.read(token, question, (0, 1, 2, 3))] == []
    assert all(reader.read(token, question, (0, 1, 2, 3)) == "A" for token in reader.letter_tokens["A"][:1])


def test_every_pass_is_counted_as_it_ends() -> None:
    reader, seen = OneTokenReader(ChatEncoder(build_tiny_tokenizer()), PROMPTS), []
    answers = answer_exactly(
        [replace(QUESTION, question_id=f"q{i}", question=f"Colour {i}?") for i in range(2)],
        build_tiny_model(),
        reader,
        sampling=Sampling(temperature=1.0, max_new_tokens=1),
        orders=[[(0, 1, 2), (1, 2, 0), (0, 1, 2)], [(0, 1, 2)]],
        batch_size=2,
        on_finished=lambda *counts: seen.append(counts),
    )
    assert sum(records for records, _ in seen) == 4
    assert len(seen) == 2  # passes: an order that is asked twice is read once
    assert len(answers) == 4


def test_votes_by_hand() -> None:
    questions = [QUESTION, Question(question_id="q1", domain="d", question="Which?", choices=("x", "y", "z"))]
    # The second question in two orders: mean .1, .45, .35 and .1 unread.
    given = [exact("q0", 0.5, 0.3, 0.2), exact("q1", 0.0, 0.5, 0.4), exact("q1", 0.2, 0.4, 0.3, index=1)]
    votes = count_votes(questions, group_by_question(given), {"q0": "B", "q1": "B"})
    assert votes.majority == ["A", "B"]
    assert votes.vote_share.tolist() == pytest.approx([0.5, 0.45])
    assert votes.correct_fraction.tolist() == pytest.approx([0.3, 0.45])
    assert votes.majority_correct.tolist() == [0, 1]
    assert votes.parsed_fraction.tolist() == pytest.approx([1, 0.9])
    entropy = [-sum(p * math.log(p) for p in own) for own in ((0.5, 0.3, 0.2), (0.1, 0.45, 0.35, 0.1))]
    assert votes.answer_entropy.tolist() == pytest.approx(entropy)


def test_a_token_that_is_no_answer_can_be_the_likeliest() -> None:
    votes = count_votes([QUESTION], group_by_question([exact("q0", 0.3, 0.1, 0.1)]), {"q0": "A"})
    assert (votes.majority, votes.majority_correct.tolist()) == ([None], [0])
    assert votes.correct_fraction.tolist() == pytest.approx([0.3])


def test_option_probabilities_come_from_the_same_pass() -> None:
    logs = [tuple(map(math.log, values)) for values in ((0.4, 0.2, 0.2), (0.1, 0.1, 0.2))]
    given = [exact("q0", 0, 0, 0, index=i, logs=own) for i, own in enumerate(logs)]
    (found,) = exact_options(given)
    assert found.probabilities == pytest.approx((0.375, 0.25, 0.375))
    assert (found.option_mass, found.num_orders) == (pytest.approx(0.6), 2)


def test_results_say_that_they_are_exact() -> None:
    settings = EvaluationSettings(exact=True, num_samples=1, num_bootstrap=100)
    questions = [
        Question(question_id=f"q{i}", domain="d", question=f"{i}?", choices=("x", "y", "z"))
        for i in range(12)
    ]
    base, trained = ([exact(q.question_id, p, 1 - p, 0.0) for q in questions] for p in (0.6, 0.7))
    found = dump(
        compare(
            questions, base, trained, {q.question_id: "A" for q in questions}, settings,
            train_domains=["d"], seed=0, options=(exact_options(base), exact_options(trained)),
        )
    )  # fmt: skip
    block = found["in"]
    assert found["is_exact"]
    assert block["metrics"]["avg"]["label"] == "Avg (exact)"
    assert block["metrics"]["avg"]["difference"]["value"] == pytest.approx(0.1)
    assert block["metrics"]["maj"]["label"] == "Likeliest answer (exact)"
    # Of 8 draws at .6, at least five are right, or four that begin with a right one.
    voted = sum(math.comb(8, c) * 0.6**c * 0.4 ** (8 - c) * (0.5 if c == 4 else 1) for c in range(4, 9))
    assert block["metrics"]["maj_at_k"]["label"] == "Maj@8 (expected)"
    assert block["metrics"]["maj_at_k"]["base"]["value"] == pytest.approx(voted)
    assert block["beyond_majority"]["value"] == pytest.approx(0.7 - voted)
    assert block["metrics"]["pass_at_k"]["trained"]["value"] == pytest.approx(1 - 0.3**8)
    assert found["questions"][0]["base_voted_correct"] == pytest.approx(voted)
    assert block["metrics"]["ece"]["base"]["value"] == pytest.approx(0.4)
    assert block["metrics"]["nll"]["base"]["value"] == pytest.approx(-math.log(0.6))
    assert block["confidence_kinds"]["vote_share"]["rule"].startswith("Exact")
    assert block["changes"]["answers_flipped"]["by_chance"]["mean"] == 0
    assert block["answer_distribution"]["trained"]["A"] == pytest.approx(0.7)
