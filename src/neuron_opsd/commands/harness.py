"""lm-evaluation-harness (PyPI: lm-eval) on a finished run: base and trained model, offline, on local tasks.

    RUN/harness/tasks/DOMAIN.yaml, DOMAIN.jsonl   a task for each domain, of its held-out questions with their answers
    RUN/harness/results.json                      of both models and every task, each with its fingerprint

The default tasks are worded as the harness words MMLU, not as this package does: an independent look at the same
questions. Choices are scored by the likelihood of their letter. Free-form questions are answered greedily, and must be
the gold answer but for case and punctuation. A folder with tasks of one's own may stand in their place.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from neuron_opsd.config.graph import ROLES
from neuron_opsd.errors import ConfigError, DataError, RunFolderError
from neuron_opsd.evaluation.evaluate import gold_answers
from neuron_opsd.model.fingerprint import model_fingerprint
from neuron_opsd.model.locate import saved_dtype
from neuron_opsd.records import Question
from neuron_opsd.report.stage import make_report
from neuron_opsd.run.session import Run
from neuron_opsd.store.files import JsonDict, write_text
from neuron_opsd.store.run_folder import HARNESS_RESULTS, RESULTS
from neuron_opsd.store.stage_folder import fingerprint_of, safe_name
from neuron_opsd.text.answers import LETTERS

logger = logging.getLogger(__name__)

FOLDER = "harness"


def run_harness(run: Run, *, tasks: Path | None = None, known: dict[str, JsonDict] | None = None) -> JsonDict:
    """Score both models of a finished run, and write its report. What is there of the same model and tasks is kept.

    Args:
        run: The run.
        tasks: A folder of task files. Without one they are made of the run's held-out questions.
        known: Scores by fingerprint that runs share, such as the base model's. New ones are added.

    Returns:
        {role: {"fingerprint", "tasks": {task: {"num_questions", metric: value, ...}}}, "lm_eval": version}.

    Raises:
        ConfigError: the harness is not installed, or the folder has no task.
        DataError: no held-out question has a gold answer.
        RunFolderError: the run is not finished.
    """
    _check(run, tasks)
    folder = tasks or write_tasks(run, run.folder.path / FOLDER / "tasks")
    known = {} if known is None else known
    saved = run.folder.read_result(HARNESS_RESULTS) or {}
    known |= {saved[role]["fingerprint"]: saved[role] for role in ROLES if role in saved}
    version = importlib.metadata.version("lm-eval")
    results: JsonDict = {"lm_eval": version}
    for role, name in _models(run).items():
        dtype = saved_dtype(run.config.model, name) or run.config.model.dtype
        of = {"tasks": _digest(folder), "model": model_fingerprint(name), "dtype": dtype}
        mark = fingerprint_of({**of, "lm_eval": version})
        if mark not in known:
            logger.info("harness: the %s model on the tasks of %s", role, folder)
            known[mark] = {"fingerprint": mark, "tasks": _scores(run, name, folder)}
        results[role] = known[mark]
        run.folder.write_result(HARNESS_RESULTS, results)
    make_report(run)
    return results


def check_installed() -> None:
    """Before anything else is looked at.

    Raises:
        ConfigError: it is not, with the command that installs it.
    """
    if not _is_installed():
        raise ConfigError(
            "lm-evaluation-harness is not installed. Install it with pip install neuron-opsd[harness]."
        )


def _is_installed() -> bool:
    return importlib.util.find_spec("lm_eval") is not None


def _check(run: Run, tasks: Path | None) -> None:
    check_installed()
    if tasks is not None and not [*tasks.rglob("*.yaml"), *tasks.rglob("*.yml")]:
        raise ConfigError(f"--tasks: {tasks} has no task file (*.yaml).")
    if run.folder.read_result(RESULTS) is None:
        raise RunFolderError(
            f"{run.folder.path} is not evaluated yet: the harness looks at finished runs. Run it to its end first."
        )


def _models(run: Run) -> dict[str, str]:
    """The names of base and trained model. A run that trains nothing has the base alone."""
    trained = {"trained": str(run.folder.model_folder)}
    return {"base": run.config.model.name} | (trained if run.config.training.trains else {})


def _scores(run: Run, name: str, folder: Path) -> JsonDict:
    """Scores of one model on every task of a folder, zero-shot, without a chat template (the harness's own way)."""
    # Optional, and its decorators hide its signatures from type checkers.
    lm_eval: Any = importlib.import_module("lm_eval")
    huggingface: Any = importlib.import_module("lm_eval.models.huggingface")
    own_tasks: Any = importlib.import_module("lm_eval.tasks")
    model = run.models.named(name)
    lm = huggingface.HFLM(
        pretrained=model,
        tokenizer=run.models.tokenizer,
        batch_size=run.config.evaluation.batch_size,
        device=str(model.device),
    )
    manager = own_tasks.TaskManager(include_path=str(folder), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model=lm, tasks=manager.all_subtasks, task_manager=manager, bootstrap_iters=0, log_samples=False
    )
    return {
        task: {"num_questions": found["n-samples"][task]["effective"], **_figures(values)}
        for task, values in sorted(found["results"].items())
    }


def _figures(values: JsonDict) -> dict[str, float]:
    """The metrics of one task by their bare names ("acc,none" is acc). Standard errors are left out."""
    numbers = {name.split(",")[0]: value for name, value in values.items() if isinstance(value, int | float)}
    return {
        name: float(value)
        for name, value in numbers.items()
        if not name.endswith("_stderr") and name not in ("sample_len", "sample_count")
    }


def write_tasks(run: Run, folder: Path) -> Path:
    """A task for each domain and kind of question, of the held-out questions that have a gold answer.

    Raises:
        DataError: none has.
    """
    asked = gold_answers(run.records.test_questions, run.config.evaluation, run.config.questions)
    if not asked:
        raise DataError(
            "No held-out question has a gold answer, so the harness has no task. Give evaluation.answers, or --tasks."
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for domain in sorted({question.domain for question, _ in asked}):
        own = [(question, gold) for question, gold in asked if question.domain == domain]
        choosing = [_choice_row(question, gold) for question, gold in own if question.choices]
        free = [_free_row(question, gold) for question, gold in own if not question.choices]
        _write_task(folder, f"heldout_{safe_name(domain)}", choosing, CHOICES)
        _write_task(folder, f"heldout_{safe_name(domain)}_free", free, FREE)
    return folder


CHOICES: JsonDict = {
    "output_type": "multiple_choice",
    "doc_to_choice": "letters",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
FREE: JsonDict = {
    "output_type": "generate_until",
    "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": 64},
    "filter_list": [
        {"name": "none", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}
    ],
    "metric_list": [
        {
            "metric": "exact_match",
            "aggregation": "mean",
            "higher_is_better": True,
            "ignore_case": True,
            "ignore_punctuation": True,
        }
    ],
}


def _write_task(folder: Path, name: str, rows: Sequence[JsonDict], kind: JsonDict) -> None:
    if not rows:
        return
    data = folder / f"{name}.jsonl"
    write_text(data, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data.resolve())}},
        "test_split": "test",
        "doc_to_text": "prompt",
        "doc_to_target": "gold",
        **kind,
    }
    write_text(folder / f"{name}.yaml", yaml.safe_dump(task, sort_keys=False))


