"""Each kind of confidence in a block of results: where its metrics lie, its bins, its Brier parts."""

from collections.abc import Mapping
from typing import Any

from neuron_opsd.evaluation import calibration, metrics
from neuron_opsd.evaluation.metrics import KINDS, ConfidenceKind
from neuron_opsd.evaluation.votes import Votes

NUM_SIMULATIONS = 1000  # for the value that a perfectly calibrated model shows
# Below it the options' own probabilities say little of the answers that the model gives. A heuristic of ours.
MIN_OPTION_MASS = 0.1
WHEN = {"base": "before training", "trained": "after training"}
HARDLY_OPTIONS = "the model hardly begins its answers with an option"


def describe_kinds(votes: Mapping[str, Votes], num_bins: int) -> dict[str, Any]:
    """The kinds that any question has; docs/evaluation.md shows an entry."""
    base = votes["base"]
    return {name: _describe(kind, votes, num_bins) for name, kind in KINDS.items() if kind.scored(base).any()}


def _describe(kind: ConfidenceKind, votes: Mapping[str, Votes], num_bins: int) -> dict[str, Any]:
    base = votes["base"]
    num_gold = int((base.has_gold & kind.scored(base)).sum())
    names = {"accuracy": kind.accuracy_metric, "confidence": kind.confidence_metric}
    entry = {
        "label": kind.label,
        "rule": kind.rule,
        "num_questions": int(kind.scored(base).sum()),
        "num_with_gold": num_gold,
        "metrics": names | {name: kind.prefix + name for name in metrics.SHARED},
    }
    if num_gold:
        pairs = {role: kind.scored_pairs(one) for role, one in votes.items()}
        entry["reliability"] = {
            role: calibration.reliability_bins(*pair, num_bins=num_bins) for role, pair in pairs.items()
        }
        entry["brier_parts"] = {role: calibration.brier_decomposition(*pair) for role, pair in pairs.items()}
    return entry


def add_perfect_values(
    entries: Mapping[str, dict[str, Any]], votes: Mapping[str, Votes], num_bins: int, seed: list[int]
) -> None:
    """Beside each binned error of each kind: what a perfectly calibrated model would show at this n."""
    for kind in KINDS.values():
        confidences = {role: kind.scored_pairs(one)[0] for role, one in votes.items()}
        for name, bins, count in (
            ("ece", calibration.equal_width_bins, num_bins),
            ("ece_10", calibration.equal_width_bins, 10),
            ("ece_adaptive", calibration.equal_mass_bins, metrics.ADAPTIVE_BINS),
            ("mce", calibration.equal_width_bins, num_bins),
        ):
            if kind.prefix + name in entries:
                entries[kind.prefix + name]["perfectly_calibrated"] = {
                    role: calibration.perfect_calibration(
                        confidence,
                        bins(confidence, count),
                        maximum=name == "mce",
                        num_simulations=NUM_SIMULATIONS,
                        seed=seed,
                    )
                    for role, confidence in confidences.items()
                }


def add_cautions(entries: Mapping[str, dict[str, Any]]) -> None:
    """Mark what rests on the options' probabilities where the options together are hardly ever the model's answer.

    Such a metric gets `unreliable`, the roles that it holds for, and `caution`, a sentence.
    """
    mass = entries.get("option_mass", {})
    low = [role for role in WHEN if role in mass and mass[role]["value"] < MIN_OPTION_MASS]
    if not low:
        return
    shown = " and ".join(f"{_share(mass[role]['value'])} {WHEN[role]}" for role in low)
    start = f"Unreliable: the options together have a probability of {shown} as the start of a reply"
    for name, entry in entries.items():
        if rests_on_options(name):
            entry |= {"unreliable": low, "caution": f"{start}; {HARDLY_OPTIONS}."}


def _share(value: float) -> str:
    return "less than 0.001" if value < 0.001 else f"{value:.3f}"


def mean_caution(members: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The same for a mean over domains, of their entries: {} where none of them has one."""
    marked = [domain for domain, entry in members.items() if "caution" in entry]
    if not marked:
        return {}
    roles = [role for role in WHEN if any(role in members[domain]["unreliable"] for domain in marked)]
    return {"unreliable": roles, "caution": f"Unreliable in {', '.join(marked)}: there {HARDLY_OPTIONS}."}


def rests_on_options(name: str) -> bool:
    """Whether a metric is made of the options' probabilities as shares of their sum."""
    return name.startswith(KINDS["option_probability"].prefix) and name != "option_mass"
