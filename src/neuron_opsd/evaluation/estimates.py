"""Bootstrap draws -> values with intervals, of one domain and of the mean over several."""

import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from neuron_opsd.evaluation import metrics
from neuron_opsd.evaluation.kinds import mean_caution
from neuron_opsd.evaluation.wording import verdict_of
from neuron_opsd.results import DomainResult, Estimate, Judged, MeanResult, MetricResult, defined
from neuron_opsd.statistics import MIN_QUESTIONS, Draws, bootstrap_interval

Array = NDArray[np.float64]


def beyond_majority(value: float, draws: Array, num_items: int) -> Judged:
    """Trained Avg minus base Maj: what is left of a gain that being surer of the same answers could bring."""
    found = estimate(value, draws, num_items)
    return Judged(found.value, found.low, found.high, verdict_of(found, num_items))


def estimate(
    value: float, draws: Array, num_items: int, low: float = -math.inf, high: float = math.inf
) -> Estimate:
    """Value and interval ends, kept inside the metric's range. No ends below MIN_QUESTIONS."""
    interval = bootstrap_interval(value, draws)
    if num_items < MIN_QUESTIONS:
        return Estimate(defined(value), None, None)
    return Estimate(defined(value), defined(max(interval.low, low)), defined(min(interval.high, high)))


def mean_of(results: Mapping[str, DomainResult], draws: Mapping[str, Draws]) -> MeanResult | None:
    """Mean over domains, each counted once. Its draws are means of the domains' independent draws.

    None without domains.
    """
    if not results:
        return None
    found: dict[str, MetricResult] = {}
    for name in metrics.NAMES:
        members = {
            domain: result
            for domain, result in results.items()
            if name in result.metrics and _is_complete(result.metrics[name])
        }
        if members:
            found[name] = _mean_metric(name, members, draws)
    beyond = {d: r.beyond_majority.value for d, r in results.items() if r.beyond_majority is not None}
    return MeanResult(
        num_domains=len(results),
        num_questions=sum(result.num_questions for result in results.values()),
        num_with_gold=sum(result.num_with_gold for result in results.values()),
        num_without_gold=sum(result.num_without_gold for result in results.values()),
        metrics=found,
        beyond_majority=beyond_majority(
            _mean(beyond.values()),
            np.mean([draws[domain]["beyond_majority"] for domain in beyond], axis=0),
            min(results[domain].num_with_gold for domain in beyond),
        )
        if beyond
        else None,
    )


def _mean(values: Iterable[float | None]) -> float:
    return float(np.mean(np.array(list(values), dtype=np.float64)))


def _is_complete(metric: MetricResult) -> bool:
    return metric.base.value is not None and metric.trained.value is not None


def _mean_metric(name: str, members: Mapping[str, DomainResult], draws: Mapping[str, Draws]) -> MetricResult:
    own = {domain: result.metrics[name] for domain, result in members.items()}
    first = next(iter(own.values()))
    counts = [r.num_questions if name in metrics.LABEL_FREE else r.num_with_gold for r in members.values()]
    base, trained = (
        np.mean([draws[domain][f"{role}:{name}"] for domain in members], axis=0)
        for role in ("base", "trained")
    )

    def mean(values: Iterable[float | None], draws: Array) -> Estimate:
        return estimate(_mean(values), draws, min(counts))

    difference = mean((one.difference.value for one in own.values()), trained - base)
    unreliable, caution = mean_caution(own)
    return MetricResult(
        label=first.label,
        better=first.better,
        num_domains=len(members),
        base=mean((one.base.value for one in own.values()), base),
        trained=mean((one.trained.value for one in own.values()), trained),
        difference=difference,
        verdict=verdict_of(difference, min(counts)),
        unreliable=unreliable,
        caution=caution,
    )
