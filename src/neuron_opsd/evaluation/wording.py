"""Results in words: a verdict for each metric, and the sentences read first. No more than was shown."""

from collections.abc import Mapping

from neuron_opsd.results import (
    VOTE_FIGURES,
    DomainResult,
    Domains,
    Estimate,
    GeneralResult,
    KlFromBase,
    MetricResult,
    ResultBlock,
    hardly_read,
)
from neuron_opsd.statistics import MIN_QUESTIONS

NO_DIFFERENCE = "no difference shown"
TOO_FEW = "too few questions"
# What sums in another order, or a temperature that was searched for, leave between equal models.
ROUNDING = 1e-6
WITH_GOLD = ("avg", "maj", "ece", "option_ece")
LABEL_FREE = ("vote_share", "parse_rate", "completion_tokens", "truncated_fraction")


def verdict_of(difference: Estimate, num_items: int) -> str:
    """`higher` or `lower` where the interval leaves out 0, by more than rounding. Else `no difference shown`."""
    low, high = difference.low, difference.high
    if num_items < MIN_QUESTIONS:
        return TOO_FEW
    if low is None or high is None:  # e.g. an AUROC where every answer is right
        return "not defined"
    if low <= ROUNDING and high >= -ROUNDING:
        return NO_DIFFERENCE
    return "higher" if low > 0 else "lower"


def verdict_sentences(
    train_domain: str,
    in_domain: DomainResult | None,
    own: Mapping[str, DomainResult],
    cross: Domains,
    general: GeneralResult | None,
) -> tuple[str, ...]:
    """In-domain first, also each of several, then the mean of the others, then general questions: what was shown."""
    sentences: list[str] = []
    if in_domain:
        sentences += _domain_sentences(f"In-domain ({train_domain})", in_domain)
    for domain, block in own.items():
        sentences += _domain_sentences(f"In-domain ({domain})", block)
    if cross.mean:
        number = cross.mean.num_domains
        where = f"the mean over {number} other domains" if number > 1 else next(iter(cross.domains))
        sentences += _block_sentences(f"Cross-domain ({where})", cross.mean)
        for domain, block in cross.domains.items():  # they have no mean
            sentences.append(_flips(f"Cross-domain ({domain})", block))
    if general:
        for domain, block in general.domains.items():
            sentences += _domain_sentences(f"General ({domain})", block)
        sentences.append(_kl_sentence(general.kl_from_base))
    return tuple(sentences)


def _domain_sentences(where: str, block: DomainResult) -> list[str]:
    return [*_block_sentences(where, block), _flips(where, block)]


def _block_sentences(where: str, block: ResultBlock) -> list[str]:
    """What one set of questions shows, metric by metric."""
    sentences: list[str] = []
    if not block.num_with_gold:
        sentences.append(f"{where}: no gold answers, so nothing is claimed about accuracy or calibration.")
    found = block.metrics
    if hardly_read(found):
        parsed = found["parse_rate"]
        shares = f"{parsed.base.value or 0.0:.1%} before, {parsed.trained.value or 0.0:.1%} after"
        sentences.append(
            f"{where}: hardly any reply could be read ({shares}), so nothing is said of votes and calibration."
        )
        found = {name: metric for name, metric in found.items() if name not in VOTE_FIGURES}
    names = [name for name in WITH_GOLD if name in found]
    # Beside accuracy, what needs no answers is worth a sentence only where it changed.
    names += [
        name
        for name in LABEL_FREE
        if name in found and (not block.num_with_gold or found[name].verdict != NO_DIFFERENCE)
    ]
    for name in names:
        sentences.append(f"{where}: {_sentence(found[name])}")
        if name == "maj" and found["avg"].verdict == "higher":
            sentences.append(f"{where}: {_beyond_majority(block)}")
    return sentences


def _beyond_majority(block: ResultBlock) -> str:
    """Whether a gain of single answers is more than the base model's own majority has already."""
    beyond, after = block.beyond_majority, block.metrics["avg"]
    before = block.metrics.get("maj_at_k", block.metrics["maj"])
    assert beyond is not None  # wherever there is an Avg
    values = (
        f"{after.label} after training, {after.trained.value:.3f}, against {before.label} of the base "
        f"model, {before.base.value:.3f} ({_signed(beyond)})"
    )
    if beyond.verdict == "higher":
        return f"{values}: a trained answer is right more often than the base model's own majority."
    less = "less" if beyond.verdict == "lower" else "not shown to be more"
    return (
        f"{values}: {less} than the base model's own majority; voting, or with short answers sampling colder, could do "
        "as much without training."
    )


def _flips(where: str, block: DomainResult) -> str:
    flips = block.changes.answers_flipped
    chance = flips.by_chance
    return (
        f"{where}: {flips.value:.1%} of majority answers flipped; sampling alone would flip "
        f"{chance.mean:.1%} ({chance.low:.1%} to {chance.high:.1%})."
    )


def _kl_sentence(kl: KlFromBase) -> str:
    ends = "" if kl.low is None else f" (95% interval {kl.low:.4f} to {kl.high:.4f})"
    return f"{kl.label}: {kl.value:.4f}{ends}, on the base model's own completions."


def _sentence(found: MetricResult) -> str:
    base, trained = found.base.value, found.trained.value
    assert base is not None  # of the metrics that sentences are about
    assert trained is not None
    digits = 1 if max(abs(base), abs(trained)) >= 10 else 3
    values = f"{found.label} {base:.{digits}f} before, {trained:.{digits}f} after"
    caution = f" {found.caution}" if found.caution else ""
    if found.verdict in (TOO_FEW, "not defined"):
        return f"{values}; {found.verdict} for an interval.{caution}"
    verdict = found.verdict if found.verdict == NO_DIFFERENCE else f"{found.verdict} after training"
    return f"{values}; {verdict} ({_signed(found.difference, digits)}).{caution}"


def _signed(change: Estimate, digits: int = 3) -> str:
    """A difference and its interval."""
    ends = (change.value, change.low, change.high)
    value, low, high = (f"{end:+.{digits}f}".replace("-", "−") for end in ends)
    return f"{value}, 95% interval {low} to {high}"
