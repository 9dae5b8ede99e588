"""The first screen: one sentence, then pictures, then everything that got better or worse, domain by domain."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from neuron_opsd.report import calibration_tables, figures, tables
from neuron_opsd.report.blocks import Block, Figure, Figures, Paragraph, Prose, Table
from neuron_opsd.report.examples import changed_questions
from neuron_opsd.report.forest import Row, forest
from neuron_opsd.report.inputs import ReportInputs
from neuron_opsd.report.markup import Better, Worse
from neuron_opsd.report.parts import listed, present
from neuron_opsd.results import MetricResult, ResultBlock, Results, hardly_read

HEADLINES = {
    "avg": "accuracy",
    "maj": "majority accuracy",
    "ece": "calibration error",
    "option_ece": "calibration error of option probabilities",
}
HEADLINES_WITHOUT_GOLD = {
    "vote_share": "vote share",
    "parse_rate": "share of readable replies",
    "completion_tokens": "length of replies",
}
NUM_NAMED = 2  # figures that are no headline and got worse; of more the sentence gives the count
NUM_PICTURES = 6  # on the first screen, so that rows are full; every diagram is in the section on calibration


@dataclass(frozen=True, slots=True)
class Fact:
    """One figure of one place, before and after."""

    where: str
    words: str  # its name in plain words; empty where it is no headline
    metric: MetricResult

    @property
    def name(self) -> str:
        """Plain words and the field's own: "Accuracy: Avg@8"."""
        label = self.metric.label
        if not self.words or self.words.lower() == label.lower():
            return label
        return f"{self.words[:1].upper()}{self.words[1:]}: {label}"

    @property
    def judgement(self) -> str:
        """Better, worse or changed where a change was shown; else empty."""
        return tables.judgement_of(self.metric)


def places(results: Results) -> Iterator[tuple[str, ResultBlock]]:
    """Every set of questions that a table shows: each domain, and the mean of the others."""
    yield from tables.domain_blocks(results)
    mean = results.cross.mean
    if mean and mean.num_domains > 1:
        yield tables.MEAN_OF_OTHERS, mean


def facts_of(results: Results) -> list[Fact]:
    """The headline figures of every place, and whatever else any table calls worse."""
    return [
        Fact(where, headlines.get(name, ""), metric)
        for where, block in places(results)
        for headlines in [HEADLINES if block.num_with_gold else HEADLINES_WITHOUT_GOLD]
        for name, metric in block.metrics.items()
        if name in headlines or tables.judgement_of(metric) == "worse"
    ]


def lead(results: Results) -> Prose:
    """What training did, in one sentence that says harm as loudly as gain."""
    facts = facts_of(results)
    known = [fact for fact in facts if fact.words and fact.metric.difference.value is not None]
    if not known:
        return "Nothing can be said about what training changed."
    told: dict[tuple[str, str], list[Fact]] = {}
    for judgement in ("better", "worse", "changed"):
        for fact in known:
            if fact.judgement == judgement and fact.where != tables.MEAN_OF_OTHERS:
                told.setdefault((fact.words, judgement), []).append(fact)
    names = listed(list(dict.fromkeys(fact.words for fact in known)))
    others = [fact for fact in facts if not fact.words]
    if not told and all(fact.metric.difference.low is None for fact in known):
        start: list[str] = [f"There are too few questions to tell whether training changed the {names}"]
    elif not told:
        start = [f"After training no change is sure in the {names}"]
    else:
        start = ["After training", *_parts(told)]
    if others:
        named = [f"{fact.metric.label} on {fact.where}" for fact in others]
        shown = (
            listed(named) if len(named) <= NUM_NAMED else f"{len(named)} other figures (in the table below)"
        )
        start += [", and" if told else ", but", shown, "are" if len(named) > 1 else "is", Worse("worse")]
    return (*start, "." if len(told) != 1 or others else "; no other change is sure.")


def _parts(told: Mapping[tuple[str, str], Sequence[Fact]]) -> list[str]:
    """One part for each figure and judgement: "accuracy is better on art (0.2 to 0.3)"."""
    marks = {"better": Better("better"), "worse": Worse("worse")}
    parts: list[str] = []
    for index, ((words, judgement), facts) in enumerate(told.items()):
        where = listed([f"{fact.where} ({_values(fact.metric)})" for fact in facts])
        word = marks.get(judgement) or f"is {facts[0].metric.verdict}"
        start = f"{', ' if index else ''}the {words}{' is' if judgement in marks else ''}"
        parts += [start, word, f"on {where}"]
    return parts


def _values(metric: MetricResult) -> str:
    before, after = tables.before_and_after(metric)
    return f"{before} to {after}"


