"""What the stages compute on a device, each as one call on a tiny model: for the second device and for bfloat16."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from helpers import build_tiny_tokenizer
from neuron_opsd.config import LoraSettings, NeuronSettings, TrainingSettings
from neuron_opsd.engines.base import Completion, Request, Sampling
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.model.base_kl import keep_states, kl_from_base
from neuron_opsd.model.option_scores import reply_log_probs
from neuron_opsd.model.teacher_weights import TeacherWeights
from neuron_opsd.model.trainable import trainable
from neuron_opsd.neurons.capture import capture_neurons
from neuron_opsd.records import NeuronSets, Rollout
from neuron_opsd.training.items import LazyItems, TrainingItem
from neuron_opsd.training.opsd_trainer import OpsdTrainer
from neuron_opsd.training.train import training_arguments

TOKENIZER = build_tiny_tokenizer()
CPU = torch.device("cpu")
PROMPTS = [(5, 6, 7), (9, 8, 4, 3, 7)]
COMPLETIONS = [tuple(range(20, 50)), (9, 8, 33)]


def sampled(model, *, cache_tokens: int | None = None, max_new_tokens: int = 20) -> list[list[Completion]]:
    """Completions, drawn with a nucleus."""
    requests = [Request(prompt_ids=prompt, seeds=(i, 10 + i, 20 + i)) for i, prompt in enumerate(PROMPTS)]
    sampling = Sampling(temperature=1.0, top_p=0.9, max_new_tokens=max_new_tokens)
    found = dict(HFEngine(model, TOKENIZER, cache_tokens=cache_tokens).generate(requests, sampling))
    return [found[i] for i in range(len(requests))]


def neurons(model, **options) -> list[NeuronSets]:
    """Neuron sets of fixed rollouts."""
    rollouts = [
        Rollout(
            question_id=f"q{i}", rollout_index=0, choice_order=(), prompt_ids=prompt, completion_ids=completion,
            token_log_probs=(), finish_reason="stop", reply="", answer=None,
        )
        for i, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True))
    ]  # fmt: skip
    return list(capture_neurons(model, TOKENIZER, rollouts, NeuronSettings(chunk_tokens=8, **options)))


def evaluation(model) -> list[float]:
    """Probabilities of options, and the divergence of the model from itself with another norm."""
    scores = reply_log_probs(model, PROMPTS, [[(8,), (9,)], [(8, 9), (4,)]], batch_size=2)
    texts = list(zip(PROMPTS, COMPLETIONS, strict=True))
    kept = keep_states(model, texts)
    with torch.no_grad():
        model.get_decoder().norm.weight.mul_(1.5)
    return [*(value for row in scores for value in row), *kl_from_base(model, texts, kept)]


def loss_and_gradient(
    model, folder: Path, *, device: torch.device = CPU, is_sampled: bool = True, **changes
) -> tuple[float, Tensor]:
    """The loss of one micro-batch as the trainer computes it, and its gradient as one vector, on the CPU.

    Args:
        model: Tiny; it is trained in place.
        folder: The trainer's own.
        device: Where the model is.
        is_sampled: Whether the model writes the completions; else they are given, so that two models can be compared.
        changes: Settings of `training.*`.
    """
    settings = TrainingSettings(
        **{
            "lora": LoraSettings(rank=4, alpha=8),
            "max_new_tokens": 6,
            "loss_chunk_tokens": 5,
            "method": "lora",
            **changes,
        }
    )
    count = settings.completions_per_step()
    arguments = training_arguments(settings, folder=folder, num_steps=1, seed=0, device=device)
    if device != CPU:
        vars(arguments)["_setup_devices"] = device
    student = trainable(model, settings, seed=0)
    items = LazyItems(count, lambda i: TrainingItem("q", PROMPTS[0], (3, 4, *PROMPTS[0]), seed=i))
    trainer = OpsdTrainer(
        model=student, args=arguments, items=items, make_engine=lambda: HFEngine(student, TOKENIZER),
        teacher=TeacherWeights(student, kind=settings.teacher, ema_rate=0.1), settings=settings,
    )  # fmt: skip
    if not is_sampled:
        given = [COMPLETIONS[i % len(COMPLETIONS)][:6] for i in range(count)]
        trainer.rollouts.held = {
            i: replace(items[i], completion_ids=ids, log_probs=(-1.0,) * len(ids), finish_reason="stop")
            for i, ids in enumerate(given)
        }
    (batch,), num_tokens = trainer.get_batch_samples(iter([[items[i] for i in range(count)]]), 1, device)
    with trainer.compute_loss_context_manager():
        prepared = trainer.accelerator.prepare_model(
            student, device_placement=False
        )  # this is where autocast is
        loss = trainer.compute_loss(prepared, batch, num_items_in_batch=num_tokens)
    loss.backward()
    parts = [p.grad.float().cpu().flatten() for p in student.parameters() if p.grad is not None]
    return loss.item(), torch.cat(parts)
