"""Does the consensus score tell right replies from wrong ones, better than what is cheaper? See docs/results.md.

    python experiments/signal_study.py measure --model MODEL --questions FILE --answers FILE --output ROWS.jsonl \
        [--format letter|reasoned|free] [--num-questions 200] [--votes 4] [--max-new-tokens 128]
    python experiments/signal_study.py report ROWS.jsonl ... [--picture FILE.svg]

`measure` samples `--votes` replies a question from the frozen model; of the first, one forward pass reads the neurons
under every setting below, and the entropy of its tokens. Started again it goes on. `report` reads any number of such
files (a model and a domain each) and prints, for each score, Pearson's r with correctness and the AUROC, raw and with
completion length taken out. Low scores should mean right, so above .5 the score works as the paper says.
"""

# ruff: noqa: T201
import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from forest import Entry, forest
from studies import (
    Row,
    Values,
    add_measure_options,
    auroc_interval,
    groups,
    labelled_sample,
    mean_over_domains,
    pearson_interval,
    read_rows,
    resumable,
    show,
)
from torch import Tensor

from neuron_opsd.config import ModelSettings, NeuronSettings, PromptSettings
from neuron_opsd.engines.base import Sampling
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.model.align import pad_right
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.ffn import find_ffns, hook_neurons
from neuron_opsd.model.load import CausalLM, load_model
from neuron_opsd.model.unembedding import backbone, logits_from_hidden, unembedding_weight
from neuron_opsd.neurons.contribution import contribution, token_readout
from neuron_opsd.neurons.sets import (
    NO_ENTRY,
    merge_top_entries,
    merge_top_per_token,
    resolve_sizes,
)
from neuron_opsd.records import Question, Rollout
from neuron_opsd.rollouts.pseudo_label import vote
from neuron_opsd.rollouts.sample import sample_rollouts
from neuron_opsd.selection.score import residuals_on_length
from neuron_opsd.text.answers import answers_match

# name -> what is shown. Each is read so that a LOW value should mean a right reply.
SCORES = {
    "s_gate": "s(x), gate (the paper's)",
    "s_gate_up": "s(x), gate_up",
    "chunks_gate": "mean over chunks of 32 tokens, gate",
    "chunks_gate_up": "mean over chunks of 32 tokens, gate_up",
    "per_token_gate": "budget per token (union), gate",
    "per_token_gate_up": "budget per token (union), gate_up",
    "first_gate": "first 32 tokens, gate",
    "tokens": "completion tokens",
    "surprise": "minus mean log-probability",
    "entropy": "mean token entropy",
    "answer_entropy": "answer entropy of the votes",
    "disagreement": "1 - vote share of the reply's answer",
}
CHUNK = 32
MIN_OF_EACH = 10  # right and wrong replies
PICTURED = {  # with length taken out or not
    ("s_gate", False),
    ("s_gate", True),
    ("s_gate_up", True),
    ("per_token_gate", True),
    ("tokens", False),
    ("surprise", False),
    ("answer_entropy", False),
}


