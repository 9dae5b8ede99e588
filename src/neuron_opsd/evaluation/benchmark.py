"""Evaluation: questions, rollouts of base and trained model, gold answers -> the numbers of `results.json`.

docs/method.md, section 7; docs/evaluation.md shows the shape of the results. Confidence is of two kinds
(`metrics.KINDS`), each with its own answer. Intervals are paired bootstraps over questions; a cross-domain
mean resamples each domain on its own. Every question of a comparison has rollouts of both models. Results are
plain dicts, ready for JSON: NaN is None.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuron_opsd.config import EvaluationSettings
from neuron_opsd.errors import DataError
from neuron_opsd.evaluation import metrics
from neuron_opsd.evaluation.changes import answer_distribution, measure_changes
from neuron_opsd.evaluation.kinds import add_cautions, add_perfect_values, describe_kinds, mean_caution
from neuron_opsd.evaluation.votes import Votes, count_votes, group_rollouts
from neuron_opsd.evaluation.wording import verdict_of, verdict_sentences
from neuron_opsd.records import OptionScores, Question, Rollout
from neuron_opsd.statistics import LEVEL, Draws, bootstrap_draws, bootstrap_interval

Array = NDArray[np.float64]


def score_rollouts(
    questions: Sequence[Question],
    rollouts: Sequence[Rollout],
    answer_key: Mapping[str, str],
    settings: EvaluationSettings,
    *,
    seed: int,
    options: Sequence[OptionScores] = (),
) -> dict[str, Any]:
    """Metrics of one model, by domain.

    Returns:
        {"domains": {domain: block}}; a block is that of `compare` without `trained`, `difference` and
            `changes`.
    """
    groups = group_rollouts(rollouts)
    _check_known(groups, questions, "rollouts")
    blocks: dict[str, Any] = {}
    for domain, members in _by_domain(questions).items():
        scored = [question for question in members if question.question_id in groups]
        if scored:
            votes = count_votes(scored, groups, answer_key, _by_id(options))
            blocks[domain], _ = _block({"base": votes}, settings, seed=[seed, _hash(domain)])
    return {**_header(settings, seed), "domains": blocks}


def compare(
    questions: Sequence[Question],
    base: Sequence[Rollout],
    trained: Sequence[Rollout],
    key: Mapping[str, str],
    settings: EvaluationSettings,
    *,
    train_domain: str,
    seed: int,
    options: tuple[Sequence[OptionScores], Sequence[OptionScores]] = ((), ()),
) -> dict[str, Any]:
    """Compare the trained model with the base model.

    Args:
        questions: The test questions of all domains; those without rollouts of both models are counted and
            left out.
        base: Rollouts of the base model.
        trained: Rollouts of the trained model.
        key: Gold answers, for all, some or none of the questions (`load_answer_key`).
        settings: The evaluation section of the configuration.
        train_domain: The domain trained on; it is `in`, all others are `cross`.
        seed: Of the bootstrap, the permutations and the simulations.
        options: The choices' probabilities under base and trained model, where they were scored.

    Returns:
        A dict for `results.json`: `in` is the block of the trained domain (None if it has no scored
        question), `cross` is {"domains": {domain: block}, "mean": block or None}, `verdicts` a list of
        sentences, `questions` one row for each question (majority answers, vote shares, share of samples that
        are right). A block has `num_questions`, `num_with_gold`, `num_without_gold`, `num_ties`,
        `majority_class`, `metrics`, `changes`, `reliability`, `brier_parts` and `answer_distribution`. A
        metric has label, better, base, trained, difference (each with value, low, high) and verdict.
    """
    before, after = group_rollouts(base), group_rollouts(trained)
    _check_known(before, questions, "base rollouts")
    _check_known(after, questions, "trained rollouts")
    options_before, options_after = _scored_by_both(options)
    blocks, draws, rows = {}, {}, []
    for domain, members in _by_domain(questions).items():
        scored = [question for question in members if question.question_id in before.keys() & after.keys()]
        if not scored:
            continue
        votes = {
            "base": count_votes(scored, before, key, options_before),
            "trained": count_votes(scored, after, key, options_after),
        }
        blocks[domain], draws[domain] = _block(votes, settings, seed=[seed, _hash(domain)])
        rows += _question_rows(domain, **votes)
    cross = {domain: block for domain, block in blocks.items() if domain != train_domain}
    results = {
        **_header(settings, seed),
        "train_domain": train_domain,
        "num_not_scored": len(questions) - len(rows),
        "in": blocks.get(train_domain),
        "cross": {"domains": cross, "mean": _mean_block(cross, draws) if cross else None},
    }
    results["verdicts"] = verdict_sentences(results)
    return _plain({**results, "questions": rows})


def _header(settings: EvaluationSettings, seed: int) -> dict[str, Any]:
    return {
        "num_samples": settings.num_samples,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "num_bins": settings.num_bins,
        "num_bootstrap": settings.num_bootstrap,
        "level": LEVEL,
        "seed": seed,
    }


def _block(
    votes: dict[str, Votes], settings: EvaluationSettings, *, seed: list[int]
) -> tuple[dict[str, Any], Draws]:
    """Everything about one domain: one model ("base"), or two and their difference."""
    base = votes["base"]
    num_gold = int(base.has_gold.sum())
    values, draws = _bootstrap_all(votes, settings, seed)
    block = {
        "num_questions": len(base),
        "num_with_gold": num_gold,
        "num_without_gold": len(base) - num_gold,
        "num_ties": {role: one.num_ties for role, one in votes.items()},
        "majority_class": metrics.majority_class(base),
        "metrics": _metric_entries(values, draws, settings, len(base), num_gold),
    }
    add_cautions(block["metrics"])
    block["confidence_kinds"] = describe_kinds(votes, settings.num_bins)
    if num_gold:
        add_perfect_values(block["metrics"], votes, settings.num_bins, [*seed, 3])
        block |= {
            name: block["confidence_kinds"]["vote_share"][name] for name in ("reliability", "brier_parts")
        }
        if "trained" in votes:
            draws["beyond_majority"] = draws["trained:avg"] - draws["base:maj"]
            value = values["trained:avg"] - values["base:maj"]
            block |= _beyond_majority(value, draws["beyond_majority"], num_gold)
    block["answer_distribution"] = answer_distribution(votes)
    if "trained" in votes:
        block["changes"] = measure_changes(base, votes["trained"], seed)
    return _plain(block), draws


def _bootstrap_all(
    votes: dict[str, Votes], settings: EvaluationSettings, seed: list[int]
) -> tuple[dict[str, float], Draws]:
    """Values and draws of every metric, keyed "role:metric"; both roles share their resamples."""
    free = {
        f"{role}:{n}": f for role, v in votes.items() for n, f in metrics.label_free_statistics(v).items()
    }
    values, draws = _bootstrap(free, len(votes["base"]), settings, [*seed, 1])
    num_gold = int(votes["base"].has_gold.sum())
    if num_gold:
        gold = {
            f"{role}:{n}": f
            for role, v in votes.items()
            for n, f in metrics.gold_statistics(v, num_bins=settings.num_bins).items()
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


def _metric_entries(
    values: Mapping[str, float], draws: Draws, settings: EvaluationSettings, num_all: int, num_gold: int
) -> dict[str, Any]:
    entries = {}
    for metric in metrics.metrics_of(settings.num_samples, settings.num_bins):
        entry: dict[str, Any] = {"label": metric.label, "better": metric.better}
        base, trained = f"base:{metric.name}", f"trained:{metric.name}"
        if base not in values:
            continue
        num_items = num_gold if metric.needs_gold else num_all
        entry["base"] = _interval(values[base], draws[base], num_items, metric.low, metric.high)
        if trained in values:
            entry["trained"] = _interval(values[trained], draws[trained], num_items, metric.low, metric.high)
            change = values[trained] - values[base]
            entry["difference"] = _interval(change, draws[trained] - draws[base], num_items)
            entry["verdict"] = verdict_of(entry["difference"], num_items)
        entries[metric.name] = entry
    return entries


def _beyond_majority(value: float, draws: Array, num_items: int) -> dict[str, Any]:
    """Trained Avg minus base Maj: what is left of a gain that being surer of the same answers could bring."""
    interval = _interval(value, draws, num_items)
    return {"beyond_majority": {**interval, "verdict": verdict_of(interval, num_items)}}


def _interval(
    value: float, draws: Array, num_items: int, low: float = -math.inf, high: float = math.inf
) -> dict[str, float]:
    """Value and interval ends, kept inside the metric's range; no ends below metrics.MIN_QUESTIONS."""
    interval = bootstrap_interval(value, draws)
    if num_items < metrics.MIN_QUESTIONS:
        return {"value": value, "low": math.nan, "high": math.nan}
    return {"value": value, "low": max(interval.low, low), "high": min(interval.high, high)}


