"""Scores, ranks and what is kept, by hand."""

import math

import numpy as np
import pytest

from neuron_opsd.config import SelectionSettings
from neuron_opsd.errors import DataError
from neuron_opsd.records import NeuronSets, Question
from neuron_opsd.selection.score import READS_NEURONS, length_residuals, num_kept
from neuron_opsd.selection.select import count_unusable, select_questions, unread_ids, warn_of_unusable
from neuron_opsd.text.answers import Vote


def sets(
    question_id: str, score: int, tokens: int = 10, per_chunk: float = 0.0, num_chunks: int = 1
) -> NeuronSets:
    return NeuronSets(
        question_id=question_id,
        rollout_index=0,
        num_completion_tokens=tokens,
        num_chunks=num_chunks,
        consensus_score=score,
        consensus_score_per_chunk=per_chunk,
        neurons_per_layer=(score,),
        overlap_set=np.zeros(0, np.int32),
    )


def select(
    scores: dict[str, int],
    *,
    domains=None,
    votes=None,
    tokens=None,
    seed=0,
    per_chunk=None,
    log_probs=None,
    **options,
):
    ids = list(scores)
    records = select_questions(
        [Question(question_id=i, domain=(domains or {}).get(i, "d"), question=i) for i in ids],
        [sets(i, scores[i], (tokens or {}).get(i, 10), (per_chunk or {}).get(i, 0.0)) for i in ids],
        votes or {i: Vote("A", 1, 1) for i in ids},
        SelectionSettings(**options),
        seed=seed,
        mean_log_probs=log_probs,
    )
    assert [record.question_id for record in records] == ids
    return {record.question_id: record for record in records}


def kept(records) -> set[str]:
    return {i for i, record in records.items() if record.selected}


FIVE = {"a": 50, "b": 10, "c": 30, "d": 20, "e": 40}


@pytest.mark.parametrize(
    ("keep", "expected"), [("lowest", {"b", "d"}), ("highest", {"a", "e"}), ("middle", {"c", "d"})]
)
def test_which_end_is_kept(keep, expected):
    records = select(FIVE, keep=keep, fraction=0.4)
    assert kept(records) == expected
    assert [records[i].rank for i in "abcde"] == [4, 0, 2, 1, 3]


@pytest.mark.parametrize(
    ("num_questions", "fraction", "expected"),
    [(10, 0.25, 3), (10, 0.24, 2), (1, 0.01, 1), (3, 0.01, 1), (5, 1.0, 5), (0, 0.5, 0)],
)
def test_how_many_are_kept(num_questions, fraction, expected):
    assert num_kept(num_questions, fraction) == expected


def test_ties_go_to_the_smaller_id_whatever_the_order():
    assert kept(select({"b": 5, "a": 5, "c": 5}, fraction=0.34)) == {"a"}
    assert kept(select({"c": 5, "b": 5, "a": 5}, fraction=0.34)) == {"a"}


def test_each_domain_is_ranked_apart():
    records = select(
        {"a": 1, "b": 2, "c": 100, "d": 200}, domains={"a": "x", "b": "x", "c": "y", "d": "y"}, fraction=0.5
    )
    assert kept(records) == {"a", "c"}
    assert [records[i].rank for i in "abcd"] == [0, 1, 0, 1]


def test_residuals_by_hand():
    """In units of log 2: x = 0, 1, 2 and y = 0, 0, 3, so slope 1.5, mean 1, residuals 0.5, -1, 0.5."""
    items = [sets("a", 1, 1), sets("b", 1, 2), sets("c", 8, 4)]
    assert length_residuals(items) == pytest.approx([u * math.log(2) for u in (0.5, -1.0, 0.5)])


def test_residuals_are_those_of_a_least_squares_line():
    items = [sets("a", 3, 1), sets("b", 1, 3), sets("c", 20, 7), sets("d", 9, 30)]
    x, y = np.log([1, 3, 7, 30]), np.log([3, 1, 20, 9])
    slope, intercept = np.polyfit(x, y, 1)
    assert length_residuals(items) == pytest.approx((y - slope * x - intercept).tolist())


def test_residuals_know_nothing_of_length():
    items = [sets(str(i), 3 * n, n) for i, n in enumerate((2, 5, 11, 40))]
    assert length_residuals(items) == pytest.approx([0] * 4, abs=1e-12)


def test_equal_lengths_leave_log_s_less_its_mean():
    assert length_residuals([sets("a", 1), sets("b", 4)]) == pytest.approx([-math.log(2), math.log(2)])


def test_an_empty_completion_has_a_finite_score():
    assert all(map(math.isfinite, length_residuals([sets("a", 0, 0), sets("b", 5, 3)])))


def test_residualised_score_ranks_by_the_residual():
    options = {"score": "consensus_length_residualised", "fraction": 0.34}
    records = select({"a": 1, "b": 1, "c": 8}, tokens={"a": 1, "b": 2, "c": 4}, **options)
    assert kept(records) == {"b"}
    assert records["b"].score == pytest.approx(-math.log(2))
    assert records["b"].consensus_score == 1


