"""Most of docs/speed.md in one command: benchmarks, small, with the processor's name and what each took.

    make bench                                     # or: python benchmarks/everything.py [--only PART ...]

Each benchmark compares its ways within one run, in turns, so its ratios hold on a busy machine too. Seconds do not: the
lines "took" are for a quiet one. The questions are those that the demo's package carries.
"""

# ruff: noqa: T201
import argparse
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
# What each part needs beside the interpreter. DATA: a folder of real questions. NEW: a folder that is not there yet.
PARTS = {
    "demo": "COMMAND demo",
    "capture": "neurons.py --only capture --dtypes float32 --lengths 64 --batch-size 4 --rounds 2 --threads 1",
    "letters": "exact.py --questions DATA/openbookqa.questions.jsonl --num-questions 12 --rounds 1",
    "choice texts": "exact.py --questions DATA/openbookqa.questions.jsonl --answer-format choice_text "
    "--num-questions 8 --rounds 1",
    "votes": "votes.py --questions DATA/openbookqa.questions.jsonl DATA/siqa.questions.jsonl "
    "DATA/commonsenseqa.questions.jsonl --num-questions 10",
    "engine": "generation.py --questions DATA/film_reviews.questions.jsonl --num-questions 2 --max-new-tokens 48 "
    "--batch-sizes 16 --rounds 2 --threads 1 --cpu-time",
    "adapter": "generation.py --engines apart merged --questions DATA/film_reviews.questions.jsonl --num-questions 2 "
    "--max-new-tokens 48 --batch-sizes 16 --rounds 2 --threads 1 --cpu-time",
    "training step": "training.py --only step --methods lora --lengths 64 --rounds 1",
    "training, whole": "training.py --only teacher --methods lora --lengths 64 --rounds 1",
    "one process": "PROCESSES 1 num_threads=1",
    "one process, two threads": "PROCESSES 1 num_threads=2",
    "two processes": "PROCESSES 2 num_threads=1",
    "long pool": "pool.py --folder NEW --num-questions 10000 30000",
}
PROCESS_OPTIONS = [
    "--model=embedded:smollm2-135m", "--until=neurons", "model.dtype=float32",
    "questions.max_train=64", "questions.test_fraction=0.0", "rollouts.num_rollouts=2", "rollouts.max_new_tokens=64",
    "rollouts.shard_size=16",
]  # fmt: skip


def processor() -> str:
    """The processor's name, and whether it has the units that make the difference."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    name = next((line.split(":")[1].strip() for line in text.splitlines() if "model name" in line), "")
    units = [unit for unit in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if unit in text.split()]
    return f"{name or platform.processor()}, {os.cpu_count()} cores, {' '.join(units)}"


def command(part: str, data: Path, new: Path) -> list[str]:
    """What to run for a part."""
    first, *rest = PARTS[part].split(" ")
    neuron_opsd = [str(Path(sys.executable).with_name("neuron-opsd"))]
    if first == "COMMAND":
        return neuron_opsd + rest
    if first == "PROCESSES":
        questions = f"--questions={data / 'openbookqa.questions.jsonl'}"
        run = [
            *neuron_opsd,
            "run",
            "neuron_opsd",
            questions,
            f"--output={new}",
            f"--cache={new}-cache",
            *PROCESS_OPTIONS,
        ]
        return [*run, f"--num-processes={rest[0]}", rest[1]]
    named = [word.replace("DATA", str(data)).replace("NEW", str(new)) for word in rest]
    return [sys.executable, str(BENCHMARKS / first), *named]


def main() -> None:
    """Run the parts, and say what each took. The exit status is the number of those that failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART")
    parser.add_argument("--data", type=Path, help="made there if it is empty (default: a temporary folder)")
    arguments = parser.parse_args()
    print(f"{processor()}; Python {platform.python_version()}, torch {torch.__version__}", flush=True)
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = (arguments.data or folder / "data").absolute()
        if not (data / "openbookqa.questions.jsonl").exists():
            prepare = ROOT / "scripts/prepare_demo_questions.py"
            subprocess.run([sys.executable, str(prepare), str(data)], check=True, stdout=subprocess.DEVNULL)
        for place, part in enumerate(arguments.only):
            print(f"\n== {part}: {PARTS[part]}", flush=True)
            own = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
            own["NEURON_OPSD_CACHE"] = str(folder / "cache")  # empty, as a newcomer's
            before = os.times()
            status = subprocess.run(
                command(part, data, folder / f"{place}"), cwd=folder, env=own, check=False
            ).returncode
            after = os.times()
            spent = after.children_user + after.children_system
            spent -= before.children_user + before.children_system
            print(f"== {part} took {after.elapsed - before.elapsed:.0f} s, {spent:.0f} s of processor time"
                  + (f", and FAILED with status {status}" if status else ""), flush=True)  # fmt: skip
            failed += bool(status)
    sys.exit(failed)


if __name__ == "__main__":
    main()
