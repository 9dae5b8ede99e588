import json
import math
import random

import numpy as np
import pytest

from neuron_opsd.config import EvaluationSettings
from neuron_opsd.errors import DataError
from neuron_opsd.evaluation import benchmark
from neuron_opsd.evaluation.several import expected_majority
from neuron_opsd.evaluation.votes import (
    _majority_codes,
    answers_flipped,
    count_votes,
    resampled_flips,
    unify_answers,
)
from neuron_opsd.evaluation.wording import verdict_of
from neuron_opsd.records import Question, Rollout
from neuron_opsd.results import Estimate, Results, dump, load
from neuron_opsd.rollouts.pseudo_label import group_by_question
from neuron_opsd.text.answers import majority_answer

SETTINGS = EvaluationSettings(num_samples=4, num_bootstrap=200)


def compare(*data, **settings):
    """The comparison as it is in results.json."""
    return dump(benchmark.compare(*data, **settings))


def score(questions, rollouts, key):
    """The block of one model, beside itself."""
    return compare(questions, rollouts, rollouts, key, SETTINGS, train_domains=["in"], seed=0)["in"]


def question(question_id, domain="in", choices=("w", "x", "y", "z")):
    return Question(question_id=question_id, domain=domain, question="?", choices=choices, split="test")


def rollouts_of(question_id, answers, *, tokens=5, cut=0):
    return [
        Rollout(
            question_id=question_id,
            rollout_index=index,
            choice_order=(0, 1, 2, 3),
            prompt_ids=(1,),
            completion_ids=(7,) * tokens,
            token_log_probs=(0.0,) * tokens,
            finish_reason="length" if index < cut else "stop",
            reply="",
            answer=answer,
        )
        for index, answer in enumerate(answers)
    ]


def made_up(num_questions, accuracy, *, seed, domain="in"):
    """Questions whose gold answer is spread over letters, and rollouts that are right with some chance."""
    generator = np.random.default_rng(seed)
    questions = [question(f"{domain}-{i:03}", domain) for i in range(num_questions)]
    key = {q.question_id: "ABCD"[i % 4] for i, q in enumerate(questions)}
    rollouts = []
    for q in questions:
        chance = np.clip(accuracy + generator.normal() * 0.2, 0, 1)
        others = [None, *(letter for letter in "ABCD" if letter != key[q.question_id])]
        answers = [
            key[q.question_id] if generator.random() < chance else others[generator.integers(4)]
            for _ in range(4)
        ]
        rollouts += rollouts_of(q.question_id, answers, tokens=int(generator.integers(3, 9)))
    return questions, rollouts, key


def compare_made_up(before=0.5, after=0.5, *, num_questions=60, key=None, seed=0, settings=SETTINGS):
    questions, base, full_key = made_up(num_questions, before, seed=1)
    _, trained, _ = made_up(num_questions, after, seed=2)
    key = full_key if key is None else key
    return compare(questions, base, trained, key, settings, train_domains=["in"], seed=seed)


def test_metrics_by_hand():
    questions = [question("q1"), question("q2")]
    base = rollouts_of("q1", ["A", "A", "A", "B"], cut=1) + rollouts_of(
        "q2", [None, None, "C", "B"], tokens=9
    )
    key = {"q1": "A", "q2": "C"}
    block = score(questions, base, key)
    values = {name: entry["base"]["value"] for name, entry in block["metrics"].items()}
    assert values["avg"] == pytest.approx((3 / 4 + 1 / 4) / 2)
    assert values["maj"] == 0.5  # the unparsable answer wins q2, and is wrong
    assert values["pass_at_k"] == 1.0  # of four samples each question has a right one
    assert "maj_at_k" not in values  # Maj is that
    assert values["ece"] == pytest.approx((abs(0.75 - 1) + abs(0.5 - 0)) / 2)
    assert values["brier"] == pytest.approx((0.25**2 + 0.5**2) / 2)
    assert values["auroc"] == 1.0
    assert values["overconfidence"] == pytest.approx(0.625 - 0.5)
    assert values["balanced_accuracy"] == 0.5
    assert values["parse_rate"] == pytest.approx((1 + 0.5) / 2)
    assert values["completion_tokens"] == 7
    assert values["truncated_fraction"] == pytest.approx(1 / 8)
    assert values["vote_share"] == pytest.approx(0.625)
    entropies = [-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), math.log(2) / 2 + math.log(4) / 2]
    assert values["answer_entropy"] == pytest.approx(np.mean(entropies))
    assert block["majority_class"]["rate"] == 0.5
    assert block["answer_distribution"]["base"] == pytest.approx(
        {"A": 3 / 8, "B": 2 / 8, "C": 1 / 8, "unparsable": 2 / 8}
    )
    assert (block["num_questions"], block["num_with_gold"], block["num_ties"]["base"]) == (2, 2, 0)


