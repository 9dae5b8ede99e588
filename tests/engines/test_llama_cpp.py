"""llama.cpp's own server, from PyPI's xllamacpp: ids as sampled for rollouts; training is refused."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from peft import LoraConfig, get_peft_model

from engines.vllm_students import prompts
from neuron_opsd.config import EngineSettings, ModelSettings
from neuron_opsd.engines.base import Request, Sampling
from neuron_opsd.engines.server import ServerEngine
from neuron_opsd.errors import EngineError
from neuron_opsd.model.gguf import embedded_gguf
from neuron_opsd.model.load import configured_end_ids, load_model

pytestmark = pytest.mark.slow
pytest.importorskip("xllamacpp", reason="no llama.cpp: pip install xllamacpp")

MODEL = ModelSettings(name="embedded:smollm2-135m", dtype="float32")
SERVE = """
import sys
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.hostnames, params.port = sys.argv[1], ["127.0.0.1"], 0
params.n_ctx, params.n_parallel, params.warmup = 1024, 2, False
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    command = [sys.executable, "-c", SERVE, str(embedded_gguf(MODEL.name))]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout
    yield f"{process.stdout.readline().strip()}/v1"
    process.kill()
    process.wait()


def test_ids_and_log_probs_are_those_of_the_model_and_training_is_refused(url: str) -> None:
    model, tokenizer = load_model(MODEL)
    end_ids = sorted(configured_end_ids(MODEL, tokenizer))
    engine = ServerEngine(EngineSettings(name="server", url=url), tokenizer, end_ids)
    assert engine.identity()["token_ids"] == "as sampled"
    asked = [Request(prompt_ids=ids, seeds=(1, 2, 3)) for ids in prompts(tokenizer)]
    done = dict(engine.generate(asked, Sampling(temperature=1.0, max_new_tokens=24)))
    reasons = set()
    for i, request in enumerate(asked):
        assert len({completion.token_ids for completion in done[i]}) > 1
        for completion in done[i]:
            reasons.add(completion.finish_reason)
            assert (completion.token_ids[-1] in end_ids) == (completion.finish_reason == "stop")
            ids = torch.tensor([[*request.prompt_ids, *completion.token_ids]])
            with torch.inference_mode():
                logits = model(ids).logits[0, len(request.prompt_ids) - 1 : -1]
            own = torch.log_softmax(logits, -1).gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
            # llama.cpp rounds activations to eight bits
            assert float((own - torch.tensor(completion.log_probs)).abs().mean()) < 0.2
    assert "stop" in reasons
    student = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(EngineError, match="cannot load the student's adapter while it runs"):
        ServerEngine(EngineSettings(name="server", url=url), tokenizer, end_ids, student=student)
