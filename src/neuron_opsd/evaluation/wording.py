"""Results in words: a verdict for each metric, and the sentences read first. No more than was shown."""

from collections.abc import Mapping
from typing import Any

from neuron_opsd.evaluation.metrics import MIN_QUESTIONS

NO_DIFFERENCE = "no difference shown"
TOO_FEW = "too few questions"
WITH_GOLD = ("avg", "maj", "ece", "option_ece")
LABEL_FREE = ("vote_share", "parse_rate", "completion_tokens")


def verdict_of(difference: Mapping[str, float], num_items: int) -> str:
    """`higher` or `lower` where the interval leaves out 0, `no difference shown` where it does not."""
    low, high = difference["low"], difference["high"]
    if num_items < MIN_QUESTIONS:
        return TOO_FEW
    if low != low or high != high:  # NaN: e.g. an AUROC where every answer is right
        return "not defined"
    if low <= 0 <= high:
        return NO_DIFFERENCE
    return "higher" if low > 0 else "lower"


def verdict_sentences(results: Mapping[str, Any]) -> list[str]:
    """In-domain first, then the mean of the others: accuracy, calibration, and what needs no answers."""
    sentences = []
    if results["in"]:
        sentences += block_sentences(f"In-domain ({results['train_domain']})", results["in"])
    mean = results["cross"]["mean"]
    if mean:
        number = mean["num_domains"]
        where = (
            f"the mean over {number} other domains" if number > 1 else next(iter(results["cross"]["domains"]))
        )
        sentences += block_sentences(f"Cross-domain ({where})", mean)
        for domain, block in results["cross"]["domains"].items():  # they have no mean
            sentences += _flips(f"Cross-domain ({domain})", block)
    return sentences


def block_sentences(where: str, block: Mapping[str, Any]) -> list[str]:
    """What one set of questions shows, metric by metric."""
    sentences = []
    if not block["num_with_gold"]:
        sentences.append(f"{where}: no gold answers, so nothing is claimed about accuracy or calibration.")
    entries = block["metrics"]
    names = [name for name in WITH_GOLD if name in entries]
    # Beside accuracy, what needs no answers is worth a sentence only where it changed.
    names += [name for name in LABEL_FREE if not names or entries[name]["verdict"] != NO_DIFFERENCE]
    for name in names:
        sentences.append(f"{where}: {_sentence(entries[name])}")
        if name == "maj" and entries["avg"]["verdict"] == "higher":
            sentences.append(f"{where}: {_beyond_majority(block)}")
    return sentences + _flips(where, block)


def _beyond_majority(block: Mapping[str, Any]) -> str:
    """Whether a gain of single answers is more than the base model's own majority has already."""
    beyond, after, before = block["beyond_majority"], block["metrics"]["avg"], block["metrics"]["maj"]
    values = (
        f"{after['label']} after training, {after['trained']['value']:.3f}, against {before['label']} of the base "
        f"model, {before['base']['value']:.3f} ({_signed(beyond)})"
    )
    if beyond["verdict"] == "higher":
        return f"{values}: a trained answer is right more often than the base model's own majority."
    less = "less" if beyond["verdict"] == "lower" else "not shown to be more"
    return (
        f"{values}: {less} than the base model's own majority; voting, or with short answers sampling colder, could do "
        "as much without training."
    )


def _flips(where: str, block: Mapping[str, Any]) -> list[str]:
    flips = block.get("changes", {}).get("answers_flipped")
    if not flips:
        return []
    chance = flips["by_chance"]
    return [
        f"{where}: {flips['value']:.1%} of majority answers flipped; sampling alone would flip "
        f"{chance['mean']:.1%} ({chance['low']:.1%} to {chance['high']:.1%})."
    ]


def _sentence(entry: Mapping[str, Any]) -> str:
    base, trained, change = entry["base"]["value"], entry["trained"]["value"], entry["difference"]
    digits = 1 if max(abs(base), abs(trained)) >= 10 else 3
    values = f"{entry['label']} {base:.{digits}f} before, {trained:.{digits}f} after"
    caution = f" {entry['caution']}" if "caution" in entry else ""
    if entry["verdict"] in (TOO_FEW, "not defined"):
        return f"{values}; {entry['verdict']} for an interval.{caution}"
    verdict = entry["verdict"] if entry["verdict"] == NO_DIFFERENCE else f"{entry['verdict']} after training"
    return f"{values}; {verdict} ({_signed(change, digits)}).{caution}"


def _signed(change: Mapping[str, float], digits: int = 3) -> str:
    """A difference and its interval."""
    value, low, high = (f"{change[end]:+.{digits}f}".replace("-", "−") for end in ("value", "low", "high"))
    return f"{value}, 95% interval {low} to {high}"
