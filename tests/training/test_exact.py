"""What must not change the result: how a step is cut up, padded, ordered, recomputed."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_runs import EXACT, TOKENIZER, make_item, relative_difference, rows, run, weights
from transformers import AutoConfig, AutoModelForCausalLM

from helpers import build_tiny_model
from neuron_opsd.engines.base import Completion, Request, Sampling
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.model.align import pad_right, predicting_states
from neuron_opsd.model.unembedding import logits_from_hidden
from neuron_opsd.training.items import TrainingItem


@pytest.mark.parametrize(("method", "max_grad_norm"), [("full", 1.0), ("lora", 1e6)])
def test_micro_batch_size_changes_nothing(tmp_path, method, max_grad_norm):
    """Unequal prompts and completions, so a mean over micro-batches would differ from the mean over tokens."""
    options = EXACT | {"steps": 2, "method": method, "max_grad_norm": max_grad_norm}
    whole = run(tmp_path / "8", micro_batch_size=8, **options)
    expected = rows(tmp_path / "8")
    for size in (1, 4):
        split = run(tmp_path / str(size), micro_batch_size=size, **options)
        assert relative_difference(whole, split) < 1e-6
        for first, second in zip(expected, rows(tmp_path / str(size)), strict=True):
            assert first["num_completion_tokens"] == second["num_completion_tokens"]
            for name in ("loss", "divergence"):
                assert first[name] == pytest.approx(second[name], rel=1e-4)
            assert first["grad_norm"] == pytest.approx(second["grad_norm"], rel=1e-3)
    assert len({row["num_completion_tokens"] for row in expected}) == 2
    if method == "full":
        assert relative_difference(build_tiny_model(), whole) > 1e-4


def test_batch_order_changes_nothing(tmp_path):
    plain = run(tmp_path / "a", steps=2, micro_batch_size=2, **EXACT)
    turned = run(
        tmp_path / "b", steps=2, micro_batch_size=2, item=lambda i: make_item(i // 8 * 8 + 7 - i % 8), **EXACT
    )
    assert relative_difference(plain, turned) < 1e-6


def test_loss_chunks_change_nothing(tmp_path):
    plain = run(tmp_path / "a", steps=2, **EXACT)
    other = run(tmp_path / "b", steps=2, **EXACT, loss_chunk_tokens=1000)
    assert relative_difference(plain, other) < 1e-6


def test_gradient_checkpointing_changes_nothing(tmp_path):
    for method in ("full", "lora"):
        plain = run(tmp_path / method, steps=2, method=method, **EXACT)
        trainer = {**EXACT["trainer"], "gradient_checkpointing": True}
        again = run(tmp_path / f"{method}-again", steps=2, method=method, **{**EXACT, "trainer": trainer})
        assert relative_difference(plain, again) < 1e-6


def test_padding_side_changes_nothing():
    """The engine pads on the left, the loss on the right: the same log-probability of every sampled token."""
    model = build_tiny_model()
    items = [make_item(i) for i in range(8)]
    requests = [Request(prompt_ids=item.student_ids, seeds=(item.seed,)) for item in items]
    drawn = dict(HFEngine(model, TOKENIZER).generate(requests, Sampling(temperature=1.0, max_new_tokens=40)))
    completions = [drawn[i][0].token_ids for i in range(8)]
    assert len({len(item.student_ids) for item in items}) > 4
    assert len(set(map(len, completions))) > 2
    batch = pad_right([item.student_ids for item in items], completions)
    with torch.no_grad():
        hidden = predicting_states(model, model, *batch)
        log_probs = torch.log_softmax(logits_from_hidden(model, hidden), -1)
    tokens = torch.tensor([token for ids in completions for token in ids])
    found = log_probs.gather(1, tokens[:, None])[:, 0]
    expected = torch.tensor([p for i in range(8) for p in drawn[i][0].log_probs])
    assert (found - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("family", ["gemma2", "granite", "cohere"])
def test_soft_caps_and_scales_of_logits_are_in_the_loss(tmp_path, family):
    """The logged loss, recomputed by the model's own forward pass: cap and scale are strong enough to matter."""
    model = build_scaled(family)
    run(tmp_path, steps=1, model=build_scaled(family), teacher="frozen", loss_chunk_tokens=7)
    engine = HFEngine(build_scaled(family), TOKENIZER)
    total, unscaled, count = 0.0, 0.0, 0
    for item in map(make_item, range(8)):
        asked = [Request(prompt_ids=item.student_ids, seeds=(item.seed,))]
        ((_, (completion,)),) = engine.generate(asked, Sampling(temperature=1.0, max_new_tokens=6))
        both, raw = [], []
        for prompt in (item.student_ids, item.teacher_ids):
            output = model(torch.tensor([[*prompt, *completion.token_ids]]), output_hidden_states=True)
            places = slice(len(prompt) - 1, -1)
            both.append(torch.log_softmax(output.logits[0, places].double(), -1))
            raw.append(torch.log_softmax(model.lm_head(output.hidden_states[-1])[0, places].double(), -1))
        total += (both[0].exp() * (both[0] - both[1])).sum().item()
        unscaled += (raw[0].exp() * (raw[0] - raw[1])).sum().item()
        count += len(completion.token_ids)
    (row,) = rows(tmp_path)
    assert row["loss"] == pytest.approx(total / count, rel=1e-4)
    assert abs(total - unscaled) > 0.05 * total


