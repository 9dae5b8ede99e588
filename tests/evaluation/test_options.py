"""Option probabilities: the rules by hand, against plain torch, and what orders do to a preference for a position."""

import copy

import pytest
import torch

from neuron_opsd.config import EvaluationSettings, PromptSettings
from neuron_opsd.evaluation import benchmark
from neuron_opsd.evaluation.options import reply_texts, score_options
from neuron_opsd.evaluation.votes import likeliest_option
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.records import OptionScores, Question, Rollout
from neuron_opsd.results import dump
from neuron_opsd.text.prompts import student_messages

SETTINGS = EvaluationSettings(num_samples=2, num_bootstrap=100)
QUESTION = Question(question_id="q", domain="d", question="Colour?", choices=("red", "blue", "Green"))


def rollout(order=(0, 1, 2), *, question_id="q", index=0, answer="A") -> Rollout:
    return Rollout(
        question_id=question_id,
        rollout_index=index,
        choice_order=order,
        prompt_ids=(1,),
        completion_ids=(2,),
        token_log_probs=(0.0,),
        finish_reason="stop",
        reply="",
        answer=answer,
    )


def score(model, tokenizer, question, orders, answer_format="letter") -> OptionScores:
    groups = {question.question_id: [rollout(order, index=i) for i, order in enumerate(orders)]}
    (found,) = score_options(
        [question], groups, model, ChatEncoder(tokenizer),
        prompts=PromptSettings(answer_format=answer_format), batch_size=4,
    )  # fmt: skip
    return found


def naive(model, tokenizer, order, text, answer_format="letter") -> float:
    """Probability of a text as the start of the reply; the tokenizer has one token a byte."""
    messages = student_messages(QUESTION, choice_order=order, answer_format=answer_format)
    prompt = ChatEncoder(tokenizer).encode(messages)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        log_probs = model(torch.tensor([[*prompt, *ids]])).logits[0].double().log_softmax(-1)
    return sum(log_probs[len(prompt) - 1 + t, token].item() for t, token in enumerate(ids))


def test_letters_by_hand(tiny_model, tiny_tokenizer) -> None:
    found = score(tiny_model, tiny_tokenizer, QUESTION, [(0, 1, 2), (2, 0, 1), (0, 1, 2)])
    expected, masses = torch.zeros(3), []
    for order in ((0, 1, 2), (2, 0, 1)):  # equal orders are asked once
        raw = [naive(tiny_model, tiny_tokenizer, order, "ABC"[order.index(i)]) for i in range(3)]
        masses.append(torch.tensor(raw).exp().sum())
        expected += torch.tensor(raw).softmax(0) / 2
    assert found.probabilities == pytest.approx(expected.tolist(), abs=1e-5)
    assert found.option_mass == pytest.approx((sum(masses) / 2).item(), rel=1e-3)
    assert found.num_orders == 2
    assert sum(found.probabilities) == pytest.approx(1)


def test_texts_of_several_tokens_and_spellings(tiny_model, tiny_tokenizer) -> None:
    found = score(tiny_model, tiny_tokenizer, QUESTION, [(0, 1, 2)], "choice_text")
    raw = torch.tensor(
        [
            [naive(tiny_model, tiny_tokenizer, (0, 1, 2), text, "choice_text") for text in pair]
            for pair in (("red", "Red"), ("blue", "Blue"), ("Green", "green"))
        ]
    )
    assert found.probabilities == pytest.approx(raw.logsumexp(1).softmax(0).tolist(), abs=1e-4)


def test_what_is_scored_as_the_reply() -> None:
    assert reply_texts(QUESTION, (2, 0, 1), "reasoned") == [["B"], ["C"], ["A"]]
    assert reply_texts(QUESTION, (0, 1, 2), "free") == [["red", "Red"], ["blue", "Blue"], ["Green", "green"]]
    both = Question(question_id="q", domain="d", question="?", choices=("Yes", "yes"))
    assert reply_texts(both, (0, 1), "free") == [["Yes"], ["yes"]]  # no spelling of one is the other's text


