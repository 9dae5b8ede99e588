"""How much of what a bfloat16 student learned is left in the model that is published.

    python experiments/published_model.py FOLDER --learning-rate 5e-6 --rank 64
    python experiments/published_model.py FOLDER --learning-rate 1e-4 --rank 16

Trains an adapter on SmolLM2-135M-Instruct in bfloat16 by short questions of its own, publishes it, and compares the
student with two merged models: merged in bfloat16, as it was done before, and RUN/model as it is published now.
Figures go to experiments/LOG.md.
"""

# ruff: noqa: T201
import argparse
import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from neuron_opsd.config import LoraSettings, ModelSettings, TrainingSettings
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.load import CausalLM, load_model, load_model_config
from neuron_opsd.training.items import LazyItems, TrainingItem
from neuron_opsd.training.publish import publish
from neuron_opsd.training.train import train

MODEL = ModelSettings(name="embedded:smollm2-135m", dtype="bfloat16")
THINGS = (
    "rain",
    "bread",
    "a bridge",
    "a clock",
    "glass",
    "a river",
    "salt",
    "a train",
    "paper",
    "the moon",
    "a violin",
)
ASKED = ("What is {} good for?", "Explain {} to a child.", "Name a fact about {}.", "Where does one find {}?")
QUESTIONS = [asked.format(thing) for thing in THINGS for asked in ASKED]
TRAINED_ON = 32  # the rest are held out
SHOWN = (
    ("What is iron good for?", "Iron is strong, so it carries buildings."),
    ("Name a fact about ice.", "Ice floats, for it is lighter than water."),
)


def main() -> None:
    """Print one row a published form."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--steps", type=int, default=24)
    arguments = parser.parse_args()
    model, tokenizer = load_model(MODEL)
    encoder = ChatEncoder(tokenizer)
    student = _train(model, tokenizer, encoder, arguments)
    held_out = [tuple(encoder.encode([{"role": "user", "content": text}])) for text in QUESTIONS[TRAINED_ON:]]

    exact = copy.deepcopy(
        student
    ).float()  # the student's own weights: base and adapter apart, nothing rounded
    student_logits = _logits(exact, held_out)
    with exact.disable_adapter():
        base_logits = _logits(exact, held_out)
    weights = _weights(student.get_base_model())
    merged = copy.deepcopy(student).merge_and_unload()
    forms = {"merged in bfloat16": merged}
    summary = publish(
        student,
        tokenizer,
        arguments.folder / "model",
        save="merged",
        base_config=load_model_config(MODEL),
        prompts=held_out,
        num_held_out=len(held_out),
    )
    print("published:", summary)
    forms["as published"] = load_model(MODEL, name=str(arguments.folder / "model"))[0]
    print("| form | weights with old bits | logit change surviving | KL lost / KL learned |")
    for name, form in forms.items():
        _print_row(name, form, weights, _logits(form.float(), held_out), student_logits, base_logits)


def _train(
    model: CausalLM, tokenizer: PreTrainedTokenizerBase, encoder: ChatEncoder, arguments: argparse.Namespace
) -> PeftModel:
    settings = TrainingSettings(
        lora=LoraSettings(rank=arguments.rank, alpha=2 * arguments.rank),
        learning_rate=arguments.learning_rate,
        batch_size=8,
        micro_batch_size=8,
        max_new_tokens=16,
        warmup_steps=2,
        save_steps=arguments.steps,
    )
    shown = [
        {"role": role, "content": text}
        for pair in SHOWN
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]

    def item(place: int) -> TrainingItem:
        asked = [{"role": "user", "content": QUESTIONS[place % TRAINED_ON]}]
        student, teacher = encoder.encode(asked), encoder.encode([*shown, *asked])
        return TrainingItem(f"q{place}", tuple(student), tuple(teacher), seed=place)

    trained = train(
        model,
        lambda student: HFEngine(student, tokenizer),
        LazyItems(arguments.steps * settings.completions_per_step(), item),
        settings,
        folder=arguments.folder / "training",
        num_steps=arguments.steps,
        seed=0,
    )
    assert isinstance(trained.student, PeftModel)
    return trained.student.eval()


@torch.no_grad()
def _logits(model: CausalLM, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    """At every place of every prompt, one below the other."""
    return torch.cat([model(input_ids=torch.tensor([ids])).logits[0].double() for ids in prompts])


def _weights(model: CausalLM) -> dict[str, torch.Tensor]:
    """Of the linear layers that carry an adapter, by their names without one."""
    return {
        name.replace(".base_layer", ""): tensor.clone()
        for name, tensor in model.state_dict().items()
        if name.endswith(".base_layer.weight")
    }


def _print_row(
    name: str,
    form: CausalLM,
    weights: dict[str, torch.Tensor],
    logits: torch.Tensor,
    student: torch.Tensor,
    base: torch.Tensor,
) -> None:
    own = form.state_dict()
    old = sum(int((own[key] == before.float()).sum()) for key, before in weights.items())
    count = sum(before.numel() for before in weights.values())
    wanted, got = student - base, logits - base
    surviving = float((wanted * got).sum() / (wanted * wanted).sum())
    lost, learned = _kl(student, logits), _kl(student, base)
    print(
        f"| {name} | {old / count:.1%} | {surviving:.1%} | {lost:.2e} / {learned:.2e} = {lost / learned:.2%} |"
    )


def _kl(first: torch.Tensor, second: torch.Tensor) -> float:
    """Mean KL(first || second) of a token, in nats."""
    one, other = first.log_softmax(dim=-1), second.log_softmax(dim=-1)
    return float((one.exp() * (one - other)).sum(dim=-1).mean())


if __name__ == "__main__":
    main()