def test_pass_at_k_is_estimated_from_more_samples():
    rollouts = rollouts_of("q1", ["A", "B", "B", "B"]) + rollouts_of("q2", ["B", "B", "C", None])
    settings = SETTINGS.model_copy(update={"pass_k": 2})
    found = compare(
        [question("q1"), question("q2")], rollouts, rollouts, {"q1": "A", "q2": "A"}, settings,
        train_domains=["in"], seed=0,
    )  # fmt: skip
    entry = found["in"]["metrics"]["pass_at_k"]
    assert (entry["label"], entry["base"]["value"]) == ("pass@2", 0.25)  # one right of four: a half. None: 0
    with pytest.raises(ValueError, match=r"evaluation\.pass_k is 5, but a question has 4 samples"):
        EvaluationSettings(num_samples=4, pass_k=5)
    assert expected_majority(0.4, [0.3, 0.3], EvaluationSettings(exact=True, pass_k=128).k_of_pass) > 0.8
    with pytest.raises(
        ValueError, match=r"evaluation\.pass_k is 171. With evaluation\.exact it must be at most 128"
    ):
        EvaluationSettings(exact=True, pass_k=171)


def test_the_log_likelihood_leaves_half_a_vote_of_doubt():
    block = score([question("q1")], rollouts_of("q1", ["A"] * 4), {"q1": "B"})
    value = block["metrics"]["nll"]["base"]["value"]
    assert value == pytest.approx(-math.log(1 / 8))


def test_ties_go_to_the_answer_given_first_whatever_the_order_of_records():
    votes = rollouts_of("q1", ["B", "A", "A", "B"])
    random.Random(0).shuffle(votes)
    counted = count_votes([question("q1")], group_by_question(votes), {})
    assert counted.majority == ["B"]
    assert counted.num_ties == 1


def test_always_one_letter_reaches_the_majority_class_rate_but_no_balanced_accuracy():
    questions = [question(f"q{i:02}") for i in range(20)]
    key = {q.question_id: "A" if i < 15 else "B" for i, q in enumerate(questions)}
    base = [r for q in questions for r in rollouts_of(q.question_id, ["A"] * 4)]
    block = score(questions, base, key)
    assert block["metrics"]["maj"]["base"]["value"] == block["majority_class"]["rate"] == 0.75
    assert block["metrics"]["balanced_accuracy"]["base"]["value"] == 0.5


def test_equivalent_free_form_answers_vote_together():
    assert unify_answers(["9", "9 apples", None, "8"]) == ("9", "9", None, "8")
    free = question("q1", choices=())
    block = score([free], rollouts_of("q1", ["8", "9 apples", "9", None]), {"q1": "9"})
    assert block["metrics"]["maj"]["base"]["value"] == 1
    assert block["metrics"]["vote_share"]["base"]["value"] == 0.5
    assert "balanced_accuracy" not in block["metrics"]
    assert block["answer_distribution"] is None


