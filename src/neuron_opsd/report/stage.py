"""The report and the model card, of whatever stages are there."""

import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

from neuron_opsd.contexts.prompts import show_prompts
from neuron_opsd.errors import DataError, ModelError
from neuron_opsd.model.generation import unset_in_published
from neuron_opsd.model.licence import licence_of
from neuron_opsd.model.template_defaults import describe_use, with_defaults
from neuron_opsd.records import NeuronSets, Question, Rollout, SelectedQuestion, TeacherContext
from neuron_opsd.report import ReportInputs, model_card, write_report
from neuron_opsd.report.inputs import ReadReplies
from neuron_opsd.report.readings import read_stored
from neuron_opsd.results import Harness, PreflightVerdict, Results, TeacherGap, load
from neuron_opsd.run.session import Run
from neuron_opsd.store.files import read_json_lines
from neuron_opsd.store.run_folder import HARNESS_RESULTS, PAGE, RESULTS, TEACHER_GAP
from neuron_opsd.store.stage_folder import READER

logger = logging.getLogger(__name__)

STORED_REPLIES = {
    "rollouts": "zero-shot rollouts",
    "evaluation/base": "samples of the base model",
    "evaluation/trained": "samples of the second model",
    "evaluation/general_base": "samples of the base model on general questions",
    "evaluation/general_trained": "samples of the second model on general questions",
}


def make_report(run: Run) -> None:
    """The page and its Markdown twin, of whatever stages are there."""
    inputs = dataclasses.replace(_report_inputs(run), replies=list(_read_replies(run)))
    write_report(inputs, run.folder.path)
    for name in (PAGE, "report.md"):
        run.folder.seal(name)


def _read_replies(run: Run) -> Iterator[ReadReplies]:
    """What today's reader makes of the stored replies. A stage at a time, for they are many."""
    folder, prompts = run.folder, run.config.prompts
    for name, where in STORED_REPLIES.items():
        manifest = folder.stage(name).manifest()
        if not manifest or not manifest["complete"]:
            continue
        try:
            asked = run.inputs.general_questions if "general" in name else run.records.questions
        except DataError as error:
            logger.warning("report: the replies of %s are left out: %s", name, error)
            continue
        known = {question.question_id: question for question in asked}
        # Of an outdated stage, questions may have gone since.
        stored = (r for r in folder.stage(name).iterate(Rollout) if r.question_id in known)
        is_read_today = manifest["inputs"].get(READER) == run.inputs.reader and run.is_current(name)
        yield read_stored(
            where, stored, known, prompts,
            is_trained_on=name == "rollouts", is_read_today=is_read_today,
        )  # fmt: skip


def _report_inputs(run: Run) -> ReportInputs:
    folder = run.folder

    def records(name: str, record_type: type) -> list[Any]:
        if run.is_current(name):
            return folder.stage(name).read(record_type)
        if folder.stage(name).manifest() is not None:
            logger.warning("report: %s is unfinished or outdated and left out", name)
        return []

    contexts = records("contexts", TeacherContext)
    # Where no contexts are made (most rivals), a finished training's figures alone are known to be of these settings.
    has_figures = bool(contexts) or ("contexts" not in run.inputs.made and run.is_current("training"))
    return ReportInputs(
        config=run.config.model_dump(mode="json"),
        environment=folder.read_json("environment.json") or {},
        questions=records("questions", Question),
        rollouts=records("rollouts", Rollout),
        neuron_sets=records("neurons", NeuronSets),
        selection=records("selection", SelectedQuestion),
        contexts=contexts,
        contexts_summary=folder.stage("contexts").summary() if contexts else {},
        training_metrics=read_json_lines(folder.path / "training" / "metrics.jsonl") if has_figures else [],
        training_summary=folder.stage("training").summary() if run.is_current("training") else None,
        results=folder.load_result(RESULTS, Results),
        harness=folder.load_result(HARNESS_RESULTS, Harness),
        timings=folder.timings(),
        preflight=_preflight_of(run),
        prompts_example=_example_of(run, contexts[0].question_id) if contexts else None,
    )


def _example_of(run: Run, question_id: str) -> dict[str, Any] | None:
    """Both prompts of one question. None where the model that they are encoded for is gone."""
    try:
        return show_prompts(run, question_id)
    except (ModelError, DataError) as error:
        logger.warning("report: no prompts are shown: %s", error)
        return None


def _preflight_of(run: Run) -> PreflightVerdict | None:
    """The label-free verdict, and beneath its measures those that needed answers, where there were any."""
    if not run.is_current("preflight"):
        return None
    verdict = load(PreflightVerdict, run.folder.stage("preflight").summary())
    gap = run.folder.load_result(TEACHER_GAP, TeacherGap)
    return dataclasses.replace(verdict, measures=(*verdict.measures, *gap.measures)) if gap else verdict


def card_of(run: Run, *, save: str | None = None) -> str:
    """The card of the published model, and what who uses it must know.

    Args:
        run: Its run.
        save: "merged" or "adapter" for a copy in another form than `training.save` has it.
    """
    model = run.config.model
    tokenizer, arguments = run.models.tokenizer, model.template_args
    sentences = [describe_use(tokenizer, arguments)]
    if unset := unset_in_published(model):
        values = ", ".join(f"{name}={value}" for name, value in unset.items())
        sentences.append(
            f"The base's generation configuration cannot be saved as it is; left out here: {values}. Give them to "
            "generate() if you want them."
        )
    inputs = _report_inputs(run)
    training = {**inputs.config["training"], **({"save": save} if save else {})}
    return model_card(
        dataclasses.replace(
            inputs,
            config={**inputs.config, "training": training},
            usage=[text for text in sentences if text],
            template_args=arguments if with_defaults(tokenizer, arguments) is tokenizer else {},
            licence=licence_of(model.name),
        )
    )
