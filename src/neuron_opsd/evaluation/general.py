"""What training did to general knowledge: both models on general questions, and how far the distributions moved.

KL(trained || base) needs no answer: a mean over the tokens of the base model's own completions, exact over the
vocabulary. Its interval resamples questions, because the tokens of one completion hang together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from neuron_opsd.config import EvaluationSettings
from neuron_opsd.evaluation.benchmark import compare_domains, mean_of
from neuron_opsd.records import BaseDivergence, OptionScores, Question, Rollout, TruthScore
from neuron_opsd.results import GeneralResult, KlFromBase
from neuron_opsd.statistics import MIN_QUESTIONS, bootstrap_draws, bootstrap_interval

KL_LABEL = "KL(trained || base) on general questions (nats a token)"


@dataclass(frozen=True, slots=True)
class GeneralSamples:
    """The general questions and what both models made of them."""

    questions: Sequence[Question]
    base: Sequence[Rollout]
    trained: Sequence[Rollout]
    divergences: Sequence[BaseDivergence]
    options: tuple[Sequence[OptionScores], Sequence[OptionScores]] = ((), ())  # of base and trained model
    truth: tuple[Sequence[TruthScore], Sequence[TruthScore]] = ((), ())


def compare_general(
    samples: GeneralSamples, key: Mapping[str, str], settings: EvaluationSettings, *, seed: int
) -> GeneralResult:
    """The questions' results by domain and their mean, and the KL."""
    settings = settings.for_general()
    found = compare_domains(
        samples.questions, samples.base, samples.trained, key, settings,
        seed=seed, options=samples.options, truth=samples.truth,
    )  # fmt: skip
    return GeneralResult(
        domains=found.results,
        mean=mean_of(found.results, found.draws),
        num_samples=settings.num_samples,
        kl_from_base=measure_kl(samples.divergences, num_resamples=settings.num_bootstrap, seed=seed),
    )


def measure_kl(divergences: Sequence[BaseDivergence], *, num_resamples: int, seed: int) -> KlFromBase:
    """The mean over tokens with its interval over questions. No ends below MIN_QUESTIONS."""
    sums = np.array([item.kl for item in divergences], dtype=np.float64)
    tokens = np.array([item.num_tokens for item in divergences], dtype=np.float64)
    draws = bootstrap_draws(
        lambda weights: {"kl": weights @ sums / (weights @ tokens)},
        num_items=len(sums),
        num_resamples=num_resamples,
        seed=[seed, 6],
    )
    interval = bootstrap_interval(float(sums.sum() / tokens.sum()), draws["kl"])
    enough = len(sums) >= MIN_QUESTIONS
    return KlFromBase(
        label=KL_LABEL,
        value=interval.value,
        low=max(interval.low, 0.0) if enough else None,
        high=interval.high if enough else None,
        num_questions=len(sums),
        num_tokens=int(tokens.sum()),
    )
