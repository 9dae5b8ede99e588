"""`explain`: ranks, layers and neighbours of a pool small enough to work by hand."""

import dataclasses
import math

import numpy as np
import pytest

from neuron_opsd.commands.explain import SharedNeuron, describe, explain_question
from neuron_opsd.errors import RunFolderError
from neuron_opsd.records import NeuronSets, Question, Rollout, SelectedQuestion

D_FF = 10
# id: (question, completion tokens, neurons of layers 0 and 1, overlap set, answers)
POOL = {
    "sum-1": ("What is 3 + 4?", 10, (3, 5), (1, 2, 13), "AAB"),
    "sum-2": ("What is 30 + 41?", 20, (2, 4), (1, 2, 13, 14), "AAA"),
    "capital": ("Name the capital of France.", 40, (1, 2), (2, 19), "ABC"),
    "colour": ("Which colour has the sky?", 80, (9, 9), (5,), "BBB"),
}


def make(pool=POOL, *, selected=("capital",)):
    questions = [Question(question_id=name, domain="d", question=row[0]) for name, row in pool.items()]
    questions.append(Question(question_id="held-out", domain="d", question="Why?", split="test"))
    sets = [
        NeuronSets(
            question_id=name,
            rollout_index=0,
            num_completion_tokens=tokens,
            num_chunks=1,
            consensus_score=sum(layers),
            consensus_score_per_chunk=float(sum(layers)),
            neurons_per_layer=layers,
            overlap_set=np.array(overlap, dtype=np.int32),
        )
        for name, (_, tokens, layers, overlap, _) in pool.items()
    ]
    rollouts = [
        Rollout(
            question_id=name,
            rollout_index=index,
            choice_order=(),
            prompt_ids=(1,),
            completion_ids=(1, 1),
            token_log_probs=(-0.1 * (index + 1), -0.3),
            finish_reason="stop",
            reply=f"reply {name} {index}",
            answer=answer,
        )
        for name, row in pool.items()
        for index, answer in enumerate(row[4])
    ]
    order = sorted(sets, key=lambda item: item.consensus_score)
    selection = [
        SelectedQuestion(
            question_id=item.question_id,
            domain="d",
            num_completion_tokens=item.num_completion_tokens,
            consensus_score=float(item.consensus_score),
            consensus_score_length_residualised=0.0,
            vote_share=None,
            score=float(item.consensus_score),
            rank=order.index(item),
            selected=item.question_id in selected,
        )
        for item in sets
    ]
    return questions, sets, rollouts, selection


def explain(question_id, made=None, **options):
    return explain_question(question_id, *(made or make()), d_ff=D_FF, **options)


def score(explanation, start):
    return next(score for score in explanation.scores if score.name.startswith(start))


def test_scores_and_their_ranks():
    found = explain("sum-1")
    assert (score(found, "s(x), neurons").value, score(found, "s(x), neurons").rank) == (8.0, 2)
    assert score(found, "completion tokens").rank == 0
    assert score(found, "mean log-probability").value == pytest.approx(-0.2)
    assert score(found, "vote share").value == pytest.approx(2 / 3)
    entropy = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert score(found, "entropy").value == pytest.approx(entropy)
    assert score(explain("sum-2"), "entropy").value == 0.0
    assert score(explain("capital"), "entropy").value == pytest.approx(math.log(3))
    assert score(found, "the score that ranked it").num_ranked == 4
    assert found.reply == "reply sum-1 0"


def test_layers():
    found = explain("sum-1")
    assert found.overlap_per_layer == (2, 1)
    assert found.count_per_layer_mean == (15 / 4, 20 / 4)


def test_neighbours_share_neurons_and_templates():
    nearest, second, third = explain("sum-1").neighbours
    assert (nearest.question.question_id, nearest.overlap, nearest.num_shared) == ("sum-2", 0.75, 3)
    assert nearest.same_template
    # 1 and 13 lie in two sets, 2 in three: the rarest first, then the lower id.
    assert nearest.rarest_shared == (SharedNeuron(0, 1, 2), SharedNeuron(1, 3, 2), SharedNeuron(0, 2, 3))
    assert (second.question.question_id, second.overlap, second.same_template) == ("capital", 0.25, False)
    assert (third.overlap, third.num_shared, third.rarest_shared) == (0.0, 0, ())
    assert explain("sum-1").mean_overlap == pytest.approx(1 / 3)
    assert len(explain("sum-1", num_neighbours=2).neighbours) == 2
    assert explain("sum-1", num_neighbours=2).mean_overlap == pytest.approx(1 / 3)


def test_other_domains_are_no_neighbours():
    questions, *rest = make()
    questions = [
        dataclasses.replace(question, domain="other") if question.question_id == "sum-2" else question
        for question in questions
    ]
    found = explain("sum-1", (questions, *rest))
    assert [neighbour.question.question_id for neighbour in found.neighbours] == ["capital", "colour"]
    assert score(found, "s(x), neurons").num_ranked == 3
    alone = explain("sum-2", (questions, *rest))
    assert alone.neighbours == ()
    assert "none" in describe(alone)


def test_before_selection_and_with_one_rollout():
    questions, sets, rollouts, _ = make()
    found = explain("sum-1", (questions, sets, [r for r in rollouts if r.rollout_index == 0], []))
    assert found.selection is None
    names = " ".join(score.name for score in found.scores)
    assert "vote share" not in names
    assert "ranked it" not in names
    assert "Selection has not run" in describe(found)


def test_text_names_what_matters_and_cannot_steer_the_terminal():
    pool = {**POOL, "sum-2": ("\x1b[31mWhat is 30\n+ 41?" + "x" * 200, *POOL["sum-2"][1:])}
    text = describe(explain("sum-1", make(pool)))
    for part in (
        "Rank 3 in its domain: not selected",
        "8 counted, 3 for overlap",
        "0.750  3 shared  another template  sum-2",
        "1:3 (2)",
    ):
        assert part in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 120
    assert "Rank 1 in its domain: selected" in describe(explain("capital"))


@pytest.mark.parametrize(
    ("question_id", "message"),
    [
        ("sum-3", r"'sum-3' is not a question of this run. The nearest ids are 'sum-2', 'sum-1'"),
        ("zzz", "The nearest ids are 'sum-1', 'sum-2', 'capital'"),
        ("held-out", "'held-out' is held out for evaluation"),
    ],
)
def test_unknown_ids(question_id, message):
    with pytest.raises(RunFolderError, match=message):
        explain(question_id)


def test_a_completion_without_neurons():
    pool = {**POOL, "empty": ("Silence?", 0, (0, 0), (), "A")}
    found = explain("empty", make(pool))
    assert found.overlap_per_layer == (0, 0)
    assert [neighbour.overlap for neighbour in found.neighbours] == [0.0] * 4
    assert "0 counted" in describe(found)
