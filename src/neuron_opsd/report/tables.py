"""Numbers as text, and the tables of results: the one source for page, report.md and model card."""

import math
from collections.abc import Collection, Mapping, Sequence

from neuron_opsd.report.blocks import Table
from neuron_opsd.results import (
    DomainResult,
    Estimate,
    MeanResult,
    MetricResult,
    ResultBlock,
    Results,
    Role,
    Simulated,
    defined,
)
from neuron_opsd.statistics import Correlation

NOT_DEFINED = "–"
UNPARSABLE = "unparsable"  # its name in the answer distribution
WORDS: Mapping[Role, str] = {"base": "before", "trained": "after"}
ROUNDING = 1e-12  # what a sum that should be 0 can come to
MEAN_OF_OTHERS = "mean of the others"
# In folded tables of their own, one for each kind of confidence.
MORE_METRICS = ("ece_10", "ece_adaptive", "mce", "nll", "aurc")
MORE_METRICS += tuple(
    f"option_{name}"
    for name in (*MORE_METRICS, "brier", "auroc", "overconfidence", "mass", "ece_use", "ece_matched")
)
MORE_METRICS += tuple(
    f"true_{name}" for name in ("ece_10", "ece_adaptive", "mce", "nll", "aurc", "brier", "overconfidence")
)


def number(value: float | None, *, signed: bool = False, digits: int | None = None) -> str:
    """A number as the report writes it: counts whole, large values with one decimal, others with three."""
    if value is None or not math.isfinite(value):
        return NOT_DEFINED
    value = 0.0 if isinstance(value, float) and abs(value) < ROUNDING else value
    if isinstance(value, int) and not signed:
        return f"{value:,}"
    if digits is None and 0 < abs(value) < 0.001:
        return f"{value:+.1e}".replace("-", "−") if signed else f"{value:.1e}".replace("-", "−")
    digits = digits or (1 if abs(value) >= 10 else 3)
    return (f"{value:+,.{digits}f}" if signed else f"{value:,.{digits}f}").replace("-", "−")


def interval_text(found: Estimate, *, is_fine: bool = False, digits: int | None = None) -> str:
    """A value with its interval, where there is one. `is_fine`: small ones with four decimals (nats a token)."""
    if found.value is None:
        return NOT_DEFINED
    digits = digits or (4 if is_fine and 0 < abs(found.value) < 0.1 else _digits(found.value))
    value, low, high = (number(end, digits=digits) for end in (found.value, found.low, found.high))
    return value if low == NOT_DEFINED else f"{value} ({low} to {high})"


def difference_text(found: Estimate, *, digits: int = 3) -> str:
    """A signed difference with its interval, where there is one."""
    if found.value is None:
        return NOT_DEFINED
    ends = (number(end, signed=True, digits=digits) for end in (found.value, found.low, found.high))
    value, low, high = ends
    return value if low == NOT_DEFINED else f"{value} ({low} to {high})"


def before_and_after(metric: MetricResult) -> list[str]:
    """The two values as text."""
    return [number(own.value, digits=_shared_digits(metric)) for own in (metric.base, metric.trained)]


def judgement_of(metric: MetricResult) -> str:
    """Better or worse where a change was shown and can be relied on, changed where neither, else empty."""
    if metric.verdict not in ("higher", "lower") or metric.caution:
        return ""
    if metric.better == "neither":
        return "changed"
    return "better" if metric.verdict == metric.better else "worse"


def verdict_text(metric: MetricResult) -> str:
    """The verdict, with whether a shown difference is the wanted one, and whether it can be relied on."""
    verdict = metric.verdict
    if verdict in ("higher", "lower") and metric.better != "neither":
        verdict = f"{verdict} ({'better' if verdict == metric.better else 'worse'})"
    return f"{verdict}; unreliable" if metric.caution else verdict


def metrics_table(
    caption: str, block: ResultBlock, *, names: Collection[str] | None = None, folded: bool = False
) -> Table:
    """Metrics before and after, the paired difference, its verdict.

    Args:
        caption: Of the table.
        block: Of the results.
        names: Which metrics. By default all but those of MORE_METRICS.
        folded: Shown on demand.
    """
    shown = [
        metric
        for name, metric in block.metrics.items()
        if (name not in MORE_METRICS if names is None else name in names)
    ]
    rows = [
        [
            metric.label,
            *(interval_text(own, digits=_shared_digits(metric)) for own in (metric.base, metric.trained)),
            *difference_and_verdict(metric),
        ]
        for metric in shown
    ]
    columns = ["Metric", "Before", "After", "Difference", "Verdict"]
    note = " ".join([_counts(block), *dict.fromkeys(metric.caution for metric in shown if metric.caution)])
    return Table(caption, columns, rows, note=note, folded=folded)


def difference_and_verdict(metric: MetricResult) -> list[str]:
    """The paired difference with its interval, and what it shows."""
    return [difference_text(metric.difference, digits=_shared_digits(metric)), verdict_text(metric)]


def _shared_digits(metric: MetricResult) -> int:
    """Digits that the values before and after and their difference share."""
    return min(_digits(metric.base.value), _digits(metric.trained.value))


def _digits(value: float | None) -> int:
    """Decimals of a metric: a length in tokens needs one, a share three."""
    return 1 if value is not None and abs(value) >= 10 else 3


