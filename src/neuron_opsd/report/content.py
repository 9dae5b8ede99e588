"""Inputs -> the sections of a report, for the page and report.md alike. What is missing is named."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from neuron_opsd.report import story, tables
from neuron_opsd.report.blocks import Block, Section, Table, Text
from neuron_opsd.report.browser import questions_browser
from neuron_opsd.report.comparison import comparison_section
from neuron_opsd.report.inputs import ReportInputs
from neuron_opsd.report.meaningful import without_empty_votes
from neuron_opsd.report.parts import clip, missing
from neuron_opsd.report.preflight import preflight_section
from neuron_opsd.report.readings import readings_section
from neuron_opsd.report.results import calibration_section, results_section
from neuron_opsd.report.selection import selection_section
from neuron_opsd.report.summary import summary
from neuron_opsd.report.training import cost_section, training_section

CITATION = """@misc{chen2026neuron,
  title         = {Neuron-Aware Data Selection for Annotation-Free LLM Self-Distillation},
  author        = {Chen, Zhuowei and Li, Xiang Lorraine},
  year          = {2026},
  eprint        = {2607.02460},
  archivePrefix = {arXiv},
  primaryClass  = {cs.LG}
}"""


def sections(inputs: ReportInputs) -> list[Section]:
    """The whole report, in reading order. Votes of replies that could not be read are left out."""
    inputs = without_empty_votes(inputs)
    made = [
        Section("summary", "Summary", _summary(inputs)),
        Section("method", "What was done", story.what_was_done(inputs)),
        Section("preflight", "Preflight", preflight_section(inputs)),
        Section("results", "Results", results_section(inputs)),
        Section("calibration", "Calibration", calibration_section(inputs)),
        Section("comparison", "Methods compared", comparison_section(inputs)),
        Section("selection", "Neurons and selection", selection_section(inputs)),
        Section("replies", "Replies and answers", readings_section(inputs)),
        Section("example", "One selected question", _example(inputs)),
        Section("training", "Training", training_section(inputs)),
        Section("cost", "Cost", cost_section(inputs)),
        Section("questions", "Questions", _browser(inputs)),
        Section("reading", "How to read these numbers", story.how_to_read(inputs)),
        Section("configuration", "Configuration", _configuration(inputs)),
        Section("cite", "How to cite", [Text("The method's paper, as BibTeX", CITATION)]),
    ]
    is_comparison = inputs.comparison and not inputs.questions  # of many runs, none of which is this one
    if is_comparison:
        made = [
            section for section in made if section.name in ("comparison", "reading", "configuration", "cite")
        ]
    opened = ("comparison",) if is_comparison else ("summary", "results", "questions")
    return [replace(section, folded=section.name not in opened) for section in made if section.blocks]


def _summary(inputs: ReportInputs) -> list[Block]:
    if not inputs.results:
        return [missing("No evaluation yet, so nothing can be said about what training changed.", "evaluate")]
    return summary(inputs, story.how_training_ended(inputs))


def _example(inputs: ReportInputs) -> list[Block]:
    if not inputs.contexts and not inputs.prompts_example:
        return [missing("No teacher contexts yet.", "contexts")]
    example = inputs.prompts_example or {}
    question_id = example.get("question_id") or inputs.contexts[0].question_id
    context = next((c for c in inputs.contexts if c.question_id == question_id), None)
    blocks: list[Block] = [story.example_in_words(inputs, question_id, context)]
    if context and context.demonstrations:
        blocks.append(_neighbours_table(inputs, context.demonstrations))
    for key, label in (
        ("student_prompt", "What the student reads"),
        ("teacher_prompt", "What the teacher reads"),
    ):
        if example.get(key):
            blocks.append(Text(label, str(example[key]), folded=key == "teacher_prompt"))
    return blocks


def _neighbours_table(inputs: ReportInputs, demonstrations: Sequence[Any]) -> Table:
    texts = {question.question_id: question.question for question in inputs.questions}
    rows = [
        [
            d.question_id,
            clip(texts.get(d.question_id, ""), 160),
            clip(d.reply, 120),
            tables.number(d.distance),
        ]
        for d in demonstrations
    ]
    columns = ["Question", "Its text", "The model's own reply", "Jaccard distance"]
    return Table("Its neighbours, the teacher's demonstrations", columns, rows, num_text_columns=3)


def _browser(inputs: ReportInputs) -> list[Block]:
    return [questions_browser(inputs)] if inputs.questions else [missing("No questions yet.", "run")]


def _configuration(inputs: ReportInputs) -> list[Block]:
    if not inputs.config:
        return []
    rows = [[key, value] for key, value in _flatten(inputs.config)]
    return [Table("Every setting of this run", ["Setting", "Value"], rows, num_text_columns=2, folded=True)]


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            rows += _flatten(value, f"{prefix}{key}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            rows.append((f"{prefix}{key}", text if text else "(empty)"))
    return rows
