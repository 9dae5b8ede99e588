"""What k samples of a question are worth together: pass@k, and the expected majority where answers are exact.

n samples, c of them right: 1 - C(n - c, k) / C(n, k) is the unbiased estimate of the chance that one of k is right
(2107.03374). Where the probability p of the right answer is known, that chance is 1 - (1 - p)^k.
"""

import math
from collections.abc import Sequence

import numpy as np


def estimated_pass(num_right: int, num_samples: int, k: int) -> float:
    """The chance that one of k samples is right, from `num_samples` of which `num_right` are."""
    return 1 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


def exact_pass(right: float, k: int) -> float:
    """The same, from the probability of the right answer."""
    return float(1 - (1 - min(right, 1.0)) ** k)


def expected_majority(right: float, others: Sequence[float], k: int) -> float:
    """The chance that the majority of k samples is right, from the probabilities of the right and the other answers.

    A tie goes to the answer given first, as in the votes. In a random sequence each of t tied answers is the first
    with chance 1 / t. So with c samples right, the sum runs over the counts of the others that are at most c:

        k! p^c / c!  *  sum of 1 / (1 + ties) * product of q_j^n_j / n_j!

    The product is one of polynomials in two variables: samples used so far, and answers that tie.
    """
    return sum(
        math.factorial(k) * right**c / math.factorial(c) * _weight_of_no_more(others, c, k - c)
        for c in range(1, k + 1)
    )


def _weight_of_no_more(others: Sequence[float], most: int, total: int) -> float:
    """Sum of product(q^n / n!) / (1 + ties) over counts n that add up to `total`, none above `most`."""
    max_ties = total // most
    weights = np.zeros((total + 1, max_ties + 1))  # by samples used and answers that tie
    weights[0, 0] = 1.0
    for q in others:
        following = np.zeros_like(weights)
        for n in range(min(most, total) + 1):
            own = q**n / math.factorial(n)
            if n < most:
                following[n:] += own * weights[: total + 1 - n]
            else:
                following[n:, 1:] += own * weights[: total + 1 - n, :-1]
        weights = following
    return float(weights[total] @ (1 / np.arange(1, max_ties + 2)))
