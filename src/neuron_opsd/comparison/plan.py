"""What is compared: recipes, domains and seeds, one set of questions, and the settings of each cell.

A cell is a recipe, the domain it trains on (its source) and a seed: one run folder. Every cell is tested on the
held-out questions of all domains.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_opsd.config import ALL_DOMAINS, Config, QuestionSettings, load_config
from neuron_opsd.errors import ConfigError
from neuron_opsd.questions.answer_counts import check_answers
from neuron_opsd.questions.duplicates import near_duplicates
from neuron_opsd.questions.load import load_questions, read_questions
from neuron_opsd.records import Question
from neuron_opsd.store.files import file_digest, read_json, write_text
from neuron_opsd.store.stage_folder import fingerprint_of, safe_name
from neuron_opsd.text.content import content_id

logger = logging.getLogger(__name__)

BASE = "base"  # the recipe that every other one is compared with
BASE_VOTES = "base_votes"  # not a recipe: the base model's majority answers as its only answers

# Of evaluation's settings. `context` and `order_average` are what a recipe is.
ASKED = (
    "exact", "num_samples", "stop_votes", "pass_k", "temperature", "top_p", "max_new_tokens", "shuffle_choices",
    "num_bins",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Domain:
    """One domain: all its questions, and its parts, each in a file of the comparison."""

    name: str
    pool_and_test: Path
    pool: Path
    test: Path


@dataclass(frozen=True, slots=True)
class Cell:
    """One run. A recipe that trains nothing on a pool has no source."""

    recipe: str
    source: str | None
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that decides what a comparison is."""

    recipes: tuple[str, ...]
    model: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    num_steps: int = 150
    num_tokens: int | None = None  # a budget of tokens instead of one of steps
    overrides: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse what cannot be compared.

        Raises:
            ConfigError: something is missing, or a recipe is unknown or wrong.
        """
        for name, value in (
            ("--model", self.model),
            ("--questions", self.questions),
            ("--answers", self.answers),
        ):
            if not value:
                raise ConfigError(
                    f"{name} is missing: a comparison needs a model, questions and their gold answers."
                )
        for path in self.answers:
            if not Path(path).is_file():
                raise ConfigError(f"--answers: {path} does not exist.")
        if len(set(self.seeds)) < len(self.seeds) or not self.seeds:
            raise ConfigError(f"--seed is {list(self.seeds)}. Give different seeds, each once.")
        names = [label_of(recipe) for recipe in self.recipes]
        if len(set(names)) < len(names):
            raise ConfigError(f"--recipe has two of one name: {', '.join(sorted(names))}. Rename a file.")
        for recipe in self.recipes:
            if self.config(recipe, seed=self.seeds[0]).questions.domain == ALL_DOMAINS:
                raise ConfigError(
                    f"questions.domain={ALL_DOMAINS} trains on every domain at once. A comparison trains on each in "
                    "its turn and tests on all: leave the setting out."
                )
        self._check_alike()

    def _check_alike(self) -> None:
        """Refuse recipes that ask or count in different ways: a difference between them would be the question's."""
        asked = {recipe: _how_asked(self.config(recipe, seed=self.seeds[0])) for recipe in self.recipes}
        first = next(iter(asked), "")
        for recipe, own in asked.items():
            differing = [name for name in own if own[name] != asked[first][name]]
            if differing:
                told = "; ".join(
                    f"{name} is {_typed(asked[first][name])} in {label_of(first)} and {_typed(own[name])} in "
                    f"{label_of(recipe)}"
                    for name in differing
                )
                alike = " ".join(f"{name}={_typed(own[name])}" for name in differing)
                raise ConfigError(
                    f"--recipe: {told}, so their figures cannot be compared. Give all recipes one value, as in: {alike}"
                )

    def config(self, recipe: str, *, seed: int, **values: Any) -> Config:
        """The settings of a recipe under this plan: the same budget for all, and no preflight."""
        shared = {
            "model.name": self.model,
            "questions.path": self.questions[0],
            "evaluation.answers": list(self.answers),
            "training.num_steps": self.num_tokens or self.num_steps,  # a step takes a token
            "training.max_tokens": self.num_tokens,
            "training.max_epochs": None,
            "preflight.num_questions": 0,
            "seed": seed,
        }
        return load_config(recipe, overrides=self.overrides, values={**shared, **values})

    def uses_gold(self, recipe: str) -> bool:
        """Whether a recipe is an upper bound, trained on gold answers."""
        return self.config(recipe, seed=self.seeds[0]).training.uses_gold


def _how_asked(config: Config) -> dict[str, Any]:
    """The settings on which it depends what a model is asked, how it answers, and what is counted."""
    prompts, evaluation = config.prompts.model_dump(mode="json"), config.evaluation.model_dump(mode="json")
    del prompts["keep_thinking"]  # of demonstrations
    return {
        **{f"prompts.{name}": value for name, value in prompts.items()},
        **{f"evaluation.{name}": evaluation[name] for name in ASKED},
    }


def _typed(value: Any) -> str:
    """As one would type it after a setting's name."""
    return value if isinstance(value, str) else json.dumps(value)


def label_of(recipe: str) -> str:
    """A recipe's name, also of a file."""
    return Path(recipe).stem


def read_plan(folder: Path) -> Plan | None:
    """The plan that a comparison was made with, or None."""
    saved = read_json(folder / "comparison.json")
    if saved is None:
        return None
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in saved.items()
    }
    return Plan(**fields)


def reads_pool(config: Config) -> bool:
    """Whether a recipe depends on the domain of its pool."""
    return config.training.trains or config.evaluation.context


