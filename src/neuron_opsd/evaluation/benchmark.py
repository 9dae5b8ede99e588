"""Evaluation: questions, rollouts of base and trained model, gold answers -> the numbers of `results.json`.

docs/method.md, section 7. docs/evaluation.md shows the shape of the results. Confidence is of two kinds
(`metrics.KINDS`), each with its own answer. Intervals are paired bootstraps over questions. A cross-domain
mean resamples each domain on its own. Every question of a comparison has rollouts of both models.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np

from neuron_opsd.config import EvaluationSettings
from neuron_opsd.errors import DataError
from neuron_opsd.evaluation import metrics
from neuron_opsd.evaluation.changes import answer_distribution, measure_changes
from neuron_opsd.evaluation.estimates import beyond_majority, estimate, mean_of
from neuron_opsd.evaluation.kinds import (
    caution_of,
    describe_kinds,
    perfect_values,
    rests_on_options,
)
from neuron_opsd.evaluation.temperatures import AT_USE, MATCHED, matching_temperature, mean_entropy
from neuron_opsd.evaluation.votes import Votes, count_votes
from neuron_opsd.evaluation.wording import verdict_of, verdict_sentences
from neuron_opsd.records import OptionScores, Question, Rollout, TruthScore
from neuron_opsd.results import (
    Both,
    DomainResult,
    Domains,
    GeneralResult,
    MetricResult,
    Outcome,
    PoolQuestion,
    QuestionResult,
    Results,
    name_together,
)
from neuron_opsd.rollouts.pseudo_label import group_by_question
from neuron_opsd.statistics import LEVEL, Draws, bootstrap_draws

Options = tuple[Sequence[OptionScores], Sequence[OptionScores]]  # of base and trained model
Truth = tuple[Sequence[TruthScore], Sequence[TruthScore]]
Score = TypeVar("Score", OptionScores, TruthScore)


@dataclass(frozen=True, slots=True)
class Compared:
    """Both models on some questions: each domain's results, its bootstrap draws, and a row for each question."""

    results: dict[str, DomainResult]
    draws: dict[str, Draws]
    rows: tuple[QuestionResult, ...]


def compare(
    questions: Sequence[Question],
    base: Sequence[Rollout],
    trained: Sequence[Rollout],
    key: Mapping[str, str],
    settings: EvaluationSettings,
    *,
    train_domains: Sequence[str],
    seed: int,
    options: Options = ((), ()),
    truth: Truth = ((), ()),
    pool_questions: tuple[PoolQuestion, ...] = (),
    general: GeneralResult | None = None,
) -> Results:
    """Compare the trained model with the base model.

    Args:
        questions: The test questions of all domains. Those without rollouts of both models are counted and
            left out.
        base: Rollouts of the base model.
        trained: Rollouts of the trained model.
        key: Gold answers, for all, some or none of the questions (`load_answer_key`).
        settings: The evaluation section of the configuration.
        train_domains: The domains trained on. All others are cross-domain.
        seed: Of the bootstrap, the permutations and the simulations.
        options: The choices' probabilities under base and trained model, where they were scored.
        truth: How likely base and trained model call their own answers right, where they were asked.
        pool_questions: Of `score_pool`, to stand beside.
        general: Of `compare_general`, to stand beside.
    """
    found = compare_domains(questions, base, trained, key, settings, seed=seed, options=options, truth=truth)
    own = {domain: block for domain, block in found.results.items() if domain in train_domains}
    others = {domain: block for domain, block in found.results.items() if domain not in own}
    train_domain = name_together(train_domains)
    if len(train_domains) == 1:
        in_domain, own = own.get(train_domain), {}
    else:
        together = [replace(one, domain=train_domain) for one in questions if one.domain in own]
        ids = {question.question_id for question in together}
        before, after = ([one for one in rollouts if one.question_id in ids] for rollouts in (base, trained))
        in_domain = compare_domains(
            together, before, after, key, settings, seed=seed, options=options, truth=truth
        ).results.get(train_domain)
    cross = Domains(domains=others, mean=mean_of(others, found.draws))
    return Results(
        num_samples=settings.num_samples,
        temperature=settings.temperature,
        top_p=settings.top_p,
        num_bins=settings.num_bins,
        num_bootstrap=settings.num_bootstrap,
        level=LEVEL,
        seed=seed,
        train_domain=train_domain,
        num_not_scored=len(questions) - len(found.rows),
        in_domain=in_domain,
        own=own,
        cross=cross,
        verdicts=verdict_sentences(train_domain, in_domain, own, cross, general),
        questions=found.rows,
        pool_questions=pool_questions,
        general=general,
        pass_k=settings.k_of_pass,
        is_exact=settings.exact,
        num_complete=settings.num_complete if settings.stop_votes else None,
    )


