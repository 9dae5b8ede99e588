"""Every stage's memory by arithmetic and against what real tensors take, and settings that make a run fit."""

import logging
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config

from neuron_opsd.config import Config, NeuronSettings, load_config
from neuron_opsd.early_checks import memory as early
from neuron_opsd.errors import ConfigError
from neuron_opsd.memory import count
from neuron_opsd.memory.allocations import Allocations
from neuron_opsd.memory.count import by_depth
from neuron_opsd.memory.estimate import (
    RunLengths,
    StageMemory,
    _evaluation,
    _neurons,
    estimate_run,
    num_kept_contexts,
)
from neuron_opsd.memory.fit import _smaller, fit, parse_size, refuse_too_large
from neuron_opsd.model.option_scores import read_first_tokens
from neuron_opsd.neurons.capture import capture_neurons
from neuron_opsd.records import Rollout

LENGTHS = RunLengths(pool_prompt=60, test_prompt=40, teacher_prompt=200, num_pool=64, num_test=16)
# hidden, intermediate, layers, heads, tied; and the parameters, in billions, that are published.
QWEN3 = {
    "4B": (2560, 9728, 36, 32, True, 4.02),
    "8B": (4096, 12288, 36, 32, False, 8.19),
    "14B": (5120, 17408, 40, 40, False, 14.77),
}


def qwen3(size: str) -> Qwen3Config:
    hidden, intermediate, layers, heads, tied, _ = QWEN3[size]
    return Qwen3Config(
        vocab_size=151936, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=8, head_dim=128, tie_word_embeddings=tied,
    )  # fmt: skip


def small(**changes) -> LlamaConfig:
    shape = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "vocab_size": 500}
    return LlamaConfig(**{**shape, "num_attention_heads": 4, "num_key_value_heads": 2, **changes})


def settings(*overrides: str, dtype: str = "float32") -> Config:
    values = {"model.name": "m", "questions.path": "q", "model.dtype": dtype, "training.dtype": dtype}
    few = ["rollouts.max_new_tokens=100", "training.max_new_tokens=100", "evaluation.max_new_tokens=100"]
    few += ["training.lora.rank=4", "training.loss_chunk_tokens=64"]
    return load_config("neuron_opsd", overrides=[*few, *overrides], values=values)


def by_stage(config: Config, model, lengths=LENGTHS) -> dict[str, StageMemory]:
    return {stage.stage: stage for stage in estimate_run(config, model, lengths)}


@pytest.mark.slow
@pytest.mark.parametrize("size", QWEN3)
def test_published_shapes_by_arithmetic(size):
    _, _, layers, _, _, billions = QWEN3[size]
    given = ["rollouts.max_new_tokens=2048", "rollouts.batch_size=32", "rollouts.num_rollouts=8"]
    lengths = RunLengths(4000, 0, 10_240, 1000, 0)
    found = estimate_run(settings(*given, dtype="bfloat16"), qwen3(size), lengths, "rollouts")[0]
    assert found.weights == pytest.approx(2e9 * billions, rel=0.01)
    cache = (32 * 2048 + 4 * 4000) * layers * 2 * 8 * 128 * 2  # a prompt is held once for its 8 rollouts
    assert found.working == pytest.approx(cache, rel=0.25)
    assert found.working > cache


@pytest.mark.parametrize(
    "changes",
    [{"num_hidden_layers": 4}, {"intermediate_size": 800}, {"num_hidden_layers": 4, "vocab_size": 20_000}],
)
def test_neurons_within_a_quarter_of_what_real_tensors_take(tiny_tokenizer, changes):
    model = LlamaForCausalLM(small(**changes)).eval()
    config = settings()
    rollouts = [_rollout(i, LENGTHS.pool_prompt, 100, model.config.vocab_size) for i in range(16)]
    with Allocations(model) as allocations:
        list(capture_neurons(model, tiny_tokenizer, rollouts, NeuronSettings()))
    assert _neurons(config, model.config, LENGTHS).working == pytest.approx(allocations.peak, rel=0.25)


def test_reading_within_a_quarter_of_what_real_tensors_take():
    """Prompts that begin with nothing alike, read for their first tokens: P(True) and exact answers."""
    model = LlamaForCausalLM(small()).eval()
    prompts = [tuple(_rollout(number, 60, 1, 500).prompt_ids) for number in range(16)]
    with torch.no_grad(), Allocations(model) as allocations:
        list(read_first_tokens(model, prompts, batch_size=16))
    _, working = count.count_reading(model.config, torch.float32, rows=16, prompt=60)
    assert working == pytest.approx(allocations.peak, rel=0.25)