def test_results_are_json_and_do_not_depend_on_order():
    questions, base, key = made_up(40, 0.5, seed=1)
    more, more_base, more_key = made_up(30, 0.4, seed=3, domain="out")
    _, trained, _ = made_up(40, 0.6, seed=2)
    _, more_trained, _ = made_up(30, 0.4, seed=4, domain="out")
    data = [questions + more, base + more_base, trained + more_trained]
    first = compare(*data, key | more_key, SETTINGS, train_domains=["in"], seed=0)
    for part in data:
        random.Random(5).shuffle(part)
    second = compare(*data, dict(reversed((key | more_key).items())), SETTINGS, train_domains=["in"], seed=0)
    assert json.dumps(first, allow_nan=False) == json.dumps(second, allow_nan=False)
    assert set(first["cross"]["domains"]) == {"out"}
    out, mean = first["cross"]["domains"]["out"]["metrics"], first["cross"]["mean"]["metrics"]
    assert mean["avg"]["base"]["value"] == out["avg"]["base"]["value"]
    assert len(first["questions"]) == 70


def test_results_come_back_from_json_as_they_were():
    questions, base, key = made_up(30, 0.5, seed=1)
    more, more_base, _ = made_up(12, 0.4, seed=3, domain="out")  # without answers
    found = benchmark.compare(
        questions + more, base + more_base, base + more_base, key, SETTINGS, train_domains=["in"], seed=0
    )
    assert load(Results, json.loads(json.dumps(dump(found), allow_nan=False))) == found


def test_another_seed_moves_intervals_not_values():
    first, second = compare_made_up(seed=0), compare_made_up(seed=1)
    one, two = (r["in"]["metrics"]["avg"]["difference"] for r in (first, second))
    assert one["value"] == two["value"]
    assert one["low"] != two["low"]


def test_a_real_gain_is_shown_and_no_change_is_not():
    gain = compare_made_up(0.4, 0.7)["in"]
    assert gain["metrics"]["avg"]["verdict"] == "higher"
    assert any("higher after training" in sentence for sentence in compare_made_up(0.4, 0.7)["verdicts"])
    num_quiet = 0
    for trial in range(40):
        questions, base, key = made_up(60, 0.5, seed=[trial, 0])
        _, trained, _ = made_up(60, 0.5, seed=[trial, 1])
        same = compare(questions, base, trained, key, SETTINGS, train_domains=["in"], seed=0)
        num_quiet += same["in"]["metrics"]["avg"]["verdict"] == "no difference shown"
        assert any("no difference shown" in sentence for sentence in same["verdicts"])
    assert num_quiet >= 34  # about 38 of 40 expected at 95%


def test_being_surer_of_the_same_answers_is_told_from_better_answers():
    questions, base, key = made_up(60, 0.5, seed=1)
    votes = count_votes(questions, group_by_question(base), key)
    surer = [
        r for q, m in zip(questions, votes.majority, strict=True) for r in rollouts_of(q.question_id, [m] * 8)
    ]
    right = [r for q in questions for r in rollouts_of(q.question_id, [key[q.question_id]] * 8)]

    def told(trained):
        results = compare(questions, base, trained, key, SETTINGS, train_domains=["in"], seed=0)
        assert results["in"]["metrics"]["avg"]["verdict"] == "higher"
        (sentence,) = (s for s in results["verdicts"] if "against Maj@" in s)
        return results["in"]["beyond_majority"], sentence

    beyond, sentence = told(surer)
    assert (beyond["value"], beyond["low"], beyond["high"]) == (0, 0, 0)
    assert "not shown to be more than the base model's own majority" in sentence
    beyond, sentence = told(right)
    assert beyond["value"] == pytest.approx(1 - np.mean(votes.majority_correct))
    assert beyond["verdict"] == "higher"
    assert "right more often than the base model's own majority" in sentence


def test_a_gain_below_the_majority_is_called_less():
    questions, base, key = made_up(300, 0.7, seed=1)  # Avg .7, Maj above it
    _, trained, _ = made_up(300, 0.74, seed=2)
    results = compare(questions, base, trained, key, SETTINGS, train_domains=["in"], seed=0)
    assert results["in"]["metrics"]["avg"]["verdict"] == "higher"
    assert results["in"]["beyond_majority"]["verdict"] == "lower"
    (sentence,) = (s for s in results["verdicts"] if "against Maj@" in s)
    assert ": less than the base model's own majority" in sentence


