"""The stages in order: the method in one file. Read it after records.py.

    questions -> rollouts -> neurons -> select -> contexts -> preflight -> train -> evaluate -> report

Each `make_*` function runs one stage on a run folder: it reads the records of earlier stages, calls the stage's pure
functions, and saves. A stage that is finished and was made from the same inputs is skipped; an interrupted one resumes.
Until `make_evaluation` no gold answer is opened. The upper bound `gold_sft` is the one exception: it is trained on the
pool's answers (`make_gold_labels`), and marked so wherever it is shown.
"""

import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase, TrainerCallback

from neuron_opsd import processes
from neuron_opsd.baselines.opsa import UnlikelyTokenTrainer
from neuron_opsd.baselines.train import train_rival
from neuron_opsd.config.graph import stages_of
from neuron_opsd.config.training import BY_TRL
from neuron_opsd.contexts.build import build_contexts
from neuron_opsd.demonstrations import (
    demonstrating_replies,
    make_other_replies,
    neighbours_in,
    template_shares,
)
from neuron_opsd.errors import DataError
from neuron_opsd.evaluation_stage import make_evaluation, make_gold_labels
from neuron_opsd.memory.estimate import describe_training
from neuron_opsd.model.locate import hub_name
from neuron_opsd.model.template_defaults import with_defaults
from neuron_opsd.preflight_stage import make_preflight, stop_where_unlikely
from neuron_opsd.progress import track
from neuron_opsd.records import NeuronSets, Question, Rollout, SelectedQuestion, TeacherContext
from neuron_opsd.report_stage import card_of, make_report
from neuron_opsd.rollouts.pseudo_label import vote
from neuron_opsd.run.session import Workbench
from neuron_opsd.run.shards import make_sharded, make_share
from neuron_opsd.selection.select import (
    count_unusable,
    select_questions,
    unread_ids,
    warn_of_unusable,
)
from neuron_opsd.sharded_stages import NeuronStage, SampledStage, evaluation_stages
from neuron_opsd.store.files import JsonDict, read_json_lines
from neuron_opsd.store.run_folder import MODEL_CARD
from neuron_opsd.store.stage_folder import StageFolder, add_only_shard, describe_change
from neuron_opsd.training.opsd_trainer import OpsdTrainer
from neuron_opsd.training.publish import NUM_PROMPTS, REPLY_TOKENS, publish
from neuron_opsd.training.schedule import num_steps
from neuron_opsd.training.token_budget import tokens_left
from neuron_opsd.training.train import Trained, train

logger = logging.getLogger(__name__)


def make_questions(bench: Workbench) -> None:
    """Unlabelled questions: read, stripped of answers, de-duplicated, split."""
    stage = bench.folder.stage("questions")
    questions, inputs = bench.inputs.questions, bench.inputs_of("questions")
    with bench.stage_run(stage, inputs) as run:
        if run.is_needed:
            add_only_shard(stage, inputs, questions, Question)
            pool = sum(question.split == "train" for question in questions)
            stage.finish({"num_train": pool, "num_test": len(questions) - pool}, Question)
    logger.info("questions: %d in the pool of domain %s", len(bench.pool), bench.train_domain)


def make_rollouts(bench: Workbench) -> None:
    """Zero-shot answers of the frozen model to every question of the pool."""
    make_sharded(SampledStage(bench, "rollouts"))


def make_neurons(bench: Workbench) -> None:
    """The neurons behind each question's first rollout."""
    make_sharded(NeuronStage(bench, "neurons"))


def make_selection(bench: Workbench) -> None:
    """The fifth of each domain with the fewest neurons."""
    stage, settings = bench.folder.stage("selection"), bench.config.selection
    inputs = bench.inputs_of("selection")
    with bench.stage_run(stage, inputs) as run:
        if run.is_needed:
            votes = vote(bench.folder.stage("rollouts").iterate(Rollout))
            unusable = bench.unusable_ids()
            sets = bench.folder.stage("neurons").read(NeuronSets)
            mean_log_probs = {key: first.mean_log_prob for key, first in bench.first_rollouts().items()}
            left_out = unusable if settings.usable_only else frozenset()
            records = select_questions(
                bench.pool,
                sets,
                votes,
                settings,
                seed=bench.config.seed,
                mean_log_probs=mean_log_probs,
                left_out=left_out,
            )
            add_only_shard(stage, inputs, records, SelectedQuestion)
            stage.finish(count_unusable(records, unusable, unread_ids(sets)), SelectedQuestion)
    warn_of_unusable(stage.summary())  # also of a stage that was finished before or taken from the cache


