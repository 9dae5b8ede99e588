"""Scores by which questions are ranked. Lower is kept first (method, section 4).

Consensus is s(x), the size of the count set. It tracks completion length, so the residual of log s on log tokens within
the domain is always computed beside it, and the correlation reported.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from neuron_opsd.config import SelectionSettings
from neuron_opsd.errors import DataError
from neuron_opsd.random_state import derive_seed
from neuron_opsd.records import NeuronSets
from neuron_opsd.text.answers import Vote

READS_NEURONS = ("consensus", "consensus_length_residualised", "consensus_per_chunk")  # of selection.score


def length_residuals(sets: Sequence[NeuronSets]) -> list[float]:
    """Residuals of log s on log completion tokens, by least squares over one domain, unitless.

    Where all lengths are equal there is no slope, and the residual is log s less its mean. A question of which no
    neuron was read takes no part, and has residual 0.
    """
    read = [item for item in sets if item.num_chunks]
    log_s = np.log([max(item.consensus_score, 1) for item in read])
    fitted: Iterable[float] = (
        residuals_on_length(log_s, [item.num_completion_tokens for item in read]) if read else []
    )
    of = dict(zip([item.question_id for item in read], map(float, fitted), strict=True))
    return [of.get(item.question_id, 0.0) for item in sets]


def residuals_on_length(values: NDArray[np.float64], num_tokens: Sequence[float]) -> NDArray[np.float64]:
    """Residuals of values on log completion tokens, by least squares. In the values' unit."""
    log_tokens = np.log(np.maximum(num_tokens, 1))
    centred = log_tokens - log_tokens.mean()
    spread = float(centred @ centred)
    slope = float(centred @ values) / spread if spread > 0 else 0.0
    return values - values.mean() - slope * centred


def ranking_scores(
    sets: Sequence[NeuronSets],
    residuals: Sequence[float],
    votes: Mapping[str, Vote],
    settings: SelectionSettings,
    *,
    seed: int,
    mean_log_probs: Mapping[str, float | None] | None,
) -> list[float]:
    """The score that ranks each question of one domain. Lower is kept first.

    A question without a parsable answer ranks last by vote share (its share is 0), one with an empty reply by
    log-probability.
    """
    if settings.score == "consensus_length_residualised":
        return list(residuals)
    if settings.score == "vote_share":
        return [-votes[item.question_id].share for item in sets]
    if settings.score == "log_prob":
        if mean_log_probs is None:
            raise DataError(
                "selection.score is log_prob: give select_questions the mean_log_probs of the rollouts."
            )
        known = [mean_log_probs[item.question_id] for item in sets]
        return [math.inf if value is None else -value for value in known]
    if settings.score == "random":
        return [derive_seed(seed, "selection", item.question_id) / 2**63 for item in sets]
    if settings.score == "consensus_per_chunk":
        return [item.consensus_score_per_chunk for item in sets]
    if settings.score == "consensus":
        return [float(item.consensus_score) for item in sets]
    assert_never(settings.score)


def num_kept(num_questions: int, fraction: float) -> int:
    """How many questions of a domain are kept: at least one, rounded to the nearest (halves up)."""
    return max(1, math.floor(fraction * num_questions + 0.5)) if num_questions else 0
