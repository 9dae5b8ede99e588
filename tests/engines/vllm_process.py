"""Run by test_vllm.py in vLLM's own environment: what the engine writes in process, as JSON."""

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel

from neuron_opsd.config import EngineSettings, ModelSettings
from neuron_opsd.engines.base import Request, Sampling
from neuron_opsd.engines.vllm import VLLMEngine
from neuron_opsd.model.load import load_model


def main() -> None:
    """Argv: a file with model, adapter, end_ids and prompts; the file to write."""
    asked = json.loads(Path(sys.argv[1]).read_text())
    base, _ = load_model(ModelSettings(name=asked["model"], dtype="float32"))
    student = PeftModel.from_pretrained(base, asked["adapter"])
    settings = EngineSettings(name="vllm", max_model_len=512)
    engine = VLLMEngine(
        settings,
        ModelSettings(name=asked["model"], dtype="float32"),
        asked["end_ids"],
        student=student,
        lora_rank=8,
    )
    requests = [Request(prompt_ids=tuple(ids), seeds=(1, 2)) for ids in asked["prompts"]]
    greedy = Sampling(temperature=0, max_new_tokens=12)
    found = {"before": _ids(engine, requests, greedy)}
    engine.refresh()
    found["adapter"] = _ids(engine, requests, greedy)
    with torch.no_grad():
        for name, weights in student.named_parameters():
            if "lora_B" in name:
                weights.zero_()
    engine.refresh()
    found["zero adapter"] = _ids(engine, requests, greedy)
    sampled = Sampling(temperature=1.0, max_new_tokens=12)
    found["sampled"] = [_ids(engine, requests, sampled), _ids(engine, requests, sampled)]
    # More than vLLM reads in one go, so that a prompt would be read in pieces.
    many = [Request(prompt_ids=tuple(range(1000 + i, 1480 + i)), seeds=(i,)) for i in range(20)]
    found["many"] = _ids(engine, many, Sampling(temperature=1.0, max_new_tokens=2))
    Path(sys.argv[2]).write_text(json.dumps(found))
    engine.close()


def _ids(engine: VLLMEngine, requests: list[Request], sampling: Sampling) -> list[list[list]]:
    done = dict(engine.generate(requests, sampling))
    return [[[list(c.token_ids), list(c.log_probs)] for c in done[i]] for i in range(len(requests))]


if __name__ == "__main__":
    main()