def cells_of(plan: Plan, domains: Sequence[str]) -> list[Cell]:
    """Every cell, seed by seed, so that an unfinished comparison has whole seeds, base first."""
    cells = []
    for seed in plan.seeds:
        for recipe in plan.recipes:
            has_source = reads_pool(plan.config(recipe, seed=seed))
            sources = list(domains) if has_source else [None]
            cells += [Cell(recipe, source, seed) for source in sources]
    return cells


def cell_folder(folder: Path, cell: Cell) -> Path:
    """The folder of a cell's run."""
    recipe, source = safe_name(label_of(cell.recipe)), safe_name(cell.source or "none")
    return folder / "cells" / recipe / source / f"seed-{cell.seed}"


def cell_config(plan: Plan, domains: Sequence[Domain], cell: Cell) -> Config:
    """All settings of one cell. The next domain's pool demonstrates where another domain is asked for."""
    names = [domain.name for domain in domains]
    place = names.index(cell.source) if cell.source else 0
    own = domains[place]
    values: dict[str, Any] = {
        "questions.path": str(own.pool_and_test),
        "questions.cross_paths": [str(domain.test) for domain in domains if domain is not own],
    }
    config = plan.config(cell.recipe, seed=cell.seed, **values)
    if config.contexts.retrieval == "other_domain" and config.contexts.other_path is None:
        if len(domains) < 2:
            raise ConfigError(
                f"{cell.recipe} needs another domain: give --questions twice, or contexts.other_path=FILE."
            )
        values["contexts.other_path"] = str(domains[(place + 1) % len(domains)].pool)
        config = plan.config(cell.recipe, seed=cell.seed, **values)
    return config


def list_domains(plan: Plan) -> list[str]:
    """Names of the domains, in the order of the files."""
    return [name for name, _ in _domains_of(plan.questions, plan.config(BASE, seed=plan.seeds[0]).questions)]


def prepare_questions(plan: Plan, folder: Path) -> tuple[list[Domain], list[str]]:
    """Write each domain's questions, split once for all cells. Equal content is in one domain alone.

    Returns:
        The domains, and sentences on what a reader must know of the questions.

    Raises:
        DataError: a file of questions or of answers that cannot be used.
    """
    settings = plan.config(BASE, seed=plan.seeds[0]).questions
    seen: set[str] = set()
    domains: list[Domain] = []
    everything: list[Question] = []
    num_repeated = 0
    for name, questions in _domains_of(plan.questions, settings):
        own = [q for q in questions if content_id(q.question, q.choices) not in seen]
        num_repeated += len(questions) - len(own)
        seen |= {content_id(q.question, q.choices) for q in own}
        everything += own
        domains.append(_write_domain(name, own, folder / "questions"))
    check_answers(plan.answers, everything, settings, name="--answers")  # once, and not cell by cell
    threshold = plan.config(BASE, seed=plan.seeds[0]).contexts.near_duplicate_threshold
    return domains, _notes_on(everything, num_repeated, threshold)


def _domains_of(paths: Sequence[str], settings: QuestionSettings) -> list[tuple[str, list[Question]]]:
    """(domain, its pool and its held-out questions) of every file."""
    found: dict[str, list[Question]] = {}
    for path in paths:
        for name in sorted({question.domain for question in read_questions(path, fields=settings.fields)}):
            if name in found:
                raise ConfigError(
                    f"The domain {name} is in two files of --questions. Put its questions into one."
                )
            own = settings.model_copy(update={"path": path, "domain": name, "cross_paths": ()})
            found[name] = [question for question in load_questions(own) if question.domain == name]
    return list(found.items())


def _write_domain(name: str, questions: Sequence[Question], folder: Path) -> Domain:
    """Three files. Their names hold a hash of the content, so a changed set is another one to the cells."""
    parts = {
        "all": list(questions),
        "pool": [question for question in questions if question.split == "train"],
        "test": [question for question in questions if question.split == "test"],
    }
    files = {}
    folder.mkdir(parents=True, exist_ok=True)
    for part, members in parts.items():
        rows = [
            {
                "question_id": q.question_id,
                "domain": q.domain,
                "question": q.question,
                "choices": {"text": q.choices, "label": q.letters} if q.letters else list(q.choices),
            }
            | ({"system": q.system} if q.system else {})
            for q in members
        ]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        file = folder / f"{safe_name(name)}.{part}.{fingerprint_of({'text': text})[:8]}.jsonl"
        if not file.is_file():
            write_text(file, text)
        files[part] = file
    return Domain(name, files["all"], files["pool"], files["test"])


def _notes_on(questions: Sequence[Question], num_repeated: int, threshold: float) -> list[str]:
    pairs = near_duplicates(questions, threshold=threshold)
    across = sum({questions[i].split, questions[j].split} == {"train", "test"} for i, j in pairs)
    counts: dict[str, list[int]] = {}
    for question in questions:
        counts.setdefault(question.domain, [0, 0])[question.split == "test"] += 1
    listed = "; ".join(
        f"{name}: {pool} in the pool, {test} held out" for name, (pool, test) in counts.items()
    )
    notes = [f"Questions: {listed}. No held-out question has the content of one in any pool."]
    if num_repeated:
        notes.append(f"{num_repeated} questions of equal content in two domains are kept in the first alone.")
    notes.append(
        f"{across} pairs of a pool question and a held-out one are near-duplicates (5-gram Jaccard of {threshold:g} or "
        "more); they are kept."
    )
    return notes


def answers_digest(plan: Plan) -> list[str]:
    """Digests of the gold answers' files. A cell is recomputed if they change."""
    return [file_digest(Path(path)) for path in plan.answers]
