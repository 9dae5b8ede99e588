"""The record store at full size: seconds, bytes and peak memory to write a stage of rollouts and to read it again.

    python benchmarks/store.py --folder /tmp/store --num-questions 100000

Synthetic rollouts: random ids of a vocabulary of 49,152 (no run of a real model compresses worse), random
log-probabilities, and a reply of random words. They go shard by shard through `StageFolder`, as a run does; checksums
are made and verified, `records.jsonl` is written too. The folder is removed at the end.
"""

# ruff: noqa: T201
import argparse
import json
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from neuron_opsd.records import Rollout
from neuron_opsd.store.stage_folder import StageFolder

VOCABULARY = 49_152
SHARD_SIZE = 256  # questions, as rollouts.shard_size
PROMPT_TOKENS = 150


def main() -> None:
    """Write, read, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="a new folder; removed at the end")
    parser.add_argument("--num-questions", type=int, default=100_000)
    parser.add_argument("--num-rollouts", type=int, default=8)
    parser.add_argument("--num-tokens", type=int, default=512)
    args = parser.parse_args()
    args.folder.mkdir(parents=True)
    try:
        print(json.dumps(measure(args.folder, args.num_questions, args.num_rollouts, args.num_tokens)))
    finally:
        shutil.rmtree(args.folder)


def measure(folder: Path, num_questions: int, num_rollouts: int, num_tokens: int) -> dict[str, float]:
    """Write a stage and read it record by record; peak memory is the process's, from its start."""
    stage, before = StageFolder(folder / "rollouts", "rollouts"), peak_megabytes()
    making = writing = 0.0
    stage.begin({}, -(-num_questions // SHARD_SIZE))
    for start in range(0, num_questions, SHARD_SIZE):
        began = time.perf_counter()
        records = list(make_rollouts(start, min(start + SHARD_SIZE, num_questions), num_rollouts, num_tokens))
        made = time.perf_counter()
        stage.add_shard(records, Rollout, index=start // SHARD_SIZE)
        making, writing = making + made - began, writing + time.perf_counter() - made
        tell(start, num_questions, writing)
    began = time.perf_counter()
    stage.finish({}, Rollout)
    finished = time.perf_counter()
    checksum = sum(rollout.completion_ids[-1] for rollout in stage.iterate(Rollout))
    read = time.perf_counter() - finished
    parquet = sum(file.stat().st_size for file in stage.path.glob("*.parquet"))
    return {
        "num_questions": num_questions,
        "num_records": stage.num_records(),
        "parquet_mb": round(parquet / 1e6, 1),
        "jsonl_mb": round((stage.path / "records.jsonl").stat().st_size / 1e6, 1),
        "write_s": round(writing, 1),
        "write_mb_per_s": round(parquet / 1e6 / writing, 1),
        "finish_s": round(finished - began, 1),
        "read_s": round(read, 1),
        "read_mb_per_s": round(parquet / 1e6 / read, 1),
        "synthesis_s": round(making, 1),
        "imports_mb": round(before, 1),
        "peak_mb": round(peak_megabytes(), 1),
        "checksum": checksum,
    }


def make_rollouts(first: int, last: int, num_rollouts: int, num_tokens: int) -> Iterator[Rollout]:
    """Those of questions first to last, the same for the same question."""
    words = np.array(
        [f"{a}{b}{c}" for a in "bdgklmnprst" for b in "aeiou" for c in ("n", "ring", "st", "s", "te")]
    )
    for question in range(first, last):
        draw = np.random.default_rng(question)
        prompt = tuple(draw.integers(0, VOCABULARY, PROMPT_TOKENS).tolist())
        for index in range(num_rollouts):
            yield Rollout(
                question_id=f"q-{question:06d}",
                rollout_index=index,
                choice_order=(0, 1, 2, 3),
                prompt_ids=prompt,
                completion_ids=tuple(draw.integers(0, VOCABULARY, num_tokens).tolist()),
                token_log_probs=tuple((-draw.exponential(1.0, num_tokens)).astype(np.float32).tolist()),
                finish_reason="stop",
                reply=" ".join(words[draw.integers(0, len(words), num_tokens)].tolist()),
                answer="ABCD"[question % 4],
            )


def peak_megabytes() -> float:
    """The largest resident set of this process until now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3  # kilobytes on Linux


def tell(start: int, total: int, seconds: float) -> None:
    """A line now and then."""
    if start // SHARD_SIZE % 40 == 0:
        print(
            f"{start} of {total} questions, {seconds:.0f} s writing, peak {peak_megabytes():.0f} MB",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
