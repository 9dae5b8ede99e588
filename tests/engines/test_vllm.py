"""vLLM itself, on CPU, in its own environment and in process: ids, weights, whole runs, several processes.

CI builds the environment (`make venv-vllm`); where it is missing, these tests are skipped, visibly.
"""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from engines import vllm_runs
from engines.vllm_environment import ENVIRONMENT, MODEL, NEEDS_VLLM, PYTHON
from engines.vllm_students import far_student, greedy_ids, prompts
from neuron_opsd.model.load import load_model, load_tokenizer, resolve_model

pytestmark = NEEDS_VLLM


@pytest.fixture(scope="module")
def loaded():
    return far_student()


def test_in_process_ids_log_probs_and_the_students_weights(loaded, tmp_path):
    student, tokenizer, end_ids = loaded
    student.save_pretrained(tmp_path / "adapter")
    asked = {
        "model": resolve_model(MODEL.name),
        "adapter": str(tmp_path / "adapter"),
        "end_ids": end_ids,
        "prompts": prompts(tokenizer),
    }
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    command = [PYTHON, Path(__file__).with_name("vllm_process.py"), "asked.json", "found.json"]
    subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, check=True, timeout=400)
    found = json.loads((tmp_path / "found.json").read_text())
    base, trained = (greedy_ids(student, tokenizer, adapter=adapter) for adapter in (False, True))
    assert base != trained
    assert [[ids for ids, _ in group] for group in found["before"]] == [[ids] * 2 for ids in base]
    assert [group[0][0] for group in found["adapter"]] == trained
    assert [group[0][0] for group in found["zero adapter"]] == base
    first, second = found["sampled"]
    assert first == second  # a completion has a seed of its own
    assert first[0][0] != first[0][1]
    assert len(found["many"]) == 20
    with torch.no_grad(), student.disable_adapter():
        (ids, log_probs), prompt = found["before"][1][0], prompts(tokenizer)[1]
        logits = student(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    expected = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids)[:, None])[:, 0]
    assert log_probs == pytest.approx(expected.tolist(), abs=1e-3)


# In float32, where samples can be told to a thousandth. `max_model_len` is the run's own choice.
IN_PROCESS = ("engine.name=vllm", "model.dtype=float32")


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora") / "run"
    done = vllm_runs.run(
        folder, resolve_model(MODEL.name), *IN_PROCESS, "preflight.num_questions=0", python=PYTHON
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_a_run_trains_on_what_vllm_samples_from_the_adapter_as_it_is(lora_run: Path) -> None:
    assert (lora_run / "report.html").exists()
    for stage in ("rollouts", "evaluation/base", "evaluation/trained"):
        summary = json.loads((lora_run / stage / "manifest.json").read_text())["summary"]
        assert summary["engine"]["engine"] == "vllm"
    first, second = vllm_runs.steps_of(lora_run)
    base, _ = load_model(MODEL)
    assert vllm_runs.distance(base, first) < 2e-3
    assert vllm_runs.distance(base, second) > 0.1
    trained = PeftModel.from_pretrained(base, str(lora_run / "training" / "checkpoint-1"))
    assert vllm_runs.distance(trained, second) < 2e-3


@pytest.fixture(scope="module")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model trained whole, handed over in memory at step 2 and through files at step 3."""
    folder = tmp_path_factory.mktemp("full") / "run"
    save_tiny(folder.with_name("model"))
    settings = (
        "training.method=full",
        "training.num_steps=3",
        "preflight.num_questions=0",
        "--until",
        "train",
    )
    done = vllm_runs.run(
        folder,
        str(folder.with_name("model")),
        *IN_PROCESS,
        *settings,
        python=PYTHON,
        preface=vllm_runs.LONG,
        as_if_several_gpus_from="3",
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_full_weights_are_handed_over_and_old_keys_and_values_forgotten(full_run: Path) -> None:
    steps = vllm_runs.steps_of(full_run)
    folders = [full_run.with_name("model"), *(full_run / "training" / f"checkpoint-{i}" for i in (1, 2))]
    models = [AutoModelForCausalLM.from_pretrained(folder) for folder in folders]
    assert len(steps) == 3
    for model, samples in zip(models, steps, strict=True):
        assert vllm_runs.distance(model, samples) < 2e-3
    for model, samples in zip(models, steps[1:], strict=False):  # one step behind
        assert vllm_runs.distance(model, samples) > 0.05


def test_two_processes_make_the_bytes_of_one(full_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copy(full_run.with_name("questions.jsonl"), tmp_path)
    options = ("--until", "rollouts", "--num-processes", "2")
    done = vllm_runs.run(folder, str(full_run.with_name("model")), *IN_PROCESS, *options, python=PYTHON)
    assert done.returncode == 0, done.stderr
    shards = sorted((full_run / "rollouts").glob("part-*"))
    assert len(shards) > 1
    for shard in shards:
        assert shard.read_bytes() == (folder / "rollouts" / shard.name).read_bytes()


def save_tiny(folder: Path) -> None:
    """A random llama with heads as wide as vLLM's attention on CPU asks for."""
    tokenizer = load_tokenizer(MODEL)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
