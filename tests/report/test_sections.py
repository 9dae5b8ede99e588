"""What each section says, by hand-worked numbers."""

import dataclasses
import html
import re
from itertools import pairwise

import numpy as np
import pytest
from made_up_results import domain_result, general_result, metric, results
from made_up_run import made_up_run

from neuron_opsd.report import calibration_tables, figures, model_card, story, tables, write_report
from neuron_opsd.report.compared import Comparison
from neuron_opsd.report.comparison import comparison_section, pooled
from neuron_opsd.report.content import sections
from neuron_opsd.report.inputs import ReportInputs
from neuron_opsd.report.markup import spaced
from neuron_opsd.report.preflight import preflight_section
from neuron_opsd.report.results import results_section
from neuron_opsd.report.risk_coverage import risk_coverage
from neuron_opsd.report.selection import selection_section
from neuron_opsd.report.training import cost_section, training_section
from neuron_opsd.results import Bin, Both, ConfidenceResult, CoveragePoint, PoolQuestion


@pytest.fixture(scope="module")
def inputs():
    return made_up_run()


def blocks_of(made, kind):
    return [block for block in made if type(block).__name__ == kind]


def figures_of(made):
    return [figure for block in blocks_of(made, "Figures") for figure in block.items]


def test_reading_order(inputs):
    names = [section.name for section in sections(inputs)]
    assert names[:6] == ["summary", "method", "preflight", "results", "calibration", "comparison"]
    assert names[-4:] == ["questions", "reading", "configuration", "cite"]
    assert type(sections(inputs)[0].blocks[0]).__name__ == "Paragraph"  # words first


def test_grid_of_one_run(inputs):
    grid = tables.grid_table(inputs.results)
    assert list(grid.columns) == ["Metric", "Training", "physics (trained)", "art"]
    assert [row[:2] for row in grid.rows] == [
        [label, word]
        for label in ("Avg@8", "ECE-15 (vote share)")
        for word in ("before", "after", "difference")
    ]
    entry = inputs.results.cross.domains["art"].metrics["ece"].difference
    assert grid.rows[5][3] == tables.difference_text(entry)


def test_preflight_shows_verdict_reasons_and_measures(inputs):
    sentence, reasons, table = preflight_section(inputs)
    assert sentence.text == "What could be said before training, and without any label: unlikely to help."
    assert list(reasons.items) == ["the teacher says what the student says (KL 0.001)"]
    assert [list(row) for row in table.rows] == [
        ["Entropy change", "−0.0102 (−0.0153 to −0.0049)", "A good sign below -0.005."],
        ["Pool diversity", "0.651", ""],
    ]
    assert preflight_section(ReportInputs()) == []


def test_a_thinking_model_gets_a_notice_beside_the_verdict(inputs):
    thinks = dataclasses.replace(inputs, preflight=dataclasses.replace(inputs.preflight, thinks=True))
    (notice,) = set(map(repr, preflight_section(thinks))) - set(map(repr, preflight_section(inputs)))
    assert "2607.05184" in notice


def test_guard_rails_and_the_stop_are_drawn(inputs):
    made = training_section(inputs)
    assert made[0].is_notice
    assert made[0].text.startswith("A guard rail stopped training at step 20: completion length")
    assert made[0].text.endswith("The model kept is that of step 10.")
    curves = {figure.name: figure for figure in figures_of(made)}
    assert curves["curve-completion-tokens-mean"].svg.count('class="limit"') == 2
    assert curves["curve-grad-norm"].svg.count('class="limit"') == 1
    assert curves["curve-loss"].svg.count('class="limit"') == 0
    assert all(figure.svg.count('class="stop"') == 2 for figure in curves.values())
    ended = dataclasses.replace(inputs, training_summary={"stopped_because": None})
    assert not training_section(ended)[0].is_notice
    assert 'class="stop"' not in str(training_section(ended))


def test_a_limit_lies_where_its_value_is():
    figure = figures.training_curve("x", "X", [1, 2], [0.0, 10.0], limits=(None, 20.0))
    limit = float(re.search(r'class="limit".*? y1="([\d.]+)"', figure.svg)[1])
    low, high = (
        float(value) for value in re.search(r'points="[\d.]+,([\d.]+) [\d.]+,([\d.]+)"', figure.svg).groups()
    )
    assert limit - high == pytest.approx(
        high - low, abs=0.05
    )  # upwards is less: 20 is as far from 10 as 10 from 0


