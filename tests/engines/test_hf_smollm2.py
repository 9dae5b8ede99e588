"""The real model in float32: another batch size gives equal greedy tokens, but where two logits are as good as tied."""

import pytest
import torch

from neuron_opsd.config import ModelSettings
from neuron_opsd.engines.base import Request, Sampling
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.load import load_model

QUESTIONS = [
    "Hi!",
    "What is the capital of France?",
    "Name three noble gases and say what they are used for.",
    "A train leaves at 9 and arrives at 11. How long is the journey? Explain step by step, please.",
    "Write a haiku about the sea.",
    "Is 17 a prime number? Answer yes or no, then give the reason in one sentence.",
]


@pytest.mark.slow
def test_greedy_tokens_do_not_depend_on_the_batch() -> None:
    model, tokenizer = load_model(ModelSettings(name="embedded:smollm2-135m", dtype="float32"))
    encoder = ChatEncoder(tokenizer)
    requests = [
        Request(prompt_ids=tuple(encoder.encode([{"role": "user", "content": text}])), seeds=(0,))
        for text in QUESTIONS
    ]
    sampling = Sampling(temperature=0, max_new_tokens=16)
    alone = dict(HFEngine(model, tokenizer, batch_size=1).generate(requests, sampling))
    together = dict(HFEngine(model, tokenizer, batch_size=8).generate(requests, sampling))
    # The converted weights are the model's: wrongly permuted ones still speak, but know nothing.
    assert "Paris" in encoder.decode_reply(alone[1][0].token_ids)
    for i, request in enumerate(requests):
        first, second = alone[i][0].token_ids, together[i][0].token_ids
        place = next((t for t, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
        if place is None:
            assert first == second
            continue
        with torch.inference_mode():
            logits = model(torch.tensor([[*request.prompt_ids, *first[:place]]])).logits[0, -1]
        best = logits.topk(2).values
        assert float(best[0] - best[1]) < 1e-4
