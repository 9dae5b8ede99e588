"""A rival's training stage: what it learns from, its figures, the model it leaves."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, TrainerCallback, set_seed

from neuron_opsd import processes
from neuron_opsd.config import USES_GOLD, TrainingSettings
from neuron_opsd.config.graph import GOLD_LABELS
from neuron_opsd.errors import DataError, TrainingError
from neuron_opsd.model.finite import all_finite
from neuron_opsd.model.load import CausalLM, end_token_ids
from neuron_opsd.model.trainable import trainable
from neuron_opsd.records import GoldLabel, Rollout
from neuron_opsd.rollouts.pseudo_label import agreeing_rollouts
from neuron_opsd.run.session import Run
from neuron_opsd.text.prompts import Message, student_messages
from neuron_opsd.training.figures import MetricsFile
from neuron_opsd.training.items import TrainingItem
from neuron_opsd.training.prompts import TrainingPrompts
from neuron_opsd.training.rivals.rewards import MajorityReward, Reward, SelfCertaintyReward
from neuron_opsd.training.rivals.trl_trainers import fine_tune, reinforce
from neuron_opsd.training.rivals.verified import verified_rollouts
from neuron_opsd.training.schedule import question_order
from neuron_opsd.training.token_budget import TokenBudget
from neuron_opsd.training.train import Trained

logger = logging.getLogger(__name__)


def train_rival(
    run: Run,
    folder: Path,
    num_steps: int,
    callbacks: Sequence[TrainerCallback] = (),
    *,
    token_budget: int | None = None,
) -> tuple[Trained, PreTrainedTokenizerBase]:
    """Train by `training.objective`, from the beginning. metrics.jsonl has a row for each step.

    Raises:
        DataError: nothing to learn from, or a question that TRL would encode otherwise than we do.
    """
    config = run.config
    metrics = MetricsFile(folder / "metrics.jsonl", checkpoint=None, is_writer=processes.is_main())
    budget = TokenBudget(metrics.rows, token_budget)
    set_seed(config.seed)
    verified = _verified(run)  # by the frozen model
    model, tokenizer = run.models.take_base()
    student = trainable(model, config.training, seed=config.seed)
    how: dict[str, Any] = {"folder": folder / "trl", "num_steps": num_steps, "seed": config.seed}
    if config.training.fine_tunes:
        rollouts = run.folder.stage("rollouts").read(Rollout)
        texts = texts_to_learn(rollouts, config.training, gold=_gold_labels(run), verified=verified)
        tokens = sum(len(completion) for _, completion in texts) / len(texts)
        rows = _LossRows(metrics, tokens_a_step=round(tokens * config.training.batch_size))
        fine_tune(student, tokenizer, texts, config.training, callbacks=[rows, budget, *callbacks], **how)
    else:
        prompts = prompts_in_order(run, num_steps)
        reward = make_reward(run, student, prompts, metrics)
        reinforce(
            student, tokenizer, prompts, reward, config.training,
            template_args=config.model.template_args, callbacks=[budget, *callbacks], **how,
        )  # fmt: skip
    summary = {"stopped_because": None, "stop_step": None, "best_step": budget.last_step(num_steps)}
    summary |= {"limits": {}}
    summary |= {"mark": USES_GOLD} if config.training.uses_gold else {}
    return Trained(student, summary), tokenizer


def _gold_labels(run: Run) -> dict[str, str] | None:
    """USES GOLD ANSWERS: those that evaluation wrote for the upper bound. None for every other recipe."""
    if not run.config.training.uses_gold:
        return None
    return {label.question_id: label.answer for label in run.folder.stage(GOLD_LABELS).read(GoldLabel)}


def _verified(run: Run) -> list[Rollout] | None:
    """The rollouts whose answers the frozen model calls right. None where it is not asked."""
    config = run.config
    if not config.training.verifies:
        return None
    return verified_rollouts(
        run.folder.stage("rollouts").read(Rollout),
        run.records.pool_by_id,
        run.models.base()[0],
        run.models.encoder(),
        prompts=config.prompts,
        min_truth=config.training.min_truth,
        batch_size=config.rollouts.batch_size,
    )


def texts_to_learn(
    rollouts: Sequence[Rollout],
    settings: TrainingSettings,
    *,
    gold: Mapping[str, str] | None = None,
    verified: Sequence[Rollout] | None = None,
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(prompt ids, completion ids) of the rollouts that fine-tuning learns from.

    LMSI: every rollout that gives its question's majority answer. A question in which nothing can be read has none.
    With `gold`, the answer wanted is the question's label there, and a question without one teaches nothing. With
    `verified`, those are learnt. SSD: every rollout. With `truncated: mask`, a rollout that was cut is left out: its
    end is not the model's.

    Raises:
        DataError: no rollout is left.
    """
    wanted, what = rollouts, "were sampled"
    if verified is not None:
        wanted, what = verified, f"have an answer of P(True) {settings.min_truth:g} or more"
    elif not settings.learns_everything:
        wanted = [rollout for group in agreeing_rollouts(rollouts, gold).values() for rollout in group]
        what = f"give their question's {'majority' if gold is None else 'gold'} answer"
    kept = [
        (rollout.prompt_ids, rollout.completion_ids)
        for rollout in wanted
        if rollout.completion_ids and not (settings.truncated == "mask" and rollout.finish_reason == "length")
    ]
    if not kept:
        raise DataError(
            f"There is nothing to learn from: of {len(rollouts)} rollouts {len(wanted)} {what}, and none of those may "
            f"be learnt from (training.truncated={settings.truncated}). "
            + ("Lower training.min_truth, raise " if settings.verifies else "Raise ")
            + "rollouts.max_new_tokens, choose another prompts.answer_format, or set training.truncated=keep."
        )
    logger.info("training: learns from %d of %d rollouts. %d %s", len(kept), len(rollouts), len(wanted), what)
    return kept


