"""The section on neurons and selection."""

import numpy as np

from neuron_opsd.report import figures, story, tables
from neuron_opsd.report.blocks import Block, Figure, Figures, Table
from neuron_opsd.report.inputs import ReportInputs
from neuron_opsd.report.neuron_figures import pool_map
from neuron_opsd.report.parts import missing
from neuron_opsd.statistics import Correlation, pearson, spearman

MIN_SCORED = 10  # questions from which a share is drawn against s(x)


def selection_section(inputs: ReportInputs) -> list[Block]:
    if not inputs.neuron_sets and not inputs.selection:
        return [missing("Neurons have not been captured yet.", "neurons")]
    drawn: list[Figure] = []
    blocks: list[Block] = []
    if inputs.selection:
        drawn += [figures.consensus_against_length(inputs.selection), *_against_shares(inputs)]
        blocks += [story.selection_in_words(inputs), tables.correlation_table(_correlations(inputs))]
        blocks.append(_selected_table(inputs))
    if inputs.neuron_sets:
        drawn.append(figures.neurons_per_layer(inputs.neuron_sets))
        plane = pool_map(inputs.neuron_sets, {s.question_id for s in inputs.selection if s.selected})
        drawn += [plane] if plane else []
    return [*blocks[:1], Figures(drawn), *blocks[1:]]


def _against_shares(inputs: ReportInputs) -> list[Figure]:
    """s(x) against vote share, and against accuracy where answers to pool questions were scored."""
    votes = [(s.consensus_score, s.vote_share) for s in inputs.selection if s.vote_share is not None]
    named = (("Vote share", votes), ("Accuracy of the zero-shot reply", _scored_pairs(inputs)))
    return [figures.consensus_against(what, pairs) for what, pairs in named if len(pairs) >= MIN_SCORED]


def _scored_pairs(inputs: ReportInputs) -> list[tuple[float, float]]:
    """s(x) and accuracy of the questions of the pool that have a gold answer."""
    scores = {s.question_id: s.consensus_score for s in inputs.selection}
    return [
        (scores[scored.question_id], scored.correct_fraction)
        for scored in (inputs.results.pool_questions if inputs.results else ())
        if scored.question_id in scores
    ]


def _correlations(inputs: ReportInputs) -> list[tuple[str, Correlation]]:
    lengths = np.array([s.num_completion_tokens for s in inputs.selection], dtype=np.float64)
    raw = np.array([s.consensus_score for s in inputs.selection], dtype=np.float64)
    residual = np.array([s.consensus_score_length_residualised for s in inputs.selection], dtype=np.float64)
    named = [
        ("s(x) and completion length", pearson(raw, lengths)),
        ("s(x) and completion length", spearman(raw, lengths)),
        ("length-residualised s(x) and length", spearman(residual, lengths)),
    ]
    voted = np.array([s.vote_share is not None for s in inputs.selection])
    if voted.any():
        shares = np.array(
            [s.vote_share for s in inputs.selection if s.vote_share is not None], dtype=np.float64
        )
        named.append(("s(x) and vote share", spearman(raw[voted], shares)))
    scored = np.array(_scored_pairs(inputs), dtype=np.float64).reshape(-1, 2)
    if len(scored) >= MIN_SCORED:
        named.append(("s(x) and accuracy of the zero-shot reply", spearman(*scored.T)))
    return named


def _selected_table(inputs: ReportInputs) -> Table:
    groups = [("selected", True), ("not selected", False)]
    rows = []
    for word, kept in groups:
        members = [s for s in inputs.selection if s.selected == kept]
        scores = [s.consensus_score for s in members]
        lengths = [s.num_completion_tokens for s in members]
        shares = [s.vote_share for s in members if s.vote_share is not None]
        means = [
            tables.number(float(np.mean(v))) if v else tables.NOT_DEFINED for v in (scores, lengths, shares)
        ]
        rows.append([word, f"{len(members):,}", *means])
    columns = ["Questions", "Number", "Mean s(x)", "Mean completion tokens", "Mean vote share"]
    return Table("Selected and other questions", columns, rows)
