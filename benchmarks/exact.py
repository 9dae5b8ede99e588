"""`evaluation.exact` beside samples and option probabilities: CPU time of the same questions, interleaved.

    python benchmarks/exact.py --questions openbookqa.questions.jsonl

Each way asks one model all questions as evaluation does: at temperature 0.6, for the letter alone. The exact way's time
holds the reading of the vocabulary.
"""

# ruff: noqa: T201
import argparse
import time
from collections.abc import Callable
from statistics import median

import torch

from neuron_opsd.config import ModelSettings, PromptSettings, QuestionSettings
from neuron_opsd.engines.base import Sampling
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.evaluation.exact import OneTokenReader, answer_exactly
from neuron_opsd.evaluation.options import score_options
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.load import load_model
from neuron_opsd.questions.load import load_questions
from neuron_opsd.rollouts.pseudo_label import group_by_question
from neuron_opsd.rollouts.sample import sample_rollouts


def main() -> None:
    """Time the three ways, round by round."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", required=True)
    parser.add_argument("--num-questions", type=int, default=60)
    parser.add_argument("--model", default="embedded:smollm2-135m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, tokenizer = load_model(ModelSettings(name=arguments.model, dtype=arguments.dtype))
    questions = load_questions(QuestionSettings(path=arguments.questions))[: arguments.num_questions]
    prompts, encoder = PromptSettings(answer_format="letter"), ChatEncoder(tokenizer)
    asked = {"shuffle_choices": False, "seed": 0, "stage": "evaluation"}

    def sampling(max_new_tokens: int) -> Sampling:
        return Sampling(temperature=0.6, top_p=1.0, max_new_tokens=max_new_tokens)

    rows: list[list[float]] = []
    for _ in range(arguments.rounds):
        engine = HFEngine(model, tokenizer, batch_size=arguments.batch_size)
        samples, sampled = cpu_seconds(
            lambda engine=engine: sample_rollouts(
                questions, engine, encoder, prompts=prompts, sampling=sampling(arguments.max_new_tokens),
                num_rollouts=arguments.samples, **asked,
            )
        )  # fmt: skip
        groups = group_by_question(samples)
        _, scored = cpu_seconds(
            lambda groups=groups: score_options(
                questions, groups, model, encoder, prompts=prompts, batch_size=arguments.batch_size
            )
        )
        _, exact = cpu_seconds(
            lambda: answer_exactly(
                questions, model, OneTokenReader(encoder, prompts), sampling=sampling(1), num_orders=1,
                batch_size=arguments.batch_size, **asked,
            )
        )  # fmt: skip
        rows.append([sampled, scored, exact])
    sampled, scored, exact = (median(column) for column in zip(*rows, strict=True))
    print(
        f"{len(questions)} questions: {arguments.samples} samples {sampled:.1f} s, options {scored:.1f} s, "
        f"exact {exact:.1f} s"
    )
    ratios = [[exact / (sampled + scored), exact / sampled] for sampled, scored, exact in rows]
    both, alone = (median(column) for column in zip(*ratios, strict=True))
    print(f"exact / (samples + options) {both:.2f}, exact / samples {alone:.2f}")


def cpu_seconds(work: Callable[[], list]) -> tuple[list, float]:
    """What the work returns, and the processor time that it took."""
    start = time.process_time()
    found = work()
    return found, time.process_time() - start


if __name__ == "__main__":
    main()