def test_consensus_against_a_share_by_hand():
    pairs = [(float(i), i % 2) for i in range(10)]  # fifths of two: 0 and 1 each
    figure = figures.consensus_against("Vote share", pairs)
    half = 1.96 * np.std([0, 1], ddof=1) / np.sqrt(2)
    assert [list(row) for row in figure.data.rows][:2] == [
        ["0.500", "0.500", f"{half:.3f}", "2"],
        ["2.500", "0.500", f"{half:.3f}", "2"],
    ]


def test_selection_shows_accuracy_only_where_it_was_scored(inputs):
    names = {figure.name for figure in figures_of(selection_section(inputs))}
    assert "consensus-vote-share" in names
    assert "consensus-accuracy-of-the-zero-shot-reply" not in names
    rows = tuple(PoolQuestion(s.question_id, 0.5) for s in inputs.selection)
    scored = dataclasses.replace(inputs, results=dataclasses.replace(inputs.results, pool_questions=rows))
    names = {figure.name for figure in figures_of(selection_section(scored))}
    assert "consensus-accuracy-of-the-zero-shot-reply" in names
    correlations = blocks_of(selection_section(scored), "Table")[0]
    assert correlations.rows[-1][0] == "s(x) and accuracy of the zero-shot reply"


def test_curves_that_cannot_move_are_left_out(inputs):
    rows = [
        {**row, "importance_ratio": 1.0, "captured_mass_fraction": 1 - 0.01 * row["step"]}
        for row in inputs.training_metrics
    ]
    names = {
        figure.name
        for figure in figures_of(training_section(dataclasses.replace(inputs, training_metrics=rows)))
    }
    assert "curve-importance-ratio" not in names
    assert "curve-captured-mass-fraction" in names


def test_tokens_count_every_sample(inputs):
    """Rollouts of a group in training, and general questions with samples of their own number."""
    own, general = (
        domain_result(num_questions=n, num_with_gold=0, completion_tokens=metric(5.0, 5.0)) for n in (10, 4)
    )
    found = results(in_domain=own, general=general_result({"g": general}, num_samples=3))
    config = {"training": {"batch_size": 4, "num_rollouts": 2}}
    metrics = [{"step": step, "num_completion_tokens": 100} for step in (1, 2)]
    (table,) = cost_section(ReportInputs(config=config, training_metrics=metrics, results=found))
    assert [list(row) for row in table.rows] == [
        ["The student's samples in training", "16", "200"],
        ["Evaluation before training", "92", "460"],
        ["Evaluation after training", "92", "460"],
    ]


def test_a_row_has_one_number_of_decimals_and_rounding_is_no_number():
    length = metric(9.5, 15.5, "higher", ends=((8.5, 10.5), (14.5, 16.5), (5.0, 7.0)))
    block = domain_result(num_questions=20, num_with_gold=0, completion_tokens=length)
    assert list(tables.metrics_table("x", block).rows[0])[1:4] == [
        "9.5 (8.5 to 10.5)",
        "15.5 (14.5 to 16.5)",
        "+6.0 (+5.0 to +7.0)",
    ]
    assert tables.number(3.4e-17) == "0.000"
    assert tables.number(3.4e-9) == "3.4e−09"


def test_parts_of_the_brier_score_add_up(inputs):
    rows = calibration_tables.brier_table(inputs.results).rows
    assert [row[:3] for row in rows][:2] == [
        ["physics (trained)", "vote share", word] for word in ("before", "after")
    ]
    parts = [float(value) for value in rows[0][3:]]
    brier = inputs.results.in_domain.metrics["brier"].base.value
    assert parts[0] - parts[1] + parts[2] == pytest.approx(brier, abs=0.002)


