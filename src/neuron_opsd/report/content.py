"""Inputs -> the sections of a report, for the page and report.md alike. What is missing is named."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from neuron_opsd.report import figures, story, tables
from neuron_opsd.report.blocks import (
    Block,
    Bullets,
    Cards,
    Figure,
    Figures,
    Heading,
    Paragraph,
    Section,
    Table,
    Text,
)
from neuron_opsd.report.browser import questions_browser
from neuron_opsd.report.inputs import ReportInputs
from neuron_opsd.statistics import Correlation, pearson, spearman

CITATION = """@misc{chen2026neuron,
  title         = {Neuron-Aware Data Selection for Annotation-Free LLM Self-Distillation},
  author        = {Chen, Zhuowei and Li, Xiang Lorraine},
  year          = {2026},
  eprint        = {2607.02460},
  archivePrefix = {arXiv},
  primaryClass  = {cs.LG}
}"""

# Training numbers that get a curve, in this order; others follow. Times differ between equal runs: no curve.
CURVES = {
    "loss": "Loss",
    "divergence": "Divergence from the teacher (nats per token)",
    "student_entropy": "Student's entropy (nats per token)",
    "teacher_entropy": "Teacher's entropy (nats per token)",
    "grad_norm": "Gradient norm",
    "learning_rate": "Learning rate",
    "completion_tokens_mean": "Completion length (tokens)",
    "truncated_fraction": "Truncated share",
}
_NO_CURVE = ("step", "epoch", "seed", "num_completion_tokens")
_TIME_WORDS = ("second", "time", "per_sec", "memory", "date")


def sections(inputs: ReportInputs) -> list[Section]:
    """The whole report, in reading order."""
    made = [
        Section("summary", "Summary", _summary(inputs)),
        Section("method", "What was done", story.what_was_done(inputs)),
        Section("results", "Results", _results(inputs)),
        Section("calibration", "Calibration", _calibration(inputs)),
        Section("selection", "Neurons and selection", _selection(inputs)),
        Section("example", "One selected question", _example(inputs)),
        Section("training", "Training", _training(inputs)),
        Section("cost", "Cost", _cost(inputs)),
        Section("questions", "Questions", _browser(inputs)),
        Section("reading", "How to read these numbers", story.how_to_read(inputs)),
        Section("configuration", "Configuration", _configuration(inputs)),
        Section("cite", "How to cite", [Text("The method's paper, as BibTeX", CITATION)]),
    ]
    return [section for section in made if section.blocks]


def _summary(inputs: ReportInputs) -> list[Block]:
    results = inputs.results
    if not results:
        return [
            _missing("No evaluation yet, so nothing can be said about what training changed.", "evaluate")
        ]
    blocks: list[Block] = []
    if results.get("in"):
        blocks.append(Cards(tables.headline_cards(results["in"])))
    return [*blocks, *_grouped(results["verdicts"])]


def _grouped(verdicts: Sequence[str]) -> list[Block]:
    """Sentences of one place under one heading; each begins "place: "."""
    groups: dict[str, list[str]] = {}
    for verdict in verdicts:
        where, _, sentence = verdict.partition("): ")
        groups.setdefault(f"{where})", []).append(sentence)
    return [block for where, sentences in groups.items() for block in (Heading(where), Bullets(sentences))]


def _results(inputs: ReportInputs) -> list[Block]:
    results = inputs.results
    if not results:
        return [_missing("No results yet.", "evaluate")]
    cross, blocks = results["cross"], []
    if results.get("in"):
        blocks.append(tables.metrics_table(f"In-domain: {results['train_domain']}", results["in"]))
    if cross["mean"]:
        number = cross["mean"]["num_domains"]
        caption = f"Cross-domain: mean over {number} other domain{'s' if number > 1 else ''}"
        blocks.append(tables.metrics_table(caption, cross["mean"]))
        if number > 1:
            blocks += [
                _folded(tables.metrics_table(f"Cross-domain: {domain}", block))
                for domain, block in cross["domains"].items()
            ]
    else:
        blocks.append(
            Paragraph("No other domain was evaluated, so nothing is known of cross-domain effects.")
        )
    drawn = [_difference_figure(results, name) for name in ("avg", "ece", "vote_share", "completion_tokens")]
    blocks.append(Figures([figure for figure in drawn if figure][:2]))
    blocks += _present(tables.changes_table(results), tables.distribution_table(results))
    if results.get("num_not_scored"):
        blocks.append(
            Paragraph(
                f"{results['num_not_scored']:,} questions lack rollouts of one model and are left out.", True
            )
        )
    return blocks


def _difference_figure(results: Mapping[str, Any], name: str) -> Figure | None:
    entries = [(w, b["metrics"][name]) for w, b in tables.domain_blocks(results) if name in b["metrics"]]
    mean = results["cross"]["mean"]
    if mean and mean["num_domains"] > 1 and name in mean["metrics"]:
        entries.append(("mean of the other domains", mean["metrics"][name]))
    drawable = [entry for _, entry in entries if entry["difference"]["low"] is not None]
    return figures.differences(f"difference-{name}", drawable[0]["label"], entries) if drawable else None


def _calibration(inputs: ReportInputs) -> list[Block]:
    results = inputs.results
    if not results:
        return []
    blocks: list[Block] = []
    for index, (where, block) in enumerate(tables.domain_blocks(results)):
        if "reliability" in block:
            pair = [
                figures.reliability(f"reliability-{index}-{role}", bins, role=role, where=where)
                for role, bins in block["reliability"].items()
            ]
            blocks += [
                Figures(pair),
                _folded(tables.metrics_table(f"More about calibration: {where}", block, more=True)),
            ]
    if not blocks:
        return [Paragraph("There are no gold answers, and calibration cannot be measured without any.", True)]
    intro = (
        "Confidence is the vote share: the votes of the majority answer over the number of samples. On the "
        "diagonal an answer is right as often as it says; dots below it are overconfident. A larger dot "
        "holds more questions."
    )
    return [Paragraph(intro), *_present(tables.calibration_table(results)), *blocks]


def _selection(inputs: ReportInputs) -> list[Block]:
    if not inputs.neuron_sets and not inputs.selection:
        return [_missing("Neurons have not been captured yet.", "neurons")]
    drawn: list[Figure] = []
    blocks: list[Block] = []
    if inputs.selection:
        drawn.append(figures.consensus_against_length(inputs.selection))
        blocks += [story.selection_in_words(inputs), tables.correlation_table(_correlations(inputs))]
        blocks.append(_selected_table(inputs))
    if inputs.neuron_sets:
        drawn.append(figures.neurons_per_layer(inputs.neuron_sets))
    return [*blocks[:1], Figures(drawn), *blocks[1:]]


def _correlations(inputs: ReportInputs) -> list[tuple[str, Correlation]]:
    lengths = np.array([s.num_completion_tokens for s in inputs.selection], dtype=np.float64)
    raw = np.array([s.consensus_score for s in inputs.selection], dtype=np.float64)
    residual = np.array([s.consensus_score_length_residualised for s in inputs.selection], dtype=np.float64)
    named = [
        ("s(x) and completion length", pearson(raw, lengths)),
        ("s(x) and completion length", spearman(raw, lengths)),
        ("length-residualised s(x) and length", spearman(residual, lengths)),
    ]
    voted = np.array([s.vote_share is not None for s in inputs.selection])
    if voted.any():
        shares = np.array(
            [s.vote_share for s in inputs.selection if s.vote_share is not None], dtype=np.float64
        )
        named.append(("s(x) and vote share", spearman(raw[voted], shares)))
    return named


def _selected_table(inputs: ReportInputs) -> Table:
    groups = [("selected", True), ("not selected", False)]
    rows = []
    for word, kept in groups:
        members = [s for s in inputs.selection if s.selected == kept]
        scores = [s.consensus_score for s in members]
        lengths = [s.num_completion_tokens for s in members]
        shares = [s.vote_share for s in members if s.vote_share is not None]
        means = [
            tables.number(float(np.mean(v))) if v else tables.NOT_DEFINED for v in (scores, lengths, shares)
        ]
        rows.append([word, f"{len(members):,}", *means])
    columns = ["Questions", "Number", "Mean s(x)", "Mean completion tokens", "Mean vote share"]
    return Table("Selected and other questions", columns, rows)


def _example(inputs: ReportInputs) -> list[Block]:
    if not inputs.contexts and not inputs.prompts_example:
        return [_missing("No teacher contexts yet.", "contexts")]
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
            _clip(texts.get(d.question_id, ""), 160),
            _clip(d.reply, 120),
            tables.number(d.distance),
        ]
        for d in demonstrations
    ]
    columns = ["Question", "Its text", "The model's own reply", "Jaccard distance"]
    return Table("Its neighbours, the teacher's demonstrations", columns, rows, num_text_columns=3)


def _training(inputs: ReportInputs) -> list[Block]:
    rows = inputs.training_metrics
    if not rows:
        return [_missing("No training yet.", "train")]
    keys = dict.fromkeys([*CURVES, *(key for row in rows for key in row)])
    drawn = []
    for key in keys:
        steps, values = _series(rows, key)
        if values and not _is_hidden(key):
            drawn.append(figures.training_curve(key, CURVES.get(key, key.replace("_", " ")), steps, values))
    return [story.training_in_words(inputs), Figures(drawn)]


def _is_hidden(key: str) -> bool:
    return key in _NO_CURVE or any(word in key for word in _TIME_WORDS)


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    pairs = [
        (float(row.get("step", index)), float(row[key]))
        for index, row in enumerate(rows)
        if isinstance(row.get(key), int | float) and not isinstance(row[key], bool) and np.isfinite(row[key])
    ]
    return [step for step, _ in pairs], [value for _, value in pairs]


def _cost(inputs: ReportInputs) -> list[Block]:
    rows = [row for row in (_rollout_cost(inputs), _training_cost(inputs), *_evaluation_cost(inputs)) if row]
    if not rows:
        return []
    note = "Wall times are at the foot of the page: they differ between equal runs."
    return [Table("Tokens generated", ["Stage", "Completions", "Tokens generated"], rows, note)]


def _rollout_cost(inputs: ReportInputs) -> list[str] | None:
    if not inputs.rollouts:
        return None
    tokens = sum(len(rollout.completion_ids) for rollout in inputs.rollouts)
    return ["Zero-shot rollouts", f"{len(inputs.rollouts):,}", f"{tokens:,}"]


def _training_cost(inputs: ReportInputs) -> list[str] | None:
    batch = inputs.setting("training.batch_size", 0)
    _, tokens = _series(inputs.training_metrics, "num_completion_tokens")
    if not tokens:
        _, means = _series(inputs.training_metrics, "completion_tokens_mean")
        tokens = [mean * batch for mean in means]
    if not tokens or not batch:
        return None
    return ["The student's samples in training", f"{len(tokens) * batch:,}", f"{round(sum(tokens)):,}"]


def _evaluation_cost(inputs: ReportInputs) -> list[list[str]]:
    if not inputs.results:
        return []
    rows, samples = [], inputs.results["num_samples"]
    for role, word in (("base", "before"), ("trained", "after")):
        blocks = [block for _, block in tables.domain_blocks(inputs.results)]
        count = sum(block["num_questions"] for block in blocks) * samples
        mean_of = [(b["metrics"]["completion_tokens"][role]["value"], b["num_questions"]) for b in blocks]
        tokens = sum(mean * number * samples for mean, number in mean_of)
        rows.append([f"Evaluation {word} training", f"{count:,}", f"{round(tokens):,}"])
    return rows


def _browser(inputs: ReportInputs) -> list[Block]:
    return [questions_browser(inputs)] if inputs.questions else [_missing("No questions yet.", "run")]


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


def _missing(what: str, command: str) -> Paragraph:
    return Paragraph(f"{what} The command `neuron-opsd {command}` makes it.", is_notice=True)


def _present(*blocks: Block | None) -> list[Block]:
    return [block for block in blocks if block is not None]


def _folded(table: Table) -> Table:
    return Table(table.caption, table.columns, table.rows, table.note, table.num_text_columns, folded=True)


def _clip(text: str, limit: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
