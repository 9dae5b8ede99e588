"""Stage: test questions, both models, gold answers if there are any -> results.json.

Three functions open GOLD ANSWERS: `make_evaluation`, `make_teacher_gap`, and `make_gold_labels` for the upper bound
alone. `pipeline.py` calls them, and nothing else does.
"""

import logging
from collections.abc import Container, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from neuron_opsd.config import USES_GOLD
from neuron_opsd.config.graph import GOLD_LABELS, ROLES, reads_neurons
from neuron_opsd.contexts.stage import contexts_of, make_other_replies
from neuron_opsd.evaluation.evaluate import evaluate, gold_labels, teacher_gap
from neuron_opsd.evaluation.exact import exact_options
from neuron_opsd.evaluation.general import GeneralSamples
from neuron_opsd.evaluation.samples import Asked, stages_of_evaluation
from neuron_opsd.model.base_kl import States, keep_states, kl_from_base
from neuron_opsd.neurons.capture import capture_neurons
from neuron_opsd.progress import track
from neuron_opsd.records import (
    BaseDivergence,
    ExactGeneralRollout,
    ExactRollout,
    GoldLabel,
    NeuronSets,
    OptionScores,
    PreflightItem,
    Rollout,
    TeacherContext,
    TruthScore,
)
from neuron_opsd.results import dump
from neuron_opsd.run.session import Run
from neuron_opsd.run.shards import make_sharded
from neuron_opsd.store.files import JsonDict
from neuron_opsd.store.run_folder import RESULTS, TEACHER_GAP

logger = logging.getLogger(__name__)


def make_evaluation(run: Run) -> None:
    """GOLD ANSWERS, where there are any: base and trained model on the test and the general questions."""
    names: set[str] = set()
    for stage in stages_of_evaluation(run):
        if stage.reads_context:
            make_other_replies(run)
            make_test_contexts(run)
        make_sharded(stage)
        names.add(stage.name)
    # A run that trains nothing and reads no context compares the base model with itself.
    roles = ROLES if "evaluation/trained" in names else ("base", "base")
    base, trained = (_samples(run, f"evaluation/{role}") for role in roles)
    has_general = bool(run.inputs.general_questions) and run.config.training.trains
    results = evaluate(
        run.records.test_questions,
        base,
        trained,
        run.config.evaluation,
        reading=run.config.questions,
        train_domains=run.records.train_domains,
        seed=run.config.seed,
        options=_option_scores(run, names, roles, is_general=False),
        truth=_truth_scores(run, names, roles, is_general=False),
        general=_general_samples(run, names) if has_general else None,
        pool=run.records.pool,
        pool_rollouts=run.records.complete_rollouts() if "rollouts" in run.inputs.made else (),
    )
    # In the order in which reports show the metrics.
    run.folder.write_result(RESULTS, dump(results), is_ordered=True)


def make_teacher_gap(run: Run) -> None:
    """GOLD ANSWERS: how much better the preflight's teacher answered than the student, where the pool has answers."""
    items = run.folder.stage("preflight").read(PreflightItem) if run.is_current("preflight") else []
    config = run.config
    gap = teacher_gap(run.records.pool, items, config.evaluation, reading=config.questions, seed=config.seed)
    if gap is None:
        run.folder.remove_result(TEACHER_GAP)
    else:
        run.folder.write_result(TEACHER_GAP, dump(gap))


def make_gold_labels(run: Run) -> None:
    """GOLD ANSWERS: the pool's, for the upper bound. No other recipe has this stage."""
    logger.warning("training: %s. The model is not label-free.", USES_GOLD)

    def make() -> tuple[list[GoldLabel], JsonDict]:
        pool = run.records.pool
        labels = gold_labels(pool, run.config.evaluation, run.config.questions)
        return labels, {"mark": USES_GOLD, "num_without": len(pool) - len(labels)}

    run.make_stage(GOLD_LABELS, GoldLabel, make)


def make_test_contexts(run: Run) -> None:
    """What the second model reads before each test question: the teacher's context, from the pool."""

    def make() -> tuple[list[TeacherContext], JsonDict]:
        sets = _overlap_sets(run) if reads_neurons(run.config) else {}
        return contexts_of(run, run.records.test_questions, sets)

    run.make_stage("evaluation/contexts", TeacherContext, make)


