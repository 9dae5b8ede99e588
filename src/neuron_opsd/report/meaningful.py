"""Takes out what means nothing: votes and calibration where hardly any reply could be read.

A vote of unread replies is won by "unread" with a share near 1, which looks like a very sure model.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from neuron_opsd.report.inputs import ReportInputs
from neuron_opsd.results import (
    MIN_READABLE,
    VOTE_FIGURES,
    DomainResult,
    Domains,
    Estimate,
    MetricResult,
    Results,
    Role,
    hardly_read,
)

UNREAD = "hardly any readable reply"
SomeDomains = TypeVar("SomeDomains", bound=Domains)
NOTHING = Estimate(None, None, None)


def without_empty_votes(inputs: ReportInputs) -> ReportInputs:
    """The inputs as the report shows them. Results of readable replies stay as they are."""
    results = inputs.results
    return replace(
        inputs,
        results=_results(results) if results else None,
        selection=[replace(one, vote_share=None) for one in inputs.selection]
        if _is_unread(inputs)
        else inputs.selection,
        training_metrics=[_row(row) for row in inputs.training_metrics],
    )


def _is_unread(inputs: ReportInputs) -> bool:
    """Whether hardly any zero-shot reply could be read."""
    read = sum(rollout.answer is not None for rollout in inputs.rollouts)
    return bool(inputs.rollouts) and read < MIN_READABLE * len(inputs.rollouts)


def _row(row: Mapping[str, object]) -> Mapping[str, object]:
    parsed = row.get("parse_rate")
    is_unread = isinstance(parsed, int | float) and parsed < MIN_READABLE
    return {key: value for key, value in row.items() if key != "vote_share"} if is_unread else row


def _results(results: Results) -> Results:
    in_domain = results.in_domain and _domain(results.in_domain)
    own = {domain: _domain(block) for domain, block in results.own.items()}
    general = results.general and _domains(results.general)
    return replace(results, in_domain=in_domain, own=own, cross=_domains(results.cross), general=general)


def _domains(found: SomeDomains) -> SomeDomains:
    """A mean over domains means as little as the worst of them."""
    roles: tuple[Role, ...] = tuple(
        dict.fromkeys(role for block in found.domains.values() for role in hardly_read(block.metrics))
    )
    if not roles:
        return found
    mean = found.mean and replace(found.mean, metrics=_metrics(found.mean.metrics, roles))
    domains = {name: _domain(block) for name, block in found.domains.items()}
    return replace(found, domains=domains, mean=mean)


def _domain(block: DomainResult) -> DomainResult:
    roles = hardly_read(block.metrics)
    if not roles:
        return block
    kinds = {
        name: replace(kind, reliability=None, brier_parts=None) if name == "vote_share" else kind
        for name, kind in block.confidence_kinds.items()
    }
    return replace(
        block,
        metrics=_metrics(block.metrics, roles),
        confidence_kinds=kinds,
        reliability=None,
        brier_parts=None,
    )


def _metrics(metrics: Mapping[str, MetricResult], roles: tuple[Role, ...]) -> dict[str, MetricResult]:
    return {
        name: replace(metric, **dict.fromkeys(roles, NOTHING), difference=NOTHING, verdict=UNREAD, caution="")
        if name in VOTE_FIGURES
        else metric
        for name, metric in metrics.items()
    }