def test_a_gain_beyond_the_majority_is_the_mean_of_the_other_domains():
    data = [made_up(30, 0.4, seed=n, domain=d) for n, d in enumerate("ab")]
    better = [made_up(30, p, seed=n, domain=d) for n, (d, p) in enumerate((("a", 0.9), ("b", 0.8)), 5)]
    questions, key = [q for d in data for q in d[0]], data[0][2] | data[1][2]
    base, trained = ([r for d in part for r in d[1]] for part in (data, better))
    cross = compare(questions, base, trained, key, SETTINGS, train_domains=["none"], seed=0)["cross"]
    each = [block["beyond_majority"]["value"] for block in cross["domains"].values()]
    assert cross["mean"]["beyond_majority"]["value"] == pytest.approx(np.mean(each))
    assert cross["mean"]["beyond_majority"]["low"] < np.mean(each) < cross["mean"]["beyond_majority"]["high"]


def test_identical_rollouts_change_nothing():
    questions, base, key = made_up(30, 0.5, seed=1)
    block = compare(questions, base, base, key, SETTINGS, train_domains=["in"], seed=0)["in"]
    for entry in block["metrics"].values():
        # paired: each resample of the questions is of both
        assert entry["difference"] == {"value": 0, "low": 0, "high": 0}
        assert entry["verdict"] == "no difference shown"
    assert block["changes"]["answers_flipped"]["value"] == 0
    assert block["changes"]["answer_shift"]["value"] == 0


def test_without_answers_there_is_still_a_verdict_and_no_accuracy():
    results = compare_made_up(0.4, 0.7, key={})
    block = results["in"]
    assert "avg" not in block["metrics"]
    assert "reliability" not in block
    assert block["majority_class"] is None
    assert set(block["changes"]) == {"answers_flipped", "answer_shift"}
    assert {"vote_share", "parse_rate", "completion_tokens"} <= set(block["metrics"])
    assert "nothing is claimed about accuracy" in results["verdicts"][0]


def test_partial_answers_are_scored_where_there_are_any():
    key = {f"in-{i:03}": "ABCD"[i % 4] for i in range(25)}
    block = compare_made_up(key=key)["in"]
    assert (block["num_questions"], block["num_with_gold"], block["num_without_gold"]) == (60, 25, 35)


def test_few_questions_get_no_interval_and_no_verdict():
    entry = compare_made_up(num_questions=9)["in"]["metrics"]["avg"]
    assert entry["difference"]["low"] is None
    assert entry["verdict"] == "too few questions"


def test_questions_without_both_rollouts_are_counted_and_strange_rollouts_refused():
    questions, base, key = made_up(20, 0.5, seed=1)
    trained = [r for r in base if r.question_id != "in-003"]
    results = compare(questions, base, trained, key, SETTINGS, train_domains=["in"], seed=0)
    assert results["num_not_scored"] == 1
    assert results["in"]["num_questions"] == 19
    with pytest.raises(DataError, match="'in-003' is not among"):
        compare(
            [q for q in questions if q.question_id != "in-003"],
            base,
            base,
            key,
            SETTINGS,
            train_domains=["in"],
            seed=0,
        )


def test_cross_mean_counts_each_domain_once():
    data = [made_up(n, p, seed=n, domain=d) for n, p, d in ((20, 0.9, "a"), (60, 0.3, "b"))]
    questions, rollouts = [q for d in data for q in d[0]], [r for d in data for r in d[1]]
    key = data[0][2] | data[1][2]
    cross = compare(questions, rollouts, rollouts, key, SETTINGS, train_domains=["none"], seed=0)["cross"]
    values = [block["metrics"]["avg"]["base"]["value"] for block in cross["domains"].values()]
    assert cross["mean"]["metrics"]["avg"]["base"]["value"] == pytest.approx(np.mean(values))
    assert cross["mean"]["num_domains"] == 2