def _counts(block: ResultBlock) -> str:
    words = [f"{block.num_questions:,} questions, {block.num_with_gold:,} with a gold answer"]
    if isinstance(block, MeanResult):
        if block.num_domains > 1:
            words.append(f"mean over {block.num_domains} domains, each counted once")
    else:
        majority, ties = block.majority_class, block.num_ties
        if majority:
            words.append(f"always answering “{majority.answer}” would score {number(majority.rate)}")
        if ties.base or ties.trained:
            words.append(f"tied votes: {ties.base} before, {ties.trained} after")
    return "; ".join(words) + ". In brackets: 95% intervals, bootstrap over questions."


def grid_table(results: Results) -> Table | None:
    """Trained domain x test domain: the main metrics before, after and their difference."""
    blocks: list[tuple[str, ResultBlock]] = list(domain_blocks(results))
    mean = results.cross.mean
    if mean and mean.num_domains > 1:
        blocks.insert(len(blocks) - len(general_blocks(results)), (MEAN_OF_OTHERS, mean))
    if len(blocks) < 2:
        return None
    has_gold = [bool(block.num_with_gold) for _, block in blocks]
    names = [
        *(("avg", "ece") if any(has_gold) else ()),
        *(() if all(has_gold) else ("vote_share", "parse_rate")),
    ]
    rows: list[list[str]] = []
    for name in names:
        found = [block.metrics.get(name) for _, block in blocks]
        label = next((metric.label for metric in found if metric), name)
        before = [interval_text(metric.base) if metric else NOT_DEFINED for metric in found]
        after = [interval_text(metric.trained) if metric else NOT_DEFINED for metric in found]
        change = [difference_text(metric.difference) if metric else NOT_DEFINED for metric in found]
        rows += [[label, "before", *before], [label, "after", *after], [label, "difference", *change]]
    columns = ["Metric", "Training", *(where for where, _ in blocks)]
    caption = f"Trained on {results.train_domain}, tested on"
    return Table(caption, columns, rows, "In brackets: 95% intervals.", num_text_columns=2)


def simulated_text(found: Simulated) -> str:
    """A mean and the central 95% of simulations."""
    return f"{number(found.mean)} ({number(found.low)} to {number(found.high)})"


def changes_table(results: Results) -> Table | None:
    """What changed in the answers, beside what sampling the same model twice would change."""
    rows = [
        [where, change.label, number(change.value), simulated_text(change.by_chance), change.verdict]
        for where, block in domain_blocks(results)
        for change in (block.changes.answers_flipped, block.changes.answer_shift)
        if change
    ]
    columns = ["Domain", "What", "Measured", "By sampling alone", "Verdict"]
    note = (
        "“By sampling alone”: before and after exchanged at random within each question; mean, central 95%."
    )
    return (
        Table("Changed answers; no gold answer needed", columns, rows, note, num_text_columns=2)
        if rows
        else None
    )


def distribution_table(results: Results) -> Table | None:
    """Share of each answer letter before, after and in the key."""
    blocks = [(where, block.answer_distribution) for where, block in domain_blocks(results)]
    blocks = [(where, shares) for where, shares in blocks if shares]
    letters = {name for _, shares in blocks for name in shares.base} - {UNPARSABLE}
    names = [*sorted(letters), UNPARSABLE]
    rows = [
        [where, whose, *(number(own.get(name, 0.0)) for name in names)]
        for where, shares in blocks
        for whose, own in (("before", shares.base), ("after", shares.trained), ("gold answers", shares.gold))
        if own is not None
    ]
    columns = ["Domain", "Whose", *names]
    caption = "Distribution of answers over letters"
    return Table(caption, columns, rows, num_text_columns=2, folded=True) if rows else None


def correlation_table(named: Sequence[tuple[str, Correlation]]) -> Table:
    """Correlations with intervals."""
    rows = [
        [
            what,
            c.name,
            interval_text(Estimate(defined(c.value), defined(c.low), defined(c.high))),
            f"{c.num_items:,}",
        ]
        for what, c in named
    ]
    return Table(
        "Correlations with 95% intervals",
        ["Between", "Kind", "Value", "Questions"],
        rows,
        num_text_columns=2,
    )


def cross_caption(results: Results) -> str:
    """Caption of the table of the other domains."""
    domains = results.cross.domains
    others = f"mean over {len(domains)} other domains" if len(domains) > 1 else next(iter(domains))
    return f"Cross-domain: {others}"


def domain_blocks(results: Results) -> list[tuple[str, DomainResult]]:
    """In-domain first, then the other domains, then the general questions, with their names."""
    return [*trained_blocks(results), *results.cross.domains.items(), *general_blocks(results)]


def trained_blocks(results: Results) -> list[tuple[str, DomainResult]]:
    """The domain trained on. Of several, all together and then each."""
    own = [(f"{domain} (trained)", block) for domain, block in results.own.items()]
    together = f"all {len(own)} trained domains" if own else f"{results.train_domain} (trained)"
    return [(together, results.in_domain), *own] if results.in_domain else own


def general_blocks(results: Results) -> list[tuple[str, DomainResult]]:
    """The sets of general questions. Where they had fewer samples, the name says so."""
    general = results.general
    if general is None:
        return []
    samples = "" if general.num_samples == results.num_samples else f", {general.num_samples} samples"
    return [(f"{domain} (general{samples})", block) for domain, block in general.domains.items()]