def test_every_confidence_has_its_diagrams(inputs):
    """Results with a second kind; its metrics are those of the first under other names."""
    block = inputs.results.in_domain
    others = {f"option_{name}": block.metrics[name] for name in ("ece", "mce", "brier")}
    others["option_accuracy"] = dataclasses.replace(
        block.metrics["maj"], label="Accuracy (option probability)"
    )
    kinds = {
        kind: ConfidenceResult(
            label=label,
            rule=f"the rule of {label}",
            num_questions=30,
            num_with_gold=30,
            metrics={"accuracy": accuracy} | {n: prefix + n for n in ("ece", "mce", "brier")},
            reliability=block.reliability,
            brier_parts=block.brier_parts,
        )
        for kind, label, prefix, accuracy in (
            ("vote_share", "Vote share", "", "maj"),
            ("option_probability", "Option probability", "option_", "option_accuracy"),
        )
    }
    block = dataclasses.replace(block, metrics={**block.metrics, **others}, confidence_kinds=kinds)
    found = dataclasses.replace(inputs.results, in_domain=block)
    made = next(s for s in sections(dataclasses.replace(inputs, results=found)) if s.name == "calibration")
    titles = [figure.title for figure in figures_of(made.blocks)]
    curves = [title for title in titles if title.startswith("Risk and coverage")]
    assert curves == ["Risk and coverage on art, vote share"]  # the made-up kinds have none
    assert "Reliability after training, physics (trained), option probability" in titles
    assert "Reliability before training, physics (trained), vote share" in titles
    assert "Accuracy (option probability) against ECE-15, before and after training" in [
        title.replace(" (vote share)", "") for title in titles
    ]
    assert "Option probability: the rule of Option probability" in blocks_of(made.blocks, "Bullets")[0].items
    named = blocks_of(made.blocks, "Table")
    rows = next(b for b in named if b.caption.startswith("Calibration error")).rows
    assert [row[:3] for row in rows][2] == ["physics (trained)", "option probability", "before"]
    more = next(
        b for b in named if b.caption == "More about calibration: physics (trained), option probability"
    )
    assert len(more.rows) == 4
    main = tables.metrics_table("x", block)
    assert "Accuracy (option probability)" in [row[0] for row in main.rows]
    assert (
        len(main.rows) == len(tables.metrics_table("x", inputs.results.in_domain).rows) + 2
    )  # accuracy and ECE


def test_risk_and_coverage_are_drawn_and_said():
    before, after = (
        tuple(CoveragePoint(step / 4, risk) for step, risk in enumerate(risks, start=1))
        for risks in ((0.5, 0.4, 0.4, 0.5), (0.0, 0.2, 0.3, 0.5))
    )
    drawn = risk_coverage(
        "risk", Both(before, after), where="art", confidence="vote share", is_unreliable=True
    )
    said = (
        "Wrong answers: before training 0.400 of the more confident half, 0.500 of all; after training 0.200"
    )
    assert drawn.caption.startswith(f"Risk and coverage on art, vote share. {said}")
    assert drawn.caption.endswith("Unreliable, see above.")
    assert drawn.data.rows[0] == ["0.250", "0.500", "0.000"]
    lines = re.findall(r'class="line (base|trained)" points="([^"]+)"', str(drawn.svg))
    assert [role for role, _ in lines] == ["base", "trained"]
    heights = [[float(point.split(",")[1]) for point in points.split()] for _, points in lines]
    assert heights[0][0] < heights[1][0]  # the higher the error, the further up
    assert heights[0][3] == heights[1][3]
    nothing_wrong = tuple(CoveragePoint(point.coverage, 0.0) for point in before)
    risk_coverage("none", Both(nothing_wrong, nothing_wrong), where="art", confidence="vote share")


def test_general_questions_and_the_distance_from_the_base(inputs):
    general = general_result({"trivia": inputs.results.in_domain}, kl=(0.0123, 0.0101, 0.0145))
    found = dataclasses.replace(inputs.results, general=general)
    named = {
        table.caption: table for table in blocks_of(results_section(ReportInputs(results=found)), "Table")
    }
    moved = named["How far the trained model moved from the base"]
    assert [list(row) for row in moved.rows] == [["KL on general questions", "0.0123 (0.0101 to 0.0145)"]]
    assert not named["General questions: trivia"].folded
    grid = named["Trained on physics, tested on"]
    assert list(grid.columns)[2:] == ["physics (trained)", "art", "trivia (general)"]
    assert [row[4] for row in grid.rows] == [row[2] for row in grid.rows]
    without = blocks_of(results_section(ReportInputs(results=inputs.results)), "Table")
    assert not [table for table in without if "General" in table.caption]