def _mean_block(blocks: Mapping[str, dict[str, Any]], draws: Mapping[str, Draws]) -> dict[str, Any]:
    """Mean over domains, each counted once; its draws are means of the domains' independent draws."""
    entries = {}
    listed = [name for block in blocks.values() for name in block["metrics"]]
    names = [name for name in metrics.NAMES if name in listed]
    for name in names:
        members = [d for d, b in blocks.items() if name in b["metrics"] and _is_complete(b["metrics"][name])]
        if members:
            entries[name] = _mean_entry(name, members, blocks, draws)
    gold = [domain for domain, block in blocks.items() if "beyond_majority" in block]
    beyond = {}
    if gold:
        value = float(np.mean([blocks[domain]["beyond_majority"]["value"] for domain in gold]))
        fewest = min(blocks[domain]["num_with_gold"] for domain in gold)
        beyond = _beyond_majority(value, np.mean([draws[d]["beyond_majority"] for d in gold], axis=0), fewest)
    return {
        "num_domains": len(blocks),
        "num_questions": sum(block["num_questions"] for block in blocks.values()),
        "num_with_gold": sum(block["num_with_gold"] for block in blocks.values()),
        "num_without_gold": sum(block["num_without_gold"] for block in blocks.values()),
        "metrics": entries,
    } | beyond


