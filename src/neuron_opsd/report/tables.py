"""Numbers as text, and the tables of results: the one source for page, report.md and model card."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuron_opsd.report.blocks import Card, Table
from neuron_opsd.statistics import Correlation

NOT_DEFINED = "–"
ROUNDING = 1e-12  # what a sum that should be 0 can come to
BRIER_PARTS = ("reliability", "resolution", "uncertainty")
HEADLINES = ("avg", "maj", "ece")
HEADLINES_WITHOUT_GOLD = ("vote_share", "parse_rate", "completion_tokens")
# In folded tables of their own, one for each kind of confidence.
MORE_METRICS = ("ece_10", "ece_adaptive", "mce", "nll", "aurc")
MORE_METRICS += tuple(
    f"option_{name}" for name in (*MORE_METRICS, "brier", "auroc", "overconfidence", "mass")
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


def interval_text(entry: Mapping[str, Any], *, is_fine: bool = False, digits: int | None = None) -> str:
    """A value with its interval, where there is one; `is_fine`: small ones with four decimals (nats a token)."""
    if entry.get("value") is None:
        return NOT_DEFINED
    digits = digits or (4 if is_fine and 0 < abs(entry["value"]) < 0.1 else _digits(entry["value"]))
    value, low, high = (number(entry.get(end), digits=digits) for end in ("value", "low", "high"))
    return value if low == NOT_DEFINED else f"{value} ({low} to {high})"


def difference_text(entry: Mapping[str, Any], *, digits: int = 3) -> str:
    """A signed difference with its interval, where there is one."""
    if entry.get("value") is None:
        return NOT_DEFINED
    ends = (number(entry.get(end), signed=True, digits=digits) for end in ("value", "low", "high"))
    value, low, high = ends
    return value if low == NOT_DEFINED else f"{value} ({low} to {high})"


def headline_cards(block: Mapping[str, Any]) -> list[Card]:
    """Before and after of the metrics that matter most, by whether there are gold answers."""
    names = HEADLINES if block["num_with_gold"] else HEADLINES_WITHOUT_GOLD
    entries = [block["metrics"][name] for name in names if name in block["metrics"]]
    return [
        Card(
            entry["label"],
            *(number(entry[role]["value"], digits=_shared_digits(entry)) for role in ("base", "trained")),
            *_difference(entry),
        )
        for entry in entries
    ]


def verdict_text(entry: Mapping[str, Any]) -> str:
    """The verdict, with whether a shown difference is the wanted one, and whether it can be relied on."""
    verdict = entry["verdict"]
    if verdict in ("higher", "lower") and entry["better"] != "neither":
        verdict = f"{verdict} ({'better' if verdict == entry['better'] else 'worse'})"
    return f"{verdict}; unreliable" if "caution" in entry else verdict


def metrics_table(
    caption: str, block: Mapping[str, Any], *, names: Collection[str] | None = None, folded: bool = False
) -> Table:
    """Metrics before and after, the paired difference, its verdict.

    Args:
        caption: Of the table.
        block: Of the results.
        names: Which metrics; by default all but those of MORE_METRICS.
        folded: Shown on demand.
    """
    shown = [
        entry
        for name, entry in block["metrics"].items()
        if (name not in MORE_METRICS if names is None else name in names)
    ]
    rows = [
        [
            entry["label"],
            *(interval_text(entry[role], digits=_shared_digits(entry)) for role in ("base", "trained")),
            *_difference(entry),
        ]
        for entry in shown
    ]
    columns = ["Metric", "Before", "After", "Difference", "Verdict"]
    note = " ".join([_counts(block), *dict.fromkeys(e["caution"] for e in shown if "caution" in e)])
    return Table(caption, columns, rows, note=note, folded=folded)


def _difference(entry: Mapping[str, Any]) -> list[str]:
    return [difference_text(entry["difference"], digits=_shared_digits(entry)), verdict_text(entry)]


def _shared_digits(entry: Mapping[str, Any]) -> int:
    """Digits that the values before and after and their difference share."""
    return min(_digits(entry[role]["value"]) for role in ("base", "trained"))


def _digits(value: float | None) -> int:
    """Decimals of a metric: a length in tokens needs one, a share three."""
    return 1 if value is not None and abs(value) >= 10 else 3


def _counts(block: Mapping[str, Any]) -> str:
    words = [f"{block['num_questions']:,} questions, {block['num_with_gold']:,} with a gold answer"]
    if block.get("num_domains", 1) > 1:
        words.append(f"mean over {block['num_domains']} domains, each counted once")
    majority = block.get("majority_class")
    if majority:
        words.append(f"always answering “{majority['answer']}” would score {number(majority['rate'])}")
    ties = block.get("num_ties")
    if ties and any(ties.values()):
        words.append(f"tied votes: {ties['base']} before, {ties.get('trained', 0)} after")
    return "; ".join(words) + ". In brackets: 95% intervals, bootstrap over questions."


@dataclass(frozen=True, slots=True)
class Confidence:
    """One kind of confidence in one domain: its rule, bins, Brier parts and the names of its metrics."""

    kind: str
    label: str
    rule: str
    reliability: Mapping[str, Sequence[Mapping[str, Any]]]
    brier_parts: Mapping[str, Mapping[str, float]]
    metrics: Mapping[str, str]  # plain name (ece, accuracy, ...) -> name in the block's metrics
    caution: str  # why it cannot be relied on, or nothing
    unreliable: Sequence[str]  # the roles that holds for


def confidences(block: Mapping[str, Any]) -> list[Confidence]:
    """The kinds of confidence that were measured against gold answers, vote share first."""
    return [
        Confidence(
            kind,
            entry["label"].lower(),
            entry.get("rule", ""),
            entry["reliability"],
            entry.get("brier_parts", {}),
            entry["metrics"],
            *_caution(block["metrics"].get(entry["metrics"].get("ece"), {})),
        )
        for kind, entry in block.get("confidence_kinds", {}).items()
        if entry.get("reliability")
    ]


def _caution(entry: Mapping[str, Any]) -> tuple[str, Sequence[str]]:
    return entry.get("caution", ""), entry.get("unreliable", ())


def grid_table(results: Mapping[str, Any]) -> Table | None:
    """Trained domain x test domain: the main metrics before, after and their difference."""
    blocks = domain_blocks(results)
    mean = results["cross"]["mean"]
    if mean and mean["num_domains"] > 1:
        blocks.insert(len(blocks) - len(general_blocks(results)), ("mean of the others", mean))
    if len(blocks) < 2:
        return None
    has_gold = [bool(block["num_with_gold"]) for _, block in blocks]
    names = [
        *(("avg", "ece") if any(has_gold) else ()),
        *(() if all(has_gold) else ("vote_share", "parse_rate")),
    ]
    rows = []
    for name in names:
        entries = [block["metrics"].get(name) for _, block in blocks]
        label = next((entry["label"] for entry in entries if entry), name)
        for role, word in (("base", "before"), ("trained", "after"), ("difference", "difference")):
            show = difference_text if role == "difference" else interval_text
            rows.append([label, word, *(show(entry[role]) if entry else NOT_DEFINED for entry in entries)])
    columns = ["Metric", "Training", *(where for where, _ in blocks)]
    caption = f"Trained on {results['train_domain']}, tested on"
    return Table(caption, columns, rows, "In brackets: 95% intervals.", num_text_columns=2)


def calibration_table(results: Mapping[str, Any]) -> Table | None:
    """ECE beside the value that a perfectly calibrated model would show at the same number of questions."""
    rows = []
    for where, block in domain_blocks(results):
        for kind in confidences(block):
            entry = block["metrics"].get(kind.metrics.get("ece", "ece"))
            for role, word in (("base", "before"), ("trained", "after")):
                if entry and role in entry:
                    ideal = entry.get("perfectly_calibrated", {}).get(role)
                    label = kind.label + (" (unreliable)" if role in kind.unreliable else "")
                    rows.append([where, label, word, interval_text(entry[role]), _ideal(ideal)])
    columns = ["Domain", "Confidence", "Training", "ECE", "Perfectly calibrated"]
    note = (
        "“Perfectly calibrated”: the ECE that a model right exactly as often as it says would show with "
        "these confidences and this many questions (mean and central 95% of simulations)."
    )
    return Table("Calibration error in context", columns, rows, note, num_text_columns=3) if rows else None


def brier_table(results: Mapping[str, Any]) -> Table | None:
    """The parts of the Brier score of each kind of confidence."""
    rows = [
        [where, kind.label, word, *(number(kind.brier_parts[role].get(part)) for part in BRIER_PARTS)]
        for where, block in domain_blocks(results)
        for kind in confidences(block)
        for role, word in (("base", "before"), ("trained", "after"))
        if role in kind.brier_parts
    ]
    columns = ["Domain", "Confidence", "Training", *(part.capitalize() for part in BRIER_PARTS)]
    note = "Brier score = reliability (small is good) − resolution (large is good) + uncertainty."
    caption = "Parts of the Brier score"
    return Table(caption, columns, rows, note, num_text_columns=3, folded=True) if rows else None


def _ideal(entry: Mapping[str, Any] | None) -> str:
    if not entry:
        return NOT_DEFINED
    return f"{number(entry['mean'])} ({number(entry['low'])} to {number(entry['high'])})"


def changes_table(results: Mapping[str, Any]) -> Table | None:
    """What changed in the answers, beside what sampling the same model twice would change."""
    rows = []
    for where, block in domain_blocks(results):
        for change in block.get("changes", {}).values():
            chance = change["by_chance"]
            by_chance = f"{number(chance['mean'])} ({number(chance['low'])} to {number(chance['high'])})"
            rows.append([where, change["label"], number(change["value"]), by_chance, change["verdict"]])
    columns = ["Domain", "What", "Measured", "By sampling alone", "Verdict"]
    note = (
        "“By sampling alone”: before and after exchanged at random within each question; mean, central 95%."
    )
    return (
        Table("Changed answers; no gold answer needed", columns, rows, note, num_text_columns=2)
        if rows
        else None
    )


def distribution_table(results: Mapping[str, Any]) -> Table | None:
    """Share of each answer letter before, after and in the key."""
    rows, letters = [], dict[str, None]()
    blocks = [(where, block["answer_distribution"]) for where, block in domain_blocks(results)]
    blocks = [(where, shares) for where, shares in blocks if shares]
    for _, shares in blocks:
        letters.update(dict.fromkeys(name for name in shares["base"] if name != "unparsable"))
    names = [*sorted(letters), "unparsable"]
    for where, shares in blocks:
        for role, word in (("base", "before"), ("trained", "after"), ("gold", "gold answers")):
            if role in shares:
                rows.append([where, word, *(number(shares[role].get(name, 0.0)) for name in names)])
    columns = ["Domain", "Whose", *names]
    caption = "Distribution of answers over letters"
    return Table(caption, columns, rows, num_text_columns=2, folded=True) if rows else None


def correlation_table(named: Sequence[tuple[str, Correlation]]) -> Table:
    """Correlations with intervals."""
    rows = [
        [
            what,
            c.name,
            interval_text({"value": c.value, "low": _finite(c.low), "high": c.high}),
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


def cross_caption(results: Mapping[str, Any]) -> str:
    """Caption of the table of the other domains."""
    domains = results["cross"]["domains"]
    others = f"mean over {len(domains)} other domains" if len(domains) > 1 else next(iter(domains))
    return f"Cross-domain: {others}"


def domain_blocks(results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """In-domain first, then the other domains, then the general questions, with their names."""
    blocks = [(f"{results['train_domain']} (in)", results["in"])] if results.get("in") else []
    return [*blocks, *results["cross"]["domains"].items(), *general_blocks(results)]


def general_blocks(results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The sets of general questions; where they had fewer samples, the name says so."""
    general = results.get("general") or {}
    num_samples = general.get("num_samples", results.get("num_samples"))
    samples = "" if num_samples == results.get("num_samples") else f", {num_samples} samples"
    return [(f"{domain} (general{samples})", block) for domain, block in general.get("domains", {}).items()]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
