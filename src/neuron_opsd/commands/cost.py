"""How much work a stage is, and how long the rest of it takes by the rates of this run. No torch here."""

import itertools
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from neuron_opsd.config import Config
from neuron_opsd.config.graph import GOLD_LABELS, ROLES, stages_made
from neuron_opsd.questions.load import general_questions, other_questions
from neuron_opsd.questions.orders import cyclic_orders
from neuron_opsd.records import Question
from neuron_opsd.selection.score import num_kept
from neuron_opsd.store.files import JsonDict
from neuron_opsd.store.run_folder import RunFolder
from neuron_opsd.store.stage_folder import StageFolder
from neuron_opsd.training.schedule import num_steps

# Stages that sample from a model of the same size: one's tokens per second serve for another.
SAMPLED = (
    "rollouts",
    "demonstrations",
    "evaluation/base",
    "evaluation/trained",
    "evaluation/general_base",
    "evaluation/general_trained",
)

SHORTEST = 0.05  # seconds that timings.jsonl rounds to 0.0


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds that a stage still takes. None where no rate is known."""

    seconds: float | None
    is_upper_bound: bool = False  # lengths are not known yet: as if every completion ran to max_new_tokens


def count_records(
    config: Config, questions: Sequence[Question], general: Sequence[Question], other: Sequence[Question]
) -> dict[str, int]:
    """How many records each stage that the settings make has when it is finished. Training counts completions."""
    pool = sum(question.split == "train" for question in questions)
    test = [question for question in questions if question.split == "test"]
    is_selected = "selection" in stages_made(config)
    domains = Counter(question.domain for question in questions if question.split == "train")
    kept = sum(num_kept(own, config.selection.fraction) for own in domains.values()) if is_selected else pool
    counts = {
        "questions": len(questions),
        "rollouts": pool * config.rollouts.num_rollouts,
        "neurons": pool,
        "selection": pool,
        "demonstrations": len(other),
        "contexts": kept,
        "preflight": min(kept, config.preflight.num_questions),
        GOLD_LABELS: pool,
        "training": num_steps(kept, config.training) * config.training.completions_per_step(),
        "evaluation/contexts": len(test),
        "evaluation/general_kl": len(general),
    }
    samples, general_samples = config.evaluation.num_samples, config.evaluation.for_general().num_samples
    for role in ROLES:
        averages_orders = config.evaluation.order_average and role == "trained"
        for name, asked, num in (("", test, samples), ("general_", general, general_samples)):
            counts |= _count_samples(config, f"evaluation/{name}{role}", asked, num)
            if averages_orders:
                counts[f"evaluation/{name}{role}"] = sum(len(cyclic_orders(q)) for q in asked)
    return {name: count for name, count in counts.items() if name in stages_made(config)}


def describe_work(config: Config, questions: Sequence[Question], folder: RunFolder | None) -> list[str]:
    """What `run` would do, a line for each stage that takes long or is chosen, and which of them are finished."""
    others = (general_questions(config, questions), other_questions(config, questions))
    counts = count_records(config, questions, *others)
    pool = sum(question.split == "train" for question in questions)
    kept = counts.get("contexts", pool)
    at_most = "at most " if config.training.max_tokens else ""
    completions = f"completions of up to {config.evaluation.max_new_tokens} tokens"
    work = {
        "questions": f"{pool} in the pool, {len(questions) - pool} held out or of other domains",
        "rollouts": f"{{}} completions of up to {config.rollouts.max_new_tokens} tokens",
        "neurons": "{} forward passes",
        "selection": f"{kept} questions kept",
        "contexts": f"{{}} contexts of up to {config.contexts.num_demonstrations} demonstrations",
        "preflight": "{} questions answered with and without their context",
        "training": f"{at_most}{num_steps(kept, config.training)} steps of {config.training.batch_size}",
    }
    for name in (f"evaluation/{prefix}{role}" for role in ROLES for prefix in ("", "general_")):
        work[name] = f"{{}} {completions}"
        work[f"{name}_truth"] = "{} of its own answers, judged by itself (P(True))"
    made = {name: text.format(counts[name]) for name, text in work.items() if counts.get(name)}
    finished = {name for name in made if folder and folder.stage(name).is_finished()}
    return [f"{name}: {text}{' (there already)' if name in finished else ''}" for name, text in made.items()]


def _count_samples(config: Config, name: str, asked: Sequence[Question], num_samples: int) -> dict[str, int]:
    with_choices = sum(bool(question.choices) for question in asked)
    options = with_choices if config.evaluation.option_probability and not config.evaluation.exact else 0
    truth = len(asked) if config.evaluation.p_true else 0
    return {name: len(asked) * num_samples, f"{name}_options": options, f"{name}_truth": truth}


class Rates:
    """What this run has taken until now: lengths from summaries, tokens per second from timings.jsonl."""

    def __init__(self, config: Config, timings: Sequence[JsonDict], lengths: dict[str, float]) -> None:
        """Takes the settings, the rows of timings.jsonl, and each stage's mean tokens per completion if known."""
        self.config, self.lengths = config, lengths
        self.rows = {row["stage"]: row for row in timings if _is_sound(row)}  # the newest of each stage

    def cost(self, stage: StageFolder, num_left: int) -> Cost:
        """The cost of the records that a stage lacks."""
        if not num_left:
            return Cost(0.0)
        if (pace := shard_pace(stage)) is not None:
            return Cost(pace * num_left)
        row, length = self._row(stage.name), self._length(stage.name)
        if length is None:
            if row is None or not row["num_items"]:
                return Cost(None)
            return Cost(max(row["seconds"], SHORTEST) / row["num_items"] * num_left)
        rate, (tokens, is_upper_bound) = self._tokens_per_second(stage.name), length
        return Cost(None if rate is None else tokens * num_left / rate, is_upper_bound)

    def _row(self, name: str) -> JsonDict | None:
        """The stage's own. Where it was never made, that of the other model, which is as large."""
        swapped = {"base": "trained", "trained": "base"}
        other = "_".join(swapped.get(part, part) for part in name.removeprefix("evaluation/").split("_"))
        return self.rows.get(name) or self.rows.get(f"evaluation/{other}")

    def _tokens_per_second(self, name: str) -> float | None:
        others = () if name == "training" else SAMPLED
        for row in map(self.rows.get, (name, *others)):
            if row and row["num_tokens"]:
                return row["num_tokens"] / max(row["seconds"], SHORTEST)
        return None

    def _length(self, name: str) -> tuple[float, bool] | None:
        """Tokens sampled for one record, and whether that is an upper bound. None for a stage that samples none."""
        config = self.config
        limits = dict.fromkeys(SAMPLED, config.evaluation.max_new_tokens) | {
            "rollouts": config.rollouts.max_new_tokens,
            "demonstrations": config.rollouts.max_new_tokens,
            "training": config.training.max_new_tokens,
            "preflight": min(config.rollouts.max_new_tokens, config.training.max_new_tokens),
        }
        if name not in limits:
            return None
        known = next((self.lengths[one] for one in (name, *SAMPLED) if one in self.lengths), None)
        length = limits[name] if known is None else min(known, limits[name])
        completions = 2 * config.preflight.num_samples if name == "preflight" else 1
        return completions * length, known is None


def _is_sound(row: JsonDict) -> bool:
    """Whether a row of timings.jsonl has what is read of it."""
    numbers = [row.get(key) for key in ("seconds", "num_items", "num_tokens")]
    return isinstance(row.get("stage"), str) and all(isinstance(n, int | float) and n >= 0 for n in numbers)


def shard_pace(stage: StageFolder) -> float | None:
    """Seconds a record between the shards of an unfinished stage, as a median, so that a pause does not count."""
    manifest = stage.manifest()
    if not manifest or manifest["complete"]:
        return None
    files = [stage.path / shard["file"] for shard in manifest["shards"]]
    if len(files) < 3 or not all(file.is_file() for file in files):
        return None
    counts = [shard["num_records"] for shard in manifest["shards"]]
    ended = sorted(
        zip((file.stat().st_mtime for file in files), counts, strict=True)
    )  # by any process, in any order
    gaps = ((after[0] - before[0], after[1]) for before, after in itertools.pairwise(ended))
    return statistics.median(gap / max(count, 1) for gap, count in gaps)
