"""Settings that cannot hold together, and values that transformers refuses, end a run before it begins."""

import pytest

from neuron_opsd.config import Config
from neuron_opsd.early_checks.settings import check_contradictions, check_packages
from neuron_opsd.early_checks.trainer import check_trainer
from neuron_opsd.errors import ConfigError


def config_of(**sections) -> Config:
    given = {"model": {"name": "any"}, "questions": {"path": "any"}} | sections
    return Config.model_validate(given)


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        (
            {"training": {"batch_size": 2}},
            "multiple of training.micro_batch_size=4. Use training.micro_batch_size=2",
        ),
        ({"training": {"batch_size": 6}}, "Use training.micro_batch_size=3"),
        (
            {"training": {"objective": "majority_sft", "batch_size": 2}, "rollouts": {"num_rollouts": 8}},
            "2 rows a step",
        ),
        (
            {"training": {"method": "full", "dtype": "bfloat16"}},
            "training.dtype=float32",
        ),
        (
            {"training": {"objective": "unlikely_tokens", "teacher_entropy": "matched"}},
            "teacher_entropy is matched, but training.objective is unlikely_tokens, which has no teacher",
        ),
        (
            {
                "training": {"objective": "sample_sft", "teacher_orders": 3},
                "prompts": {"answer_format": "letter"},
            },
            "teacher_orders is 3, but training.objective is sample_sft, which has no teacher",
        ),
        ({"training": {"skip_first_tokens": 64, "max_new_tokens": 64}}, "none would carry loss"),
        ({"contexts": {"other_path": "other.jsonl"}}, "contexts.retrieval=other_domain"),
        ({"contexts": {"search_candidates": 5}}, "fewer than contexts.num_demonstrations=10"),
        ({"engine": {"url": "http://127.0.0.1:8000/v1"}}, "Use engine.name=server"),
        ({"evaluation": {"general_answers": ["a.jsonl"]}}, "evaluation.general_paths"),
        (
            {"prompts": {"keep_thinking": True}, "contexts": {"num_demonstrations": 0}},
            "no demonstration is shown",
        ),
    ],
)
def test_contradictions(sections, expected) -> None:
    with pytest.raises(ConfigError, match=expected):
        check_contradictions(config_of(**sections))


def test_settings_that_hold_together() -> None:
    check_contradictions(config_of())
    check_contradictions(config_of(training={"objective": "none", "batch_size": 2}))
    check_contradictions(config_of(training={"batch_size": 2, "num_rollouts": 2}))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("optim", "adam", "adamw_torch"),
        ("optim", "adamw_bnb_8bit", "bitsandbytes"),
        ("lr_scheduler_type", "cosine_with_min_lr", "min_lr"),
        ("lr_scheduler_type", "slowly", "cosine"),
        ("weight_decay", "a little", "must be float"),
        ("adam_beta1", 2, "beta"),
        ("adam_epsilon", "1e-8", "TypeError"),
        ("eval_strategy", "steps", "eval_dataset"),
        ("dataloader_num_workers", -1, "num_workers"),
        ("logging_steps", "often", "often"),
        ("max_steps", 5, "training.num_steps"),
        ("resume_from_checkpoint", "/there", "the same command, which resumes"),
        ("push_to_hub", True, "neuron-opsd push"),
        ("fsdp", "nonsense", "Unknown `fsdp` option"),
        ("neftune_noise_alpha", "loud", "must be float"),
        ("label_names", 3, "must be list"),
        ("gradient_checkpointing", "perhaps", "must be bool"),
        ("gradient_checkpointing_kwargs", {"nonsense": 1}, "nonsense"),
        ("use_liger_kernel", True, "liger_kernel"),
        ("warm_up", 5, "Did you mean training.warmup_steps"),
    ],
)
def test_values_of_the_trainer_are_tried(name, value, expected) -> None:
    given = config_of(training={"trainer": {"bf16": True, name: value}})
    with pytest.raises(ConfigError, match=rf"training\.trainer\.{name}.*{expected}"):
        check_trainer(given)


def test_a_tracker_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: False)
    with pytest.raises(ConfigError, match="wandb to be installed"):
        check_trainer(config_of(training={"trainer": {"report_to": "wandb"}}))


@pytest.mark.parametrize(
    "trainer",
    [
        {},
        {"bf16": True},
        {"weight_decay": 1, "adam_beta2": 0.95},
        {"save_strategy": "no"},
        {"fsdp": True, "fsdp_config": {"version": 2}},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
        {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 2}},
    ],
)
def test_good_values_of_the_trainer_pass(trainer) -> None:
    check_trainer(config_of(training={"trainer": trainer}))


@pytest.mark.parametrize(
    ("sections", "module", "expected"),
    [
        (
            {"engine": {"name": "vllm"}},
            "vllm",
            r"engine.name=vllm needs the package vllm.*neuron-opsd\[vllm\]",
        ),
        ({"contexts": {"retrieval": "tfidf"}}, "sklearn", r"neuron-opsd\[baselines\]"),
        ({"contexts": {"search_candidates": 50}}, "faiss", r"neuron-opsd\[large-pools\]"),
        (
            {"training": {"objective": "self_certainty", "num_rollouts": 8}},
            "trl",
            r"neuron-opsd\[baselines\]",
        ),
    ],
)
def test_packages(sections, module, expected, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == module else find(name))
    with pytest.raises(ConfigError, match=expected):
        check_packages(config_of(**sections))
