"""Tokens a second of the rollout engines on the same requests, interleaved.

    python benchmarks/generation.py --questions demo/data/film_reviews.questions.jsonl
    python benchmarks/generation.py --engines apart merged --questions demo/data/film_reviews.questions.jsonl
    .venv-vllm/bin/python benchmarks/generation.py --engines vllm bare_vllm --model FOLDER --questions FILE

Prompts of at least 150 tokens, 8 samples each, temperature 1, lengths as sampled, at most 256 tokens. `generate` is
`model.generate` with `num_return_sequences=8`, prompts sorted by length, at every batch size asked for; it is compared
at its best. `bare_vllm` is the LLM object of our engine, called as its documentation shows, without log-probabilities:
with n=8 and no seeds, and with a seed for each sample (the engine's own samples, token for token). `apart` and `merged`
are `hf` with a fresh LoRA adapter of rank 32 on every linear layer, beside the weights and merged into them. `copied`
is `hf` with the prompt's keys and values copied for each sample, as models with windows need it. Each
call of vLLM begins with an empty prefix cache. Tokens are those of the completions, the end token included. Model
loading and warming up are not timed; prefill is.
"""

# ruff: noqa: T201
import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedTokenizerBase

from neuron_opsd.config import EngineSettings, ModelSettings
from neuron_opsd.engines.base import Request, Sampling
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.engines.read_prompts import pad_left
from neuron_opsd.engines.vllm import VLLMEngine
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.load import configured_end_ids, end_token_ids, load_model, load_tokenizer

MIN_PROMPT_TOKENS = 150
ASKED = "Think step by step, then answer.\n\n"


def main() -> None:
    """Time every engine at every batch size, round by round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=Path, required=True, help="JSONL with a `question` field")
    parser.add_argument("--model", default="embedded:smollm2-135m", help="a folder in vLLM's environment")
    parser.add_argument(
        "--engines",
        nargs="+",
        choices=("generate", "hf", "copied", "apart", "merged", "vllm", "bare_vllm"),
        default=["generate", "hf"],
    )
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--num-questions", type=int, default=12)
    parser.add_argument("--num-samples", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--cpu-time", action="store_true", help="count CPU time, where others use the machine too"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = ModelSettings(name=arguments.model, dtype=arguments.dtype, device=arguments.device)
    tokenizer = load_tokenizer(settings)
    requests = read_requests(arguments, tokenizer)
    sampling = Sampling(temperature=1.0, max_new_tokens=arguments.max_new_tokens)
    lengths = [len(request.prompt_ids) for request in requests]
    print(
        f"{len(requests)} prompts of {min(lengths)} to {max(lengths)} tokens, {arguments.num_samples} samples each"
    )
    runs: dict[str, Callable[[], int]] = {}
    if {"generate", "hf", "copied"} & set(arguments.engines):
        runs |= _transformers_runs(settings, requests, sampling, arguments)
    if {"apart", "merged"} & set(arguments.engines):
        runs |= _adapter_runs(settings, requests, sampling, arguments)
    if {"vllm", "bare_vllm"} & set(arguments.engines):
        runs |= _vllm_runs(settings, tokenizer, requests, sampling)
    compare(
        {name: run for name, run in runs.items() if name.split()[0] in arguments.engines},
        arguments.rounds,
        time.process_time if arguments.cpu_time else time.perf_counter,
    )


def compare(runs: dict[str, Callable[[], int]], num_rounds: int, clock: Callable[[], float]) -> None:
    """Run all in turn, and print each one's median beside the best of those that are not ours."""
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(num_rounds):
        for name, run in runs.items():
            start = clock()
            num_tokens = run()
            seconds = clock() - start
            speeds[name].append(num_tokens / seconds)
            print(
                f"round {i + 1}, {name}: {num_tokens:,} tokens, {seconds:.1f} s, {speeds[name][-1]:.0f} tokens/s"
            )
    plain = [name for name in runs if name.startswith("generate")]
    others = {max(plain, key=lambda name: median(speeds[name]))} if plain else set()
    others |= {name for name in runs if name.startswith(("apart", "bare_vllm", "copied"))}
    for name, found in speeds.items():
        print(f"{name}: {median(found):.0f} tokens/s")
        for other in sorted(others - {name}):
            ratio = median(a / b for a, b in zip(found, speeds[other], strict=True))
            print(f"    {ratio:.2f} times {other}, round by round")


