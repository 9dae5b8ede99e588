"""vLLM itself, on CPU, in its own environment (`make venv-vllm`): in process, and as a server on loopback.

CI builds the environment; where it is missing, these tests are skipped, visibly.
"""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from neuron_opsd.config import EngineSettings, ModelSettings
from neuron_opsd.engines.base import Request, Sampling
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.engines.server import ServerEngine
from neuron_opsd.errors import EngineError
from neuron_opsd.model.load import configured_end_ids, load_model, resolve_model

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("NEURON_OPSD_VLLM", ROOT / ".venv-vllm")) / "bin" / "python"
MODEL = ModelSettings(name="embedded:smollm2-135m")
TEXTS = ("Hi! Say one word.", "What is the capital of France?")
GREEDY = Sampling(temperature=0, max_new_tokens=12)
ENVIRONMENT = os.environ | {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT / "src"),
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="no vLLM environment: make venv-vllm"),
]


@pytest.fixture(scope="module")
def loaded():
    model, tokenizer = load_model(MODEL)
    torch.manual_seed(3)
    student = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear"))
    with torch.no_grad():  # far enough from the base model to write other words
        for name, weights in student.named_parameters():
            if "lora_B" in name:
                weights.normal_(0, 0.05)
    return student, tokenizer, sorted(configured_end_ids(MODEL, tokenizer))


def prompts(tokenizer) -> list[tuple[int, ...]]:
    turns = ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")
    return [tuple(tokenizer(turns[0] + text + turns[1])["input_ids"]) for text in TEXTS]


def reference(student, tokenizer, *, adapter: bool) -> list[list[int]]:
    engine = HFEngine(student, tokenizer)
    asked = [Request(prompt_ids=ids, seeds=(0,)) for ids in prompts(tokenizer)]
    if adapter:
        done = dict(engine.generate(asked, GREEDY))
    else:
        with student.disable_adapter():
            done = dict(engine.generate(asked, GREEDY))
    return [list(done[i][0].token_ids) for i in range(len(asked))]


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
    base, trained = (reference(student, tokenizer, adapter=adapter) for adapter in (False, True))
    assert base != trained
    assert [[ids for ids, _ in group] for group in found["before"]] == [[ids] * 2 for ids in base]
    assert [group[0][0] for group in found["adapter"]] == trained
    assert [group[0][0] for group in found["zero adapter"]] == base
    first, second = found["sampled"]
    assert first == second  # a completion has a seed of its own
    assert first[0][0] != first[0][1]
    with torch.no_grad(), student.disable_adapter():
        (ids, log_probs), prompt = found["before"][1][0], prompts(tokenizer)[1]
        logits = student(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    expected = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids)[:, None])[:, 0]
    assert log_probs == pytest.approx(expected.tolist(), abs=1e-3)


@pytest.fixture(scope="module")
def server(loaded) -> Iterator[tuple[str, subprocess.Popen]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", resolve_model(MODEL.name)]
    command += ["--served-model-name", "smollm2", "--dtype", "float32", "--enforce-eager", "--enable-lora"]
    command += ["--max-model-len", "512", "--max-lora-rank", "8", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, env=ENVIRONMENT, start_new_session=True)
    yield f"http://127.0.0.1:{port}/v1", process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_served_ids_the_students_weights_and_a_killed_server(loaded, server):
    student, tokenizer, end_ids = loaded
    url, process = server
    settings = EngineSettings(name="server", url=url, max_retries=2, timeout_s=60.0)
    _wait_for(settings, tokenizer, end_ids, process)
    engine = ServerEngine(settings, tokenizer, end_ids, student=student)
    assert engine.identity()["token_ids"] == "as sampled"
    asked = [Request(prompt_ids=ids, seeds=(1, 2)) for ids in prompts(tokenizer)]
    base, trained = (reference(student, tokenizer, adapter=adapter) for adapter in (False, True))

    def ids(sampling: Sampling) -> list[list[tuple[int, ...]]]:
        done = dict(engine.generate(asked, sampling))
        return [[completion.token_ids for completion in done[i]] for i in range(len(asked))]

    assert ids(GREEDY) == [[tuple(row)] * 2 for row in base]
    engine.refresh()
    assert ids(GREEDY) == [[tuple(row)] * 2 for row in trained]
    sampled = Sampling(temperature=1.0, max_new_tokens=12)
    assert ids(sampled) == ids(sampled)
    os.killpg(process.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match=r"cannot be reached after 3 attempts.*give the same command again"):
        ids(GREEDY)
    engine.close()


def _wait_for(settings: EngineSettings, tokenizer, end_ids: list[int], process: subprocess.Popen) -> None:
    for _ in range(150):
        assert process.poll() is None, "the server ended"
        try:
            ServerEngine(settings.model_copy(update={"max_retries": 0}), tokenizer, end_ids).close()
            return
        except EngineError:
            time.sleep(2)
    raise AssertionError("the server did not start in five minutes")
