"""Stage: contexts -> the trained model: the student, pulled towards the teacher on its own samples."""

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedTokenizerBase, TrainerCallback

from neuron_opsd import processes
from neuron_opsd.memory.estimate import describe_training
from neuron_opsd.model.load import CausalLM, end_token_ids
from neuron_opsd.model.locate import config_json, hub_name
from neuron_opsd.model.template_defaults import with_defaults
from neuron_opsd.progress import track
from neuron_opsd.run.session import Run
from neuron_opsd.store.files import JsonDict, read_json_lines
from neuron_opsd.store.run_folder import MODEL_CARD
from neuron_opsd.store.stage_folder import StageFolder, describe_change
from neuron_opsd.training.opsd_trainer import OpsdTrainer
from neuron_opsd.training.progress import ProgressCallback, TrackingCallback
from neuron_opsd.training.prompts import TrainingPrompts
from neuron_opsd.training.publish import ENTROPY_PROMPTS, NUM_PROMPTS, REPLY_TOKENS, publish
from neuron_opsd.training.rivals.opsa import UnlikelyTokenTrainer
from neuron_opsd.training.rivals.train import train_rival
from neuron_opsd.training.schedule import num_steps
from neuron_opsd.training.step_times import PARTS
from neuron_opsd.training.token_budget import tokens_left
from neuron_opsd.training.train import Trained, train

logger = logging.getLogger(__name__)


def make_training(run: Run) -> None:
    """Train the student, and publish it in RUN/model."""
    stage, settings = run.folder.stage("training"), run.config.training
    inputs = run.ready_inputs("training")
    with run.stage_work(stage, inputs) as work:
        if not work.is_needed:
            return
        num_selected = len(run.records.training_ids())
        steps = num_steps(num_selected, settings)
        budget = tokens_left(settings.max_tokens, _num_tokens_before(run))
        if steps < settings.num_steps and budget is None:
            logger.info(
                "training: %d steps (%g epochs of %d selected questions), not training.num_steps=%d",
                steps, settings.max_epochs, num_selected, settings.num_steps,
            )  # fmt: skip
        if processes.is_main():
            _keep_previous_model(run, stage, inputs)
            stage.begin(inputs)
        processes.wait_for_all()
        with track("training", total=steps, unit="steps") as progress:
            callbacks: list[TrainerCallback] = [ProgressCallback(progress, tells_rest=budget is None)]
            if run.tracking and processes.is_main():
                callbacks.append(TrackingCallback(run.tracking))
            train_by = train_rival if settings.by_trl else _train
            trained, tokenizer = train_by(run, stage.path, steps, callbacks, token_budget=budget)
        if not processes.is_main():
            return
        published = _publish(
            run, trained.student, tokenizer, run.folder.model_folder, save=run.config.training.save
        )
        work.figures = {PARTS[part]: share for part, share in trained.shares.items()}
        rows = read_json_lines(stage.path / "metrics.jsonl")
        work.num_tokens = sum(row["num_completion_tokens"] for row in rows)
        stage.finish(
            {
                "num_steps": steps if budget is None else trained.summary["best_step"],
                "num_completion_tokens": work.num_tokens,
                "num_loss_tokens": sum(row["num_loss_tokens"] for row in rows),
                **trained.summary,
                "published": published,
            },
            files=[stage.path / "metrics.jsonl", *_model_files(run)],
        )


def _num_tokens_before(run: Run) -> int:
    """Tokens generated in the stages that training stands on."""
    sampled = [name for name in ("rollouts", "demonstrations") if name in run.inputs.made]
    return sum(run.folder.stage(name).summary()["num_completion_tokens"] for name in sampled)


def _keep_previous_model(run: Run, stage: StageFolder, inputs: JsonDict) -> None:
    """Put a whole model that was trained from other settings aside, rather than replace it."""
    manifest = stage.manifest()
    if manifest is None or not manifest["complete"] or stage.wrong_files():
        return
    model, previous = run.folder.model_folder, run.folder.path / "model.previous"
    shutil.rmtree(previous, ignore_errors=True)
    os.replace(model, previous)
    run.folder.remove_result(MODEL_CARD)
    logger.warning(
        "training: the model is trained again, because %s. The one before is kept in %s, until another takes its place",
        describe_change(manifest["inputs"], inputs), previous,
    )  # fmt: skip


def _train(
    run: Run,
    folder: Path,
    steps: int,
    callbacks: Sequence[TrainerCallback],
    *,
    token_budget: int | None,
) -> tuple[Trained, PreTrainedTokenizerBase]:
    settings, prompts = run.config.training, TrainingPrompts(run)
    items = prompts.items(steps * settings.completions_per_step())
    if processes.is_main():
        num_questions = len(run.records.training_ids())
        logger.info("training: %s", describe_training(run.config, *prompts.longest(), num_questions))
    is_taught = settings.is_distillation
    is_by_group = is_taught and run.config.contexts.retrieval == "own_group"
    model, tokenizer = run.models.take_base()
    trained = train(
        model,
        run.models.engine_of_student,
        items,
        settings,
        folder=folder,
        num_steps=steps,
        seed=run.config.seed,
        entropy_at=_entropy_at(run),
        trainer_type=OpsdTrainer if is_taught else UnlikelyTokenTrainer,
        token_budget=token_budget,
        read_answer=prompts.read_answer,
        pseudo_labels=prompts.pseudo_labels() if settings.reads_pseudo_labels else None,
        group_prompt=prompts.group_prompt if is_by_group else None,
        end_ids=sorted(end_token_ids(model, tokenizer)),
        callbacks=callbacks,
        on_first_batch=prompts.log_first,
    )
    return trained, tokenizer


def _publish(
    run: Run, student: CausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path, *, save: str
) -> dict[str, Any]:
    """Save the student in a folder, and return how."""
    limit = run.models.max_context()
    room = None if limit is None else limit - REPLY_TOKENS
    settings = run.config.training
    is_matched = settings.student_entropy == "matched"
    count = ENTROPY_PROMPTS if is_matched else NUM_PROMPTS
    num_held_out, prompts = TrainingPrompts(run).held_out(count, max_tokens=room)
    return publish(
        student,
        with_defaults(tokenizer, run.config.model.template_args),
        folder,
        save=save,
        base_config=run.models.base_config(),
        base_name=hub_name(run.config.model.name),
        base_json=config_json(run.config.model.name),
        prompts=prompts,
        num_held_out=num_held_out,
        max_new_tokens=settings.max_new_tokens,
        entropy_at=_entropy_at(run) if is_matched else None,
    )


def _entropy_at(run: Run) -> float:
    """The temperature at which models are compared in how sure they are. Greedy answers have no entropy: then 1."""
    return run.config.rollouts.temperature or 1.0


def publish_merged(run: Run, folder: Path) -> None:
    """Save a whole model in a folder, of a run that published an adapter alone."""
    base, tokenizer = run.models.base()
    student = PeftModel.from_pretrained(base, str(run.folder.model_folder))
    _publish(run, student, tokenizer, folder, save="merged")
    run.models.release()  # merging changed the base


def _model_files(run: Run) -> list[Path]:
    """The published model's files. The card is left out, because evaluation writes it again."""
    files = run.folder.model_folder.rglob("*")
    return sorted(path for path in files if path.is_file() and path != run.folder.path / MODEL_CARD)