def make_contexts(bench: Workbench) -> None:
    """For each selected question, its neuron-nearest questions with the model's own replies."""
    stage, config, settings = bench.folder.stage("contexts"), bench.config, bench.context_settings()
    make_other_replies(bench)
    inputs = bench.inputs_of("contexts")
    with bench.stage_run(stage, inputs) as run:
        if not run.is_needed:
            return
        kept = [bench.questions_by_id[question_id] for question_id in bench.kept_ids()]
        replies = demonstrating_replies(bench)
        neighbours = neighbours_in(bench, kept, replies, _overlap_sets(bench))
        if not neighbours:
            raise DataError(
                f"None of {len(kept)} questions has a reply to show the teacher. Raise rollouts.max_new_tokens, or "
                "choose another prompts.answer_format."
            )
        contexts = build_contexts(
            [question.question_id for question in kept if question.question_id in neighbours],
            neighbours,
            bench.shown_by_id,
            replies,
            bench.encoder(teacher=True),
            settings=settings,
            prompts=config.prompts,
        )
        dropped = sum(context.num_demonstrations_dropped for context in contexts)
        if dropped:
            logger.warning(
                "contexts: %d demonstrations dropped, farthest first, to fit %d prompt tokens",
                dropped, settings.max_prompt_tokens,
            )  # fmt: skip
        add_only_shard(stage, inputs, contexts, TeacherContext)
        templates = template_shares(bench, kept, contexts)
        stage.finish({"num_demonstrations_dropped": dropped, **templates}, TeacherContext)


def _overlap_sets(bench: Workbench) -> dict[str, NDArray]:
    if "neurons" not in bench.inputs.made:
        return {}
    return {item.question_id: item.overlap_set for item in bench.folder.stage("neurons").read(NeuronSets)}


def make_trained_model(bench: Workbench) -> None:
    """The student, pulled towards the teacher on its own samples; published in RUN/model."""
    stage, config = bench.folder.stage("training"), bench.config
    if config.training.objective == "none":
        logger.info("train: nothing to do, because training.objective is none")
        return
    if config.training.uses_gold():
        make_gold_labels(bench)
    inputs = bench.inputs_of("training")
    with bench.stage_run(stage, inputs) as run:
        if not run.is_needed:
            return
        num_selected = len(bench.training_ids())
        steps = num_steps(num_selected, config.training)
        budget = tokens_left(config.training.max_tokens, _num_tokens_before(bench))
        if steps < config.training.num_steps and budget is None:
            logger.info(
                "train: %d steps (%g epochs of %d selected questions), not training.num_steps=%d",
                steps, config.training.max_epochs, num_selected, config.training.num_steps,
            )  # fmt: skip
        if processes.is_main():
            _keep_previous_model(bench, stage, inputs)
            stage.begin(inputs)
        processes.wait_for_all()
        with track("train", total=steps, unit="steps") as progress:
            callbacks = [bench.progress_callback(progress, tells_rest=budget is None)]
            train_by = train_rival if config.training.objective in BY_TRL else _train
            trained, tokenizer = train_by(bench, stage.path, steps, callbacks, token_budget=budget)
        if not processes.is_main():
            return
        limit = bench.max_context()
        room = None if limit is None else limit - REPLY_TOKENS
        held_out, prompts = bench.held_out_prompts(NUM_PROMPTS, max_tokens=room)
        published = publish(
            trained.student,
            with_defaults(tokenizer, config.model.template_args),
            bench.folder.model_folder,
            save=config.training.save,
            base_config=bench.model_config(),
            base_name=hub_name(config.model.name),
            prompts=prompts,
            num_held_out=held_out,
            model_card=lambda published: card_of(bench, {**trained.summary, "published": published}),
        )
        bench.folder.seal(MODEL_CARD)
        rows = read_json_lines(stage.path / "metrics.jsonl")
        run.num_tokens = sum(row["num_completion_tokens"] for row in rows)
        stage.finish(
            {
                "num_steps": steps if budget is None else trained.summary["best_step"],
                "num_completion_tokens": run.num_tokens,
                "num_loss_tokens": sum(row["num_loss_tokens"] for row in rows),
                **trained.summary,
                "published": published,
            },
            files=[stage.path / "metrics.jsonl", *_model_files(bench)],
        )