@torch.inference_mode()
def neuron_counts(model: CausalLM, rollout: Rollout, settings: NeuronSettings) -> Row:
    """Every count of one completion from one pass; `s_gate` is what `capture_neurons` counts (a test says so).

    A completion is one chunk here, as with the default of 512 tokens and completions shorter than that.
    """
    ffns = find_ffns(model)
    sizes = resolve_sizes(ffns, settings)
    ids, predicting = pad_right([rollout.prompt_ids], [rollout.completion_ids])
    distinct, index = torch.tensor(rollout.completion_ids).unique(return_inverse=True)
    rows = unembedding_weight(model)[distinct]
    per_token = max(1, round(sizes.num_entries / CHUNK))
    counts: Row = dict.fromkeys(
        ("s_gate", "s_gate_up", "per_token_gate", "per_token_gate_up", "first_gate"), 0
    )
    counts |= {"chunks_gate": 0.0, "chunks_gate_up": 0.0}

    def size(best: Tensor) -> int:
        return int((best > NO_ENTRY).sum())

    def receive(kind: str, layer: int, neurons: Tensor) -> None:
        readout = token_readout(ffns[layer].down_weight(), rows)
        scores = contribution(neurons.view(*ids.shape, -1)[predicting], readout, index)
        counts[f"s_{kind}"] += size(merge_top_entries(scores, sizes.num_entries))
        counts[f"per_token_{kind}"] += size(merge_top_per_token(scores, per_token))
        parts = [size(merge_top_entries(part, per_token * len(part))) for part in scores.split(CHUNK)]
        counts[f"chunks_{kind}"] += float(np.mean(parts))
        if kind == "gate":
            counts["first_gate"] += parts[0]

    def receiver(kind: str):
        return lambda layer, neurons: receive(kind, layer, neurons)

    with hook_neurons(ffns, "gate", receiver("gate")), hook_neurons(ffns, "gate_up", receiver("gate_up")):
        states = backbone(model)(input_ids=ids, use_cache=False).last_hidden_state[predicting]
    log_probs = logits_from_hidden(model, states).log_softmax(dim=-1)
    counts["entropy"] = float(-(log_probs.exp() * log_probs).sum(dim=-1).mean())
    return counts


def measure(arguments: argparse.Namespace) -> None:
    """Write one row a question."""
    model, tokenizer = load_model(ModelSettings(name=arguments.model, dtype=arguments.dtype))
    engine = HFEngine(model, tokenizer, batch_size=arguments.batch_size)
    encoder = ChatEncoder(tokenizer)
    questions, key = labelled_sample(
        arguments.questions, arguments.answers, arguments.num_questions, seed=arguments.seed
    )
    sampling = Sampling(temperature=0.6, top_p=1.0, max_new_tokens=arguments.max_new_tokens)

    def make(batch: list[Question]) -> Iterator[Row]:
        rollouts = sample_rollouts(
            batch,
            engine,
            encoder,
            prompts=PromptSettings(answer_format=arguments.format, system=arguments.system),
            sampling=sampling,
            num_rollouts=arguments.votes,
            shuffle_choices=False,
            seed=arguments.seed,
            stage="signal",
        )
        votes = vote(rollouts)
        for question in batch:
            own = [r for r in rollouts if r.question_id == question.question_id]
            first = own[0]
            row: Row = {
                "name": question.question_id,
                "domain": question.domain,
                "model": arguments.label,
                "format": arguments.format,
                "right": answers_match(first.answer, key[question.question_id]),
                "is_readable": first.answer is not None,
                "is_cut": first.finish_reason == "length",
                "tokens": len(first.completion_ids),
                "surprise": -float(np.mean(first.token_log_probs)),
            }
            if arguments.votes > 1:
                shares = np.array(
                    [
                        sum(answers_match(r.answer, a) for r in own)
                        for a in {r.answer for r in own}
                        if a is not None
                    ]
                ) / len(own)
                unreadable = sum(r.answer is None for r in own) / len(own)
                shares = np.append(shares[shares > 0], [unreadable] if unreadable else [])
                row["answer_entropy"] = float(-(shares * np.log(shares)).sum())
                row["disagreement"] = 1 - sum(answers_match(r.answer, first.answer) for r in own) / len(own)
                row["majority_right"] = answers_match(
                    votes[question.question_id].answer, key[question.question_id]
                )
            yield row | neuron_counts(model, first, NeuronSettings())

    resumable(Path(arguments.output), questions, lambda q: q.question_id, make, batch=arguments.batch_size)


def without_length(values: Values, tokens: Values) -> Values:
    """Residual on log tokens, as in selection: of the log of a count (1 and more), of any other score as it is."""
    return residuals_on_length(np.log(values) if (values >= 1).all() else values, tokens.tolist())


