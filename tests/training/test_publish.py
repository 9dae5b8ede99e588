"""The published model in the hands of others: plain transformers, PEFT, and our own loader."""

import copy
import gc
import json
import weakref
from functools import partialmethod

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file
from training_runs import TOKENIZER, run, settings, tiny_train
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from devices.other_device import OtherDevice, moved
from helpers import build_tiny_model
from neuron_opsd.config import ModelSettings, TrainingSettings, load_config
from neuron_opsd.errors import ModelError
from neuron_opsd.model.load import load_model
from neuron_opsd.model.trainable import trainable
from neuron_opsd.run.session import Run
from neuron_opsd.store.run_folder import RunFolder
from neuron_opsd.training.publish import NUM_PROMPTS, _has_room, publish

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])
PROMPTS = [(5, 6, 7), (8, 9, 10, 11)]


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(IDS).logits


@pytest.fixture
def base_folder(tmp_path):
    build_tiny_model().save_pretrained(tmp_path / "base")
    TOKENIZER.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def published(student, folder, base_folder, *, save="merged", prompts=PROMPTS, **options) -> dict:
    return publish(
        student,
        TOKENIZER,
        folder,
        save=save,
        base_config=AutoConfig.from_pretrained(base_folder),
        prompts=prompts,
        num_held_out=2,
        **options,
    )


def student_in_bfloat16(base_folder, *, size: float):
    """A student whose adapter's second factors are `size` times noise; 0 has learned nothing."""
    model, _ = load_model(ModelSettings(name=str(base_folder), dtype="bfloat16"))
    student = trainable(model, settings(method="lora"), seed=0).eval()
    torch.manual_seed(1)
    for name, parameter in student.named_parameters():
        if "lora_B" in name:
            parameter.data = size * torch.randn_like(parameter)
    return student


def test_a_reply_of_one_token_is_measured_by_what_predicts_it(tmp_path, base_folder):
    model, _ = load_model(ModelSettings(name=str(base_folder), dtype="float32"))
    student = trainable(model, settings(method="lora"), seed=0).eval()
    torch.manual_seed(1)
    for name, parameter in student.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.3 * torch.randn_like(parameter)
    terms = []
    with torch.no_grad():
        for prompt in PROMPTS:
            ids = torch.tensor([prompt])
            own = student(ids).logits[0, -1].double().log_softmax(-1)
            with student.disable_adapter():
                base = student(ids).logits[0, -1].double().log_softmax(-1)
            terms.append((own.exp() * (own - base)).sum().item())
    found = published(student, tmp_path / "model", base_folder, max_new_tokens=1)
    assert found["num_tokens"] == len(PROMPTS)
    assert found["kl_learned"] == pytest.approx(sum(terms) / len(terms), rel=1e-4)
    assert found["kl_learned"] > 1e-4


def test_what_a_bfloat16_student_learned_is_in_the_model_that_is_evaluated(tmp_path, base_folder):
    student = student_in_bfloat16(base_folder, size=2e-3)
    exact = copy.deepcopy(student).float()
    expected = logits(exact)
    with exact.disable_adapter():
        learned = (expected - logits(exact)).norm()
    rounded = logits(copy.deepcopy(student).merge_and_unload().float())
    assert (rounded - expected).norm() > 0.2 * learned  # what was published before

    summary = published(student, tmp_path / "model", base_folder)
    assert summary["dtype"] == "float32"
    assert summary["kept_fraction"] > 0.9999
    assert 0 <= summary["kl_lost"] < 1e-4 * summary["kl_learned"]
    assert (summary["num_prompts"], summary["num_held_out"]) == (2, 2)
    ours, _ = load_model(ModelSettings(name=str(base_folder), dtype="bfloat16"), name=str(tmp_path / "model"))
    assert ours.dtype == torch.float32  # what evaluation reads, whatever model.dtype is
    torch.testing.assert_close(logits(ours), expected, rtol=1e-4, atol=1e-4)


def test_bfloat16_is_published_where_it_keeps_what_was_learned(tmp_path, base_folder):
    student = student_in_bfloat16(base_folder, size=1.0)
    exact = logits(copy.deepcopy(student).float())
    summary = published(student, tmp_path / "model", base_folder)
    assert summary["dtype"] == "bfloat16"
    assert 0.99 < summary["kept_fraction"] < 1
    ours, _ = load_model(ModelSettings(name=str(base_folder), dtype="bfloat16"), name=str(tmp_path / "model"))
    assert ours.dtype == torch.bfloat16
    assert (logits(ours).float() - exact).norm() < 0.1 * exact.norm()
    assert load_file(tmp_path / "model" / "model.safetensors")["lm_head.weight"].dtype == torch.bfloat16


