"""Evaluation: both models on the test and the general questions, and what the second reads before them."""

import logging
from collections.abc import Container

import numpy as np
from numpy.typing import NDArray

from neuron_opsd.config import USES_GOLD
from neuron_opsd.config.graph import GOLD_LABELS, ROLES, reads_neurons
from neuron_opsd.contexts.build import build_contexts
from neuron_opsd.demonstrations import (
    demonstrating_replies,
    make_other_replies,
    neighbours_in,
    template_shares,
)
from neuron_opsd.evaluation.evaluate import evaluate, gold_labels, teacher_gap
from neuron_opsd.evaluation.general import GeneralSamples
from neuron_opsd.model.base_kl import keep_states, kl_from_base
from neuron_opsd.neurons.capture import capture_neurons
from neuron_opsd.records import (
    BaseDivergence,
    GoldLabel,
    NeuronSets,
    OptionScores,
    PreflightItem,
    Rollout,
    TeacherContext,
)
from neuron_opsd.report_stage import card_of
from neuron_opsd.results import dump
from neuron_opsd.run.session import Workbench
from neuron_opsd.run.shards import make_sharded
from neuron_opsd.sharded_stages import evaluation_stages
from neuron_opsd.store.files import write_text
from neuron_opsd.store.run_folder import MODEL_CARD, RESULTS, TEACHER_GAP
from neuron_opsd.store.stage_folder import add_only_shard

logger = logging.getLogger(__name__)


def make_evaluation(bench: Workbench) -> None:
    """Base and trained model on the test questions; gold answers, where there are any, are opened here."""
    names: set[str] = set()
    for work in evaluation_stages(bench):
        if work.reads_context:
            make_other_replies(bench)
            make_test_contexts(bench)
        make_sharded(work)
        names.add(work.name)
    # A run that trains nothing and reads no context compares the base model with itself.
    roles = ROLES if "evaluation/trained" in names else ("base", "base")
    folder, is_trained = bench.folder, bench.config.training.objective != "none"
    results = evaluate(
        bench.test_questions,
        folder.stage(f"evaluation/{roles[0]}").read(Rollout),
        folder.stage(f"evaluation/{roles[1]}").read(Rollout),
        bench.config.evaluation,
        reading=bench.config.questions,
        train_domain=bench.train_domain,
        seed=bench.config.seed,
        options=_option_scores(bench, names, *roles),
        general=_general_samples(bench, names) if bench.inputs.general_questions and is_trained else None,
        pool=bench.pool,
        pool_rollouts=folder.stage("rollouts").read(Rollout) if "rollouts" in bench.inputs.made else (),
    )
    # In the order in which reports show the metrics.
    bench.folder.write_result(RESULTS, dump(results), is_ordered=True)
    make_teacher_gap(bench)
    if is_trained:
        write_text(bench.folder.path / MODEL_CARD, card_of(bench))
        bench.folder.seal(MODEL_CARD)


def make_teacher_gap(bench: Workbench) -> None:
    """How much better the preflight's teacher answered than the student, where the pool has gold answers."""
    items = bench.folder.stage("preflight").read(PreflightItem) if bench.is_current("preflight") else []
    config = bench.config
    gap = teacher_gap(bench.pool, items, config.evaluation, reading=config.questions, seed=config.seed)
    if gap is None:
        bench.folder.remove_result(TEACHER_GAP)
    else:
        bench.folder.write_result(TEACHER_GAP, dump(gap))


def make_gold_labels(bench: Workbench) -> None:
    """USES GOLD ANSWERS: the pool's, for the upper bound; no other recipe has this stage."""
    logger.warning("train: %s. The model is not label-free.", USES_GOLD)
    stage, inputs = bench.folder.stage(GOLD_LABELS), bench.inputs_of(GOLD_LABELS)
    with bench.stage_run(stage, inputs) as run:
        if run.is_needed:
            labels = gold_labels(bench.pool, bench.config.evaluation, bench.config.questions)
            add_only_shard(stage, inputs, labels, GoldLabel)
            stage.finish({"mark": USES_GOLD, "num_without": len(bench.pool) - len(labels)}, GoldLabel)


def make_test_contexts(bench: Workbench) -> None:
    """What the second model reads before each test question: the teacher's context, from the pool.

    The test question's own neurons are those of the base model's first sample of it.
    """
    stage, config, settings = (
        bench.folder.stage("evaluation/contexts"),
        bench.config,
        bench.context_settings(),
    )
    inputs, questions = bench.inputs_of("evaluation/contexts"), bench.test_questions
    with bench.stage_run(stage, inputs) as run:
        if run.is_needed:
            replies = demonstrating_replies(bench)
            neighbours = neighbours_in(bench, questions, replies, _all_overlap_sets(bench))
            contexts = build_contexts(
                [question.question_id for question in questions],
                neighbours,
                bench.shown_by_id | {question.question_id: question for question in questions},
                replies,
                bench.encoder(teacher=True),
                settings=settings,
                prompts=config.prompts,
            )
            add_only_shard(stage, inputs, contexts, TeacherContext)
            dropped = sum(context.num_demonstrations_dropped for context in contexts)
            templates = template_shares(bench, questions, contexts)
            stage.finish({"num_demonstrations_dropped": dropped, **templates}, TeacherContext)


def _all_overlap_sets(bench: Workbench) -> dict[str, NDArray[np.int32]]:
    """Overlap sets of the pool and of the test questions; none where no neuron is read."""
    if not reads_neurons(bench.config):
        return {}
    samples = bench.folder.stage("evaluation/base").read(Rollout)
    first = [rollout for rollout in samples if rollout.rollout_index == 0]
    own = capture_neurons(*bench.base_model(), first, bench.config.neurons)
    pool = bench.folder.stage("neurons").read(NeuronSets)
    return {item.question_id: item.overlap_set for item in [*pool, *own]}


def _general_samples(bench: Workbench, names: Container[str]) -> GeneralSamples:
    """Both models' samples of the general questions, and their KL on the base model's first sample of each."""
    base, trained = (bench.folder.stage(f"evaluation/general_{role}").read(Rollout) for role in ROLES)
    stage = bench.folder.stage("evaluation/general_kl")
    inputs = bench.inputs_of("evaluation/general_kl")
    with bench.stage_run(stage, inputs) as run:
        if run.is_needed:
            first = [rollout for rollout in base if rollout.rollout_index == 0]
            texts = [(rollout.prompt_ids, rollout.completion_ids) for rollout in first]
            kept = keep_states(bench.base_model()[0], texts)
            sums = kl_from_base(bench.model(str(bench.folder.model_folder)), texts, kept)
            records = [
                BaseDivergence(question_id=rollout.question_id, num_tokens=len(rollout.completion_ids), kl=kl)
                for rollout, kl in zip(first, sums, strict=True)
            ]
            add_only_shard(stage, inputs, records, BaseDivergence)
            stage.finish({}, BaseDivergence)
    options = _option_scores(bench, names, "general_base", "general_trained")
    return GeneralSamples(bench.inputs.general_questions, base, trained, stage.read(BaseDivergence), options)


def _option_scores(
    bench: Workbench, names: Container[str], first: str, second: str
) -> tuple[list[OptionScores], list[OptionScores]]:
    """Of what two models were asked; none where `names`, the stages of this run, has none."""
    stages = [f"evaluation/{asked}_options" for asked in (first, second)]
    one, other = (bench.folder.stage(name).read(OptionScores) if name in names else [] for name in stages)
    return one, other
