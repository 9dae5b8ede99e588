"""How far the consensus score is completion length: correlations on a finished run, and under other settings.

    neuron-opsd run neuron_opsd --model MODEL --questions FILE --output RUN --until select
    python experiments/length_confound.py RUN [--variants] [--answers FILE]

Offline: reads a run, changes nothing. With --answers also how well each score ranks right before wrong replies
(AUROC; .5 is chance, above it low scores are right more often). Figures go to experiments/LOG.md.
"""

# ruff: noqa: T201
import argparse
from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from neuron_opsd.config import NeuronSettings
from neuron_opsd.evaluation.answer_key import load_answer_key
from neuron_opsd.model.load import load_model
from neuron_opsd.neurons.capture import capture_neurons
from neuron_opsd.records import NeuronSets, Question, Rollout
from neuron_opsd.selection.score import length_residuals
from neuron_opsd.statistics import pearson, spearman
from neuron_opsd.store.run_folder import RunFolder

VARIANTS = {
    "chunks of 32 tokens": {"chunk_tokens": 32},
    "16 entries a token and layer": {"per_token_entries": 16},
    "first 32 tokens": {"tokens": "first", "first_tokens": 32},
}


def main() -> None:
    """Print one table a setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--variants", action="store_true", help="capture again under other settings")
    parser.add_argument("--answers", action="append", default=[], help="gold answers, for this study alone")
    arguments = parser.parse_args()
    folder = RunFolder.open(arguments.run)
    config = folder.config()
    questions = folder.stage("questions").read(Question)
    rollouts = [r for r in folder.stage("rollouts").read(Rollout) if r.rollout_index == 0]
    right = _right(rollouts, load_answer_key(arguments.answers, questions))
    _print("settings of the run", folder.stage("neurons").read(NeuronSets), right)
    if arguments.variants:
        model, tokenizer = load_model(config.model)
        for name, changes in VARIANTS.items():
            settings = NeuronSettings(**{**config.neurons.model_dump(), **changes})
            _print(name, list(capture_neurons(model, tokenizer, rollouts, settings)), right)


def _right(rollouts: Sequence[Rollout], key: dict[str, str]) -> dict[str, bool]:
    return {r.question_id: r.answer == key[r.question_id] for r in rollouts if r.question_id in key}


def _print(name: str, sets: Sequence[NeuronSets], right: dict[str, bool]) -> None:
    sets = [item for item in sets if item.num_completion_tokens]
    lengths = np.array([item.num_completion_tokens for item in sets], dtype=float)
    deciles = np.quantile(lengths, [0, 0.1, 0.5, 0.9, 1]).round().astype(int)
    print(f"\n{name}: n = {len(sets)}, completion tokens (min, 10 %, median, 90 %, max) {deciles.tolist()}")
    scores = {
        "s(x)": [item.consensus_score for item in sets],
        "s(x), length-residualised": length_residuals(sets),
        "s(x), mean over chunks": [item.consensus_score_per_chunk for item in sets],
    }
    for label, values in scores.items():
        values = np.array(values, dtype=float)
        r, rho = pearson(values, lengths), spearman(values, lengths)
        line = f"  {label:26} r {r.value:+.2f} [{r.low:+.2f}, {r.high:+.2f}]"
        line += f"  rho {rho.value:+.2f} [{rho.low:+.2f}, {rho.high:+.2f}]"
        fifth = np.argsort(values, kind="stable")[: max(1, round(0.2 * len(sets)))]
        line += f"  lowest fifth: {lengths[fifth].mean():.1f} of {lengths.mean():.1f} tokens"
        print(line + _auroc_text(sets, values, right))


def _auroc_text(sets: Sequence[NeuronSets], values: np.ndarray, right: dict[str, bool]) -> str:
    """How often a right reply has the lower score of a random pair (right, wrong)."""
    known = np.array([item.question_id in right for item in sets])
    if not known.any():
        return ""
    is_right = np.array([right[item.question_id] for item in sets if item.question_id in right])
    num_right, num_wrong = int(is_right.sum()), int((~is_right).sum())
    if not num_right or not num_wrong:
        return ""
    ranks = rankdata(-values[known])
    area = (ranks[is_right].sum() - num_right * (num_right + 1) / 2) / (num_right * num_wrong)
    error = np.sqrt((num_right + num_wrong + 1) / (12 * num_right * num_wrong))  # under no relation
    return f"  AUROC {area:.2f} +- {1.96 * error:.2f} ({num_right} right, {num_wrong} wrong)"


if __name__ == "__main__":
    main()