def _choice_row(question: Question, gold: str) -> JsonDict:
    letters = list(LETTERS[: len(question.choices)])
    shown = "\n".join(f"{letter}. {text}" for letter, text in zip(letters, question.choices, strict=True))
    prompt = f"{question.question.strip()}\n{shown}\nAnswer:"
    return {
        "question_id": question.question_id,
        "prompt": prompt,
        "letters": letters,
        "gold": letters.index(gold),
    }


def _free_row(question: Question, gold: str) -> JsonDict:
    return {
        "question_id": question.question_id,
        "prompt": f"{question.question.strip()}\nAnswer:",
        "gold": gold,
    }


def _digest(folder: Path) -> str:
    """Digest of the task files by content, wherever the folder is."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    place = str(folder.resolve())
    return fingerprint_of(
        {
            str(p.relative_to(folder)): p.read_bytes().decode(errors="replace").replace(place, "")
            for p in files
        }
    )


def describe(results: JsonDict) -> list[str]:
    """A line for each task and metric: base, then trained."""
    lines = [f"lm-evaluation-harness {results['lm_eval']}"]
    for task, figures in results["base"]["tasks"].items():
        for metric in (name for name in figures if name != "num_questions"):
            values = [(role, results[role]["tasks"][task][metric]) for role in ROLES if role in results]
            told = ", ".join(f"{role} {value:.3f}" for role, value in values)
            lines.append(f"- {task}, {metric} of {figures['num_questions']} questions: {told}")
    return lines
