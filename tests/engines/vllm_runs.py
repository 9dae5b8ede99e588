"""Runs of the command line with another engine than hf, and what their training sampled against its checkpoints."""

import json
import subprocess
import sys
from pathlib import Path

import torch

from engines.vllm_environment import ENVIRONMENT
from neuron_opsd.model.load import CausalLM

SMALL = [
    "questions.test_fraction=0.25",
    "prompts.answer_format=letter",
    "rollouts.max_new_tokens=4",
    "rollouts.shard_size=3",
    "rollouts.shuffle_choices=true",
    "contexts.num_demonstrations=1",
    "selection.fraction=0.34",
    "training.max_new_tokens=8",
    "training.batch_size=2",
    "training.micro_batch_size=2",
    "training.num_rollouts=2",
    "training.num_steps=2",
    "training.save_steps=1",
    "training.warmup_steps=0",
    "training.max_epochs=null",
    "training.learning_rate=0.003",
    "training.lora.rank=4",
    "evaluation.num_samples=2",
    "evaluation.max_new_tokens=4",
    "evaluation.num_bootstrap=50",
    "num_threads=1",
]
LONG = "Many apples and pears lie in the baskets of a shop. " * 12  # more than vLLM's blocks of 128 tokens


def write_questions(path: Path, *, preface: str, count: int = 8) -> Path:
    """Sums; with a long preface their prompts begin alike, and what vLLM has computed of one it takes for the next."""
    rows = [
        {
            "question_id": f"q{i}",
            "domain": "sums",
            "question": f"{preface}What is {i} + {3 * i}?",
            "choices": [str(4 * i), str(4 * i + 1), str(4 * i + 2)],
        }
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(
    folder: Path,
    model: str,
    *arguments: str,
    python: Path | str = sys.executable,
    preface: str = "",
    as_if_several_gpus_from: str = "",
) -> subprocess.CompletedProcess[str]:
    """`neuron-opsd run` until it ends; what training sampled goes to a file beside the run folder.

    Args:
        folder: The run folder.
        model: To run with.
        arguments: Options and settings.
        python: Of the environment to run in.
        preface: Before each question.
        as_if_several_gpus_from: The hand-over from which on the engine believes so, and uses files.
    """
    command = command_of(folder, model, *arguments, python=python, preface=preface)
    environment = ENVIRONMENT | {"AS_IF_SEVERAL_GPUS_FROM": as_if_several_gpus_from}
    return subprocess.run(command, env=environment, timeout=300, capture_output=True, text=True)


def command_of(
    folder: Path, model: str, *arguments: str, python: Path | str = sys.executable, preface: str = ""
) -> list[str]:
    """The command of `run`."""
    questions = folder.with_name("questions.jsonl")
    if not questions.exists():
        write_questions(questions, preface=preface)
    command = [str(python), str(Path(__file__).with_name("recorded_run.py")), str(samples_of(folder))]
    command += [
        "run",
        "neuron_opsd",
        "--model",
        model,
        "--questions",
        str(questions),
        "--output",
        str(folder),
    ]
    return [*command, *SMALL, *arguments]


def samples_of(folder: Path) -> Path:
    """Where `run` notes what training sampled."""
    return folder.with_name(f"{folder.name}.samples.jsonl")


def distance(student: CausalLM, samples: list) -> float:
    """The largest difference between the engine's log-probabilities and those of a model, over samples of a step."""
    largest = 0.0
    for prompt, completion, log_probs in samples:
        with torch.no_grad():
            logits = student(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
        own = torch.log_softmax(logits.float(), -1).gather(1, torch.tensor(completion)[:, None])[:, 0]
        largest = max(largest, float((own - torch.tensor(log_probs)).abs().max()))
    return largest


def steps_of(folder: Path) -> list[list]:
    """The samples of each step."""
    return [json.loads(line) for line in samples_of(folder).read_text().splitlines()]