def report(paths: Sequence[str], picture: str | None) -> None:
    """Print a Markdown table for each model and format: AUROC and r by domain, raw and without length."""
    rows = [row for path in paths for row in read_rows(Path(path))]
    entries: list[Entry] = []
    for setting, of_setting in groups(
        [row | {"setting": f"{row['model']}, {row['format']}"} for row in rows], "setting"
    ):
        domains = list(groups(of_setting, "domain"))
        print(f"\n## {setting}\n")
        for domain, own in domains:
            length = [row["tokens"] for row in own]
            print(
                f"- {domain}: n = {len(own)}, right {_column(own, 'right').mean():.3f}, readable "
                f"{_column(own, 'is_readable').mean():.3f}, cut {_column(own, 'is_cut').mean():.3f}, tokens "
                f"{min(length)} to {max(length)}, mean {np.mean(length):.1f}"
            )
        domains = [(domain, own) for domain, own in domains if _are_enough(domain, own)]
        if not domains:
            continue
        names = [name for name in SCORES if all(name in row for row in of_setting)]
        print("\nAUROC of a low score for a right reply (95 %), mean of the domains last.\n")
        print("| score | " + " | ".join(domain for domain, _ in domains) + " | mean |")
        print("|---|" + "---|" * (len(domains) + 1))
        for taken_out in (False, True):
            for name in names:
                if taken_out and name == "tokens":
                    continue
                found = [auroc_interval(*_of(own, name, taken_out)) for _, own in domains]
                mean = mean_over_domains(found)
                if (name, taken_out) in PICTURED:
                    entries += [] if (setting, None) in entries else [(setting, None)]
                    entries.append((f"{SCORES[name]}{', length taken out' if taken_out else ''}", mean))
                cells = [show(f) for f in [*found, mean]]
                print(
                    f"| {SCORES[name]}{', length taken out' if taken_out else ''} | "
                    + " | ".join(cells)
                    + " |"
                )
        print("\nPearson's r of a score with correctness (95 %); the paper's are -.24 to -.44.\n")
        print("| score | " + " | ".join(domain for domain, _ in domains) + " |")
        print("|---|" + "---|" * len(domains))
        for name, taken_out in (
            ("s_gate", False),
            ("s_gate", True),
            ("s_gate_up", False),
            ("surprise", False),
        ):
            cells = []
            for _, own in domains:
                minus, right = _of(own, name, taken_out)
                cells.append(show(pearson_interval(-minus, right), sign=True))
            print(
                f"| {SCORES[name]}{', length taken out' if taken_out else ''} | " + " | ".join(cells) + " |"
            )
        cells = [
            show(pearson_interval(_column(own, "s_gate"), _column(own, "tokens")), sign=True)
            if len(set(_column(own, "tokens"))) > 1
            else "one length"
            for _, own in domains
        ]
        print("| s(x) with completion tokens | " + " | ".join(cells) + " |")

    if picture:
        title = "Does a low score mean a right reply?"
        forest(Path(picture), title, "AUROC, mean of the domains; .5 is chance", entries, reference=0.5)


def _are_enough(domain: str, rows: Sequence[Row]) -> bool:
    """An area between one right reply and many wrong ones is that reply's, whatever its interval says."""
    fewest = min(sum(row["right"] for row in rows), sum(not row["right"] for row in rows))
    if fewest < MIN_OF_EACH:
        print(f"- {domain} is left out below: only {fewest} replies are right, or wrong")
    return fewest >= MIN_OF_EACH


def _column(rows: Sequence[Row], name: str) -> Values:
    return np.array([float(row[name]) for row in rows])


def _of(rows: Sequence[Row], name: str, taken_out: bool) -> tuple[Values, Values]:
    """(minus the score, right): more is more confident."""
    values = _column(rows, name)
    if taken_out:
        values = without_length(values, _column(rows, "tokens"))
    return -values, _column(rows, "right")


def main() -> None:
    """Measure or report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("measure")
    add_measure_options(one)
    one.add_argument("--format", default="letter", choices=["letter", "reasoned", "free", "math"])
    one.add_argument("--num-questions", type=int, default=200)
    one.add_argument(
        "--votes", type=int, default=8, help="replies a question; the first is the one that is scored"
    )
    many = commands.add_parser("report")
    many.add_argument("rows", nargs="+")
    many.add_argument("--picture")
    arguments = parser.parse_args()
    measure(arguments) if arguments.command == "measure" else report(arguments.rows, arguments.picture)


if __name__ == "__main__":
    main()