def summary(inputs: ReportInputs, ended: Paragraph | None) -> list[Block]:
    """The first screen of a run that was evaluated. `ended`: how training ended, where a guard rail stopped it."""
    results = inputs.results
    assert results is not None
    forests = _forests(results)
    drawn = [*forests, *_diagrams(results, NUM_PICTURES - len(forests))]
    return [
        Paragraph(lead(results), is_lead=True),
        *present(ended),
        *_cautions(results),
        Figures(drawn, note=KEY),
        *changed_questions(inputs),
        facts_table(results),
        details_table(results.verdicts),
    ]


KEY = "Grey: before training. Coloured: after. Lines: 95% intervals. Numbers: the change."


def _cautions(results: Results) -> list[Block]:
    """Where the replies or the answers are missing, and why less is shown."""
    made: list[Block] = []
    unread = [
        f"{where} (a share of {_values(block.metrics['parse_rate'])})"
        for where, block in tables.domain_blocks(results)
        if hardly_read(block.metrics)
    ]
    if unread:
        made.append(
            Paragraph(
                f"Hardly any reply could be read on {listed(unread)}. Votes and calibration mean nothing there and "
                "are not shown. The section on replies says why they could not be read.",
                is_notice=True,
            )
        )
    without = [where for where, block in tables.domain_blocks(results) if not block.num_with_gold]
    if without:
        made.append(
            Paragraph(
                f"There are no gold answers for {listed(without)}, so nothing is claimed about accuracy or "
                "calibration there.",
                is_notice=True,
            )
        )
    return made


def _forests(results: Results) -> list[Figure]:
    """A picture for each headline figure, with a row for each place."""
    named = HEADLINES | HEADLINES_WITHOUT_GOLD
    every = list(tables.domain_blocks(results))
    has_gold = all(block.num_with_gold for _, block in every)
    names = [*HEADLINES, *([] if has_gold else HEADLINES_WITHOUT_GOLD)]
    made: list[Figure] = []
    for name in names:
        found = [(where, block.metrics[name]) for where, block in places(results) if name in block.metrics]
        found = [
            (where, metric)
            for where, metric in found
            if metric.base.value is not None is not metric.trained.value
        ]
        if found:
            title = named[name].capitalize()
            label = found[0][1].label
            rows = [_row(where, metric) for where, metric in found]
            made.append(forest(f"change-{name}", title, rows, label=label, conclusion=conclusion(found)))
    return made


def _row(where: str, metric: MetricResult) -> Row:
    return Row(
        where,
        (("base", metric.base), ("trained", metric.trained)),
        tables.difference_text(metric.difference),
        tables.judgement_of(metric),
    )


def conclusion(found: Sequence[tuple[str, MetricResult]]) -> str:
    """What a picture of one figure in several places shows, in a sentence."""
    groups: dict[str, list[str]] = {}
    for where, metric in found:
        judged = tables.judgement_of(metric)
        groups.setdefault(metric.verdict if judged == "changed" else judged or "no sure change", []).append(
            where
        )
    said = "; ".join(f"{judged} on {listed(where)}" for judged, where in groups.items())
    return f"{said[:1].upper()}{said[1:]}."


def _diagrams(results: Results, count: int) -> list[Figure]:
    """Reliability before and after in one drawing: of every place, first of one kind of confidence, then of others."""
    found = [
        (index, where, one)
        for index, (where, block) in enumerate(tables.domain_blocks(results))
        for one in calibration_tables.confidences(block)
    ]
    kinds = list(dict.fromkeys(one.kind for *_, one in found))
    found.sort(key=lambda entry: kinds.index(entry[2].kind))
    return [
        figures.reliability_before_and_after(
            f"summary-reliability-{index}-{figures.identifier(one.kind)}",
            one.reliability,
            where=where,
            confidence=one.label,
        )
        for index, where, one in found[:count]
    ]


def facts_table(results: Results) -> Table:
    """Every headline figure of every place, and whatever else got worse."""
    rows = [
        [
            fact.where,
            fact.name,
            *tables.before_and_after(fact.metric),
            *tables.difference_and_verdict(fact.metric),
        ]
        for fact in facts_of(results)
    ]
    columns = ["Where", "What", "Before", "After", "Difference", "Verdict"]
    note = "Every domain is here, and every figure that got worse. In brackets: 95% intervals."
    return Table("What changed, domain by domain", columns, rows, note, num_text_columns=2)


def details_table(verdicts: Sequence[str]) -> Table:
    """The sentences of the evaluation, beside the place that each is about."""
    rows: list[list[str]] = []
    for verdict in verdicts:
        where, _, sentence = verdict.partition("): ")
        is_place = where.startswith(("In-domain (", "Cross-domain (", "General ("))
        rows.append([f"{where})", sentence] if is_place else ["All", verdict])
    return Table("Details, in sentences", ["Where", "What was found"], rows, num_text_columns=2, folded=True)