def build_scaled(family: str) -> torch.nn.Module:
    """A tiny model whose logits are capped or scaled."""
    config = {
        "vocab_size": 260,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.25,
    }
    special = {
        "gemma2": {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 20.0},
        "granite": {"logits_scaling": 3.0},
        "cohere": {"logit_scale": 0.3},
    }
    torch.manual_seed(0)
    made = AutoConfig.for_model(family, **config, **special[family], attn_implementation="eager")
    return AutoModelForCausalLM.from_config(made).float().eval()


def test_bfloat16_keeps_the_softmax_in_float32(tmp_path):
    """Mixed precision is near float32 on the same completions; a softmax in bfloat16 would be off by its rounding."""
    fixed = {"steps": 1, "teacher": "frozen", "make_engine": lambda student: _FixedCompletions()}
    run(tmp_path / "32", **fixed)
    run(tmp_path / "16", **fixed, trainer={"bf16": True})
    whole, half = rows(tmp_path / "32")[0], rows(tmp_path / "16")[0]
    assert half["loss"] == pytest.approx(whole["loss"], rel=0.03)
    assert half["loss"] != whole["loss"]


class _FixedCompletions:
    """Samples drawn in bfloat16 are others, and so would the loss be."""

    def refresh(self) -> None:
        pass

    def generate(self, requests, sampling):
        for index, request in enumerate(requests):
            state = random.Random(index)
            ids = tuple(state.randrange(3, 259) for _ in range(20))
            completion = Completion(token_ids=ids, log_probs=(0.0,) * 20, finish_reason="length")
            yield index, [completion] * len(request.seeds)


def test_bfloat16_of_equal_prompts_is_zero(tmp_path):
    def same(place: int) -> TrainingItem:
        item = make_item(place)
        return TrainingItem(item.question_id, item.student_ids, item.student_ids, item.seed)

    run(tmp_path, steps=1, item=same, teacher="frozen", trainer={"bf16": True})
    (row,) = rows(tmp_path)
    assert abs(row["loss"]) < 1e-3


PINNED = Path(__file__).with_name("pinned_trajectory.json")


def test_the_pinned_trajectory(tmp_path):
    """Losses of a fixed run. If a change is meant to move them, say so and write the file anew."""
    run(tmp_path, steps=6, learning_rate=3e-3, micro_batch_size=4, method="lora")
    found = [row["loss"] for row in rows(tmp_path)]
    assert found == pytest.approx(json.loads(PINNED.read_text()), rel=1e-3)


def test_ema_after_n_steps_is_the_closed_form(tmp_path):
    """teacher_n = (1-r)^n s_0 + sum_k r (1-r)^(n-k) s_k, with the student's weights of every step."""
    rate, steps = 0.3, 4
    run(
        tmp_path, steps=steps, teacher="ema", ema_rate=rate, save_steps=1, learning_rate=0.05,
        guard_rails={"window_steps": 10}, trainer={"optim": "sgd"},
    )  # fmt: skip
    expected = {
        name: (1 - rate) ** steps * value.double() for name, value in weights(build_tiny_model()).items()
    }
    for step in range(1, steps + 1):
        student = load_file(tmp_path / f"checkpoint-{step}" / "model.safetensors")
        for name, value in student.items():
            expected[name] += rate * (1 - rate) ** (steps - step) * value.double()
    teacher = load_file(tmp_path / f"checkpoint-{steps}" / "teacher_weights.safetensors")
    for name, value in teacher.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-7)
        assert not torch.equal(value, student[name])