def test_a_matched_student_is_as_sure_as_its_base_and_prefers_what_it_learned(tmp_path, base_folder, caplog):
    caplog.set_level("INFO")
    sharp = build_tiny_model()
    sharp.lm_head.weight.data *= 20  # its own replies are as good as uniform
    sharp.save_pretrained(base_folder)
    model, _ = load_model(ModelSettings(name=str(base_folder), dtype="float32"))
    student = trainable(model, settings(method="lora"), seed=0).eval()
    torch.manual_seed(1)
    for name, parameter in student.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.5 * torch.randn_like(parameter)
    expected, prompts = logits(student), [(i, i + 1, i + 2) for i in range(5, 45)]
    options = {"prompts": prompts, "entropy_at": 0.6, "max_new_tokens": 1}
    summary = published(student, tmp_path / "model", base_folder, **options)
    temperature = summary["student_temperature"]
    assert abs(temperature - 1) > 0.01
    assert summary["num_prompts"] == NUM_PROMPTS  # its entropy is that of all 40
    assert summary["kl_lost"] < 1e-9
    assert not (tmp_path / "model" / "adapter").exists()  # it is another model
    assert "publishing: 4 passes in" in caplog.text

    entropies = []
    for folder in (base_folder, tmp_path / "model"):
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            log_probs = loaded(torch.tensor(prompts)).logits[:, -1].div(0.6).log_softmax(-1)
        entropies.append(-(log_probs.exp() * log_probs).sum(-1).mean().item())
    assert entropies[1] == pytest.approx(entropies[0], rel=1e-3)
    torch.testing.assert_close(logits(loaded), expected / temperature, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("name", "value"), [("method", "full"), ("save", "adapter")])
def test_entropy_is_matched_as_an_adapter_is_merged(name, value):
    with pytest.raises(
        ValidationError, match=rf"training\.student_entropy is matched, but training\.{name} is {value}"
    ):
        TrainingSettings(student_entropy="matched", **{name: value})


def test_one_file_replaces_several(tmp_path, base_folder, monkeypatch):
    """In float32 the model is too large for one file, in bfloat16 it is not."""
    student = student_in_bfloat16(base_folder, size=1.0)
    size = 3 * sum(weight.numel() for weight in build_tiny_model().parameters())
    saved = partialmethod(PreTrainedModel.save_pretrained, max_shard_size=size)
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", saved)
    assert published(student, tmp_path / "model", base_folder)["dtype"] == "bfloat16"
    assert [path.name for path in (tmp_path / "model").glob("model*")] == ["model.safetensors"]


def test_without_prompts_no_entropy_is_matched_and_the_log_says_so(tmp_path, base_folder, caplog):
    student = student_in_bfloat16(base_folder, size=1.0)
    summary = published(student, tmp_path / "model", base_folder, prompts=[], entropy_at=0.6)
    assert summary["student_temperature"] is None
    assert "as sure as it is, because no prompt leaves room" in caplog.text


def test_without_prompts_nothing_is_measured_and_float32_is_published(tmp_path, base_folder):
    student = student_in_bfloat16(base_folder, size=1.0)
    summary = published(student, tmp_path / "model", base_folder, prompts=())
    assert (summary["dtype"], summary["num_prompts"], summary["kept_fraction"]) == ("float32", 0, None)


def test_float32_weights_must_fit_what_is_free(monkeypatch):
    """2 further bytes a weight, in .8 of the free memory. A CPU has nowhere else to go."""
    model = build_tiny_model().bfloat16()
    more = 2 * sum(weight.numel() for weight in model.parameters())
    for free, expected in ((1.26 * more, True), (1.24 * more, False), (None, True)):
        monkeypatch.setattr("neuron_opsd.training.publish.free_memory", lambda device, free=free: free)
        assert _has_room(copy.deepcopy(model).to("meta")) is expected
        assert _has_room(model)


def test_a_model_that_its_device_cannot_hold_in_float32_is_merged_on_the_cpu(
    tmp_path, base_folder, monkeypatch
):
    student = student_in_bfloat16(base_folder, size=2e-3)
    expected = published(copy.deepcopy(student), tmp_path / "here", base_folder)
    monkeypatch.setattr("neuron_opsd.training.publish.free_memory", lambda device: 0)
    student = moved(student)
    with OtherDevice():
        assert published(student, tmp_path / "there", base_folder) == expected
    assert student.device.type == "cpu"
    for file in ("model.safetensors", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "there" / file).read_bytes() == (tmp_path / "here" / file).read_bytes()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a GPU's memory is counted on a GPU")
