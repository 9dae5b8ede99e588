"""Stage: selected questions -> `TeacherContext`: their nearest questions, each with the model's own reply."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from neuron_opsd.contexts.build import build_contexts
from neuron_opsd.contexts.neighbours import Neighbours, by_own_domain, find_neighbours
from neuron_opsd.contexts.replies import demonstrating_replies
from neuron_opsd.contexts.templates import template_shares
from neuron_opsd.errors import DataError
from neuron_opsd.records import NeuronSets, Question, TeacherContext
from neuron_opsd.rollouts.stage import ZeroShotStage
from neuron_opsd.run.session import Run
from neuron_opsd.run.shards import make_sharded
from neuron_opsd.store.files import JsonDict

logger = logging.getLogger(__name__)


def make_contexts(run: Run) -> None:
    """A context for each selected question."""
    make_other_replies(run)

    def make() -> tuple[list[TeacherContext], JsonDict]:
        kept = [run.records.pool_by_id[question_id] for question_id in run.records.kept_ids()]
        has_neurons = "neurons" in run.inputs.made
        sets = run.folder.stage("neurons").read(NeuronSets) if has_neurons else []
        contexts, summary = contexts_of(run, kept, {item.question_id: item.overlap_set for item in sets})
        if not contexts:
            raise DataError(
                f"None of {len(kept)} questions has a reply to show the teacher. Raise rollouts.max_new_tokens, or "
                "choose another prompts.answer_format."
            )
        return contexts, summary

    run.make_stage("contexts", TeacherContext, make)


def make_other_replies(run: Run) -> None:
    """The frozen model's replies to the questions of another domain, where these are to demonstrate."""
    if run.inputs.other_questions:
        make_sharded(ZeroShotStage(run, "demonstrations"))


def contexts_of(
    run: Run, queries: Sequence[Question], overlap_sets: Mapping[str, NDArray[Any]]
) -> tuple[list[TeacherContext], JsonDict]:
    """What the teacher reads before each question, and the stage's summary.

    The questions may be of the pool or not. One to which nothing can be shown has no context.
    """
    settings, replies = run.inputs.context_settings, demonstrating_replies(run)
    others = run.inputs.other_questions
    neighbours: Neighbours = {}
    for asked, candidates in [(queries, others)] if others else by_own_domain(queries, run.records.pool):
        neighbours |= find_neighbours(
            asked,
            candidates,
            {question_id: rollout.reply for question_id, rollout in replies.items()},
            settings,
            overlap_sets=overlap_sets,
            base_model=run.models.base,
            seed=run.config.seed,
        )
    contexts = build_contexts(
        [question.question_id for question in queries if question.question_id in neighbours],
        neighbours,
        run.records.shown_by_id | {question.question_id: question for question in queries},
        replies,
        run.models.encoder(teacher=True),
        settings=settings,
        prompts=run.config.prompts,
    )
    dropped = sum(context.num_demonstrations_dropped for context in contexts)
    if dropped:
        logger.warning(
            "contexts: %d demonstrations dropped, farthest first, to fit %d prompt tokens",
            dropped, settings.max_prompt_tokens,
        )  # fmt: skip
    return contexts, {"num_demonstrations_dropped": dropped, **template_shares(run, queries, contexts)}
