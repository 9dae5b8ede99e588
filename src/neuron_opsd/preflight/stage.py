"""Stage: contexts -> `PreflightItem` and the verdict: whether the teacher is worth learning from."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from neuron_opsd.contexts.orders import TeacherOrders
from neuron_opsd.contexts.prompts import both_messages
from neuron_opsd.contexts.templates import same_template_share
from neuron_opsd.engines.base import Sampling
from neuron_opsd.errors import UnlikelyToHelpError
from neuron_opsd.model.load import CausalLM
from neuron_opsd.model.option_scores import Ids, ReadPrompts
from neuron_opsd.neurons.overlap import nearest_neighbours
from neuron_opsd.preflight.position_free import (
    LikeliestLetters,
    letter_prompts,
    likeliest_letters,
    reads_letters,
)
from neuron_opsd.preflight.positions import position_bias
from neuron_opsd.preflight.probe import PromptPair, answer_prompts, make_item, sample_ids, score_under_both
from neuron_opsd.preflight.verdict import UNLIKELY, judge
from neuron_opsd.progress import track
from neuron_opsd.questions.duplicates import template_key
from neuron_opsd.random_state import derive_seed
from neuron_opsd.records import NeuronSets, PreflightItem, TeacherContext
from neuron_opsd.results import PreflightVerdict, dump, load
from neuron_opsd.rollouts.sample import choice_orders
from neuron_opsd.run.inputs import preflight_sampling
from neuron_opsd.run.session import Run
from neuron_opsd.statistics import pearson
from neuron_opsd.store.run_folder import TEACHER_GAP

logger = logging.getLogger(__name__)

PREFLIGHT_SHARD = 8  # questions a file: what a kill can lose
DIVERSITY_SAMPLE = 200  # questions whose pairwise distances the preflight averages


def make_preflight(run: Run) -> None:
    """Whether the teacher is worth learning from, told by a sample of the selected questions and no label."""
    stage, config = run.folder.stage("preflight"), run.config
    if not config.preflight.num_questions:
        logger.info("preflight: skipped, because preflight.num_questions is 0")
        return
    sampling, inputs = preflight_sampling(config), run.ready_inputs("preflight")
    with run.stage_work(stage, inputs, outdates=[TEACHER_GAP]) as work:
        if work.is_needed:
            pairs, step = prompt_pairs(run), PREFLIGHT_SHARD * config.preflight.num_samples
            shards = [pairs[start : start + step] for start in range(0, len(pairs), step)]
            missing = stage.begin(inputs, len(shards))
            done = len(pairs) - sum(len(shards[index]) for index in missing)
            with track("preflight", total=len(pairs), unit="samples", done=done) as progress:
                for index in missing:
                    items, num_tokens = _look_ahead(run, shards[index], sampling)
                    stage.add_shard(items, PreflightItem, index)
                    progress.advance(len(shards[index]), tokens=num_tokens)
            work.num_tokens = progress.num_tokens
            thinks = run.models.encoder().thinks(system=config.prompts.system)
            verdict = judge(
                stage.read(PreflightItem),
                thinks=thinks,
                averages_orders=config.training.teacher_orders > 1,
                matches_entropy=config.training.teacher_entropy == "matched",
                **_pool_figures(run),
                seed=config.seed,
            )
            run.folder.write_json("preflight/verdict.json", dump(verdict))
            stage.finish(dump(verdict), PreflightItem, files=[stage.path / "verdict.json"])
    verdict = load(PreflightVerdict, stage.summary())
    logger.info("preflight: %s, because %s", verdict.verdict, "; ".join(verdict.reasons))


def prompt_pairs(run: Run) -> list[PromptPair]:
    """Both prompts of each sample of the questions that the preflight looks at, question by question."""
    settings, seed = run.config.preflight, run.config.seed
    encoder, teacher_encoder = run.models.encoder(), run.models.encoder(teacher=True)
    teacher_orders = TeacherOrders(run)
    pairs: list[PromptPair] = []
    for question_id in sample_ids(run.records.training_ids(), settings.num_questions, seed=seed):
        orders = choice_orders(
            run.records.pool_by_id[question_id],
            settings.num_samples,
            shuffle=run.config.rollouts.shuffle_choices,
            seed=seed,
            stage="preflight",
        )
        for index, order in enumerate(orders):
            turned = teacher_orders.turned(question_id, order)
            turn = turned[index % len(turned)]
            other = tuple(order[place] for place in turn.choice_order)
            student, teacher = (
                both_messages(run, question_id, order)[0],
                both_messages(run, question_id, other)[1],
            )
            pairs.append(
                PromptPair(
                    question_id=question_id,
                    choice_order=order,
                    student_ids=tuple(encoder.encode(student)),
                    teacher_ids=tuple(teacher_encoder.encode(teacher)),
                    seed=derive_seed(seed, "preflight", question_id, index),
                    teacher_order=other,
                    views=teacher_orders.views(question_id, order),
                )
            )
    return pairs


def stop_where_unlikely(run: Run) -> None:
    """Stop a run whose preflight is against it.

    Raises:
        UnlikelyToHelpError: the verdict, its reasons and what can be done.
    """
    verdict = load(PreflightVerdict, run.folder.stage("preflight").summary())
    if verdict.verdict == UNLIKELY:
        raise UnlikelyToHelpError(
            f"stopped before training: {UNLIKELY}, because {'; '.join(verdict.reasons)}. Everything so far is kept "
            f"in {run.folder.path}. Run the same command without --stop-if-unlikely to train all the same."
        )


def _look_ahead(run: Run, pairs: list[PromptPair], sampling: Sampling) -> tuple[list[PreflightItem], int]:
    """Both roles' answers to some questions, the student's first scored under both prompts, and the tokens sampled."""
    config, step = run.config, run.config.preflight.num_samples
    known: dict[Ids, Tensor] = {}  # prompts that are read to be answered, and their last states

    def on_read(model: CausalLM, read: ReadPrompts) -> None:
        known.update(zip(read.prompts, read.last_states.cpu(), strict=True))

    engine = run.models.engine(config.model.name, batch_size=config.rollouts.batch_size, on_read=on_read)
    seeds = [pair.seed for pair in pairs]
    student = answer_prompts([pair.student_ids for pair in pairs], seeds, engine, sampling)
    teacher = answer_prompts([pair.teacher_ids for pair in pairs], seeds, engine, sampling)
    scores = score_under_both(
        run.models.base()[0],
        pairs[::step],
        [completion.token_ids for completion in student[::step]],
        chunk_tokens=config.training.loss_chunk_tokens,
    )
    items, encoders = [], (run.models.encoder(), run.models.encoder(teacher=True))
    letters = _letters(run, pairs[::step], known)
    for start, sums in zip(range(0, len(pairs), step), scores, strict=True):
        own = slice(start, start + step)
        question = run.records.pool_by_id[pairs[start].question_id]
        item = make_item(
            question, pairs[own], student[own], teacher[own], sums, encoders, prompts=config.prompts
        )
        if found := letters.get(question.question_id):
            item = replace(
                item,
                averaged_letter=found.averaged, student_letter=found.student, teacher_letter=found.teacher,
            )  # fmt: skip
        items.append(item)
    return items, sum(len(completion.token_ids) for completion in (*student, *teacher))


def _letters(
    run: Run, pairs: Sequence[PromptPair], known: Mapping[Ids, Tensor]
) -> dict[str, LikeliestLetters]:
    """What is likeliest to be answered to each of these questions that is answered by a letter alone."""
    config, encoder = run.config, run.models.encoder()
    asked = {
        pair.question_id: letter_prompts(run, pair.question_id, pair.choice_order)
        for pair in pairs
        if reads_letters(run.records.pool_by_id[pair.question_id], encoder, config.prompts)
    }
    found = likeliest_letters(
        run.models.base()[0],
        list(asked.values()),
        encoder,
        batch_size=config.rollouts.batch_size,
        known=known,
    )
    return dict(zip(asked, found, strict=True))


def _pool_figures(run: Run) -> dict[str, Any]:
    """What the stages before already know of the pool, for the preflight."""
    sets = run.folder.stage("neurons").read(NeuronSets)
    some = sorted(sets, key=lambda item: derive_seed(run.config.seed, "diversity", item.question_id))
    some = [item.overlap_set for item in some[:DIVERSITY_SAMPLE]]
    contexts = run.folder.stage("contexts").read(TeacherContext)
    keys = {i: template_key(question.question) for i, question in run.records.shown_by_id.items()}
    return {
        "pool_diversity": float(nearest_neighbours(some, len(some) - 1)[1].mean()) if len(some) > 1 else None,
        "position_bias": position_bias(run.records.complete_rollouts(), seed=run.config.seed),
        "same_template": same_template_share(contexts, keys),
        "length_correlation": pearson(
            np.array([float(item.consensus_score) for item in sets]),
            np.array([float(item.num_completion_tokens) for item in sets]),
        ),
    }
