"""Our settings reach TRL's trainers under TRL's names."""

from pathlib import Path

import pytest

from helpers import build_tiny_model, build_tiny_tokenizer
from neuron_opsd.config import TrainingSettings
from neuron_opsd.model.trainable import trainable
from neuron_opsd.training.rivals.trl_trainers import reinforce

trl = pytest.importorskip("trl")


class HasBegunError(Exception):
    """Ends a trainer before its first step."""


def test_settings_reach_grpo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def look(trainer, *_, **__) -> None:
        seen.append(trainer.args)
        raise HasBegunError

    monkeypatch.setattr(trl.GRPOTrainer, "train", look)
    settings = TrainingSettings(
        objective="self_certainty", method="lora", batch_size=2, micro_batch_size=4, num_rollouts=4,
        max_new_tokens=7, temperature=0.7, kl_weight=0.3, learning_rate=2e-4, max_grad_norm=0.5,
    )  # fmt: skip
    prompts = [{"prompt": [{"role": "user", "content": "2 + 2?"}], "prompt_ids": [5, 6], "group": 0}] * 4
    student = trainable(build_tiny_model(), settings, seed=0)
    with pytest.raises(HasBegunError):
        reinforce(
            student, build_tiny_tokenizer(), prompts, lambda **_: [0.0], settings,
            template_args={"enable_thinking": False}, folder=tmp_path, num_steps=2, seed=3,
        )  # fmt: skip
    (args,) = seen
    found = {
        "num_generations": args.num_generations,
        "max_completion_length": args.max_completion_length,
        "temperature": args.temperature,
        "beta": args.beta,
        "learning_rate": args.learning_rate,
        "max_grad_norm": args.max_grad_norm,
        "max_steps": args.max_steps,
        "seed": args.seed,
        "chat_template_kwargs": args.chat_template_kwargs,
    }
    assert found == {
        "num_generations": 4,
        "max_completion_length": 7,
        "temperature": 0.7,
        "beta": 0.3,
        "learning_rate": 2e-4,
        "max_grad_norm": 0.5,
        "max_steps": 2,
        "seed": 3,
        "chat_template_kwargs": {"enable_thinking": False},
    }