def test_merging_on_the_cpu_takes_no_memory_of_the_gpu(tmp_path, base_folder, monkeypatch):
    student = student_in_bfloat16(base_folder, size=2e-3)
    assert student.device.type == "cuda"
    held = torch.cuda.memory_allocated()
    monkeypatch.setattr("neuron_opsd.training.publish.free_memory", lambda device: 0)
    torch.cuda.reset_peak_memory_stats()
    summary = published(student, tmp_path / "model", base_folder)
    assert torch.cuda.max_memory_allocated() == held
    assert student.device.type == "cpu"
    assert (summary["dtype"], summary["kept_fraction"]) == ("float32", pytest.approx(1, abs=1e-4))


def test_a_student_that_learned_nothing_is_published_in_float32(tmp_path, base_folder):
    summary = published(student_in_bfloat16(base_folder, size=0.0), tmp_path / "model", base_folder)
    assert (summary["dtype"], summary["kl_learned"], summary["kept_fraction"]) == ("float32", 0.0, None)


def test_the_adapter_is_published_beside_the_merged_model(tmp_path, base_folder):
    student = student_in_bfloat16(base_folder, size=2e-3)
    expected = logits(student)
    published(student, tmp_path / "model", base_folder, base_name="owner/base")
    adapter = tmp_path / "model" / "adapter"
    assert sorted(path.name for path in adapter.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert (
        json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == "owner/base"
    )
    base = AutoModelForCausalLM.from_pretrained(base_folder, dtype="bfloat16")
    assert torch.equal(logits(PeftModel.from_pretrained(base, adapter)), expected)


def test_an_adapter_is_evaluated_on_the_runs_own_base(tmp_path, base_folder):
    """Though it names the hub's: nothing is downloaded."""
    student = student_in_bfloat16(base_folder, size=2e-3)
    expected = logits(student)
    summary = published(student, tmp_path / "model", base_folder, save="adapter", base_name="owner/base")
    assert summary == {"form": "adapter", "dtype": None}
    ours, _ = load_model(ModelSettings(name=str(base_folder), dtype="bfloat16"), name=str(tmp_path / "model"))
    assert torch.equal(logits(ours), expected)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_configuration_is_the_base_models_own(tmp_path, base_folder, method):
    base = AutoModelForCausalLM.from_pretrained(base_folder)
    student = run(tmp_path / "run", steps=1, model=base, method=method)
    summary = published(student, tmp_path / "model", base_folder)
    assert summary["form"] == ("merged" if method == "lora" else "full")
    before, after = (
        json.loads((folder / "config.json").read_text()) for folder in (base_folder, tmp_path / "model")
    )
    assert after == before


def test_an_older_configuration_stays_in_its_own_words(tmp_path, base_folder):
    """Older programs know no `rope_parameters` and no `dtype`."""
    older = json.loads((base_folder / "config.json").read_text())
    older["rope_theta"] = older.pop("rope_parameters")["rope_theta"]
    older["torch_dtype"] = older.pop("dtype")
    (base_folder / "config.json").write_text(json.dumps(older))
    student = student_in_bfloat16(base_folder, size=1.0)
    expected = logits(copy.deepcopy(student).float())
    published(student, tmp_path / "model", base_folder, base_json=older)
    assert json.loads((tmp_path / "model" / "config.json").read_text()) == {
        **older,
        "torch_dtype": "bfloat16",
    }
    ours, _ = load_model(ModelSettings(name=str(base_folder), dtype="float32"), name=str(tmp_path / "model"))
    assert ours.dtype == torch.bfloat16
    assert (logits(ours).float() - expected).norm() < 0.1 * expected.norm()


def test_an_adapter_of_a_local_base_names_no_folder(tmp_path, base_folder):
    published(student_in_bfloat16(base_folder, size=1.0), tmp_path / "adapter", base_folder, save="adapter")
    assert str(tmp_path) not in (tmp_path / "adapter" / "adapter_config.json").read_text()
    with pytest.raises(ModelError, match=r"names no base model.*--format merged"):
        load_model(ModelSettings(name=str(tmp_path / "adapter")))


def test_adapter_and_merged_model_load_in_transformers_and_peft(tmp_path, base_folder):
    base = AutoModelForCausalLM.from_pretrained(base_folder)
    student = run(tmp_path / "run", steps=2, model=base, method="lora", learning_rate=0.05)
    expected = logits(student)
    assert (expected - logits(build_tiny_model())).abs().max() > 1e-2

    # A base that its name leads to, as the hub's does.
    published(student, tmp_path / "adapter", base_folder, save="adapter", base_name=str(base_folder))
    loaded = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base_folder), tmp_path / "adapter"
    )
    torch.testing.assert_close(logits(loaded), expected)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")), expected)
    ours, tokenizer = load_model(ModelSettings(name=str(tmp_path / "adapter"), dtype="float32", device="cpu"))
    torch.testing.assert_close(logits(ours), expected)
    assert tokenizer.chat_template == TOKENIZER.chat_template

    published(student, tmp_path / "merged", base_folder)
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)