def test_general_questions_with_an_answer_key_where_the_run_has_none(inputs):
    """The general set alone is labelled: its accuracy and ECE stand in words, grid, calibration and card."""
    trivia = inputs.results.in_domain
    found = dataclasses.replace(
        made_up_run(with_answers=False).results, general=general_result({"trivia": trivia}, num_samples=3)
    )
    made = {section.name: section.blocks for section in sections(ReportInputs(results=found))}
    assert "".join(spaced(made["summary"][0].text)).startswith(
        "After training the vote share is higher on physics (trained) (0.525 to 0.754) and art (0.525"
    )
    drawn = {figure.title: figure.svg for figure in figures_of(made["summary"])}
    assert "trivia (general" in drawn["Accuracy"]
    assert "physics" in drawn["Vote share"]
    grid = blocks_of(made["results"], "Table")[0]
    assert list(grid.columns)[-1] == "trivia (general, 3 samples)"
    cells = {(row[0], row[1]): row[-1] for row in grid.rows}
    assert cells["Avg@8", "before"] == tables.interval_text(trivia.metrics["avg"].base)
    assert cells["ECE-15 (vote share)", "after"] == tables.interval_text(trivia.metrics["ece"].trained)
    assert ("Vote share", "before") in cells  # what the other sets can be compared by
    titles = [figure.title for figure in figures_of(made["calibration"])]
    assert "Reliability after training, trivia (general, 3 samples), vote share" in titles
    card = model_card(ReportInputs(results=found))
    assert f"| {tables.interval_text(trivia.metrics['ece'].trained)} |" in card


def test_an_unreliable_confidence_is_marked_wherever_it_is_shown(inputs):
    block = inputs.results.in_domain
    unreliable = dataclasses.replace(
        block.metrics["ece"], caution="Unreliable: hardly an option.", unreliable=("trained",)
    )
    block = dataclasses.replace(block, metrics={**block.metrics, "ece": unreliable})
    found = dataclasses.replace(inputs.results, in_domain=block)
    made = {section.name: section.blocks for section in sections(ReportInputs(results=found))}
    table = next(b for b in blocks_of(made["results"], "Table") if b.caption == "In-domain: physics")
    verdicts = {row[0]: row[-1] for row in table.rows}
    assert verdicts["ECE-15 (vote share)"].endswith("; unreliable")
    assert "unreliable" not in verdicts["Avg@8"]
    assert table.note.endswith("Unreliable: hardly an option.")
    notices = [b.text for b in blocks_of(made["calibration"], "Paragraph") if b.is_notice]
    assert notices == ["physics (trained), vote share. Unreliable: hardly an option."]
    context = next(
        b for b in blocks_of(made["calibration"], "Table") if b.caption.startswith("Calibration error")
    )
    assert [row[:3] for row in context.rows][:2] == [
        ["physics (trained)", "vote share", "before"],
        ["physics (trained)", "vote share (unreliable)", "after"],
    ]
    captions = [figure.caption for figure in figures_of(made["calibration"])]
    assert (
        sum(caption.endswith("Unreliable, see above.") for caption in captions) == 2
    )  # two kinds of drawing


def test_comparison_tables_hold_every_cell(inputs):
    made = comparison_section(inputs)
    methods, avg, ece, tokens = blocks_of(made, "Table")
    assert [list(row)[:3] for row in methods.rows][:2] == [
        ["1 BASE", "in-domain", "0.400 (0.350 to 0.450)"],
        ["2 NEURON_OPSD", "in-domain", "0.477 (0.427 to 0.527)"],
    ]
    assert list(avg.columns) == ["Method", "Trained on", "Seeds", "physics", "art"]
    assert list(avg.rows[0]) == [
        "BASE",
        "not trained",
        "2",
        "0.400 (0.350 to 0.450)",
        "0.411 (0.361 to 0.461)",
    ]
    assert len(avg.rows) == len(ece.rows) == 7
    assert (methods.folded, avg.folded, tokens.folded) == (False, True, True)
    assert [type(block).__name__ for block in made[:3]] == [
        "Paragraph",
        "Table",
        "Figures",
    ]  # the table first
    forests, scatters, *rest = blocks_of(made, "Figures")
    assert len(forests.items) == 6  # three figures at two places
    assert forests.items[0].svg.count('class="mark base"') == 1
    assert forests.items[0].svg.count('class="mark trained"') == 3
    scatters = scatters.items
    assert [figure.svg.count('class="disc"') for figure in scatters] == [4, 3]  # base has no cross-domain
    assert all(block.label for block in rest)


