"""Results of a few numbers given by hand; what no test looks at is made up."""

from neuron_opsd.results import (
    Both,
    Change,
    Changes,
    DomainResult,
    Domains,
    Estimate,
    GeneralResult,
    KlFromBase,
    MeanResult,
    MetricResult,
    Results,
    Simulated,
)


def metric(before, after, verdict="no difference shown", *, better="neither", label="M", ends=(None, None)):
    """`ends` are those of the difference, or of all three where there are three pairs."""
    pairs = ends if isinstance(ends[0], tuple) else ((None, None), (None, None), ends)
    return MetricResult(
        label=label,
        better=better,
        base=Estimate(before, *pairs[0]),
        trained=Estimate(after, *pairs[1]),
        difference=Estimate(after - before, *pairs[2]),
        verdict=verdict,
    )


def domain_result(*, num_questions=50, num_with_gold=50, **metrics):
    change = Change(
        label="Flipped", value=0.1, by_chance=Simulated(0.1, 0.0, 0.2), num_questions=50, verdict="no"
    )
    return DomainResult(
        num_questions=num_questions,
        num_with_gold=num_with_gold,
        num_without_gold=num_questions - num_with_gold,
        num_ties=Both(0, 0),
        majority_class=None,
        metrics=metrics,
        confidence_kinds={},
        answer_distribution=None,
        changes=Changes(answers_flipped=change),
    )


def mean_result(**metrics):
    return MeanResult(num_domains=1, num_questions=50, num_with_gold=50, num_without_gold=0, metrics=metrics)


def general_result(domains, *, num_samples=8, kl=(0.01, None, None)):
    """The mean is that of the only domain."""
    (block,) = domains.values()
    value, low, high = kl
    return GeneralResult(
        domains=domains,
        mean=mean_result(**block.metrics),
        num_samples=num_samples,
        kl_from_base=KlFromBase(
            label="KL on general questions", value=value, low=low, high=high, num_questions=9, num_tokens=99
        ),
    )


def results(*, in_domain=None, mean=None, general=None, num_samples=8):
    return Results(
        num_samples=num_samples,
        temperature=0.6,
        top_p=1.0,
        num_bins=15,
        num_bootstrap=200,
        level=0.95,
        seed=0,
        train_domain="physics",
        num_not_scored=0,
        in_domain=in_domain,
        cross=Domains(domains={}, mean=mean),
        verdicts=(),
        questions=(),
        pool_questions=(),
        general=general,
    )
