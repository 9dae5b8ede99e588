"""What the teacher has read of contexts is kept while its weights are the same, and changes no result."""

import shutil
from dataclasses import replace

import pytest
import torch
from training_runs import assert_same_bits, make_item, ordered_item, rows, run
from transformers import AutoModelForCausalLM, MambaConfig, MistralConfig

from helpers import build_tiny_model
from neuron_opsd.model.shared_prompt import KeptPrefixes, scoring_states
from neuron_opsd.model.unembedding import backbone
from neuron_opsd.training import teacher

CONTEXT = tuple(random_token % 250 + 3 for random_token in range(7, 7 + 13 * 90, 13))  # 90 tokens
BYTES = 2 * 90 * 2 * 2 * 8 * 4


def after_context(item, context):
    """The item, and whatever orders it has, after a context that is read before its question."""
    views = tuple(replace(view, prompt_ids=context + view.prompt_ids) for view in item.views)
    return replace(item, teacher_ids=context + item.teacher_ids, views=views, context_tokens=len(context))


def one_context(place, item=make_item):
    return after_context(item(place), CONTEXT)


def own_context(place):
    """Twelve questions, read again in the next epoch, each after a context of its own."""
    place %= 12
    return after_context(make_item(place), (*CONTEXT[:-1], 3 + place))


@pytest.fixture
def read_tokens(monkeypatch):
    """The tokens of each pass without gradient that reads a context."""
    counted = []

    def watch(model):
        def hook(module, args, kwargs):
            if not torch.is_grad_enabled() and kwargs.get("input_ids") is not None:
                counted.append(tuple(kwargs["input_ids"].shape))

        backbone(model).register_forward_pre_hook(hook, with_kwargs=True)
        return model

    watch.counted = counted
    return watch


def num_contexts_read(watch) -> int:
    """Rows of passes that are long enough to hold a context."""
    return sum(num_rows for num_rows, width in watch.counted if width >= len(CONTEXT))


OPTIONS = {"steps": 2, "micro_batch_size": 4, "batch_size": 8}


@pytest.mark.parametrize(
    ("item", "changes", "num_kept", "num_unkept"),
    [
        (one_context, {"teacher": "frozen"}, 1, 16),
        (one_context, {"teacher": "ema"}, 2, 16),
        (own_context, {"teacher": "frozen"}, 12, 16),
        (own_context, {"teacher": "ema"}, 16, 16),  # nothing that a step reads twice
        (lambda place: one_context(place, ordered_item), {"teacher": "frozen", "teacher_orders": 3}, 1, 16),
    ],
)
def test_a_context_is_read_once_for_weights_that_stay_and_the_loss_is_the_same(
    tmp_path, read_tokens, item, changes, num_kept, num_unkept
):
    losses = {}
    for megabytes, expected in ((1000, num_kept), (0, num_unkept)):
        read_tokens.counted.clear()
        model = read_tokens(build_tiny_model(spread=0.25))
        run(tmp_path / str(megabytes), item=item, model=model, keep_prefixes=megabytes, **OPTIONS, **changes)
        assert num_contexts_read(read_tokens) == expected
        losses[megabytes] = [row["loss"] for row in rows(tmp_path / str(megabytes))]
    assert losses[1000] == pytest.approx(losses[0], rel=1e-5)


def test_a_resumed_training_and_one_that_keeps_little_are_equal_to_the_bit(tmp_path, monkeypatch):
    options = {
        "steps": 4,
        "item": own_context,
        "teacher": "frozen",
        "save_steps": 3,
        "batch_size": 4,
        "micro_batch_size": 4,
    }
    whole = run(tmp_path / "whole", **options)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoint-4")
    assert_same_bits(run(tmp_path / "cut", **options), whole)
    for num_kept in (0.5, 3):
        monkeypatch.setattr(teacher, "KeptPrefixes", lambda _, size=num_kept: KeptPrefixes(int(size * BYTES)))
        assert_same_bits(run(tmp_path / str(num_kept), **options), whole)


def test_the_least_recently_used_leave_first():
    model, kept = build_tiny_model(), KeptPrefixes(2 * BYTES)
    a, b, c = ((start, *CONTEXT[1:]) for start in (3, 4, 5))
    for prefix in (a, b, a, c):
        kept.read(model, prefix)
    assert list(kept.known) == [a, c]


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(
            vocab_size=260, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, sliding_window=16,
        ),
        MambaConfig(vocab_size=260, hidden_size=32, num_hidden_layers=2, state_size=4),
    ],
    ids=["sliding window", "recurrent"],
)  # fmt: skip
def test_a_model_that_keeps_something_else_reads_whole_prompts(config):
    torch.manual_seed(0)
    model, kept = AutoModelForCausalLM.from_config(config).eval(), KeptPrefixes(1_000_000)
    items = [replace(one_context(place), completion_ids=(9, 8, 7)) for place in range(3)]
    prompts, completions = [item.teacher_ids for item in items], [item.completion_ids for item in items]
    found = scoring_states(model, prompts, completions, kept=kept, starts=[90] * 3)
    assert torch.equal(found, scoring_states(model, prompts, completions))
    assert not kept.known