def compare_domains(
    questions: Sequence[Question],
    base: Sequence[Rollout],
    trained: Sequence[Rollout],
    key: Mapping[str, str],
    settings: EvaluationSettings,
    *,
    seed: int,
    options: Options,
    truth: Truth = ((), ()),
) -> Compared:
    """Both models on each domain of the questions, see `compare`."""
    before, after = group_by_question(base), group_by_question(trained)
    _check_known(before, questions, "base rollouts")
    _check_known(after, questions, "trained rollouts")
    options_before, options_after = _scored_by_both(options)
    truth_before, truth_after = _scored_by_both(truth)
    results: dict[str, DomainResult] = {}
    draws: dict[str, Draws] = {}
    rows: list[QuestionResult] = []
    for domain, members in _by_domain(questions).items():
        scored = [question for question in members if question.question_id in before.keys() & after.keys()]
        if not scored:
            continue
        votes = Both(
            *(
                count_votes(
                    scored,
                    groups,
                    key,
                    scores,
                    own_truth,
                    pass_k=settings.k_of_pass,
                    num_complete=settings.num_complete if settings.stop_votes else None,
                )
                for groups, scores, own_truth in (
                    (before, options_before, truth_before),
                    (after, options_after, truth_after),
                )
            )
        )
        results[domain], draws[domain] = _measure(votes, settings, seed=[seed, _hash(domain)])
        rows += _question_rows(domain, votes)
    return Compared(results, draws, tuple(rows))


def _measure(
    votes: Both[Votes], settings: EvaluationSettings, *, seed: list[int]
) -> tuple[DomainResult, Draws]:
    """Everything about both models on one domain."""
    base = votes.base
    num_gold = int(base.has_gold.sum())
    matched = _matched_temperatures(votes)
    values, draws = _bootstrap_all(votes, settings, matched, seed)
    kinds = describe_kinds(votes, settings.num_bins)
    beyond = None
    if num_gold:
        vote = "base:maj_at_k" if settings.exact else "base:maj"
        draws["beyond_majority"] = draws["trained:avg"] - draws[vote]
        value = values["trained:avg"] - values[vote]
        beyond = beyond_majority(value, draws["beyond_majority"], num_gold)
    result = DomainResult(
        num_questions=len(base),
        num_with_gold=num_gold,
        num_without_gold=len(base) - num_gold,
        num_ties=Both(base.num_ties, votes.trained.num_ties),
        majority_class=metrics.majority_class(base),
        metrics=_metric_results(votes, values, draws, settings, [*seed, 3]),
        confidence_kinds=kinds,
        reliability=kinds["vote_share"].reliability,
        brier_parts=kinds["vote_share"].brier_parts,
        matched_temperatures=matched,
        beyond_majority=beyond,
        answer_distribution=answer_distribution(votes),
        changes=measure_changes(base, votes.trained, seed),
        num_drawn=Both(base.num_drawn, votes.trained.num_drawn) if settings.stop_votes else None,
    )
    return result, draws


def _matched_temperatures(votes: Both[Votes]) -> Both[float] | None:
    """At which each model's options have the base model's mean entropy. None where no options are known."""
    known = votes.base.has_options
    if not known.any():
        return None
    base, trained = (
        [shares for shares, has in zip(one.option_shares, known, strict=True) if has]
        for _, one in votes.items()
    )
    return Both(1.0, matching_temperature(trained, mean_entropy(base)))


def _bootstrap_all(
    votes: Both[Votes], settings: EvaluationSettings, matched: Both[float] | None, seed: list[int]
) -> tuple[dict[str, float], Draws]:
    """Values and draws of every metric, keyed "role:metric". Both roles share their resamples."""
    free = {
        f"{role}:{n}": f for role, v in votes.items() for n, f in metrics.label_free_statistics(v).items()
    }
    values, draws = _bootstrap(free, len(votes.base), settings, [*seed, 1])
    num_gold = int(votes.base.has_gold.sum())
    if num_gold:
        gold = {
            f"{role}:{n}": f
            for role, v in votes.items()
            for n, f in metrics.gold_statistics(
                v,
                num_bins=settings.num_bins,
                temperatures={AT_USE: settings.temperature, MATCHED: matched.of(role)} if matched else {},
            ).items()
        }
        gold_values, gold_draws = _bootstrap(gold, num_gold, settings, [*seed, 2])
        values, draws = values | gold_values, draws | gold_draws
    return values, draws


