"""Parts of a made-up run that are no records: preflight, how training ended, a comparison of methods."""

from neuron_opsd.report.compared import ComparedCell, ComparedMetric, Comparison, Method, MethodMean
from neuron_opsd.results import Bin, Estimate, Measure, PreflightVerdict

METHODS = ("base", "neuron_opsd", "lmsi", "ttrl")
DOMAINS = ("physics", "art")


def preflight(mark):
    """`mark` makes a text hostile, or leaves it."""
    return PreflightVerdict(
        verdict=mark("unlikely to help"),
        reasons=(mark("the teacher says what the student says (KL 0.001)"),),
        thinks=False,
        measures=(
            Measure(
                name="entropy_change",
                label=mark("Entropy change"),
                value=-0.0102,
                low=-0.0153,
                high=-0.0049,
                note=mark("A good sign below -0.005."),
            ),
            Measure(
                name="pool_diversity", label="Pool diversity", value=0.6512, low=None, high=None, note=""
            ),
        ),
        num_questions=20,
    )


def training_summary(mark):
    return {
        "stopped_because": mark("completion length (tokens): 42 over the first rows, 90 over the last"),
        "stop_step": 20,
        "best_step": 10,
        "limits": {"completion_tokens_mean": [21.0, 84.0], "grad_norm": [None, 10.0]},
    }


def comparison(mark):
    """Four methods, two training domains, two test domains."""
    return Comparison(
        metrics=[
            ComparedMetric("avg", "Avg@8", "higher"),
            ComparedMetric("ece", "ECE-15", "lower"),
            ComparedMetric("tokens", "Tokens", "neither"),
        ],
        methods=[Method(name, mark(name.upper()), mark("a remark")) for name in METHODS],
        cells=[
            _cell(method, source and mark(source), mark(target), 10 * m + 3 * s + t)
            for m, method in enumerate(METHODS)
            for s, source in enumerate(DOMAINS if m else (None,))
            for t, target in enumerate(DOMAINS)
        ],
        means=[
            MethodMean(method=method, place=place, metrics=_metrics(7 * m + p))
            for m, method in enumerate(METHODS)
            for p, place in enumerate(("in", "cross"))
            if m or place == "in"
        ],
        notes=[mark("Two seeds each.")],
    )


def _cell(method, source, target, index):
    bins = [
        Bin(
            low=low / 2,
            high=low / 2 + 0.5,
            count=10 + index * low,
            confidence=0.3 + low / 2,
            accuracy=0.35,
        )
        for low in (0, 1)
    ]
    return ComparedCell(
        method=method,
        source=source,
        target=target,
        num_seeds=2,
        metrics=_metrics(index),
        reliability={"vote_share": bins, "option_probability": bins[::-1]},
    )


def _metrics(index):
    accuracy, error = 0.4 + 0.011 * index, 0.2 - 0.003 * index
    return {
        "avg": Estimate(accuracy, accuracy - 0.05, accuracy + 0.05),
        "ece": Estimate(error, error - 0.02, error + 0.02),
        "tokens": Estimate(100.0 + index, None, None),
    }