def test_the_pass_of_p_true_counts_where_it_is_the_largest():
    lengths, model = replace(LENGTHS, truth_prompt=2000), small(num_hidden_layers=1)
    asked, plain = (
        _evaluation(settings(f"evaluation.p_true={is_asked}", "evaluation.max_new_tokens=4"), model, lengths)
        for is_asked in ("true", "false")
    )
    assert asked.detail.startswith("P(True): 16 prompts at once of up to 2000 tokens")
    assert asked.working > plain.working
    context = settings("evaluation.p_true=true", "evaluation.context=true", "evaluation.max_new_tokens=4")
    assert "up to 2160 tokens" in _evaluation(context, model, lengths).detail  # 160 of them are the context's
    server = ("engine.name=server", "engine.url=http://127.0.0.1:9/v1", "training.objective=none")
    served = by_stage(settings("evaluation.p_true=true", *server), model, lengths)
    assert served["evaluation"].detail.startswith("P(True)")  # it is asked here


def _rollout(number: int, prompt: int, new: int, vocab: int) -> Rollout:
    state = torch.Generator().manual_seed(number)
    ids = torch.randint(3, vocab, (prompt + new,), generator=state).tolist()
    return Rollout(
        question_id=f"q{number}", rollout_index=0, choice_order=(), prompt_ids=tuple(ids[:prompt]),
        completion_ids=tuple(ids[prompt:]), token_log_probs=(0.0,) * new, reply="", answer=None,
        finish_reason="stop",
    )  # fmt: skip


@pytest.mark.slow
def test_fit_makes_batches_smaller_until_every_stage_fits():
    model, config = small(), settings()
    whole = by_stage(config, model)
    limit = int(0.6 * max(stage.peak for stage in whole.values()))
    fitted, changed = fit(config, model, LENGTHS, limit)
    assert changed
    assert all(stage.peak <= limit for stage in estimate_run(fitted, model, LENGTHS))
    assert fitted.training.completions_per_step() % fitted.training.micro_batch_size == 0
    assert fit(config, model, LENGTHS, 10**12) == (config, [])


@pytest.mark.slow
def test_what_cannot_fit_is_refused_with_a_way_out():
    weights = by_stage(settings(), small())["rollouts"].weights
    with pytest.raises(ConfigError, match=r"weights alone take .*tensor_parallel=N .*fsdp2"):
        fit(settings(), small(), LENGTHS, weights // 2)
    with pytest.raises(ConfigError, match=r"even with the smallest batches\. What is left: .*max_new_tokens"):
        fit(settings(), small(), LENGTHS, int(1.5 * weights))


@pytest.mark.slow
def test_where_only_float32_weights_are_too_large_an_adapter_is_the_way_out():
    wide = small(hidden_size=512, intermediate_size=2048, num_hidden_layers=8)
    weights = by_stage(settings(dtype="bfloat16"), wide)["rollouts"].weights
    few = ("evaluation.max_new_tokens=4", "rollouts.max_new_tokens=4", "training.max_new_tokens=4")
    lengths = RunLengths(pool_prompt=6, test_prompt=4, teacher_prompt=8, num_pool=64, num_test=16)
    with pytest.raises(ConfigError, match=r"evaluation .* What is left: training\.save=adapter, or a lower"):
        fit(settings(*few, dtype="bfloat16"), wide, lengths, int(1.9 * weights))
    adapter = settings(*few, "training.save=adapter", dtype="bfloat16")
    fit(adapter, wide, lengths, int(1.9 * weights))


def test_only_stages_of_the_recipe_that_the_run_reaches_are_estimated():
    model = small(num_hidden_layers=1)
    assert list(by_stage(settings("training.objective=none"), model)) == ["evaluation"]
    lmsi = settings("training.objective=majority_sft", "rollouts.num_rollouts=8")
    assert list(by_stage(lmsi, model)) == ["rollouts", "training", "evaluation"]
    until = estimate_run(settings(), model, LENGTHS, "contexts")
    assert [stage.stage for stage in until] == ["rollouts", "neurons"]
    refuse_too_large(estimate_run(settings(), model, LENGTHS, "questions"), limit=1)


def test_the_trained_model_may_be_read_in_float32():
    merged, adapter = (
        _evaluation(settings(f"training.save={save}", dtype="bfloat16"), small(), LENGTHS).weights
        for save in ("merged", "adapter")
    )
    assert merged == 2 * adapter


def test_completions_of_one_token_are_not_sampled_apart():
    few, one = (
        by_stage(settings(f"training.max_new_tokens={count}"), small(num_hidden_layers=1))["training"].detail
        for count in (2, 1)
    )
    assert ", sampling 0 MB" not in few
    assert ", sampling 0 MB" in one


def test_trl_samples_a_step_at_once_whatever_the_batch_of_rollouts():
    config = settings("training.objective=self_certainty", "training.num_rollouts=8")
    training = StageMemory("training", weights=1, working=9, detail="", is_sampling=True)
    assert _smaller(config, training, LENGTHS) is None


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        ([], 0),  # nothing that one step reads twice
        (["contexts.retrieval=medoids"], 1),
        (["training.teacher=frozen"], LENGTHS.num_pool),
        (["training.num_rollouts=8", "training.batch_size=4"], 4),
        (["training.teacher=frozen", "training.keep_prefixes=0"], 0),
    ],
)
def test_contexts_are_kept_where_they_are_read_again_and_are_the_first_to_go(overrides, count):
    config, training = settings(*overrides), StageMemory("training", weights=1, working=9, detail="")
    assert num_kept_contexts(config, LENGTHS) == count
    assert (_smaller(config, training, LENGTHS) == (("training", "keep_prefixes"), 0)) == bool(count)