def test_comparison_with_the_least_there_can_be():
    comparison = Comparison(metrics=[], methods=[], cells=[], means=[])
    assert comparison_section(ReportInputs(comparison=comparison))
    assert comparison_section(ReportInputs()) == []


def test_bins_are_pooled_by_their_counts():
    empty = Bin(low=0.5, high=1.0, count=0, confidence=None, accuracy=None)
    first = [Bin(low=0.0, high=0.5, count=1, confidence=0.2, accuracy=0.0), empty]
    second = [Bin(low=0.0, high=0.5, count=3, confidence=0.4, accuracy=1.0), empty]
    low, high = pooled([first, second])
    assert (low.low, low.high, low.count, low.accuracy) == (0.0, 0.5, 4, 0.75)
    assert low.confidence == pytest.approx(0.35)
    assert high == empty


def test_headings_are_in_order_and_figures_have_their_numbers(inputs, tmp_path):
    write_report(inputs, tmp_path)
    page = html.unescape((tmp_path / "report.html").read_text(encoding="utf-8"))
    levels = [int(level) for level in re.findall(r"<h([1-6])[ >]", page)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.count("Numbers of this figure") >= page.count("<figure>") - 1  # the map of the pool has none


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ("distillation", "Self-distilled from"),
        ("none", "Not trained, then"),
        ("majority_sft", "Trained by lmsi from"),
        ("gold_sft", "USES GOLD ANSWERS: upper bound. Fine-tuned on"),
    ],
)
def test_the_line_under_the_title_says_how_it_was_trained(inputs, objective, words):
    config = {
        **inputs.config,
        "recipe": "lmsi",
        "training": {**inputs.config["training"], "objective": objective},
    }
    line = story.subtitle(dataclasses.replace(inputs, config=config))
    assert line.startswith(words)
    assert ("without a single answer" in line) == (objective in ("distillation", "majority_sft"))


def test_a_comparison_is_no_unfinished_run(inputs):
    several = ReportInputs(
        config=inputs.config, comparison=Comparison(metrics=[], methods=[], cells=[], means=[])
    )
    assert story.subtitle(several).startswith("Each recipe is trained on each domain")
    assert story.title(several) == "Recipes compared on owner/model"


@pytest.mark.parametrize(
    ("better", "before", "after", "low", "high", "verdict", "shown"),
    [
        (
            "higher",
            0.5,
            0.62,
            0.05,
            0.19,
            "higher",
            ["0.500", "0.620", "+0.120 (+0.050 to +0.190)", "higher (better)"],
        ),
        (
            "lower",
            0.1,
            0.2,
            0.03,
            0.17,
            "higher",
            ["0.100", "0.200", "+0.100 (+0.030 to +0.170)", "higher (worse)"],
        ),
        (
            "lower",
            0.2,
            0.1,
            -0.17,
            -0.03,
            "lower",
            ["0.200", "0.100", "−0.100 (−0.170 to −0.030)", "lower (better)"],
        ),
        (
            "higher",
            0.6,
            0.5,
            -0.2,
            -0.01,
            "lower",
            ["0.600", "0.500", "−0.100 (−0.200 to −0.010)", "lower (worse)"],
        ),
        ("neither", 9.5, 5.5, -5.0, -3.0, "lower", ["9.500", "5.500", "−4.000 (−5.000 to −3.000)", "lower"]),
    ],
)
def test_a_row_by_hand(better, before, after, low, high, verdict, shown):
    block = domain_result(avg=metric(before, after, verdict, better=better, ends=(low, high)))
    assert tables.metrics_table("", block).rows == [["M", *shown]]