def read_requests(arguments: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> list[Request]:
    """The first questions whose prompts are long enough."""
    encoder, requests = ChatEncoder(tokenizer), []
    for line in arguments.questions.read_text(encoding="utf-8").splitlines():
        ids = encoder.encode([{"role": "user", "content": ASKED + json.loads(line)["question"]}])
        if len(ids) >= MIN_PROMPT_TOKENS:
            seeds = tuple(range(1000 * len(requests), 1000 * len(requests) + arguments.num_samples))
            requests.append(Request(prompt_ids=tuple(ids), seeds=seeds))
    if len(requests) < arguments.num_questions:
        raise SystemExit(
            f"{arguments.questions}: only {len(requests)} prompts of {MIN_PROMPT_TOKENS} tokens or more"
        )
    return requests[: arguments.num_questions]


def _transformers_runs(
    settings: ModelSettings, requests: Sequence[Request], sampling: Sampling, arguments: argparse.Namespace
) -> Iterator[tuple[str, Callable[[], int]]]:
    model, tokenizer = load_model(settings)
    for size in arguments.batch_sizes:
        yield f"generate {size}", lambda size=size: _plain(model, tokenizer, requests, sampling, size)
        yield f"hf {size}", lambda size=size: _engine(model, tokenizer, requests, sampling, size)
        yield (
            f"copied {size}",
            lambda size=size: _engine(model, tokenizer, requests, sampling, size, shares_prompts=False),
        )


def _adapter_runs(
    settings: ModelSettings, requests: Sequence[Request], sampling: Sampling, arguments: argparse.Namespace
) -> Iterator[tuple[str, Callable[[], int]]]:
    model, tokenizer = load_model(settings)
    student = get_peft_model(model, LoraConfig(r=32, target_modules="all-linear")).eval()
    for size in arguments.batch_sizes:
        for name in ("apart", "merged"):
            merges = name == "merged"
            yield (
                f"{name} {size}",
                lambda size=size, merges=merges: _engine(
                    student, tokenizer, requests, sampling, size, merges=merges
                ),
            )


def _vllm_runs(
    settings: ModelSettings, tokenizer, requests: Sequence[Request], sampling: Sampling
) -> Iterator[tuple[str, Callable[[], int]]]:
    end_ids = sorted(configured_end_ids(settings, tokenizer))
    room = max(len(request.prompt_ids) for request in requests) + sampling.max_new_tokens
    engine = VLLMEngine(EngineSettings(name="vllm", max_model_len=room), settings, end_ids)

    def ours() -> int:
        engine.llm.reset_prefix_cache()
        return sum(len(c.token_ids) for _, group in engine.generate(requests, sampling) for c in group)

    def bare(places: list[tuple[Request, dict]]) -> int:
        engine.llm.reset_prefix_cache()
        outputs = engine.llm.generate(
            [engine.vllm.TokensPrompt(prompt_token_ids=list(request.prompt_ids)) for request, _ in places],
            [engine.vllm.SamplingParams(**common, **own) for _, own in places],
            use_tqdm=False,
        )
        return sum(len(sample.token_ids) for output in outputs for sample in output.outputs)

    common = {
        "temperature": sampling.temperature,
        "max_tokens": sampling.max_new_tokens,
        "stop_token_ids": end_ids,
    }
    groups = [(request, {"n": len(request.seeds)}) for request in requests]
    singles = [(request, {"seed": seed}) for request in requests for seed in request.seeds]
    next(iter(engine.generate(requests[:1], replace(sampling, max_new_tokens=2))))  # the first call warms up
    yield "vllm", ours
    yield "bare_vllm n", lambda: bare(groups)
    yield "bare_vllm seeds", lambda: bare(singles)


def _engine(
    model,
    tokenizer,
    requests: Sequence[Request],
    sampling: Sampling,
    batch_size: int,
    *,
    merges: bool = True,
    shares_prompts: bool | None = None,
) -> int:
    engine = HFEngine(model, tokenizer, batch_size=batch_size)
    engine.merges, engine.shares_prompts = merges, shares_prompts
    return sum(len(c.token_ids) for _, group in engine.generate(requests, sampling) for c in group)


def _plain(model, tokenizer, requests: Sequence[Request], sampling: Sampling, batch_size: int) -> int:
    """`model.generate`, as one would call it."""
    ends = sorted(end_token_ids(model, tokenizer))
    num_samples = len(requests[0].seeds)
    ordered = sorted(requests, key=lambda request: -len(request.prompt_ids))
    total, step = 0, max(1, batch_size // num_samples)
    for i in range(0, len(ordered), step):
        ids, mask = pad_left([request.prompt_ids for request in ordered[i : i + step]], device=model.device)
        torch.manual_seed(i)
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=True,
                temperature=sampling.temperature,
                top_k=0,
                top_p=1.0,
                max_new_tokens=sampling.max_new_tokens,
                num_return_sequences=num_samples,
                eos_token_id=ends,
                pad_token_id=ends[0],
            )
        is_end = torch.isin(output[:, ids.shape[1] :], torch.tensor(ends, device=output.device))
        written = (is_end.cumsum(dim=1) - is_end.long()) == 0
        total += int(written.sum())
    return total


if __name__ == "__main__":
    main()
