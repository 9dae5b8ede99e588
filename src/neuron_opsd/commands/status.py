"""What a run folder holds, what is outdated and why, and what finishing costs. Only reads. No torch, no lock.

print(describe_status(run_status(RunFolder.open("runs/demo"))))
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from neuron_opsd.commands.cost import Cost, Rates, count_records
from neuron_opsd.config import Config
from neuron_opsd.config.graph import OF_THE_TRAINED_MODEL, STAGES_BEFORE
from neuron_opsd.errors import DataError, ModelError
from neuron_opsd.records import Question
from neuron_opsd.run.inputs import READS_REPLIES, StageInputs
from neuron_opsd.store.files import JsonDict, read_json_lines
from neuron_opsd.store.run_folder import RunFolder
from neuron_opsd.store.stage_folder import StageFolder, describe_change, same_inputs, without_reader

logger = logging.getLogger(__name__)

FINISHED, OUTDATED, READ_AGAIN, UNFINISHED, DAMAGED, MISSING = (
    "finished",
    "outdated",
    "read again",
    "unfinished",
    "damaged",
    "not begun",
)
# Another reader reads their stored replies again. Of the others, it makes new records.
HAS_REPLIES = READS_REPLIES - {"preflight", "training"}


@dataclass(frozen=True, slots=True)
class StageStatus:
    """One stage: `why` says what is wrong with it, where something is."""

    stage: str
    state: str
    why: str
    num_records: int  # that serve as they are
    num_needed: int
    num_bytes: int
    seconds_left: float | None  # None: not known
    is_upper_bound: bool


@dataclass(frozen=True, slots=True)
class RunStatus:
    """Every stage that the settings ask for, in order."""

    run: str
    in_use_by: str | None
    stages: tuple[StageStatus, ...]
    changed_results: tuple[str, ...] = ()  # files of figures, where checksums are compared

    @property
    def seconds_left(self) -> float:
        """Seconds left, of the stages whose time is known."""
        return sum(stage.seconds_left or 0 for stage in self.stages)

    @property
    def unknown(self) -> list[str]:
        """Stages that are to be made, at a rate that nothing in this run tells."""
        return [stage.stage for stage in self.stages if stage.seconds_left is None]


def run_status(folder: RunFolder, config: Config | None = None, *, verify: bool = False) -> RunStatus:
    """Compare what is there with what the settings ask for.

    Args:
        folder: The run.
        config: Other settings than the run's own: what would they make again?
        verify: Compare checksums. Without it, files that are cut short are found, changed ones are not.

    Raises:
        NeuronOpsdError: the settings cannot be read, or their questions, model or template are gone.
    """
    config = config or folder.config()
    inputs = StageInputs(config, folder)
    others = (_or_none(lambda: inputs.general_questions), _or_none(lambda: inputs.other_questions))
    needed = count_records(config, inputs.questions, *others)
    lengths = {name: value for name in needed if (value := _mean_length(folder.stage(name)))}
    rates = Rates(config, folder.timings(), lengths)
    states: dict[str, StageStatus] = {}
    for name in STAGES_BEFORE:
        if needed.get(name):
            try:
                state, why = _judge(folder.stage(name), inputs, states, verify=verify)
            except (ModelError, DataError) as error:  # the records are judged by themselves
                state = FINISHED if folder.is_current(name) else OUTDATED
                why = f"not compared with the settings: {error}"
            states[name] = _measure(folder.stage(name), state, why, needed[name], rates)
    changed = tuple(folder.changed_results()) if verify else ()
    return RunStatus(str(folder.path), folder.holder(), tuple(states.values()), changed)


def _or_none(read: Callable[[], list[Question]]) -> list[Question]:
    """Questions, or none where their file is gone: what was made of them is not counted."""
    try:
        return read()
    except DataError as error:
        logger.warning("%s", error)
        return []


def _judge(
    stage: StageFolder, inputs: StageInputs, before: dict[str, StageStatus], *, verify: bool
) -> tuple[str, str]:
    """The state of a stage, and why it is not finished."""
    manifest = stage.manifest()
    if manifest is None:
        return MISSING, ""
    if stage.name in OF_THE_TRAINED_MODEL and "training" in before and before["training"].state != FINISHED:
        return OUTDATED, "the model is trained again"
    expected = inputs.of(stage.name)
    if not same_inputs(manifest["inputs"], expected):
        is_same_sample = same_inputs(without_reader(manifest["inputs"]), without_reader(expected))
        is_whole = manifest["complete"] and not stage.wrong_files(at_a_glance=not verify)
        is_exact = expected.get("evaluation", {}).get("exact")  # its probabilities take another pass
        is_read_again = is_same_sample and is_whole and stage.name in HAS_REPLIES and not is_exact
        state = READ_AGAIN if is_read_again else OUTDATED
        return state, describe_change(manifest["inputs"], expected)
    if not manifest["complete"]:
        return UNFINISHED, "interrupted, or running"
    wrong = stage.wrong_files(at_a_glance=not verify)
    return (DAMAGED, f"{', '.join(wrong)}: missing or damaged") if wrong else (FINISHED, "")


def _measure(stage: StageFolder, state: str, why: str, needed: int, rates: Rates) -> StageStatus:
    kept = {
        FINISHED: needed,
        READ_AGAIN: needed,
        UNFINISHED: _num_kept(stage, rates.config),
        DAMAGED: stage.num_records(),
    }.get(state, 0)
    cost = Cost(0.0) if state in (FINISHED, READ_AGAIN) else rates.cost(stage, max(needed - kept, 0))
    files = stage.path.rglob("*") if stage.name == "training" else stage.path.glob("*")
    size = sum(file.stat().st_size for file in files if file.is_file())
    return StageStatus(stage.name, state, why, kept, needed, size, cost.seconds, cost.is_upper_bound)


def _num_kept(stage: StageFolder, config: Config) -> int:
    """Records of an interrupted stage. Training counts the completions of the logged steps."""
    if stage.name == "training":
        return len(read_json_lines(stage.path / "metrics.jsonl")) * config.training.completions_per_step()
    return stage.num_records()


def _mean_length(stage: StageFolder) -> float | None:
    manifest: JsonDict = stage.manifest() or {}
    return manifest.get("summary", {}).get("completion_tokens_mean")


def describe_status(status: RunStatus) -> str:
    """The status as text for a terminal."""
    rows = [("stage", "state", "records", "MB", "to finish", "why"), *map(_row, status.stages)]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]])
        for row in rows
    ]
    user = f"in use by {status.in_use_by}" if status.in_use_by else "no process is at work on it"
    return "\n".join(
        [f"{status.run}: {user}", "", *(line.rstrip() for line in lines), "", _describe_rest(status)]
    )


def _row(stage: StageStatus) -> tuple[str, ...]:
    records = f"{stage.num_records} of {stage.num_needed}"
    return (
        stage.stage,
        stage.state,
        records,
        f"{stage.num_bytes / 1e6:.2f}",
        _describe_cost(stage),
        stage.why,
    )


def _describe_cost(stage: StageStatus) -> str:
    if stage.seconds_left is None:
        return "unknown"
    if stage.state == FINISHED:
        return "-"
    return ("at most " if stage.is_upper_bound else "about ") + describe_seconds(stage.seconds_left)


def _describe_rest(status: RunStatus) -> str:
    if status.changed_results:
        changed = ", ".join(status.changed_results)
        command = (
            "report" if all(name.startswith("report.") for name in status.changed_results) else "evaluate"
        )
        return f"Changed or lost since they were written: {changed}. `neuron-opsd {command} RUN` makes them again."
    if all(stage.state == FINISHED for stage in status.stages):
        return "Every stage is finished."
    bound = any(stage.is_upper_bound for stage in status.stages)
    known = f"{'at most' if bound else 'about'} {describe_seconds(status.seconds_left)}"
    if not status.unknown:
        return f"To finish: {known}."
    rest = (
        f"To finish: {known}, and an unknown time for"
        if status.seconds_left
        else "To finish: an unknown time for"
    )
    return f"{rest} {', '.join(status.unknown)}, for which this run has no rate yet."


def describe_seconds(seconds: float) -> str:
    """Seconds in words: 40 s, 12 min or 3.4 h."""
    if seconds < 120:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