def test_vote_share_ranks_the_surest_first_and_the_unparsable_last():
    votes = {"a": Vote("A", 2, 4), "b": Vote("B", 4, 4), "c": Vote(None, 0, 4)}
    records = select({"a": 1, "b": 2, "c": 3}, votes=votes, score="vote_share", fraction=0.34)
    assert [records[i].rank for i in "abc"] == [1, 0, 2]
    assert [records[i].vote_share for i in "abc"] == [0.5, 1.0, None]


def test_log_probability_ranks_the_likeliest_first_and_the_empty_last():
    options = {"score": "log_prob", "fraction": 0.34}
    records = select({"a": 1, "b": 2, "c": 3}, log_probs={"a": None, "b": -0.5, "c": -0.1}, **options)
    assert [records[i].rank for i in "abc"] == [2, 1, 0]
    assert [records[i].score for i in "abc"] == [math.inf, 0.5, 0.1]
    assert kept(records) == {"c"}


def test_log_probability_asks_for_what_it_needs():
    with pytest.raises(DataError, match="give select_questions the mean_log_probs"):
        select({"a": 1}, score="log_prob")


def test_one_vote_is_no_share():
    assert select({"a": 1}, votes={"a": Vote("A", 1, 1)})["a"].vote_share is None


def test_per_chunk_score_is_used():
    records = select(
        {"a": 1, "b": 9}, per_chunk={"a": 5.0, "b": 2.0}, score="consensus_per_chunk", fraction=0.5
    )
    assert kept(records) == {"b"}


def test_random_control_depends_on_seed_and_id_alone():
    ids = {f"q{i}": i for i in range(40)}
    first = kept(select(ids, score="random", fraction=0.25, seed=1))
    assert len(first) == 10
    assert kept(select(dict(reversed(ids.items())), score="random", fraction=0.25, seed=1)) == first
    assert kept(select(ids, score="random", fraction=0.25, seed=2)) != first


def test_what_is_left_out_ranks_last_and_is_never_kept(caplog):
    ids = list(FIVE)

    def records(left_out, **options):
        found = select_questions(
            [Question(question_id=i, domain="d", question=i) for i in ids],
            [sets(i, FIVE[i]) for i in ids],
            {},
            SelectionSettings(**options),
            seed=0,
            left_out=left_out,
        )
        return {record.question_id: record for record in found}

    found = records({"b", "d"}, fraction=0.4)  # two of five, and b and d had the lowest scores
    assert kept(found) == {"c", "e"}
    assert [found[i].rank for i in "ceabd"] == [0, 1, 2, 3, 4]
    assert kept(records({"b", "d"}, fraction=0.4, keep="highest")) == {"a", "e"}
    assert kept(records({"a", "b", "c", "d"}, fraction=0.4)) == {
        "e"
    }  # fewer than asked for, never one left out
    with pytest.raises(DataError, match=r"usable_only left no question of domain d.*max_new_tokens"):
        records(set(FIVE), fraction=0.4)

    warn_of_unusable(count_unusable(list(found.values()), {"b", "d"}))
    assert not caplog.records
    warn_of_unusable(count_unusable(list(records(set(), fraction=0.4).values()), {"b", "a"}))
    assert "of 2 selected questions 1 have a reply that was cut" in caplog.text
    assert "(of 5 in the pool, 2)" in caplog.text


@pytest.mark.parametrize("score", READS_NEURONS)
@pytest.mark.parametrize("keep", ["lowest", "highest"])
def test_a_reply_of_which_no_neuron_was_read_is_not_ranked(score, keep, caplog):
    """Its consensus score is 0, the lowest there can be."""
    given = [
        *(sets(i, FIVE[i], tokens, 1.0) for tokens, i in enumerate(FIVE, start=5)),
        sets("cut", 0, 99, 0.0, 0),
    ]
    found = select_questions(
        [Question(question_id=item.question_id, domain="d", question="?") for item in given],
        given,
        {},
        SelectionSettings(score=score, keep=keep, fraction=0.9),
        seed=0,
    )
    records = {record.question_id: record for record in found}
    assert kept(records) == set(FIVE)
    assert records["cut"].rank == 5
    residuals = {
        item.question_id: value for item, value in zip(given[:5], length_residuals(given[:5]), strict=True)
    }
    for i in FIVE:  # nor does it bend the line
        assert records[i].consensus_score_length_residualised == pytest.approx(residuals[i])
    warn_of_unusable(count_unusable(found, {"cut"}, unread_ids(given)))
    assert "of 6 questions in the pool 1 have a reply without tokens" in caplog.text


def test_a_domain_of_which_no_neuron_was_read_is_an_error():
    with pytest.raises(DataError, match=r"neurons.tokens=answer left no question of domain d"):
        select_questions(
            [Question(question_id="cut", domain="d", question="?")],
            [sets("cut", 0, num_chunks=0)],
            {},
            SelectionSettings(),
            seed=0,
        )
