"""Selected questions with their teacher contexts, in the formats of other trainers. Answers are in none of them.

    trl       JSON lines: prompt, privileged_context        TRL's SDFTTrainer, SDPOTrainer (1.16)
    ms-swift  JSON lines: messages, teacher_prompt          `swift rlhf --rlhf_type gkd` with a teacher's own prompt
    verl      Parquet: prompt, data_source, ability, reward_model, extra_info.teacher_prompt

TRL and ms-swift give the teacher one user turn, so the demonstrations become text above the question. verl's column
keeps them as the chat turns that our own teacher reads.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neuron_opsd.contexts.prompts import both_messages
from neuron_opsd.errors import ConfigError
from neuron_opsd.run.session import Run
from neuron_opsd.store.files import explain_disk_errors, write_atomically
from neuron_opsd.text.prompts import Message

Row = dict[str, Any]


def check_outside(run: Run, output: Path) -> None:
    """Refuse an output in the run's own folder: a stage that is made again removes what its folder holds.

    Raises:
        ConfigError: names both.
    """
    if run.folder.path.resolve() in output.resolve().parents:
        raise ConfigError(
            f"--output is {output}, which is in the run's own folder {run.folder.path}. Name a place outside."
        )


def export(run: Run, *, format_name: str, output: Path) -> int:
    """Write every question that training uses in one of `FORMATS`, the selected ones best first. Returns how many.

    Raises:
        ConfigError: a run whose contexts are not made before training, or not at all.
        RunFolderError: selection or contexts are not finished, or the file cannot be written.
    """
    if format_name == "verl" and output.suffix != ".parquet":
        raise ConfigError(
            f"--output is {output}, but verl reads Parquet files by their name. End it in .parquet."
        )
    if output.exists() and not output.is_file():
        raise ConfigError(
            f"--output is {output}, which is not a regular file. Name a new file, or one to replace."
        )
    check_outside(run, output)
    _check_has_contexts(run)
    make_row, write = FORMATS[format_name]
    rows = [make_row(run, question_id) for question_id in run.records.training_ids()]
    with explain_disk_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output, lambda path: write(path, rows))
    return len(rows)


def _check_has_contexts(run: Run) -> None:
    if "contexts" in run.inputs.made:
        return
    config = run.config
    reason = f"training.objective is {config.training.objective}, which has no teacher"
    if config.training.is_distillation:
        reason = "contexts.retrieval is own_group, whose contexts are sampled at each step of training"
    raise ConfigError(
        f"{run.folder.path} is a run of the recipe {config.recipe}: {reason}. There are no contexts to "
        "export. Export a run that makes them before training, such as one of neuron_opsd or canon."
    )


def context_text(student: list[Message], teacher: list[Message]) -> str:
    """What the teacher reads beyond the student, as text: each demonstration's question and reply."""
    own = [dict(message) for message in student]
    parts = []
    for message in teacher:
        if dict(message) not in own:
            name = {"user": "Question", "assistant": "Answer"}.get(message["role"])
            parts.append(f"{name}:\n{message['content']}" if name else message["content"])
    return "\n\n".join(parts)


def _trl_row(run: Run, question_id: str) -> Row:
    student, teacher = _messages(run, question_id)
    return {
        "prompt": student,
        "privileged_context": context_text(student, teacher),
        "question_id": question_id,
    }


def _swift_row(run: Run, question_id: str) -> Row:
    student, teacher = _messages(run, question_id)
    question = student[-1]["content"]
    return {
        "messages": student,
        "teacher_prompt": "\n\n".join(filter(None, [context_text(student, teacher), question])),
        "question_id": question_id,
    }


def _verl_row(run: Run, question_id: str) -> Row:
    student, teacher = _messages(run, question_id)
    return {
        "data_source": f"neuron_opsd/{run.records.pool_by_id[question_id].domain}",
        "prompt": student,
        "ability": run.records.pool_by_id[question_id].domain,
        "reward_model": {"style": "rule", "ground_truth": ""},  # verl asks for the field. There is no answer
        "extra_info": {"split": "train", "index": question_id, "teacher_prompt": teacher},
    }


def _messages(run: Run, question_id: str) -> tuple[list[Message], list[Message]]:
    """Both roles' messages, the choices in their original order."""
    order = tuple(range(len(run.records.pool_by_id[question_id].choices)))
    return both_messages(run, question_id, order)


def _write_json_lines(path: Path, rows: Iterable[Row]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def _write_parquet(path: Path, rows: list[Row]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


FORMATS: dict[str, tuple[Callable[[Run, str], Row], Callable[[Path, list[Row]], None]]] = {
    "trl": (_trl_row, _write_json_lines),
    "ms-swift": (_swift_row, _write_json_lines),
    "verl": (_verl_row, _write_parquet),
}
