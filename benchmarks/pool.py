"""A long pool outside the model's passes: seconds and peak memory of each stage, on synthetic records.

    python benchmarks/pool.py --folder /tmp/pool --num-questions 10000 30000

The questions are of random words. Rollouts and neuron sets are made up, and stand where the stages would save them;
questions, selection, contexts, report and status are the run's own. Each stage is a process of its own, by the command
line where there is a command, so its peak memory is its own. The folder is removed at the end.
"""

# ruff: noqa: T201
import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from neuron_opsd.config import ModelSettings, load_config
from neuron_opsd.model.load import load_tokenizer
from neuron_opsd.records import NeuronSets, Question, Rollout
from neuron_opsd.run.session import Run
from neuron_opsd.store.run_folder import RunFolder

WORDS = [f"{a}{b}{c}" for a in "bdgklmnprst" for b in "aeiou" for c in ("n", "ring", "st", "s", "te")]
OVERLAP_SIZE = 400  # neurons a question, of NUM_NEURONS with frequencies by Zipf's law
NUM_NEURONS = 100_000
COMMANDS = {
    "questions": ["questions"],
    "questions again": ["questions"],
    "select": ["select"],
    "contexts": ["contexts"],
    "report": ["report"],
    "status": ["status"],
}


def main() -> None:
    """Print one JSON object for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="a new folder; removed at the end")
    parser.add_argument("--num-questions", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--stages", nargs="+", default=list(COMMANDS), choices=list(COMMANDS))
    args = parser.parse_args()
    for size in args.num_questions:
        args.folder.mkdir(parents=True)
        try:
            print(json.dumps({"num_questions": size, **measure(args.folder, size, args.stages)}), flush=True)
        finally:
            shutil.rmtree(args.folder)


def measure(folder: Path, size: int, stages: list[str]) -> dict[str, list[float]]:
    """For each stage (wall seconds, seconds of processor time, peak MB)."""
    model, questions, path = folder / "model", folder / "questions.jsonl", folder / "run"
    save_model(model)
    with questions.open("w", encoding="utf-8") as file:
        for row in make_questions(size):
            file.write(json.dumps(row) + "\n")
    run = RunFolder.create(path)
    overrides = ["preflight.num_questions=0", "contexts.num_demonstrations=10", "num_threads=1"]
    run.write_config(
        load_config(
            "neuron_opsd",
            overrides=overrides,
            values={"model.name": str(model), "questions.path": str(questions)},
        )
    )
    figures = {}
    for name in stages:
        if name == "select":
            fill(Run(run))
        figures[name] = timed([*COMMANDS[name], str(path)])
    return figures


def save_model(folder: Path) -> None:
    """A model of no use, with a real tokenizer."""
    tokenizer = load_tokenizer(ModelSettings(name="embedded:smollm2-135m"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32_768,
        eos_token_id=tokenizer.eos_token_id, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_questions(size: int) -> Iterator[dict[str, object]]:
    """Questions of 30 random words with four choices."""
    for index in range(size):
        draw = np.random.default_rng(index)
        words = [WORDS[i] for i in draw.integers(0, len(WORDS), 42)]
        yield {
            "question": f"{' '.join(words[:30])} {index}?",
            "choices": [" ".join(words[30 + 3 * i : 33 + 3 * i]) for i in range(4)],
            "domain": "made up",
        }


def fill(run: Run) -> None:
    """Made-up rollouts and neuron sets of the pool, as finished stages."""
    pool = run.folder.stage("questions").read(Question)
    ids = [question.question_id for question in pool if question.split == "train"]
    shard = run.config.rollouts.shard_size
    frequencies = 1 / np.arange(1, NUM_NEURONS + 1)
    cumulated = np.cumsum(frequencies / frequencies.sum())
    for name, record_type, make in (("rollouts", Rollout, make_rollout), ("neurons", NeuronSets, make_sets)):
        stage, inputs = run.folder.stage(name), run.ready_inputs(name)
        stage.begin(inputs, -(-len(ids) // shard))
        for start in range(0, len(ids), shard):
            records = [make(i, start + n, cumulated) for n, i in enumerate(ids[start : start + shard])]
            stage.add_shard(records, record_type, index=start // shard)
        stage.finish({"num_completion_tokens": 60 * len(ids)}, record_type if name == "rollouts" else None)


def make_rollout(question_id: str, index: int, _: np.ndarray) -> Rollout:
    """A reply of 60 tokens that gives an answer."""
    draw = np.random.default_rng(index)
    return Rollout(
        question_id=question_id,
        rollout_index=0,
        choice_order=(0, 1, 2, 3),
        prompt_ids=tuple(draw.integers(0, 49_000, 100).tolist()),
        completion_ids=tuple(draw.integers(0, 49_000, 60).tolist()),
        token_log_probs=tuple((-draw.random(60)).tolist()),
        finish_reason="stop",
        reply=" ".join(WORDS[i] for i in draw.integers(0, len(WORDS), 40)) + " The answer is B.",
        answer="B",
    )


def make_sets(question_id: str, index: int, cumulated: np.ndarray) -> NeuronSets:
    """Neurons drawn by their frequencies."""
    draw = np.random.default_rng(index)
    chosen = np.unique(np.searchsorted(cumulated, draw.random(OVERLAP_SIZE))).clip(max=NUM_NEURONS - 1)
    return NeuronSets(
        question_id=question_id,
        rollout_index=0,
        num_completion_tokens=60,
        num_chunks=1,
        consensus_score=int(draw.integers(500, 1500)),
        consensus_score_per_chunk=1000.0,
        neurons_per_layer=(len(chosen), 0),
        overlap_set=chosen.astype(np.int32),
    )


def timed(arguments: list[str]) -> list[float]:
    """Wall seconds, processor seconds and peak MB of a command.

    Raises:
        SystemExit: the command fails.
    """
    code = (
        "import resource, sys; from neuron_opsd import cli\n"
        "try:\n    cli.main()\nfinally:\n"
        "    used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "    peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1]\n"
        "    print('USED', used.ru_utime + used.ru_stime, int(peak) / 1024)"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NEURON_OPSD_STAGES": "off"},  # what another run made would cost nothing here
    )
    if done.returncode:
        sys.exit(f"{arguments}: {done.stderr[-3000:]}")
    processor, peak = done.stdout.split("USED")[1].split()
    return [round(time.monotonic() - began, 1), round(float(processor), 1), round(float(peak))]


if __name__ == "__main__":
    main()
