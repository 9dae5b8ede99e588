"""On-policy distillation on `transformers.Trainer` (method, section 6).

Each optimiser step: the student samples completions of each question (bare prompt). The same token ids are scored by
the student, and without gradient by the teacher (same network, teacher weights, context + question). The divergence is
summed over the tokens that carry loss and divided by their number in the whole step, over all micro-batches and
processes.

Sampling happens in `get_batch_samples`, which receives the whole optimiser step, so accumulation is exact: 1 x 8 is
8 x 1. Completions of one token are drawn later (`one_token.py`). Accelerate, trackers, schedules and checkpoints are
the Trainer's own. `checkpoints.py` makes those whole.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from neuron_opsd.config import TrainingSettings
from neuron_opsd.engines.base import Engine
from neuron_opsd.model.align import pad_right, predicting_states
from neuron_opsd.model.finite import not_finite
from neuron_opsd.model.load import CausalLM
from neuron_opsd.model.order_average import ViewStates
from neuron_opsd.model.shared_prompt import has_dropout, states_of_completions
from neuron_opsd.model.teacher_weights import TeacherWeights
from neuron_opsd.model.token_loss import MEASURED, sum_in_chunks, token_loss
from neuron_opsd.model.unembedding import head_tensors, logits_from_hidden
from neuron_opsd.rollouts.pseudo_label import votes_of_groups
from neuron_opsd.text.answers import Vote
from neuron_opsd.training.checkpoints import STAGING, publish_checkpoint, saving, write_own_state
from neuron_opsd.training.figures import interval_row
from neuron_opsd.training.group_context import GroupPrompt, read_own_group
from neuron_opsd.training.items import (
    LazyItems,
    StudentRollouts,
    TrainingItem,
    first_of_groups,
    is_settled,
    loss_places,
    marked,
    micro_batches,
    padding_fraction,
)
from neuron_opsd.training.one_token import OneTokenDraws, ReadAnswer
from neuron_opsd.training.step_times import StepTimes
from neuron_opsd.training.teacher import Teacher

logger = logging.getLogger(__name__)


def _as_list(items: list[Any]) -> Any:
    """A batch is the list of its items. They are padded only after they are sampled."""
    return items


class OpsdTrainer(Trainer):
    """The loss and the sampling. Everything else is the Trainer's."""

    def __init__(
        self,
        *,
        model: CausalLM,
        args: TrainingArguments,
        items: LazyItems,
        make_engine: Callable[[], Engine],
        reader: CausalLM | None = None,
        teacher: TeacherWeights,
        settings: TrainingSettings,
        read_answer: ReadAnswer | None = None,
        pseudo_labels: Mapping[str, Vote] | None = None,
        group_prompt: GroupPrompt | None = None,
        end_ids: Sequence[int] = (),
        on_first_batch: Callable[[TrainingItem], None] = lambda item: None,
        on_log: Callable[[dict[str, Any]], None] = lambda row: None,
        on_save: Callable[[Path], None] = lambda checkpoint: None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        super().__init__(
            model=model, args=args, train_dataset=items, data_collator=_as_list, callbacks=list(callbacks)
        )
        self.model_accepts_loss_kwargs = True  # the loss is already divided by the step's token count
        self.loss_is_scaled_for_ga = True
        self.teacher, self.settings = Teacher(reader or model, teacher, settings), settings
        self.read_answer, self.group_prompt = read_answer, group_prompt
        self.pseudo_labels = pseudo_labels
        self.unwrapped = model
        self.reader = (
            reader or model
        )  # samples and scores as the teacher: a whole copy where the student is sharded
        drops = has_dropout(model)  # an engine samples without
        self.shares_prompts = args.world_size == 1 and self.reader is model and not drops
        self.token_loss = token_loss(settings)
        self.rollouts = StudentRollouts(make_engine, items, settings)
        is_late = settings.draws_while_learning and not drops and group_prompt is None
        self.one_token = OneTokenDraws(settings, end_ids, read_answer) if is_late else None
        self.on_first_batch, self.on_log, self.on_save = on_first_batch, on_log, on_save
        self.times = StepTimes(args.device)
        self.add_callback(self.times)
        self.open_step: dict[str, float] = {}  # figures of the step that is being computed
        self.interval: list[dict[str, float]] = []  # of the finished steps since the last row

    def get_batch_samples(
        self, epoch_iterator: Iterator[list[TrainingItem]], num_batches: int, device: torch.device
    ) -> tuple[list[list[TrainingItem]], Tensor | None]:
        """Collect one optimiser step, sample its completions, and count the tokens that carry loss."""
        self._close_step()
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        items, voted = self.sampled([item for batch in batches for item in batch])
        batches = micro_batches(items, num_batches)
        self.teacher.begin_step(batches)
        totals = self._summed(
            [
                sum(len(item.completion_ids) for item in items),
                sum(sum(loss_places(item, self.settings)) for item in items),
                len(items),
                sum(item.finish_reason == "length" for item in items),
                padding_fraction(batches),
            ]
        )
        self.open_step = {
            "num_completion_tokens": int(totals[0]),
            "num_loss_tokens": int(totals[1]),
            "completion_tokens_mean": totals[0] / totals[2],
            "truncated_fraction": totals[3] / totals[2],
            "padding_fraction": totals[4] / self.args.world_size,
            **voted,
        }
        self.sums = torch.zeros(1 + len(MEASURED), device=device)
        # A step in which no token carries loss has loss 0, not 0 / 0.
        return batches, torch.tensor(max(int(totals[1]), 1), device=device)

    def sampled(self, items: list[TrainingItem]) -> tuple[list[TrainingItem], dict[str, float]]:
        """The items with their completions, and figures of their answers."""
        if self.one_token:
            return self.one_token.begin(items), {}
        self.reader.eval()
        with self.times.measure("generation"):
            items = self.rollouts.of_step(items)
        self.unwrapped.train()
        return self.choose(items)

    def choose(self, items: list[TrainingItem]) -> tuple[list[TrainingItem], dict[str, float]]:
        """Mark the completions that carry loss. A vote is over its whole group, which processes may share."""
        read = self.read_answer or (lambda item: None)
        answers = {item.place: read(item) for item in items}
        votes: dict[int, Vote] = {}
        figures: dict[str, float] = {}
        n = self.settings.num_rollouts
        if self.read_answer:
            everyone = cast(list, gather_object(list(answers.items())))
            votes = votes_of_groups(
                (place // n, place, answer) for place, answer in sorted(everyone, key=itemgetter(0))
            )
            figures["parse_rate"] = sum(answer is not None for _, answer in everyone) / len(everyone)
            if n > 1:
                figures["vote_share"] = sum(vote.share for vote in votes.values()) / len(votes)
        deciding = {item.place: votes.get(item.place // n) for item in items}
        if self.pseudo_labels is not None:
            deciding = {item.place: self.pseudo_labels.get(item.question_id) for item in items}
        chosen = [marked(item, answers[item.place], deciding[item.place], self.settings) for item in items]
        if self.pseudo_labels is not None:
            agreeing = self._summed([sum(not item.is_pushed_down for item in chosen), len(chosen)])
            figures["agreeing_fraction"] = agreeing[0] / agreeing[1]
        if self.settings.max_distilled is not None:
            everywhere = cast(list, gather_object([item.place for item in chosen if item.has_loss]))
            kept = first_of_groups(everywhere, self.settings)
            chosen = [replace(item, has_loss=item.place in kept) for item in chosen]
        if self.group_prompt:
            chosen = read_own_group(chosen, answers, votes, self.group_prompt, self.settings)
            settled = [is_settled(vote, self.settings) for vote in votes.values()]
            figures["settled_fraction"] = sum(settled) / len(settled)
        return chosen, figures

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """The Trainer's forward and backward pass of a micro-batch. The teacher's pass is within, and not counted."""
        with self.times.measure("student"):
            return super().training_step(*args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: list[TrainingItem],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor:
        """Loss summed over the micro-batch's tokens / tokens that carry loss in the whole step."""
        if num_items_in_batch is None:
            raise ValueError("num_items_in_batch is missing: it comes from get_batch_samples.")
        # Autocast keeps the weights that it has cast until it ends. Each role gets its own: the teacher's weights are
        # others, and what is cast without gradient would give the student none.
        with self.accelerator.autocast(), self.times.measure("teacher", of="student"):
            teacher_states = self.teacher_states(inputs)
        with self.accelerator.autocast():
            student_hidden = self.student_states(model, inputs)
            if teacher_states is None:
                teacher_states = student_hidden.detach()
            if self.one_token:
                inputs = self.one_token.draw(
                    inputs, student_hidden, lambda hidden: logits_from_hidden(self.unwrapped, hidden)
                )
            if self.state.global_step == 0 and self.args.process_index == 0:
                self.on_first_batch(inputs[0])
                self.on_first_batch = lambda item: None
            total = self._summed_loss(inputs, student_hidden, teacher_states)
        if not bool(total.isfinite()):
            texts = [item.student_ids + item.completion_ids for item in inputs]
            texts += [item.teacher_ids + item.completion_ids for item in inputs]
            raise not_finite(self.unwrapped, texts, what="The training loss and its logits")
        # DDP averages gradients over processes. The count is of all of them.
        return total / num_items_in_batch * self.args.world_size

    def teacher_states(self, items: list[TrainingItem]) -> Tensor | ViewStates | None:
        """The states by which the teacher predicts each completion token. None where there is no teacher."""
        states = self.teacher.states(items)
        self.unwrapped.train()
        return states

    def student_states(self, model: nn.Module, items: list[TrainingItem]) -> Tensor:
        """The states by which the student predicts each completion token. A group's prompt is read once for its rows.

        Processes make the same passes in step, a checkpointed pass keeps no cache, and dropout is a row's own.
        """
        prompts, completions = zip(*((item.student_ids, item.completion_ids) for item in items), strict=True)
        self.shares_prompts &= not self.unwrapped.is_gradient_checkpointing
        if self.shares_prompts and len(prompts) > 1 and len(set(prompts)) == 1:
            states = states_of_completions(self.unwrapped, prompts[0], completions)
            if states is not None:
                return states
            self.shares_prompts = False
        batch = pad_right(prompts, completions, device=self.args.device)
        return predicting_states(model, self.unwrapped, *batch)

    def token_weights(self, items: list[TrainingItem], hidden: Tensor) -> Tensor | None:
        """A factor for the loss of each token that carries it, of which `hidden` are the states. None: 1 for each."""
        return None

    def pushed_down(self, items: list[TrainingItem]) -> Tensor | None:
        """Whether each token that carries loss is made less likely. None if none ever is."""
        if not self.settings.unlikelihood_weight:
            return None
        counts = [(item.is_pushed_down, sum(loss_places(item, self.settings))) for item in items]
        return torch.tensor(
            [is_pushed for is_pushed, count in counts for _ in range(count)], device=self.args.device
        )

    def _summed_loss(
        self, items: list[TrainingItem], student_hidden: Tensor, teacher_states: Tensor | ViewStates
    ) -> Tensor:
        """The loss summed over the tokens that carry it."""
        device = student_hidden.device
        places = torch.tensor(
            [place for item in items for place in loss_places(item, self.settings)], device=device
        )
        if not places.any():
            # All that is trained is in the graph still: every process makes the same backward passes.
            heads = [tensor.sum() for tensor in head_tensors(self.unwrapped) if tensor.requires_grad]
            return sum(heads, student_hidden.sum()) * 0.0
        tokens = torch.tensor([token for item in items for token in item.completion_ids], device=device)
        stale = None
        if self.settings.rollout_steps > 1:
            stale = torch.tensor([value for item in items for value in item.log_probs], device=device)[places]
        own_hidden = student_hidden[places]
        several = isinstance(teacher_states, ViewStates)
        hidden, *orders = teacher_states.kept(places) if several else (teacher_states[places],)
        # Logits of several orders are held at once.
        num_orders = hidden.shape[1] if several else 1
        total, sums = sum_in_chunks(
            own_hidden,
            hidden,
            student_logits=lambda hidden: logits_from_hidden(self.unwrapped, hidden),
            teacher_logits=self.teacher.logits,
            teacher_rows=orders,
            loss=self.token_loss,
            tokens=tokens[places],
            chunk_tokens=max(self.settings.loss_chunk_tokens // num_orders, 1),
            weights=self.token_weights(items, own_hidden.detach()),
            pushed_down=self.pushed_down(items),
            unlikelihood_weight=self.settings.unlikelihood_weight,
            sampled_log_probs=stale,
            max_importance_ratio=self.settings.max_importance_ratio,
            head=head_tensors(self.unwrapped),
        )
        self.sums += torch.cat([total.detach()[None], sums])
        return total

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """The Trainer's, noted for every step: the Trainer itself logs the last step's."""
        norm = cast(Any, super()._clip_grad_norm(model))
        self.open_step["grad_norm"] = float(norm)
        return norm

    def _close_step(self) -> None:
        """Gather the figures of the step that has just been computed. Every process comes here alike."""
        if not self.open_step:
            return
        sums = self._summed(self.sums.tolist())
        count = self.open_step["num_loss_tokens"]
        means = {name: value / max(count, 1) for name, value in zip(("loss", *MEASURED), sums, strict=True)}
        if not count:  # of no token there is nothing to measure, and 0 would look like a collapse
            means = {"loss": means["loss"]}
        if self.one_token:
            means |= self.one_token.figures(self._summed, self.open_step["num_completion_tokens"])
        self.interval.append({**self.open_step, **means})
        self.open_step = {}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the interval's figures. Hand the row to metrics.jsonl without wall times."""
        if "loss" in logs:
            self._close_step()
            logs |= interval_row(self.interval)
            self.interval = []
            self.on_log({"step": self.state.global_step, **logs})
            if self.args.process_index == 0:
                logger.info("training: step %d, %s", self.state.global_step, self.times.end_interval())
        super().log(logs, start_time)

    def _get_output_dir(self, trial: Any) -> str:
        """Where the Trainer writes checkpoints: a staging folder, until they are whole."""
        return str(Path(str(self.args.output_dir)) / STAGING)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """The Trainer's own files, then ours, then the rename that makes them count."""
        folder = Path(str(self.args.output_dir))
        staged = folder / STAGING / f"checkpoint-{self.state.global_step}"
        held = self.held_state()  # every process takes part
        with saving(folder):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                write_own_state(staged, self.teacher.weights, held)
                self.on_save(staged)
                publish_checkpoint(staged, folder, limit=self.args.save_total_limit)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Sharded weights are saved from the whole copy, which has them already."""
        is_copied = self.reader is not self.unwrapped
        super()._save(output_dir, state_dict=self.reader.state_dict() if is_copied else state_dict)

    def held_state(self) -> dict[str, Any]:
        """What a checkpoint must hold beyond weights: completions whose step has not come, and the open interval."""
        self._close_step()
        return {"rollouts": gather_object(self.rollouts.state()), "interval": self.interval}

    def restore_held(self, state: Mapping[str, Any]) -> None:
        """Take up `held_state`, also one that another number of processes wrote."""
        self.rollouts.restore(state["rollouts"])
        self.interval = list(state["interval"])

    def _summed(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all processes."""
        tensor = torch.tensor(values, device=self.args.device, dtype=torch.float64)
        return cast(Tensor, self.accelerator.reduce(tensor, reduction="sum")).tolist()