def test_the_same_is_counted_once(monkeypatch):
    counts = []
    monkeypatch.setattr(count, "by_depth", lambda *given: counts.append(given) or by_depth(*given))
    config, model = settings("rollouts.max_new_tokens=101"), small()
    estimate_run(config, model, LENGTHS)
    first = len(counts)
    estimate_run(config, small(), LENGTHS)
    assert len(counts) == first
    half = config.training.model_copy(update={"micro_batch_size": 2})
    estimate_run(config.model_copy(update={"training": half}), model, LENGTHS)
    assert len(counts) == first + 1  # learning alone


@pytest.mark.slow
def test_a_large_model_is_counted_at_small_depths(monkeypatch):
    """So it takes seconds, however many layers there are. Each of five counts makes two models, and none twice."""
    depths, make = [], count.without_contents
    monkeypatch.setattr(
        count,
        "without_contents",
        lambda shape, dtype: depths.append(shape.num_hidden_layers) or make(shape, dtype),
    )
    given = ["training.trainer={gradient_checkpointing: true, bf16: true}", "model.dtype=bfloat16"]
    values = {"model.name": "m", "questions.path": "q", "training.dtype": "bfloat16"}
    config = load_config("neuron_opsd", overrides=given, values=values)
    estimate_run(config, qwen3("4B"), RunLengths(401, 401, 10_241, 1001, 201))
    assert sorted(depths) == [2] * 5 + [3] * 5


@pytest.mark.parametrize(("text", "size"), [("24GB", 24e9), ("1.5 gb", 1.5e9)])
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["24", "GB", "-3GB", "0GB", "a lot"])
def test_no_sizes(text):
    with pytest.raises(ConfigError, match="24GB"):
        parse_size(text)


@pytest.fixture
def card(monkeypatch):
    """A model of these shapes, on a card with so many bytes free."""

    def make(free: int) -> None:
        monkeypatch.setattr(early, "load_model_config", lambda settings: small())
        monkeypatch.setattr(early, "free_memory", lambda device: free)
        monkeypatch.setattr(early, "_lengths", lambda config, questions: LENGTHS)
        monkeypatch.setattr("neuron_opsd.memory.estimate.SMALL_MODEL", 0)

    return make


@pytest.mark.slow
def test_the_early_check_names_what_makes_it_fit(card, caplog):
    config = settings()
    training = by_stage(config, small())["training"]
    card(int(0.8 * training.peak))
    with caplog.at_level(logging.WARNING):
        early.check_memory(config, [])
    assert "training.trainer={gradient_checkpointing: true}" in caplog.text
    fitted = early.fit_memory(config, [], "free")
    assert by_stage(fitted, small())["training"].peak < 0.8 * training.peak
    card(10**12)
    caplog.clear()
    early.check_memory(config, [])
    assert caplog.text == ""


def test_the_early_check_refuses_weights_that_do_not_fit(card):
    card(1000)
    with pytest.raises(ConfigError, match="weights alone"):
        early.check_memory(settings(), [])


def test_the_plan_has_a_line_for_each_stage(card):
    card(10**9)
    lines = early.describe_memory(settings(), [])
    assert "1.0 GB are free" in lines[0]
    assert [line.split()[0] for line in lines[1:]] == ["rollouts", "neurons", "training", "evaluation"]
