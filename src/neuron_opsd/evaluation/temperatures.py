"""The choices' probabilities at other temperatures than 1, where confidence is compared like with like.

Confidence depends on the temperature at which answers are drawn, so a rise of the ECE may be a mere sharpening. At the
temperature at which a model's options have the base model's mean entropy, sharpening is taken out. No label is needed.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

Array = NDArray[np.float64]
COLDEST, HOTTEST = 0.01, 100.0  # a match is looked for between these
ROUNDING = 1e-9  # nats
AT_USE, MATCHED = "option_ece_use", "option_ece_matched"  # the metrics. At temperature 1 it is `option_ece`


def tempered(shares: Array, temperature: float) -> Array:
    """Probabilities of temperature 1, at another one. At 0 the likeliest has all, of equal ones the first."""
    if temperature == 0:
        return np.eye(len(shares))[shares.argmax()]
    with np.errstate(divide="ignore"):
        logits = np.log(shares) / temperature
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def mean_entropy(questions: Sequence[Array], temperature: float = 1.0) -> float:
    """Over questions, in nats."""
    return float(np.mean([_entropy(tempered(shares, temperature)) for shares in questions]))


def matching_temperature(questions: Sequence[Array], target: float) -> float:
    """The temperature at which these options have this mean entropy. The nearest end where none has.

    The mean entropy rises with the temperature, so there is one at most. Where it is the target already, that is 1
    exactly: a search would end beside it, and the same model would differ from itself.
    """

    def gap(log_temperature: float) -> float:
        return mean_entropy(questions, math.exp(log_temperature)) - target

    low, high = math.log(COLDEST), math.log(HOTTEST)
    if abs(gap(0.0)) < ROUNDING:
        return 1.0
    if gap(low) >= 0:
        return COLDEST
    if gap(high) <= 0:
        return HOTTEST
    return math.exp(float(brentq(gap, low, high, xtol=1e-6)))  # pyright: ignore[reportArgumentType]


def _entropy(shares: Array) -> float:
    kept = shares[shares > 0]
    return float(-(kept * np.log(kept)).sum())