def _keep_previous_model(bench: Workbench, stage: StageFolder, inputs: JsonDict) -> None:
    """Put a whole model that was trained from other settings aside, rather than replace it."""
    manifest = stage.manifest()
    if manifest is None or not manifest["complete"] or stage.wrong_files():
        return
    model, previous = bench.folder.model_folder, bench.folder.path / "model.previous"
    shutil.rmtree(previous, ignore_errors=True)
    os.replace(model, previous)
    bench.folder.remove_result(MODEL_CARD)
    logger.warning(
        "train: the model is trained again, because %s. The one before is kept in %s, until another takes its place",
        describe_change(manifest["inputs"], inputs), previous,
    )  # fmt: skip


def _num_tokens_before(bench: Workbench) -> int:
    """Tokens generated in the stages that training stands on."""
    sampled = [name for name in ("rollouts", "demonstrations") if name in bench.inputs.made]
    return sum(bench.folder.stage(name).summary()["num_completion_tokens"] for name in sampled)


def _train(
    bench: Workbench,
    folder: Path,
    steps: int,
    callbacks: Sequence[TrainerCallback],
    *,
    token_budget: int | None,
) -> tuple[Trained, PreTrainedTokenizerBase]:
    settings = bench.config.training
    items = bench.training_items(steps * settings.completions_per_step())
    if processes.is_main():
        logger.info("train: %s", describe_training(bench.config, *bench.longest_prompts()))
    is_taught = settings.objective == "distillation"
    is_by_group = is_taught and bench.config.contexts.retrieval == "own_group"
    model, tokenizer = bench.take_base_model()
    trained = train(
        model,
        bench.make_engine,
        items,
        settings,
        folder=folder,
        num_steps=steps,
        seed=bench.config.seed,
        trainer_type=OpsdTrainer if is_taught else UnlikelyTokenTrainer,
        token_budget=token_budget,
        read_answer=bench.read_answer,
        group_prompt=bench.group_prompt if is_by_group else None,
        callbacks=callbacks,
        on_first_batch=bench.log_first_item,
    )
    return trained, tokenizer


def _model_files(bench: Workbench) -> list[Path]:
    """The published model, save the card, which evaluation writes again."""
    files = (bench.folder.model_folder).rglob("*")
    return sorted(path for path in files if path.is_file() and path.name != "README.md")


STAGES: dict[str, Callable[[Workbench], None]] = {
    "questions": make_questions,
    "rollouts": make_rollouts,
    "neurons": make_neurons,
    "select": make_selection,
    "contexts": make_contexts,
    "preflight": make_preflight,
    "train": make_trained_model,
    "evaluate": make_evaluation,
    "report": make_report,
}


def run_stages(bench: Workbench, *, until: str = "report", stop_if_unlikely: bool = False) -> None:
    """Run every stage in order, up to and including `until`.

    Raises:
        UnlikelyToHelpError: the preflight says so, and `stop_if_unlikely` asks to stop then.
    """
    for name, make in STAGES.items():
        if name in stages_of(bench.config):
            make(bench)
        if name == "preflight" and name in stages_of(bench.config) and stop_if_unlikely:
            stop_where_unlikely(bench)
        if name == until:
            return


def make_shares(bench: Workbench, name: str, part: int, num_parts: int) -> None:
    """One array task's share of rollouts, neurons or evaluation, for the command without --shards to gather."""
    kinds = {"rollouts": SampledStage, "neurons": NeuronStage}
    works = [kinds[name](bench, name)] if name in kinds else evaluation_stages(bench)
    for work in works:
        if work.is_ready():
            make_share(work, part, num_parts)
        else:
            logger.info(
                "%s: not yet. It needs the records that this command gathers without --shards", work.name
            )