def prompts_in_order(run: Run, num_steps: int) -> list[dict[str, Any]]:
    """The prompts of every step in order, both as messages, for TRL, and as the ids that we would read.

    Raises:
        DataError: TRL's encoding of a prompt is another one. Ours takes a special token's spelling as text.
    """
    config, questions, training_prompts = run.config, run.records.pool_by_id, TrainingPrompts(run)
    encoded: dict[tuple[str, tuple[int, ...]], list[int]] = {}  # a budget of tokens may need many passes
    order = question_order(
        run.records.training_ids(), num_steps * config.training.batch_size, seed=config.seed
    )
    rows = []
    for group, question_id in enumerate(order):
        choices = training_prompts.choices(question_id, group)
        messages = student_messages(
            questions[question_id],
            choice_order=choices,
            answer_format=config.prompts.answer_format,
            system=config.prompts.system,
        )
        if (question_id, choices) not in encoded:
            encoded[question_id, choices] = _encode_as_trl(run, question_id, messages)
        ids = encoded[question_id, choices]
        rows.append({"prompt": messages, "prompt_ids": ids, "group": group, "question_id": question_id})
    return rows


def _encode_as_trl(run: Run, question_id: str, messages: list[Message]) -> list[int]:
    """The ids of a prompt.

    Raises:
        DataError: TRL's encoding of it is another one.
    """
    ids = run.models.encoder().encode(messages)
    theirs: Any = run.models.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=True, **run.config.model.template_args
    )
    if list(theirs["input_ids"]) != ids:
        raise DataError(
            f"Question {question_id}: TRL would encode its prompt otherwise than the other recipes do, probably "
            "because its text spells a special token. Remove the question."
        )
    return ids


def make_reward(
    run: Run, student: CausalLM, prompts: Sequence[dict[str, Any]], metrics: MetricsFile
) -> Reward:
    """The reward of `training.objective`."""
    settings, training_prompts = run.config.training, TrainingPrompts(run)
    end_ids = end_token_ids(student, run.models.tokenizer)

    def read_answer(group: int, completion_ids: Sequence[int]) -> str | None:
        item = TrainingItem(
            prompts[group]["question_id"],
            (),
            (),
            0,
            tuple(completion_ids),
            finish_reason="length" if end_ids.isdisjoint(completion_ids) else "stop",
            place=group * settings.num_rollouts,
        )
        return training_prompts.read_answer(item)

    given: dict[str, Any] = {"num_rollouts": settings.num_rollouts, "on_row": metrics.append}
    if settings.truncated == "mask":  # by TRL's own rule
        config = student.generation_config
        ends = config.eos_token_id if config else None
        given["end_ids"] = [
            *(ends if isinstance(ends, list) else [ends]),
            run.models.tokenizer.eos_token_id,
            run.models.tokenizer.pad_token_id,
        ]
    if settings.objective == "self_certainty":
        sizes = {"chunk_tokens": settings.loss_chunk_tokens, "micro_batch_size": settings.micro_batch_size}
        return SelfCertaintyReward(read_answer, model=student, **sizes, **given)
    return MajorityReward(read_answer, **given)


class _LossRows(TrainerCallback):
    """A row for each step of fine-tuning."""

    def __init__(self, metrics: MetricsFile, *, tokens_a_step: int) -> None:
        self.metrics, self.tokens_a_step = metrics, tokens_a_step

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        if logs and "loss" in logs:
            row = {name: logs[name] for name in ("loss", "grad_norm", "learning_rate") if name in logs}
            if not all_finite(row.values()):
                raise TrainingError(
                    f"Training stopped at step {state.global_step}: loss and gradient norm are {row}. Lower "
                    "training.learning_rate, or set model.dtype=bfloat16 or float32."
                )
            tokens = {"num_completion_tokens": 0, "num_loss_tokens": self.tokens_a_step}
            self.metrics.append({"step": state.global_step, **row, **tokens})
