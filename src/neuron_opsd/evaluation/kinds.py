"""Each kind of confidence in a set of questions: where its metrics are, its bins, its Brier parts, its cautions."""

from collections.abc import Mapping

from neuron_opsd.evaluation import calibration, metrics
from neuron_opsd.evaluation.metrics import KINDS, ConfidenceKind
from neuron_opsd.evaluation.votes import Votes
from neuron_opsd.results import Both, ConfidenceResult, MetricResult, Role, Simulated

NUM_SIMULATIONS = 1000  # for the value that a perfectly calibrated model shows
# Below it the options' own probabilities say little of the answers that the model gives. A heuristic of ours.
MIN_OPTION_MASS = 0.1
WHEN: dict[Role, str] = {"base": "before training", "trained": "after training"}
HARDLY_OPTIONS = "the model hardly begins its answers with an option"
Caution = tuple[
    tuple[Role, ...], str
]  # the roles that it holds for, and a sentence. Neither where all is well


def describe_kinds(votes: Both[Votes], num_bins: int) -> dict[str, ConfidenceResult]:
    """The kinds that any question has. docs/evaluation.md shows an entry."""
    return {
        name: _describe(kind, votes, num_bins)
        for name, kind in KINDS.items()
        if kind.scored(votes.base).any()
    }


def _describe(kind: ConfidenceKind, votes: Both[Votes], num_bins: int) -> ConfidenceResult:
    base, trained = kind.scored_pairs(votes.base), kind.scored_pairs(votes.trained)
    num_gold = len(base[0])
    names = {"accuracy": kind.accuracy_metric, "confidence": kind.confidence_metric}
    return ConfidenceResult(
        label=kind.label,
        rule=kind.rule_for(votes.base),
        num_questions=int(kind.scored(votes.base).sum()),
        num_with_gold=num_gold,
        metrics=names | {name: kind.prefix + name for name in metrics.SHARED},
        reliability=Both(
            calibration.reliability_bins(*base, num_bins=num_bins),
            calibration.reliability_bins(*trained, num_bins=num_bins),
        )
        if num_gold
        else None,
        risk_coverage=Both(calibration.risk_coverage(*base), calibration.risk_coverage(*trained))
        if num_gold
        else None,
        brier_parts=Both(calibration.brier_decomposition(*base), calibration.brier_decomposition(*trained))
        if num_gold
        else None,
    )


def perfect_values(votes: Both[Votes], num_bins: int, seed: list[int]) -> dict[str, Both[Simulated]]:
    """For each binned error of each kind: what a perfectly calibrated model would show at this n."""
    found: dict[str, Both[Simulated]] = {}
    for kind in KINDS.values():
        base, trained = kind.scored_pairs(votes.base)[0], kind.scored_pairs(votes.trained)[0]
        if not len(base):
            continue
        for name, bins, count in (
            ("ece", calibration.equal_width_bins, num_bins),
            ("ece_10", calibration.equal_width_bins, 10),
            ("ece_adaptive", calibration.equal_mass_bins, metrics.ADAPTIVE_BINS),
            ("mce", calibration.equal_width_bins, num_bins),
        ):
            found[kind.prefix + name] = Both(
                *(
                    calibration.perfect_calibration(
                        confidence,
                        bins(confidence, count),
                        maximum=name == "mce",
                        num_simulations=NUM_SIMULATIONS,
                        seed=seed,
                    )
                    for confidence in (base, trained)
                )
            )
    return found


def caution_of(option_mass: Both[float]) -> Caution:
    """Of what rests on the options' probabilities, where the options together are hardly ever the model's answer."""
    low: dict[Role, float] = {role: mass for role, mass in option_mass.items() if mass < MIN_OPTION_MASS}
    if not low:
        return (), ""
    shown = " and ".join(f"{_share(mass)} {WHEN[role]}" for role, mass in low.items())
    start = f"Unreliable: the options together have a probability of {shown} as the start of a reply"
    return tuple(low), f"{start}; {HARDLY_OPTIONS}."


def _share(value: float) -> str:
    return "less than 0.001" if value < 0.001 else f"{value:.3f}"


def mean_caution(members: Mapping[str, MetricResult]) -> Caution:
    """Of a mean over domains, of their results in one metric."""
    marked = [domain for domain, result in members.items() if result.caution]
    if not marked:
        return (), ""
    roles: tuple[Role, ...] = tuple(
        role for role in WHEN if any(role in members[domain].unreliable for domain in marked)
    )
    return roles, f"Unreliable in {', '.join(marked)}: there {HARDLY_OPTIONS}."


def rests_on_options(name: str) -> bool:
    """Whether a metric is made of the options' probabilities as shares of their sum."""
    return name.startswith(KINDS["option_probability"].prefix) and name != "option_mass"