def test_flipped_answers_are_told_of_each_domain():
    data = [made_up(20, 0.5, seed=seed, domain=domain) for seed, domain in enumerate("abc")]
    questions, rollouts = [q for d in data for q in d[0]], [r for d in data for r in d[1]]
    verdicts = compare(questions, rollouts, rollouts, {}, SETTINGS, train_domains=["a"], seed=0)["verdicts"]
    told = [sentence.partition(": ")[0] for sentence in verdicts if "majority answers flipped" in sentence]
    assert told == ["In-domain (a)", "Cross-domain (b)", "Cross-domain (c)"]


def test_sampling_alone_flips_about_as_many_answers_as_two_samples_of_one_model():
    generator = np.random.default_rng(0)
    questions = [question(f"q{i:03}") for i in range(150)]
    chances = {q.question_id: generator.dirichlet([1, 1, 1]) for q in questions}

    def sample():
        return [
            r
            for q in questions
            for r in rollouts_of(
                q.question_id, list(generator.choice(["A", "B", "C"], 4, p=chances[q.question_id]))
            )
        ]

    before, after = (count_votes(questions, group_by_question(sample()), {}) for _ in range(2))
    by_chance = resampled_flips(before, after, num_permutations=300, seed=0)
    low, high = np.quantile(by_chance, [0.001, 0.999])
    assert low <= answers_flipped(before, after).mean() <= high


def test_vectorised_majority_agrees_with_the_vote():
    codes = np.random.default_rng(0).integers(0, 4, (300, 7))
    expected = [int(majority_answer([str(c) for c in row], skip_unparsable=False).answer) for row in codes]
    assert _majority_codes(codes, 4).tolist() == expected


@pytest.mark.parametrize(
    ("low", "high", "num_items", "verdict"),
    [
        (0.1, 0.2, 50, "higher"),
        (-0.2, -0.1, 50, "lower"),
        (0.0, 0.2, 50, "no difference shown"),
        (-0.1, 0.1, 50, "no difference shown"),
        (1e-8, 3e-8, 50, "no difference shown"),  # rounding
        (-3e-8, -1e-8, 50, "no difference shown"),
        (0.1, 0.2, 9, "too few questions"),
        (None, None, 50, "not defined"),
    ],
)
def test_verdicts(low, high, num_items, verdict):
    assert verdict_of(Estimate(0.15, low, high), num_items) == verdict


def test_no_rollouts_at_all():
    results = compare([question("q1")], [], [], {}, SETTINGS, train_domains=["in"], seed=0)
    assert results["in"] is None
    assert results["cross"] == {"domains": {}, "mean": None}
    assert results["num_not_scored"] == 1


def test_several_trained_domains_are_shown_together_and_each() -> None:
    parts = [
        made_up(count, 0.5, seed=seed, domain=name) for seed, (name, count) in enumerate(SEVERAL.items())
    ]
    questions, rollouts = ([one for part in parts for one in part[i]] for i in (0, 1))
    key = {name: answer for part in parts for name, answer in part[2].items()}
    found = compare(questions, rollouts, rollouts, key, SETTINGS, train_domains=["art", "law"], seed=0)
    assert found["train_domain"] == "all 2 domains"
    assert (list(found["own"]), list(found["cross"]["domains"])) == (["art", "law"], ["other"])
    values = {name: own["metrics"]["avg"]["base"]["value"] for name, own in found["own"].items()}
    together = (values["art"] * 30 + values["law"] * 12) / 42  # each question counts once
    assert found["in"]["metrics"]["avg"]["base"]["value"] == pytest.approx(together)
    assert {row["domain"] for row in found["questions"]} == set(SEVERAL)
    alone = compare(questions, rollouts, rollouts, key, SETTINGS, train_domains=["art"], seed=0)
    assert alone["in"] == found["own"]["art"]
    assert "own" not in alone


SEVERAL = {"art": 30, "law": 12, "other": 12}