def test_reasoned_questions_are_asked_for_the_letter(tiny_model, tiny_tokenizer) -> None:
    orders = [(1, 0, 2)]
    letter, reasoned = (
        score(tiny_model, tiny_tokenizer, QUESTION, orders, f) for f in ("letter", "reasoned")
    )
    assert letter == reasoned


def test_free_form_questions_have_none(tiny_model, tiny_tokenizer) -> None:
    free = Question(question_id="q", domain="d", question="Why?")
    encoder, prompts = ChatEncoder(tiny_tokenizer), PromptSettings()
    groups = {"q": [rollout(())]}
    assert score_options([free], groups, tiny_model, encoder, prompts=prompts, batch_size=2) == []


def compare(*data, **settings) -> dict:
    """The comparison as it is in results.json."""
    return dump(benchmark.compare(*data, **settings))


def scores(question_id: str, *probabilities: float, mass=0.5) -> OptionScores:
    return OptionScores(question_id=question_id, probabilities=probabilities, option_mass=mass, num_orders=1)


def test_both_kinds_of_confidence_stand_side_by_side() -> None:
    questions = [
        Question(question_id=f"q{i}", domain="in", question=f"{i}", choices=("x", "y"), split="test")
        for i in range(3)
    ]
    rollouts = [rollout((0, 1), question_id=f"q{i}", index=j, answer="A") for i in range(3) for j in (0, 1)]
    options = [scores("q0", 0.9, 0.1), scores("q1", 0.4, 0.6, mass=0.3)]  # none for q2
    key = {"q0": "A", "q1": "A"}
    results = compare(
        questions,
        rollouts,
        rollouts,
        key,
        SETTINGS,
        train_domains=["in"],
        seed=0,
        options=(options, options),
    )
    block = results["in"]
    value = {name: entry["base"]["value"] for name, entry in block["metrics"].items()}
    assert value["option_accuracy"] == 0.5
    assert value["option_ece"] == pytest.approx((0.1 + 0.6) / 2)
    assert value["option_brier"] == pytest.approx((0.01 + 0.36) / 2)
    assert value["option_overconfidence"] == pytest.approx(0.75 - 0.5)
    assert value["option_confidence"] == pytest.approx(0.75)
    assert value["option_mass"] == pytest.approx(0.4)
    assert (value["ece"], value["maj"]) == (0.0, 1.0)  # the votes' own, unmoved
    kinds = block["confidence_kinds"]
    assert list(kinds) == ["vote_share", "option_probability"]
    assert [kinds[k]["num_questions"] for k in kinds] == [3, 2]
    assert [kinds[k]["num_with_gold"] for k in kinds] == [2, 2]
    for kind in kinds.values():
        assert set(kind["metrics"].values()) <= value.keys()
        assert sum(entry["count"] for entry in kind["reliability"]["base"]) == 2
        assert kind["label"].lower() in block["metrics"][kind["metrics"]["ece"]]["label"]
        perfect = block["metrics"][kind["metrics"]["mce"]]["perfectly_calibrated"]["base"]
        assert perfect["low"] <= perfect["mean"] <= perfect["high"]


def test_options_of_questions_without_an_answer_have_no_calibration() -> None:
    questions = [
        Question(question_id=f"q{i}", domain="in", question=f"{i}", choices=("x", "y"), split="test")
        for i in range(2)
    ]
    rollouts = [rollout((0, 1), question_id=f"q{i}", index=j, answer="A") for i in range(2) for j in (0, 1)]
    options = ([scores("q0", 0.9, 0.1)],) * 2
    key = {"q1": "A"}
    results = compare(
        questions, rollouts, rollouts, key, SETTINGS, train_domains=["in"], seed=0, options=options
    )
    kind = results["in"]["confidence_kinds"]["option_probability"]
    assert (kind["num_questions"], kind["num_with_gold"]) == (1, 0)
    assert "reliability" not in kind
    assert "option_ece" not in results["in"]["metrics"]
    assert "option_mass" in results["in"]["metrics"]


