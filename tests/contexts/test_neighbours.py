"""Which questions may demonstrate, where the nearest may not."""

import numpy as np
import pytest

from neuron_opsd.config import ContextSettings
from neuron_opsd.contexts.neighbours import by_own_domain, find_neighbours
from neuron_opsd.records import Question

QUESTIONS = {
    name: Question(question_id=name, domain="d", question=text, choices=(), split="train")
    for name, text in {
        "asked": "How many sides does a hexagon have?",
        "twin": "How many sides does a hexagon have?",
        "silent": "Name the capital of France.",
        "third": "Which metal is liquid at room temperature?",
        "fourth": "Who wrote the Divine Comedy?",
        "far": "What is the boiling point of water?",
    }.items()
}
SETS = {
    name: np.array(ids)
    for name, ids in {
        "asked": [0, 1, 2, 3],
        "twin": [0, 1, 2, 3],
        "silent": [0, 1, 2, 3, 4],
        "third": [0, 1, 2],
        "fourth": [0, 1],
        "far": [9],
    }.items()
}
REPLIES = dict.fromkeys(QUESTIONS, "A") | {"silent": "  "}


def no_model():
    raise AssertionError("nothing is embedded")


def found(seed: int = 0, **changes) -> list[tuple[str, float]]:
    settings = ContextSettings(**{"num_demonstrations": 2, **changes})
    query, *candidates = QUESTIONS.values()
    return find_neighbours(
        [query], candidates, REPLIES, settings, overlap_sets=SETS, base_model=no_model, seed=seed
    )["asked"]


def test_the_nearest_but_for_near_duplicates_and_questions_without_a_reply() -> None:
    assert found() == [("third", 0.25), ("fourth", 0.5)]


@pytest.mark.parametrize("retrieval", ["neuron_overlap", "tfidf", "random"])
def test_where_few_may_demonstrate_there_are_few(retrieval: str) -> None:
    assert {name for name, _ in found(retrieval=retrieval, num_demonstrations=9)} == {
        "third",
        "fourth",
        "far",
    }


def test_random_ones_are_of_the_seed_alone() -> None:
    drawn = [tuple(found(seed, retrieval="random")) for seed in range(8)]
    assert drawn == [tuple(found(seed, retrieval="random", max_prompt_tokens=99)) for seed in range(8)]
    assert len(set(drawn)) > 1


@pytest.mark.parametrize("retrieval", ["medoids", "fixed_random"])
def test_fixed_demonstrations_are_the_same_for_all_but_for_what_may_not_be_shown(retrieval: str) -> None:
    settings = ContextSettings(retrieval=retrieval, num_demonstrations=3)
    everyone = list(QUESTIONS.values())
    contexts = find_neighbours(
        everyone, everyone, REPLIES, settings, overlap_sets=SETS, base_model=no_model, seed=0
    )
    order = list(dict.fromkeys(name for own in contexts.values() for name, _ in own))
    assert len(order) == 3
    assert "silent" not in order
    twins = {"asked", "twin"}
    for name, own in contexts.items():
        alike = twins if name in twins else {name}
        assert {other for other, _ in own} == set(order) - alike
    if retrieval == "medoids":  # a distance is the one of the two questions' neurons
        assert all(
            distance < 1 or "far" in (name, other)
            for name, own in contexts.items()
            for other, distance in own
        )


def test_of_several_domains_a_questions_own_demonstrates_and_all_to_one_of_none() -> None:
    art, law, other = (
        [Question(question_id=f"{domain}-{k}", domain=domain, question=f"{domain} {k}?") for k in range(2)]
        for domain in ("art", "law", "other")
    )
    groups = by_own_domain([other[0], law[0], art[0], law[1]], [*law, *art])
    assert groups == [([art[0]], art), (law, law), ([other[0]], [*law, *art])]
    assert by_own_domain([other[0], law[0]], law) == [([other[0], law[0]], law)]
