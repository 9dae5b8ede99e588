"""How long a run takes at most, before it has begun: its tokens, and how fast this machine multiplies matrices.

A guess within a factor of about three, to tell minutes from days. Once a run has finished a stage, `status` knows
better.
"""

import time
from collections.abc import Sequence

import torch

from neuron_opsd.commands.cost import count_records
from neuron_opsd.config import Config
from neuron_opsd.memory.estimate import RunLengths
from neuron_opsd.model.device import device_of, dtype_of
from neuron_opsd.model.skeleton import build_skeleton
from neuron_opsd.questions.load import general_questions, other_questions
from neuron_opsd.records import Question

NUM_BYTES = 200_000_000  # of the matrices that are tried: more than caches hold
WIDTH = 2048
READ_ROWS = 256  # tokens multiplied together where a prompt is read or learned from
BACKWARD = 3  # passes that a pass with its gradients is worth
OVERHEAD = 2.0  # attention, sampling, Python: what a pass takes beside its products


def estimate_seconds(config: Config, questions: Sequence[Question], lengths: RunLengths) -> dict[str, float]:
    """Seconds of each stage that asks the model, as if every reply ran to its limit.

    Args:
        config: Resolved settings.
        questions: Of the run.
        lengths: Of its prompts.
    """
    others = general_questions(config, questions), other_questions(config, questions)
    counts = count_records(config, questions, *others)
    size = sum(weight.numel() for weight in build_skeleton(config.model).parameters())
    read = _seconds_a_token(config, READ_ROWS, size)
    seconds: dict[str, float] = {}
    for name, count in counts.items():
        prompt = lengths.test_prompt if name.startswith("evaluation") else lengths.pool_prompt
        if name in ("rollouts", "demonstrations"):
            settings = config.rollouts
            write = _seconds_a_token(config, settings.batch_size, size)
            seconds[name] = count * (prompt / settings.num_rollouts * read + settings.max_new_tokens * write)
        elif name == "neurons":
            seconds[name] = count * 2 * (prompt + config.rollouts.max_new_tokens) * read
        elif name == "training":
            settings = config.training
            write = _seconds_a_token(config, settings.batch_size, size)
            learned = (
                BACKWARD * (prompt + settings.max_new_tokens)
                + lengths.teacher_prompt
                + settings.max_new_tokens
            )
            seconds[name] = count * (learned * read + settings.max_new_tokens * write)
        elif name in (
            "evaluation/base",
            "evaluation/trained",
            "evaluation/general_base",
            "evaluation/general_trained",
        ):
            settings = config.evaluation
            write = _seconds_a_token(config, settings.batch_size, size)
            seconds[name] = count * (prompt / settings.num_samples * read + settings.max_new_tokens * write)
    return {name: OVERHEAD * value for name, value in seconds.items() if value}


def describe_seconds(seconds: dict[str, float]) -> list[str]:
    """A line for all, and one for each stage."""
    total = in_words(sum(seconds.values()))
    parts = ", ".join(f"{name} {in_words(value)}" for name, value in seconds.items())
    return [
        f"Time: {total} at most on this machine, a guess within a factor of three, as if every reply ran to its limit.",
        f"  {parts}",
    ]


def in_words(seconds: float) -> str:
    """A time as people say it."""
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86_400:.0f} days"


def _seconds_a_token(config: Config, rows: int, size: int) -> float:
    """Seconds that a model of this many parameters takes for one of `rows` tokens that are multiplied together."""
    device, dtype = device_of(config.model), dtype_of(config.model)
    number = NUM_BYTES // (WIDTH * WIDTH * dtype.itemsize)
    with torch.inference_mode():
        weights = [torch.zeros(WIDTH, WIDTH, dtype=dtype, device=device) for _ in range(number)]
        states = torch.zeros(max(1, rows), WIDTH, dtype=dtype, device=device)
        float((states @ weights[0]).sum())  # the first takes longer, and reading the sum waits for a GPU
        started = time.perf_counter()
        for weight in weights:
            states = states @ weight
        float(states.sum())
    tried = number * WIDTH * WIDTH
    return (time.perf_counter() - started) / tried * size / max(1, rows)
