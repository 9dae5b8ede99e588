"""Cost of the neurons: capture against a plain forward pass, memory of a long completion, nearest neighbours.

    python benchmarks/neurons.py                     # everything, some ten minutes on two cores
    python benchmarks/neurons.py --only capture      # or memory, overlap, approximate

Capture and the plain pass (same model, dtype, threads and tokens; backbone alone, no logits) alternate within
each round, so that whatever else the machine does meets both; the ratio is the median over rounds. The
completions are sampled from the model itself: random tokens would repeat less than text does.
"""

# ruff: noqa: T201
import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from neuron_opsd.config import ModelSettings, NeuronSettings
from neuron_opsd.model.load import load_model
from neuron_opsd.model.unembedding import backbone
from neuron_opsd.neurons.capture import capture_neurons
from neuron_opsd.neurons.overlap import nearest_neighbours
from neuron_opsd.records import Rollout

PROMPT_TOKENS = 150


def main() -> None:
    """Run the chosen parts."""
    parts: dict[str, Callable[[argparse.Namespace], None]] = {
        "capture": measure_capture,
        "memory": measure_memory,
        "overlap": measure_overlap,
        "approximate": measure_approximate,
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=parts)
    parser.add_argument("--model", default="embedded:smollm2-135m")
    parser.add_argument(
        "--device", default="cpu", help="of capture and its plain pass; the rest is on the CPU"
    )
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--lengths", nargs="+", type=int, default=[64, 512])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--texts", type=Path, help="keep the sampled texts in this .npy file")
    parser.add_argument("--sets", type=int, default=10_000)
    parser.add_argument("--sets-file", type=Path, help="keep the sets in this .npy file, memory-mapped")
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--candidates", nargs="+", type=int, default=[100, 400])
    parser.add_argument("--memory-of", choices=["plain", "capture"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print(_peak_of_long_completion(capture=arguments.memory_of == "capture"))
        return
    for name, measure in parts.items():
        if arguments.only in (None, name):
            measure(arguments)


def measure_capture(arguments: argparse.Namespace) -> None:
    """Seconds of capture over seconds of a plain forward pass."""
    texts = _texts(arguments)
    for dtype in arguments.dtypes:
        model, tokenizer = load_model(
            ModelSettings(name=arguments.model, dtype=dtype, device=arguments.device)
        )
        for length in arguments.lengths:
            ids = texts[:, : PROMPT_TOKENS + length].to(model.device)
            _measure_length(model, tokenizer, ids, arguments.rounds)


def _measure_length(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: torch.Tensor, rounds: int
) -> None:
    rollouts = [_rollout(text[:PROMPT_TOKENS], text[PROMPT_TOKENS:]) for text in ids.tolist()]
    settings = NeuronSettings(batch_size=len(ids))
    times = _interleave(
        rounds,
        lambda: _plain(model, ids),
        lambda: list(capture_neurons(model, tokenizer, rollouts, settings)),
    )
    wall, busy = (median(capture[kind] / plain[kind] for plain, capture in times) for kind in (0, 1))
    plain = median(plain[0] for plain, _ in times)
    completions = ids[:, PROMPT_TOKENS:]
    print(
        f"{model.dtype}, {len(ids)} completions of {completions.shape[1]} tokens: capture / plain = {wall:.3f} "
        f"by the clock, {busy:.3f} in CPU time (plain {plain:.2f} s, {ids.numel() / plain:,.0f} tokens/s; "
        f"{len(completions.unique())} distinct ids among {completions.numel()} completion tokens)",
        flush=True,
    )


def measure_memory(arguments: argparse.Namespace) -> None:
    """Peak memory of one 8,192-token completion, 2 layers of Qwen3-4B's shape; one process each."""
    peaks = {}
    for kind in ("plain", "capture"):
        command = [sys.executable, __file__, "--memory-of", kind, "--threads", str(arguments.threads)]
        peaks[kind] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    over = peaks["capture"] - peaks["plain"]
    print(f"8,192 tokens: plain +{peaks['plain']:.0f} MB, capture +{peaks['capture']:.0f} MB: {over:+.0f} MB")


def measure_overlap(arguments: argparse.Namespace) -> None:
    """Exact nearest 10 of sets as large and as alike as Qwen3-4B's."""
    sets = realistic_sets(arguments.sets)
    before = _peak_mb()
    start = time.perf_counter()
    _, distances = nearest_neighbours(sets, 10)
    seconds = time.perf_counter() - start
    print(
        f"nearest 10 of {len(sets):,} sets, exact: {seconds:.1f} s, peak {_peak_mb():,.0f} MB "
        f"({_peak_mb() - before:,.0f} MB over the sets); mean pairwise distance {_mean_distance(sets):.3f}, "
        f"mean nearest {distances[:, 0].mean():.3f}",
        flush=True,
    )


def measure_approximate(arguments: argparse.Namespace) -> None:
    """The approximate search: seconds and memory, and its recall against counting all pairs of some queries."""
    sets = _kept_sets(arguments)
    before = _peak_mb()
    random = np.random.default_rng(2)
    queries = np.sort(random.choice(len(sets), size=min(arguments.queries, len(sets)), replace=False))
    checked = np.linspace(0, len(queries) - 1, 50).astype(int)
    exact = np.stack([_nearest_by_counting(sets, query, 10) for query in queries[checked]])
    for candidates in arguments.candidates:
        start = time.perf_counter()
        found, _ = nearest_neighbours(sets, 10, queries=queries.tolist(), num_candidates=candidates)
        seconds = time.perf_counter() - start
        recall = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(exact, found[checked], strict=True)])
        print(
            f"nearest 10 of {len(sets):,} sets for {len(queries):,} queries, {candidates} candidates: "
            f"{seconds:.1f} s, peak {_peak_mb() - before:,.0f} MB over the sets, recall {recall:.3f} "
            f"({len(checked)} queries counted exactly)",
            flush=True,
        )


