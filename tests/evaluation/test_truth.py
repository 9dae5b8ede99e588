"""P(True): what is asked, by hand; and a whole run that asks it."""

import math

import pytest
import torch

from neuron_opsd.config import EvaluationSettings, ModelSettings, PromptSettings
from neuron_opsd.evaluation.benchmark import compare
from neuron_opsd.evaluation.truth import score_truth
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.load import load_model, load_tokenizer
from neuron_opsd.model.yes_no import first_tokens, yes_share
from neuron_opsd.records import Question, Rollout, TruthScore
from neuron_opsd.rollouts.pseudo_label import group_by_question
from neuron_opsd.text.prompts import Message, truth_messages

QUESTIONS = [
    Question(question_id=f"q{i:02}", domain="d", question=f"Colour {i}?", choices=("red", "blue"))
    for i in range(12)
]


def rollout(question_id: str, answer: str | None, index: int) -> Rollout:
    return Rollout(
        question_id=question_id, rollout_index=index, choice_order=(0, 1), prompt_ids=(1,), completion_ids=(2,),
        token_log_probs=(0.0,), finish_reason="stop", reply="", answer=answer,
    )  # fmt: skip


def test_the_share_of_yes_by_hand() -> None:
    logits = torch.tensor([0.3, 0.1, 0.2, 0.4]).log()
    found = yes_share(logits, yes=[0, 1], no=[2])
    assert (found.probability, found.mass) == (pytest.approx(0.4 / 0.6), pytest.approx(0.6))
    shared = yes_share(logits, yes=[0, 3], no=[2, 3])  # a token that begins both says neither
    assert shared.probability == pytest.approx(0.6)


def test_the_question_shows_the_answer_as_it_was_asked_for() -> None:
    (letter,) = truth_messages(QUESTIONS[0], "B", "letter")
    assert letter["content"].splitlines() == [
        "Colour 0?", "A. red", "B. blue", "Proposed answer: B. blue",
        "Is the proposed answer right? Answer with yes or no only.",
    ]  # fmt: skip
    (text,) = truth_messages(QUESTIONS[0], "A", "choice_text")
    assert text["content"].splitlines()[1:4] == ["- red", "- blue", "Proposed answer: red"]
    free = Question(question_id="f", domain="d", question="2 + 2?", system="Be brief.")
    system, asked = truth_messages(free, "4", "reasoned")
    assert (system["content"], asked["content"].splitlines()[1]) == ("Be brief.", "Proposed answer: 4")


@pytest.fixture(scope="module")
def encoder() -> ChatEncoder:
    return ChatEncoder(load_tokenizer(ModelSettings(name="embedded:smollm2-135m")))


def test_a_real_model_is_asked_about_its_own_majority(encoder: ChatEncoder) -> None:
    model, _ = load_model(ModelSettings(name="embedded:smollm2-135m", dtype="float32", device="cpu"))
    samples = [rollout("q00", answer, i) for i, answer in enumerate("BBA")] + [rollout("q01", None, 0)]
    found = score_truth(
        QUESTIONS[:2], group_by_question(samples), model, encoder,
        prompts=PromptSettings(answer_format="letter"), batch_size=2,
    )  # fmt: skip
    assert [(one.question_id, one.answer) for one in found] == [
        ("q00", "B")
    ]  # a vote that cannot be read has none
    ids = encoder.encode(truth_messages(QUESTIONS[0], "B", "letter"), closes_thinking=True)
    with torch.no_grad():
        probs = model(torch.tensor([ids])).logits[0, -1].float().softmax(dim=-1)
    yes, no = (probs[first_tokens(word, encoder)].sum().item() for word in ("yes", "no"))
    assert found[0].probability == pytest.approx(yes / (yes + no), rel=1e-3)

    def context(question: Question, choice_order: tuple[int, ...]) -> list[Message]:
        assert choice_order == (0, 1)
        turns = [{"role": "user", "content": "Colour?"}, {"role": "assistant", "content": "red"}]
        return [*turns, {"role": "user", "content": question.question}]

    after = score_truth(
        QUESTIONS[:1], group_by_question(samples), model, encoder,
        prompts=PromptSettings(answer_format="letter"), batch_size=2, messages_of=context,
    )  # fmt: skip
    asked = [*context(QUESTIONS[0], (0, 1))[:2], *truth_messages(QUESTIONS[0], "B", "letter")]
    with torch.no_grad():
        ids = encoder.encode(asked, closes_thinking=True)
        probs = model(torch.tensor([ids])).logits[0, -1].float().softmax(dim=-1)
    yes, no = (probs[first_tokens(word, encoder)].sum().item() for word in ("yes", "no"))
    assert after[0].probability == pytest.approx(yes / (yes + no), rel=1e-3)
    assert after[0].probability != pytest.approx(found[0].probability, rel=1e-3)


def test_its_metrics_are_of_the_majority_answer() -> None:
    samples = [rollout(q.question_id, "A", 0) for q in QUESTIONS]
    key = {q.question_id: "AB"[i % 2] for i, q in enumerate(QUESTIONS)}
    told = [
        [
            TruthScore(question_id=q.question_id, answer="A", probability=p, yes_no_mass=1.0)
            for q in QUESTIONS[:10]
        ]
        for p in (0.9, 0.6)
    ]
    block = compare(
        QUESTIONS, samples, samples, key, EvaluationSettings(num_samples=1, num_bootstrap=50),
        train_domains=["d"], seed=0, truth=(told[0], told[1]),
    ).in_domain  # fmt: skip
    assert block is not None
    values = {name: (metric.base.value, metric.trained.value) for name, metric in block.metrics.items()}
    assert values["true_confidence"] == pytest.approx((0.9, 0.6))
    assert values["true_accuracy"] == (0.5, 0.5)
    assert values["true_ece"] == pytest.approx((0.4, 0.1))
    assert values["true_nll"][0] == pytest.approx(-(math.log(0.9) + math.log(0.1)) / 2)
    kind = block.confidence_kinds["p_true"]
    assert (kind.label, kind.num_questions, kind.num_with_gold) == ("P(True)", 10, 10)
    assert "p_true" not in compare(
        QUESTIONS, samples, samples, key, EvaluationSettings(num_samples=1, num_bootstrap=50),
        train_domains=["d"], seed=0,
    ).in_domain.confidence_kinds  # fmt: skip  # pyright: ignore[reportOptionalMemberAccess]
