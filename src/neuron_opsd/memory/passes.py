"""The passes of sampling and of learning at their longest, and the peak of memory in each.

Each is the code of the stage itself, or does what that code does. The model's tensors need no contents.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from neuron_opsd.config import TrainingSettings
from neuron_opsd.engines.base import Sampling
from neuron_opsd.engines.hf import PREFILL_TOKENS
from neuron_opsd.engines.sampling import sample_tokens
from neuron_opsd.engines.shared_prompts import may_share_prompts
from neuron_opsd.memory.allocations import Allocations, counted
from neuron_opsd.model.load import CausalLM
from neuron_opsd.model.order_average import mean_log_probs
from neuron_opsd.model.shared_prompt import scoring_states
from neuron_opsd.model.token_loss import sum_in_chunks, token_loss
from neuron_opsd.model.unembedding import backbone, head_tensors, last_place, logits_from_hidden


@dataclass(frozen=True, slots=True)
class Lengths:
    """What decides the size of a step, at its worst."""

    student_prompt: int
    teacher_prompt: int
    sampling_rows: int  # completions that are decoded together
    kept_contexts: int = 0  # of which the teacher may keep what it has read


def peaks_of_sampling(model: CausalLM, num_prompts: int, rows: int, prompt: int, new: int) -> list[int]:
    """Peaks of reading the prompts, and of the last token, when the cache is longest.

    The cache holds a prompt once where it can be shared. Here each row has its part of it.
    """
    in_one_pass = min(num_prompts, max(1, PREFILL_TOKENS // prompt))
    is_shared = rows > num_prompts and may_share_prompts(model.config)
    held = new + (math.ceil(num_prompts * prompt / rows) if is_shared else prompt)
    model.eval()
    with torch.no_grad():
        with counted(model) as prefill:
            cache = DynamicCache(config=model.config)
            model(
                **_inputs(in_one_pass, prompt),
                past_key_values=cache,
                logits_to_keep=last_place(model.device),
            )
        cache = DynamicCache(config=model.config)
        with counted(model) as decode:
            backbone(model)(**_inputs(rows, max(held - 2, 1)), past_key_values=cache, use_cache=True)
            decode.peak = decode.now
            one = {**_inputs(rows, max(held - 1, 2)), "input_ids": _inputs(rows, 1)["input_ids"]}
            positions = torch.zeros(rows, 1, dtype=torch.long)
            logits = model(**one, position_ids=positions, past_key_values=cache).logits[:, -1]
            sample_tokens(logits, torch.zeros(rows), Sampling(temperature=1.0, max_new_tokens=1))
    return [prefill.peak, decode.peak]


def peaks_of_reading(model: CausalLM, rows: int, prompt: int) -> list[int]:
    """Peak of reading prompts that begin with nothing alike, for their first tokens alone (`read_first_tokens`)."""
    model.eval()
    with torch.no_grad(), counted(model) as allocations:
        logits_from_hidden(model, _states(model, rows, prompt, 1))
    return [allocations.peak]


def peaks_of_learning(student: CausalLM, settings: TrainingSettings, lengths: Lengths) -> list[int]:
    """Peaks of each phase of a step's micro-batches. If there are several, the next finds gradients of the first."""
    several = settings.completions_per_step() > settings.micro_batch_size
    student.train()
    with counted(student) as allocations:
        for _ in range(2 if several else 1):
            if settings.by_trl:
                _micro_batch_of_trl(student, settings, lengths)
            else:
                _micro_batch(student, settings, lengths, allocations)
            allocations.end_phase()
    return allocations.phases