def _kept_sets(arguments: argparse.Namespace) -> list[np.ndarray]:
    """The sets, memory-mapped from the files that --sets-file names where it is given."""
    if not arguments.sets_file:
        return realistic_sets(arguments.sets)
    ids, sizes = arguments.sets_file.with_suffix(".npy"), arguments.sets_file.with_suffix(".sizes.npy")
    if not sizes.is_file():
        sets = realistic_sets(arguments.sets)
        np.save(ids, np.concatenate(sets))
        np.save(sizes, np.array([len(one) for one in sets]))
    ends = np.cumsum(np.load(sizes))[: arguments.sets]
    flat = np.load(ids, mmap_mode="r")
    return [flat[start:end] for start, end in pairwise([0, *ends])]


def _nearest_by_counting(sets: list[np.ndarray], query: int, count: int) -> np.ndarray:
    is_in_query = np.zeros(1 + max(int(ids[-1]) for ids in sets), dtype=bool)
    is_in_query[sets[query]] = True
    sizes = np.array([len(ids) for ids in sets])
    shared = np.array([np.count_nonzero(is_in_query[ids]) for ids in sets])
    distance = 1 - shared / (len(sets[query]) + sizes - shared)
    distance[query] = np.inf
    return np.argsort(distance, kind="stable")[:count]


def realistic_sets(
    num_sets: int, *, set_size: int = 5_000, num_ids: int = 350_000, num_topics: int = 40
) -> list[np.ndarray]:
    """Sets of about `set_size` ids: Zipf-like frequencies, topics, a mean pairwise distance near 0.65."""
    random = np.random.default_rng(0)
    zipf = -2.08 * np.log(np.arange(num_ids) + 2_000.0)
    chances = []
    for _ in range(num_topics):
        weight = np.exp(zipf - zipf[0] + random.normal(scale=0.5, size=num_ids))
        scale = 1.0
        for _ in range(50):  # chances are cut at 1, so the scale that gives set_size is found step by step
            scale *= set_size / np.minimum(scale * weight, 1).sum()
        chances.append(np.minimum(scale * weight, 1).astype(np.float32))
    return [
        np.flatnonzero(random.random(num_ids, dtype=np.float32) < chances[number % num_topics]).astype(
            np.int32
        )
        for number in range(num_sets)
    ]