def _overlap_sets(run: Run) -> dict[str, NDArray[np.int32]]:
    """Overlap sets of the pool, and of the test questions where each is placed among the pool.

    A test question's neurons are those of the base model's first sample.
    """
    sets = run.folder.stage("neurons").read(NeuronSets)
    if run.config.contexts.retrieval == "neuron_overlap":
        samples = run.folder.stage("evaluation/base").read(Rollout)
        first = [rollout for rollout in samples if rollout.rollout_index == 0]
        with track("evaluation/contexts", total=len(first), unit="completions") as progress:

            def on_read(items: int, tokens: int) -> None:
                progress.advance(items, tokens=tokens)

            sets += capture_neurons(*run.models.base(), first, run.config.neurons, on_read=on_read)
    return {item.question_id: item.overlap_set for item in sets}


def _general_samples(run: Run, names: Container[str]) -> GeneralSamples:
    """Both models' samples of the general questions, and their KL on the base model's first sample of each."""
    base, trained = (_samples(run, f"evaluation/general_{role}") for role in ROLES)

    def make() -> tuple[list[BaseDivergence], JsonDict]:
        first = [rollout for rollout in base if rollout.rollout_index == 0]
        texts = [(rollout.prompt_ids, rollout.completion_ids) for rollout in first]
        before, after = _known_states(run, first) if run.config.evaluation.exact else (None, None)
        with track("evaluation/general_kl", total=len(ROLES), unit="passes") as progress:
            kept = keep_states(run.models.base()[0], texts, before)
            progress.advance()
            sums = kl_from_base(run.models.named(str(run.folder.model_folder)), texts, kept, after)
            progress.advance()
        divergences = [
            BaseDivergence(question_id=rollout.question_id, num_tokens=len(rollout.completion_ids), kl=kl)
            for rollout, kl in zip(first, sums, strict=True)
        ]
        return divergences, {}

    run.make_stage("evaluation/general_kl", BaseDivergence, make)
    return GeneralSamples(
        run.inputs.general_questions,
        base,
        trained,
        run.folder.stage("evaluation/general_kl").read(BaseDivergence),
        _option_scores(run, names, ROLES, is_general=True),
        _truth_scores(run, names, ROLES, is_general=True),
    )


def _known_states(run: Run, first: Sequence[Rollout]) -> tuple[States, States] | tuple[None, None]:
    """Of both models, from the passes of their exact answers. None if they read other prompts."""
    states = [
        {
            answer.prompt_ids: torch.tensor([answer.state])
            for answer in run.folder.stage(Asked(role, is_general=True).samples).read(ExactGeneralRollout)
            if answer.state
        }
        for role in ROLES
    ]
    if any(rollout.prompt_ids not in own for own in states for rollout in first):
        return None, None
    base, trained = ([own[rollout.prompt_ids] for rollout in first] for own in states)
    return base, trained


def _samples(run: Run, name: str) -> Sequence[Rollout]:
    """What a model was asked. Exact replies have the probabilities of the answers."""
    return run.folder.stage(name).read(ExactRollout if run.config.evaluation.exact else Rollout)


def _truth_scores(
    run: Run, names: Container[str], roles: tuple[str, ...], *, is_general: bool
) -> tuple[list[TruthScore], list[TruthScore]]:
    """P(True) of both models. None where it was not asked."""
    stages = [Asked(role, is_general).truth for role in roles]
    one, other = (run.folder.stage(name).read(TruthScore) if name in names else [] for name in stages)
    return one, other


def _option_scores(
    run: Run, names: Container[str], roles: tuple[str, ...], *, is_general: bool
) -> tuple[list[OptionScores], list[OptionScores]]:
    """Of what two models were asked. None where `names`, the stages of this run, has none."""
    if run.config.evaluation.exact:
        if not run.config.evaluation.option_probability:
            return [], []
        one, other = (exact_options(_samples(run, Asked(role, is_general).samples)) for role in roles)
        return one, other
    stages = [Asked(role, is_general).options for role in roles]
    one, other = (run.folder.stage(name).read(OptionScores) if name in names else [] for name in stages)
    return one, other