def _is_complete(entry: Mapping[str, Any]) -> bool:
    return entry["base"]["value"] is not None and entry["trained"]["value"] is not None


def _mean_entry(
    name: str, members: list[str], blocks: Mapping[str, dict[str, Any]], draws: Mapping[str, Draws]
) -> dict[str, Any]:
    first = blocks[members[0]]["metrics"][name]
    needs_gold = name not in metrics.LABEL_FREE
    counts = [blocks[domain]["num_with_gold" if needs_gold else "num_questions"] for domain in members]
    entry: dict[str, Any] = {"label": first["label"], "better": first["better"], "num_domains": len(members)}
    mean_draws = {
        role: np.mean([draws[d][f"{role}:{name}"] for d in members], axis=0) for role in ("base", "trained")
    }
    mean_draws["difference"] = mean_draws["trained"] - mean_draws["base"]
    for role, values in mean_draws.items():
        value = float(np.mean([blocks[domain]["metrics"][name][role]["value"] for domain in members]))
        entry[role] = _interval(value, values, min(counts))
    entry["verdict"] = verdict_of(entry["difference"], min(counts))
    return entry | mean_caution({domain: blocks[domain]["metrics"][name] for domain in members})


def _question_rows(domain: str, base: Votes, trained: Votes) -> list[dict[str, Any]]:
    rows = []
    for i, question_id in enumerate(base.question_ids):
        row: dict[str, Any] = {"question_id": question_id, "domain": domain}
        for role, votes in (("base", base), ("trained", trained)):
            row[f"{role}_answer"] = votes.majority[i]
            row[f"{role}_vote_share"] = float(votes.vote_share[i])
            row[f"{role}_correct_fraction"] = float(votes.correct_fraction[i]) if votes.has_gold[i] else None
            row[f"{role}_majority_correct"] = float(votes.majority_correct[i]) if votes.has_gold[i] else None
        rows.append(row)
    return rows


def _by_domain(questions: Sequence[Question]) -> dict[str, list[Question]]:
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(question.domain, []).append(question)
    return dict(sorted(groups.items()))


def _by_id(options: Sequence[OptionScores]) -> dict[str, OptionScores]:
    return {score.question_id: score for score in options}


def _scored_by_both(
    options: tuple[Sequence[OptionScores], Sequence[OptionScores]],
) -> tuple[dict[str, OptionScores], dict[str, OptionScores]]:
    """What only one model scored is left out, so that both are compared on the same questions."""
    base, trained = _by_id(options[0]), _by_id(options[1])
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


def _plain(value: Any) -> Any:
    """The same value for JSON: numpy scalars as Python's, NaN and infinities as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
