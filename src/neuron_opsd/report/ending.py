"""What a run says when it ends: the field, elsewhere, calibration, and what else got worse. A line each."""

from collections.abc import Callable, Mapping, Sequence

from neuron_opsd.report import tables
from neuron_opsd.report.parts import listed
from neuron_opsd.report.summary import facts_of
from neuron_opsd.results import MetricResult, ResultBlock, Results

# Of each the first that was measured, in plain words.
ACCURACY = {"avg": "accuracy", "vote_share": "vote share"}
CALIBRATION = {"ece": "error", "option_ece": "error of option probabilities"}


def ending(results: Results) -> list[str]:
    """The lines. A figure that was not measured has none."""
    field = tables.trained_blocks(results)
    elsewhere = tables.domain_blocks(results)[len(field) :]
    lines = [
        *_line("In the field", field, ACCURACY, _change),
        *_line("Elsewhere", elsewhere, ACCURACY, _change),
        *_line("Calibration", [*field, *elsewhere], CALIBRATION, _change),
    ]
    worse = [
        f"{fact.metric.label} on {fact.where}"
        for fact in facts_of(results)
        if fact.judgement == "worse" and fact.where != tables.MEAN_OF_OTHERS
    ]
    return [*lines, f"Worse after training: {listed(worse)}."] if worse else lines


def standing(results: Results) -> list[str]:
    """The lines of a model that is not trained: what it is, and no change."""
    said = {"As it is": ACCURACY, "Calibration": CALIBRATION}
    blocks = [(where.removesuffix(" (trained)"), block) for where, block in tables.domain_blocks(results)]
    return [line for start, words in said.items() for line in _line(start, blocks, words, _before)]


def _line(
    start: str,
    blocks: Sequence[tuple[str, ResultBlock]],
    words: Mapping[str, str],
    tell: Callable[[MetricResult], str],
) -> list[str]:
    said: list[str] = []
    for where, block in blocks:
        name = next((name for name in words if name in block.metrics), None)
        if name and block.metrics[name].difference.value is not None:
            said.append(f"{words[name]} on {where} {tell(block.metrics[name])}")
    return [f"{start}: {'; '.join(said)}."] if said else []


def _before(metric: MetricResult) -> str:
    return tables.interval_text(metric.base)


def _change(metric: MetricResult) -> str:
    before, after = tables.before_and_after(metric)
    difference, _ = tables.difference_and_verdict(metric)
    return f"{before} before, {after} after, {difference}, {tables.judgement_of(metric) or 'no sure change'}"