def test_questions_that_only_one_model_scored_are_left_out() -> None:
    question = Question(question_id="q0", domain="in", question="?", choices=("x", "y"), split="test")
    rollouts = [rollout((0, 1), question_id="q0", index=j) for j in (0, 1)]
    results = compare(
        [question],
        rollouts,
        rollouts,
        {},
        SETTINGS,
        train_domains=["in"],
        seed=0,
        options=([scores("q0", 1, 0)], []),
    )
    assert list(results["in"]["confidence_kinds"]) == ["vote_share"]


def test_equally_likely_choices_go_to_the_first() -> None:
    assert likeliest_option(scores("q", 0.2, 0.4, 0.4)) == "B"


def compared(
    mass: float, trained_mass: float, *, num_questions: int = 12, domains: tuple[str, ...] = ("in",)
) -> dict:
    names = [f"{domain}{i}" for domain in domains for i in range(num_questions)]
    questions = [
        Question(
            question_id=name,
            domain=name.rstrip("0123456789"),
            question=name,
            choices=("x", "y"),
            split="test",
        )
        for name in names
    ]
    rollouts = [rollout((0, 1), question_id=name, index=j, answer="A") for name in names for j in (0, 1)]
    options = tuple([scores(name, 0.9, 0.1, mass=m) for name in names] for m in (mass, trained_mass))
    key = dict.fromkeys(names, "A")
    return compare(
        questions, rollouts, rollouts, key, SETTINGS, train_domains=["in"], seed=0, options=options
    )


def test_options_that_hardly_ever_begin_an_answer_are_unreliable() -> None:
    results = compared(0.164, 0.00002)
    entries = results["in"]["metrics"]
    marked = {name for name, entry in entries.items() if "caution" in entry}
    assert marked == {name for name in entries if name.startswith("option_")} - {"option_mass"}
    assert entries["option_ece"]["unreliable"] == ["trained"]
    assert (
        "probability of less than 0.001 after training as the start of a reply"
        in entries["option_ece"]["caution"]
    )
    sentence = next(s for s in results["verdicts"] if "ECE-15 (option probability)" in s)
    assert sentence.endswith("Unreliable: " + entries["option_ece"]["caution"].removeprefix("Unreliable: "))
    assert not [s for s in results["verdicts"] if "Unreliable" in s and s != sentence]

    both = compared(0.01, 0.02)["in"]["metrics"]["option_ece"]
    assert both["unreliable"] == ["base", "trained"]
    assert "0.010 before training and 0.020 after training" in both["caution"]
    assert "caution" not in str(compared(0.11, 0.9)["in"])


def test_a_mean_over_domains_names_those_that_are_unreliable() -> None:
    mean = compared(0.5, 0.05, domains=("in", "b", "c"))["cross"]["mean"]["metrics"]
    assert mean["option_ece"]["unreliable"] == ["trained"]
    assert mean["option_ece"]["caution"].startswith("Unreliable in b, c: there the model hardly begins")
    assert "caution" not in mean["ece"]


def test_a_block_of_thinking_that_the_prompt_opens_is_closed_before_the_option(
    tiny_model, tiny_tokenizer
) -> None:
    """The letter is the answer's, as after an empty thought; not a letter inside the thinking."""
    plain = copy.deepcopy(tiny_tokenizer)
    opening = "<|im_start|>assistant\n"
    thinks, thought = copy.deepcopy(plain), copy.deepcopy(plain)
    thinks.chat_template = plain.chat_template.replace(opening, opening + "<think>\n")
    thought.chat_template = plain.chat_template.replace(opening, opening + "<think>\n\n</think>\n\n")
    found, expected, before = (
        score(tiny_model, tokenizer, QUESTION, [(0, 1, 2)]) for tokenizer in (thinks, thought, plain)
    )
    assert found == expected
    assert found.probabilities != before.probabilities