def _micro_batch(
    student: CausalLM, settings: TrainingSettings, lengths: Lengths, allocations: Allocations
) -> None:
    """What `OpsdTrainer.compute_loss` does, and the backward pass, on rows that are all as long as can be."""
    rows, new = settings.micro_batch_size, settings.max_new_tokens
    teacher_hidden = None
    if settings.is_distillation:
        with _autocast(settings):
            teacher_hidden = _teacher_states(student, settings, lengths)
        allocations.end_phase()
    with _autocast(settings):
        hidden = _states(student, rows, lengths.student_prompt, new)
        allocations.end_phase()
        # Chunks are alike, so two of them are counted. The gradient of all other states waits beside them.
        counted = min(2 * settings.loss_chunk_tokens, rows * new)
        waiting = torch.empty_like(hidden[counted:])

        def logits(states: Tensor) -> Tensor:
            return logits_from_hidden(student, states)

        def teacher_logits(states: Tensor, *rows: Tensor) -> Tensor:
            return mean_log_probs(logits(states), *rows) if rows else logits(states)

        teacher, *rows = _teacher_rows(
            hidden.detach() if teacher_hidden is None else teacher_hidden, settings
        )
        total, _ = sum_in_chunks(
            hidden[:counted],
            teacher[:counted],
            student_logits=logits,
            teacher_logits=teacher_logits,
            teacher_rows=[row[:counted] for row in rows],
            loss=token_loss(settings),
            pushed_down=torch.ones(counted, dtype=torch.bool) if settings.unlikelihood_weight else None,
            tokens=torch.zeros(counted, dtype=torch.long),
            chunk_tokens=max(settings.loss_chunk_tokens // settings.teacher_orders, 1),
            head=head_tensors(student),
        )
        allocations.end_phase()
    del teacher_hidden, waiting
    total.backward()


def _teacher_rows(hidden: Tensor, settings: TrainingSettings) -> list[Tensor]:
    """The teacher's states. Where it reads several orders, of each, and what `mean_log_probs` takes beside them."""
    count, tokens = settings.teacher_orders, len(hidden)
    if count == 1:
        return [hidden]
    letters = torch.zeros(tokens, count, 1, dtype=torch.long)
    return [hidden[:, None].expand(-1, count, -1), torch.zeros(tokens, count), letters, letters]


def _micro_batch_of_trl(student: CausalLM, settings: TrainingSettings, lengths: Lengths) -> None:
    """The logits of every completion token at once, their log-probabilities, and the backward pass."""
    rows, new = settings.micro_batch_size, settings.max_new_tokens
    ids = torch.zeros(rows, lengths.student_prompt + new, dtype=torch.long)
    with _autocast(settings):
        if settings.fine_tunes:
            loss = student(input_ids=ids, labels=ids, use_cache=False).loss
        else:
            logits = student(input_ids=ids, use_cache=False, logits_to_keep=new + 1).logits[:, :-1]
            logits = logits / settings.temperature
            chosen = logits.gather(-1, ids[:, -new:, None])[..., 0]
            loss = (chosen - torch.stack([row.logsumexp(dim=-1) for row in logits])).float().sum()
    loss.backward()


@torch.no_grad()
def _teacher_states(student: CausalLM, settings: TrainingSettings, lengths: Lengths) -> Tensor:
    """Prompts shared by the rows of a micro-batch are read once, as in training."""
    rows, new = settings.micro_batch_size, settings.max_new_tokens
    group = min(rows, settings.num_rollouts)
    if group > 1:
        prompts = [[row // group] * lengths.teacher_prompt for row in range(rows // group * group)]
        return scoring_states(student, prompts, [[0] * new] * len(prompts))
    return _states(student, rows, lengths.teacher_prompt, new).clone()


def _states(student: CausalLM, rows: int, prompt: int, new: int) -> Tensor:
    """The states that predict each completion token, as `predicting_states` gives them."""
    cache = DynamicCache(config=student.config)
    if all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
        # Without a cache, transformers reads positions to see whether rows are packed. Here there is nothing to read,
        # and it would make a mask.
        cache.layers[:] = [_Forgetful() for _ in cache.layers]
    ids = torch.zeros(rows, prompt + new, dtype=torch.long)
    output = backbone(student)(input_ids=ids, past_key_values=cache, use_cache=False)
    return output.last_hidden_state[:, -new - 1 : -1].flatten(0, 1)


class _Forgetful(DynamicLayer):
    """A cache that keeps nothing."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """What came in."""
        return key_states, value_states


def _inputs(rows: int, num_tokens: int) -> dict[str, Tensor]:
    """Inputs of sampling. Rows of unequal length are padded on the left, and so need a mask."""
    ids = torch.zeros(rows, num_tokens, dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[0, 0] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _autocast(settings: TrainingSettings) -> Any:
    return torch.autocast("cpu", torch.bfloat16, enabled=bool(settings.trainer.get("bf16")))