def _bootstrap(
    statistics: Mapping[str, metrics.Statistic], num_items: int, settings: EvaluationSettings, seed: list[int]
) -> tuple[dict[str, float], Draws]:
    values = {name: float(statistic(np.ones(num_items))) for name, statistic in statistics.items()}
    draws = bootstrap_draws(
        lambda weights: {name: statistic(weights) for name, statistic in statistics.items()},
        num_items=num_items,
        num_resamples=settings.num_bootstrap,
        seed=seed,
    )
    return values, draws


def _metric_results(
    votes: Both[Votes],
    values: Mapping[str, float],
    draws: Draws,
    settings: EvaluationSettings,
    seed: list[int],
) -> dict[str, MetricResult]:
    """Every metric that was measured, in the order in which reports show them."""
    num_all, num_gold = len(votes.base), int(votes.base.has_gold.sum())
    perfect = perfect_values(votes, settings.num_bins, seed)
    masses = [values.get(f"{role}:option_mass", math.inf) for role in ("base", "trained")]
    unreliable, caution = caution_of(Both(*masses))
    results: dict[str, MetricResult] = {}
    known = metrics.metrics_of(
        settings.num_samples,
        settings.num_bins,
        pass_k=settings.k_of_pass,
        temperature=settings.temperature,
        is_exact=settings.exact,
        num_complete=settings.num_complete,
    )
    for metric in known:
        base, trained = f"base:{metric.name}", f"trained:{metric.name}"
        if base not in values:
            continue
        num_items = num_gold if metric.needs_gold else num_all
        change = values[trained] - values[base]
        difference = estimate(change, draws[trained] - draws[base], num_items)
        on_options = rests_on_options(metric.name)
        results[metric.name] = MetricResult(
            label=metric.label,
            better=metric.better,
            base=estimate(values[base], draws[base], num_items, metric.low, metric.high),
            trained=estimate(values[trained], draws[trained], num_items, metric.low, metric.high),
            difference=difference,
            verdict=verdict_of(difference, num_items),
            unreliable=unreliable if on_options else (),
            caution=caution if on_options else "",
            perfectly_calibrated=perfect.get(metric.name),
        )
    return results


def _question_rows(domain: str, votes: Both[Votes]) -> list[QuestionResult]:
    return [
        QuestionResult(
            question_id,
            domain,
            **{f"base_{name}": value for name, value in asdict(before).items()},
            **{f"trained_{name}": value for name, value in asdict(after).items()},
        )
        for question_id, before, after in zip(
            votes.base.question_ids, _outcomes(votes.base), _outcomes(votes.trained), strict=True
        )
    ]


def _outcomes(votes: Votes) -> list[Outcome]:
    return [
        Outcome(
            answer,
            share,
            *((fraction, right, passes) if has_gold else (None, None, None)),
            voted if has_gold and votes.is_exact else None,
        )
        for answer, share, fraction, right, passes, voted, has_gold in zip(
            votes.majority,
            votes.vote_share.tolist(),
            votes.correct_fraction.tolist(),
            votes.majority_correct.tolist(),
            votes.pass_fraction.tolist(),
            votes.voted_correct.tolist(),
            votes.has_gold.tolist(),
            strict=True,
        )
    ]


def _by_domain(questions: Sequence[Question]) -> dict[str, list[Question]]:
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(question.domain, []).append(question)
    return dict(sorted(groups.items()))


def _scored_by_both(
    scores: tuple[Sequence[Score], Sequence[Score]],
) -> tuple[dict[str, Score], dict[str, Score]]:
    """What only one model scored is left out, so that both are compared on the same questions."""
    base, trained = ({score.question_id: score for score in own} for own in scores)
    both = base.keys() & trained.keys()
    return {key: base[key] for key in sorted(both)}, {key: trained[key] for key in sorted(both)}


def _check_known(groups: Mapping[str, Any], questions: Sequence[Question], what: str) -> None:
    unknown = sorted(groups.keys() - {question.question_id for question in questions})
    if unknown:
        raise DataError(
            f"{what}: question '{unknown[0]}' is not among the {len(questions)} questions evaluated."
        )


def _hash(domain: str) -> int:
    return zlib.crc32(domain.encode())