def test_adapters_sit_on_all_linear_layers_but_the_head():
    student = trainable(build_tiny_model(), settings(method="lora"), seed=0)
    linear = {
        name for name, module in build_tiny_model().named_modules() if isinstance(module, torch.nn.Linear)
    }
    adapted = {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.default.weight")
        for name, _ in student.named_parameters()
        if name.endswith(".lora_A.default.weight")
    }
    assert adapted == linear - {"lm_head"}
    assert len(adapted) == 14
    scales = {module.scaling["default"] for module in student.modules() if hasattr(module, "lora_A")}
    assert scales == {2.0}  # alpha / rank


@pytest.mark.parametrize("method", ["lora", "full"])
def test_float16_is_refused_for_training(method):
    """A step's gradients would be divided by its tokens in float16, and round to zero."""
    with pytest.raises(ModelError, match=r"float16.*training\.dtype=float32 or bfloat16"):
        trainable(build_tiny_model().half(), settings(method=method), seed=0)


def test_the_student_is_freed_before_the_trained_model_is_loaded(tmp_path, base_folder):
    """A trainer and its student refer to one another: the run collects them when it loads the next model."""
    run = run_of(tmp_path, base_folder)
    trained = tiny_train(tmp_path / "run", steps=1, model=run.models.take_base()[0], method="lora")
    weights = [weakref.ref(parameter) for parameter in trained.student.parameters()]
    published(trained.student, tmp_path / "model", base_folder)
    del trained
    gc.disable()  # what is freed is freed by the run, not by chance
    try:
        run.models.named(str(tmp_path / "model"))
        assert [ref for ref in weights if ref() is not None] == []
    finally:
        gc.enable()


def run_of(tmp_path, base_folder) -> Run:
    values = {"model.name": str(base_folder), "questions.path": "pool.jsonl", "model.device": "cpu"}
    folder = RunFolder.create(tmp_path / "bench")
    folder.write_config(load_config("neuron_opsd", values=values))
    return Run(folder)


def test_a_model_object_without_a_name_is_trained(tmp_path):
    model = build_tiny_model()
    assert model.name_or_path == ""
    assert run(tmp_path, steps=1, model=model) is model


def test_four_bits_need_a_gpu():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(
        ModelError, match=r"training\.quantization is 4bit, which needs a GPU.*quantization=none"
    ):
        load_model(ModelSettings(name="embedded:smollm2-135m"), quantization="4bit")


@pytest.mark.parametrize("changes", [{"method": "full", "save": "adapter"}, {"save": "merged"}])
def test_four_bits_carry_an_adapter_and_nothing_else(changes):
    with pytest.raises(ValidationError, match=r"training\.quantization is 4bit, but training\."):
        TrainingSettings(quantization="4bit", **changes)
    assert TrainingSettings(quantization="4bit", save="adapter").quantization == "4bit"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="bitsandbytes' 4-bit layers are checked on a GPU")
def test_an_adapter_on_a_four_bit_base_is_trained(tmp_path, base_folder):
    pytest.importorskip("bitsandbytes")
    options = ModelSettings(name=str(base_folder), dtype="bfloat16")
    model, _ = load_model(options, quantization="4bit")
    student = run(tmp_path / "run", steps=2, model=model, method="lora", learning_rate=0.05)
    assert student.base_model.model.model.layers[0].mlp.down_proj.base_layer.weight.dtype == torch.uint8
    published(student, tmp_path / "adapter", base_folder, save="adapter")
    ours, _ = load_model(ModelSettings(name=str(tmp_path / "adapter"), dtype="float32"))
    assert torch.isfinite(ours(IDS.to(ours.device)).logits).all()
