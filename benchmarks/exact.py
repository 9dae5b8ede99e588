"""`evaluation.exact` beside samples and option probabilities: CPU time of the same questions, interleaved.

    python benchmarks/exact.py --questions openbookqa.questions.jsonl

Each way asks one model all questions as evaluation does, at temperature 0.6. Sampling reads once what all prompts begin
with. "Read whole" is without that. Evaluation samples and scores the options in one pass ("together"). The pass for the
options alone is what other engines need. The exact way's time holds the reading of the vocabulary. It needs letters.
"""

# ruff: noqa: T201
import argparse
import sys
import time
from collections.abc import Callable
from statistics import median
from unittest.mock import patch

import torch

from neuron_opsd.config import ALL_DOMAINS, ModelSettings, PromptSettings, QuestionSettings
from neuron_opsd.engines import read_prompts
from neuron_opsd.engines.base import Sampling
from neuron_opsd.engines.hf import HFEngine, OnRead
from neuron_opsd.evaluation.exact import OneTokenReader, answer_exactly
from neuron_opsd.evaluation.options import OptionReader, score_options
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.load import load_model
from neuron_opsd.questions.load import load_questions
from neuron_opsd.records import OptionScores, Rollout
from neuron_opsd.rollouts.pseudo_label import group_by_question
from neuron_opsd.rollouts.sample import choice_orders, sample_rollouts


def main() -> None:
    """Time the ways, round by round."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", required=True)
    parser.add_argument("--num-questions", type=int, default=60)
    parser.add_argument("--model", default="embedded:smollm2-135m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--answer-format", default="letter", choices=["letter", "choice_text"])
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, tokenizer = load_model(ModelSettings(name=arguments.model, dtype=arguments.dtype))
    questions = load_questions(QuestionSettings(path=arguments.questions, domain=ALL_DOMAINS))[
        : arguments.num_questions
    ]
    prompts, encoder = PromptSettings(answer_format=arguments.answer_format), ChatEncoder(tokenizer)
    asked = {"shuffle_choices": False, "seed": 0, "stage": "evaluation"}

    def sampling(max_new_tokens: int) -> Sampling:
        return Sampling(temperature=0.6, top_p=1.0, max_new_tokens=max_new_tokens)

    def sample(on_read: OnRead | None = None) -> list[Rollout]:
        engine = HFEngine(model, tokenizer, batch_size=arguments.batch_size, on_read=on_read)
        return sample_rollouts(
            questions, engine, encoder, prompts=prompts, sampling=sampling(arguments.max_new_tokens),
            num_rollouts=arguments.samples, **asked,
        )  # fmt: skip

    def sample_and_score() -> list[OptionScores]:
        reader = OptionReader(
            questions, encoder, prompts, limit=None,
            orders_of=lambda question: choice_orders(question, arguments.samples, shuffle=False, seed=0, stage=""),
        )  # fmt: skip
        return reader.scores(sample(reader)) or []

    def sample_whole() -> list[Rollout]:
        with patch.object(read_prompts, "MIN_SHARED", sys.maxsize):
            return sample()

    rows: list[list[float]] = []
    for _ in range(arguments.rounds):
        samples, sampled = cpu_seconds(sample)
        _, whole = cpu_seconds(sample_whole)
        together_scores, together = cpu_seconds(sample_and_score)
        groups = group_by_question(samples)
        scores, scored = cpu_seconds(
            lambda groups=groups: score_options(
                questions, groups, model, encoder, prompts=prompts, batch_size=arguments.batch_size
            )
        )
        difference = max(
            abs(p - q)
            for one, other in zip(scores, together_scores, strict=True)
            for p, q in zip(one.probabilities, other.probabilities, strict=True)
        )
        rows.append([sampled, whole, scored, together])
        if arguments.answer_format == "letter":
            _, exact = cpu_seconds(
                lambda: answer_exactly(
                    questions, model, OneTokenReader(encoder, prompts), sampling=sampling(1),
                    orders=[[tuple(range(len(question.choices)))] for question in questions],
                    batch_size=arguments.batch_size,
                )
            )  # fmt: skip
            rows[-1].append(exact)
    names = ("samples", "samples of prompts read whole", "options alone", "together", "exact")
    medians = [median(column) for column in zip(*rows, strict=True)]
    print(
        f"{len(questions)} questions: "
        + ", ".join(f"{n} {s:.1f} s" for n, s in zip(names, medians, strict=False))
    )
    per_samples = [
        median(column) for column in zip(*([s / row[0] for s in row] for row in rows), strict=True)
    ]
    print("beside samples: " + ", ".join(f"{n} {r:.2f}" for n, r in zip(names, per_samples, strict=False)))
    print(f"largest difference of a probability between the two passes: {difference:.1e}")


def cpu_seconds(work: Callable[[], list]) -> tuple[list, float]:
    """What the work returns, and the processor time that it took."""
    start = time.process_time()
    found = work()
    return found, time.process_time() - start


if __name__ == "__main__":
    main()
