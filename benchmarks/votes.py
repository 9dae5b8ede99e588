"""`stop_votes`: the tokens and the time that stopped votes save, and that the majority answers stay.

    python benchmarks/votes.py --questions openbookqa.questions.jsonl medmcqa.questions.jsonl

Each question is sampled as often as the largest of `--samples` says. A sample has its own seed, so fewer samples are
the first of these, and what stopping would have drawn is counted from the answers. `--time` also samples both ways,
in turns, and compares their processor time: stopping reads a question's prompt once for each wave.
"""

# ruff: noqa: T201
import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from neuron_opsd.config import ModelSettings, PromptSettings, QuestionSettings
from neuron_opsd.engines.base import Sampling
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.load import load_model
from neuron_opsd.questions.load import load_questions
from neuron_opsd.records import Rollout
from neuron_opsd.rollouts.pseudo_label import group_by_question, vote
from neuron_opsd.rollouts.sample import sample_rollouts
from neuron_opsd.rollouts.stopping import next_wave


def main() -> None:
    """Count for each set, and time where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", nargs="+", required=True)
    parser.add_argument("--num-questions", type=int, default=40)
    parser.add_argument("--model", default="embedded:smollm2-135m")
    parser.add_argument("--answer-format", default="letter")
    parser.add_argument("--samples", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--max-new-tokens", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, tokenizer = load_model(ModelSettings(name=arguments.model, dtype="float32"))
    prompts = PromptSettings(answer_format=arguments.answer_format)

    def sample(
        path: str, num_samples: int, stop: Callable[[Sequence[str | None]], int] | None = None
    ) -> list[Rollout]:
        return sample_rollouts(
            load_questions(QuestionSettings(path=path))[: arguments.num_questions],
            HFEngine(model, tokenizer),
            ChatEncoder(tokenizer),
            prompts=prompts,
            sampling=Sampling(temperature=arguments.temperature, max_new_tokens=arguments.max_new_tokens),
            num_rollouts=num_samples,
            shuffle_choices=False,
            seed=0,
            stage="rollouts",
            next_wave=stop,
        )

    for path in arguments.questions:
        everything = sample(path, max(arguments.samples))
        for total in arguments.samples:
            own = [rollout for rollout in everything if rollout.rollout_index < total]
            stop = partial(next_wave, total=total, skip_unparsable=True)
            drawn = [
                rollout for group in group_by_question(own).values() for rollout in until_decided(group, stop)
            ]
            assert [v.answer for v in vote(own).values()] == [v.answer for v in vote(drawn).values()]
            print(
                f"{path}: {total} samples, {len(drawn) / len(own):.1%} of them drawn, "
                f"{1 - num_tokens(drawn) / num_tokens(own):.1%} fewer tokens, same majority answers"
            )
            if arguments.time:
                whole, stopped = (cpu_seconds(partial(sample, path, total, how)) for how in (None, stop))
                print(f"  processor time {whole:.1f} s, stopped {stopped:.1f} s, {stopped / whole:.2f}")


def until_decided(group: Sequence[Rollout], stop: Callable[[Sequence[str | None]], int]) -> Sequence[Rollout]:
    """The first rollouts of a question, as far as its vote needs them."""
    answers, drawn = [rollout.answer for rollout in group], 0
    while more := stop(answers[:drawn]):
        drawn += more
    return group[:drawn]


def num_tokens(rollouts: Sequence[Rollout]) -> int:
    """Tokens of all completions."""
    return sum(len(rollout.completion_ids) for rollout in rollouts)


def cpu_seconds(work: Callable[[], object]) -> float:
    """The processor time that the work took."""
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
