"""Why one question ranks where it does, and who its neighbours are: records in, an `Explanation` or text out.

print(describe(explain_run(RunFolder.open("runs/demo"), "q-17")))
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from neuron_opsd.errors import RunFolderError
from neuron_opsd.neurons.overlap import nearest_neighbours
from neuron_opsd.questions.duplicates import template_key
from neuron_opsd.records import NeuronSets, Question, Rollout, SelectedQuestion
from neuron_opsd.rollouts.pseudo_label import group_by_question, vote
from neuron_opsd.selection.score import length_residuals
from neuron_opsd.store.run_folder import RunFolder

NUM_RAREST = 4  # shared neurons named for each neighbour
BAR = "█"
BAR_WIDTH = 30
TEXT_WIDTH = 78


@dataclass(frozen=True, slots=True)
class Score:
    """One score of the question among those of its domain. Rank 0 is the lowest value."""

    name: str
    value: float
    rank: int
    num_ranked: int


@dataclass(frozen=True, slots=True)
class SharedNeuron:
    """A neuron of both overlap sets, and how many overlap sets of the pool hold it."""

    layer: int
    index: int
    num_sets: int


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A question whose answer used the same neurons."""

    question: Question
    overlap: float  # Jaccard similarity of the overlap sets
    num_shared: int
    rarest_shared: tuple[SharedNeuron, ...]  # those that fewest other questions use say most
    same_template: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything about one question of the pool."""

    question: Question
    sets: NeuronSets
    selection: SelectedQuestion | None  # None before the stage `select`
    scores: tuple[Score, ...]
    overlap_per_layer: tuple[int, ...]
    count_per_layer_mean: tuple[float, ...]  # of the domain
    neighbours: tuple[Neighbour, ...]
    mean_overlap: float  # with all other questions of the domain
    reply: str


def explain_run(folder: RunFolder, question_id: str, *, num_neighbours: int = 10) -> Explanation:
    """`explain_question` on what a run folder holds.

    Raises:
        RunFolderError: neurons are not captured yet, or the id is unknown.
    """
    stage = folder.stage("neurons")
    selection = folder.stage("selection").read(SelectedQuestion) if folder.is_current("selection") else []
    return explain_question(
        question_id,
        folder.stage("questions").read(Question),
        stage.read(NeuronSets),
        folder.stage("rollouts").read(Rollout),
        selection,
        d_ff=stage.summary()["d_ff"],
        num_neighbours=num_neighbours,
    )


def explain_question(
    question_id: str,
    questions: Sequence[Question],
    neuron_sets: Sequence[NeuronSets],
    rollouts: Sequence[Rollout],
    selection: Sequence[SelectedQuestion],
    *,
    d_ff: int,
    num_neighbours: int = 10,
) -> Explanation:
    """What the run knows about one question of the pool, within its domain.

    Args:
        question_id: A question with captured neurons.
        questions: All questions of the run.
        neuron_sets: Those of the pool.
        rollouts: Those of the pool. Several a question give vote shares.
        selection: Empty before the stage `select`.
        d_ff: Neurons of a layer, to read ids.
        num_neighbours: Nearest questions described.

    Raises:
        RunFolderError: no neurons are known of this id. The message names like ones.
    """
    by_id = {question.question_id: question for question in questions}
    _check_id(question_id, by_id, neuron_sets)
    domain = by_id[question_id].domain
    sets = [item for item in neuron_sets if by_id[item.question_id].domain == domain]
    place = [item.question_id for item in sets].index(question_id)
    chosen = {record.question_id: record for record in selection}
    neighbours, mean_overlap = _neighbours(place, sets, by_id, d_ff, num_neighbours)
    depth = len(sets[place].neurons_per_layer)
    return Explanation(
        question=by_id[question_id],
        sets=sets[place],
        selection=chosen.get(question_id),
        scores=tuple(_ranked(place, _scores(sets, rollouts, chosen))),
        overlap_per_layer=tuple(np.bincount(sets[place].overlap_set // d_ff, minlength=depth).tolist()),
        count_per_layer_mean=tuple(np.mean([item.neurons_per_layer for item in sets], axis=0).tolist()),
        neighbours=neighbours,
        mean_overlap=mean_overlap,
        reply=next(r.reply for r in rollouts if r.question_id == question_id and r.rollout_index == 0),
    )


def _check_id(question_id: str, by_id: Mapping[str, Question], sets: Sequence[NeuronSets]) -> None:
    known = [item.question_id for item in sets]
    if question_id in known:
        return
    if question_id in by_id:
        raise RunFolderError(
            f"Question {question_id!r} is held out for evaluation, so its neurons were not captured. "
            f"Ask for a question of the pool, such as {known[0]!r}."
        )
    like = difflib.get_close_matches(question_id, known, n=3, cutoff=0.4) or known[:3]
    raise RunFolderError(
        f"{question_id!r} is not a question of this run. The nearest ids are {', '.join(map(repr, like))}."
    )


def _scores(
    sets: Sequence[NeuronSets], rollouts: Sequence[Rollout], chosen: Mapping[str, SelectedQuestion]
) -> dict[str, list[float]]:
    """Every score that the records allow, by name. NaN where one question lacks it."""
    grouped = group_by_question(rollouts)
    groups = [grouped[item.question_id] for item in sets]
    scores = {
        "s(x), neurons in the count set": [float(item.consensus_score) for item in sets],
        "s(x), length-residualised": length_residuals(sets),
        "s(x), mean over chunks": [item.consensus_score_per_chunk for item in sets],
        "completion tokens": [float(item.num_completion_tokens) for item in sets],
        "mean log-probability of a token": [_known(group[0].mean_log_prob) for group in groups],
    }
    if any(len(group) > 1 for group in groups):
        shares = vote(list(rollouts))
        scores["vote share"] = [shares[item.question_id].share for item in sets]
        scores["entropy of the answers (nats)"] = [_answer_entropy(group) for group in groups]
    if chosen and all(item.question_id in chosen for item in sets):
        scores["the score that ranked it (selection.score)"] = [chosen[i.question_id].score for i in sets]
    return scores


def _known(value: float | None) -> float:
    return float("nan") if value is None else value


def _answer_entropy(group: Sequence[Rollout]) -> float:
    """Entropy of the answers given. A reply without one is an answer of its own kind."""
    answers = [rollout.answer for rollout in group]
    shares = np.array([answers.count(answer) for answer in set(answers)]) / len(answers)
    return float(-(shares * np.log(shares)).sum()) + 0.0


def _ranked(place: int, scores: Mapping[str, list[float]]) -> list[Score]:
    ranked = []
    for name, values in scores.items():
        known = [value for value in values if value == value]
        if values[place] == values[place]:
            below = sum(value < values[place] for value in known)
            ranked.append(Score(name, values[place], below, len(known)))
    return ranked


def _neighbours(
    place: int, sets: Sequence[NeuronSets], by_id: Mapping[str, Question], d_ff: int, count: int
) -> tuple[tuple[Neighbour, ...], float]:
    """The nearest questions, nearest first, and the mean overlap with all."""
    overlap_sets = [item.overlap_set for item in sets]
    indices, distances = nearest_neighbours(overlap_sets, max(len(sets) - 1, 1), queries=[place])
    num_sets = np.bincount(np.concatenate(overlap_sets), minlength=1)
    mine = by_id[sets[place].question_id]
    found = []
    for other, distance in zip(indices[0], distances[0], strict=True):
        if other < 0 or len(found) == count:
            break
        shared = np.intersect1d(overlap_sets[place], overlap_sets[other])
        rarest = shared[np.argsort(num_sets[shared], kind="stable")][:NUM_RAREST]
        question = by_id[sets[other].question_id]
        found.append(
            Neighbour(
                question=question,
                overlap=1 - float(distance),
                num_shared=len(shared),
                rarest_shared=tuple(SharedNeuron(*divmod(int(i), d_ff), int(num_sets[i])) for i in rarest),
                same_template=template_key(question.question) == template_key(mine.question),
            )
        )
    finite = distances[0][np.isfinite(distances[0])]
    return tuple(found), float(1 - finite.mean()) if finite.size else float("nan")


def describe(explanation: Explanation) -> str:
    """The explanation as text for a terminal."""
    parts = [_heading(explanation), _score_lines(explanation), _layer_lines(explanation)]
    return "\n\n".join([*parts, _neighbour_lines(explanation)])


def _heading(explanation: Explanation) -> str:
    question, chosen = explanation.question, explanation.selection
    fate = "Selection has not run yet."
    if chosen is not None:
        fate = f"Rank {chosen.rank + 1} in its domain: {'selected' if chosen.selected else 'not selected'}."
    return "\n".join(
        [
            f"{_short(question.question_id)} ({_short(question.domain)}): {_short(question.question)}",
            f"reply: {_short(explanation.reply)}",
            fate,
        ]
    )


def _score_lines(explanation: Explanation) -> str:
    width = max(len(score.name) for score in explanation.scores)
    lines = [
        f"  {score.name:<{width}}  {_number(score.value):>9}  {score.rank + 1} of {score.num_ranked}"
        for score in explanation.scores
    ]
    return "\n".join(["Scores, and their place from the lowest", *lines])


def _layer_lines(explanation: Explanation) -> str:
    counted = explanation.sets.neurons_per_layer
    longest = max(*counted, 1)
    lines = [
        f"  {layer:>3}  {count:>6}  {mean:>8.1f}  {overlap:>6}  {BAR * round(BAR_WIDTH * count / longest)}"
        for layer, (count, mean, overlap) in enumerate(
            zip(counted, explanation.count_per_layer_mean, explanation.overlap_per_layer, strict=True)
        )
    ]
    title = f"Neurons by layer: {sum(counted)} counted, {len(explanation.sets.overlap_set)} for overlap"
    head = f"  {'':>3}  {'counted':>6} {'domain':>9} {'overlap':>7}"
    return "\n".join([title, head, *lines])


def _neighbour_lines(explanation: Explanation) -> str:
    if not explanation.neighbours:
        return "Neighbours: none, the domain has no other question."
    alike = sum(neighbour.same_template for neighbour in explanation.neighbours)
    lines = [
        f"Neighbours by neuron overlap (mean with all others {explanation.mean_overlap:.3f}; "
        f"{alike} of {len(explanation.neighbours)} share its template)"
    ]
    for neighbour in explanation.neighbours:
        rare = ", ".join(f"{n.layer}:{n.index} ({n.num_sets})" for n in neighbour.rarest_shared)
        template = "same template" if neighbour.same_template else "another template"
        question = neighbour.question
        where = f"{neighbour.num_shared} shared  {template}  {_short(question.question_id)}"
        lines.append(f"  {neighbour.overlap:.3f}  {where}")
        lines.append(f"         {_short(question.question)}")
        if rare:
            lines.append(f"         rarest shared, layer:neuron (questions that use it): {rare}")
    return "\n".join(lines)


def _short(text: str) -> str:
    text = "".join(c if c.isprintable() else " " for c in text)  # a reply cannot steer the terminal
    text = " ".join(text.split())
    return text if len(text) <= TEXT_WIDTH else text[: TEXT_WIDTH - 1] + "…"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) and abs(value) >= 1 else f"{value:.3f}"
