"""The report and the model card, of whatever stages are there."""

import logging
from typing import Any

from neuron_opsd.files import read_json_lines
from neuron_opsd.records import NeuronSets, Question, Rollout, SelectedQuestion, TeacherContext
from neuron_opsd.report import ReportInputs, model_card, write_report
from neuron_opsd.workbench import HARNESS_RESULTS, RESULTS, TEACHER_GAP, Workbench

logger = logging.getLogger(__name__)


def make_report(bench: Workbench) -> None:
    """The page and its Markdown twin, of whatever stages are there."""
    write_report(_report_inputs(bench), bench.folder.path)


def _report_inputs(bench: Workbench) -> ReportInputs:
    folder = bench.folder

    def records(name: str, record_type: type) -> list[Any]:
        if bench.is_current(name):
            return folder.stage(name).read(record_type)
        if folder.stage(name).manifest() is not None:
            logger.warning("report: %s is unfinished or outdated and left out", name)
        return []

    contexts = records("contexts", TeacherContext)
    # Where no contexts are made (most rivals), a finished training's figures alone are known to be of these settings.
    has_figures = bool(contexts) or ("contexts" not in bench.inputs.made and bench.is_current("training"))
    return ReportInputs(
        config=bench.config.model_dump(mode="json"),
        environment=folder.read_json("environment.json") or {},
        questions=records("questions", Question),
        rollouts=records("rollouts", Rollout),
        neuron_sets=records("neurons", NeuronSets),
        selection=records("selection", SelectedQuestion),
        contexts=contexts,
        contexts_summary=folder.stage("contexts").summary() if contexts else {},
        training_metrics=read_json_lines(folder.path / "training" / "metrics.jsonl") if has_figures else [],
        training_summary=folder.stage("training").summary() if bench.is_current("training") else None,
        results=folder.read_json(RESULTS),
        harness=folder.read_json(HARNESS_RESULTS),
        timings=folder.timings(),
        preflight=_preflight_of(bench),
        prompts_example=bench.show(contexts[0].question_id) if contexts else None,
    )


def _preflight_of(bench: Workbench) -> dict[str, Any] | None:
    """The label-free verdict, and beneath its measures those that needed answers, where there were any."""
    if not bench.is_current("preflight"):
        return None
    gap = bench.folder.read_json(TEACHER_GAP) or {"measures": []}
    verdict = bench.folder.stage("preflight").summary()
    return {**verdict, "measures": [*verdict["measures"], *gap["measures"]]}


def card_of(bench: Workbench) -> str:
    return model_card(_report_inputs(bench))