def _mean_distance(sets: list[np.ndarray], pairs: int = 500) -> float:
    random = np.random.default_rng(1)
    distances = []
    for left, right in random.integers(len(sets), size=(pairs, 2)):
        if left != right:
            shared = len(np.intersect1d(sets[left], sets[right]))
            distances.append(1 - shared / (len(sets[left]) + len(sets[right]) - shared))
    return float(np.mean(distances))


def _interleave(rounds: int, *functions: Callable[[], object]) -> list[list[tuple[float, float]]]:
    """Seconds of each function in each round, by the clock and of CPU; a first round that warms up is dropped.

    On a machine that others use too, CPU time is the steadier of the two.
    """
    times = []
    for _ in range(rounds + 1):
        row = []
        for function in functions:
            clock, cpu = time.perf_counter(), time.process_time()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            row.append((time.perf_counter() - clock, time.process_time() - cpu))
        times.append(row)
    return times[1:]


@torch.inference_mode()
def _plain(model: PreTrainedModel, ids: torch.Tensor) -> None:
    backbone(model)(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)


def _texts(arguments: argparse.Namespace) -> torch.Tensor:
    """Token ids sampled from the model in float32, or those of an earlier call (--texts)."""
    if arguments.texts and arguments.texts.is_file():
        return torch.from_numpy(np.load(arguments.texts))[: arguments.batch_size]
    model, _ = load_model(ModelSettings(name=arguments.model, dtype="float32", device=arguments.device))
    texts = _sample(model, arguments.batch_size, PROMPT_TOKENS + max(arguments.lengths))
    if arguments.texts:
        np.save(arguments.texts, texts.numpy())
    return texts


def _sample(model: PreTrainedModel, num_texts: int, num_tokens: int) -> torch.Tensor:
    torch.manual_seed(0)
    start = torch.randint(1_000, 20_000, (num_texts, 1)).to(model.device)
    with torch.inference_mode():
        return model.generate(
            start, attention_mask=torch.ones_like(start), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            min_new_tokens=num_tokens - 1, max_new_tokens=num_tokens - 1,
        ).cpu()  # fmt: skip


def _rollout(prompt: list[int], completion: list[int]) -> Rollout:
    return Rollout(
        question_id="q",
        rollout_index=0,
        choice_order=(),
        prompt_ids=tuple(prompt),
        completion_ids=tuple(completion),
        token_log_probs=(),
        finish_reason="stop",
        reply="",
        answer=None,
    )


def _peak_of_long_completion(*, capture: bool) -> float:
    """MB above the loaded model while one 8,192-token completion is read."""
    config = AutoConfig.for_model(
        "qwen3", hidden_size=2_560, intermediate_size=9_728, num_hidden_layers=2, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, vocab_size=4_000, tie_word_embeddings=True,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    ids = torch.randint(4_000, (1, PROMPT_TOKENS + 8_192))
    _plain(model, ids[:, :8])
    before = _peak_mb()
    if capture:
        tokenizer: PreTrainedTokenizerBase = None  # type: ignore[assignment]  # not read for tokens=all
        rollout = _rollout(ids[0, :PROMPT_TOKENS].tolist(), ids[0, PROMPT_TOKENS:].tolist())
        list(capture_neurons(model, tokenizer, [rollout], NeuronSettings()))
    else:
        _plain(model, ids)
    return _peak_mb() - before


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024


if __name__ == "__main__":
    main()
