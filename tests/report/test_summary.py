"""The first screen: harm as visible as gain, every place and every red row, nothing of replies that were not read."""

import dataclasses
import re

import pytest
from made_up_results import domain_result, mean_result, metric, results
from made_up_run import made_up_run

from neuron_opsd.evaluation.wording import verdict_sentences
from neuron_opsd.report import write_report
from neuron_opsd.report.content import sections
from neuron_opsd.report.examples import OTHER, RIGHT, WRONG, changed_questions
from neuron_opsd.report.inputs import ReportInputs
from neuron_opsd.report.markup import Better, Worse, spaced
from neuron_opsd.report.meaningful import UNREAD, without_empty_votes
from neuron_opsd.report.summary import facts_table, lead, summary
from neuron_opsd.results import Domains


@pytest.fixture(scope="module")
def run():
    return made_up_run()


def evaluated(in_domain, **others):
    """Results of the trained domain and of others, whose mean is that of the first."""
    found = results(in_domain=domain_result(**in_domain))
    blocks = {name: domain_result(**metrics) for name, metrics in others.items()}
    mean = mean_result(**next(iter(others.values()))) if others else None
    return dataclasses.replace(found, cross=Domains(domains=blocks, mean=mean))


GAIN = metric(0.5, 0.62, "higher", better="higher", label="Avg@8", ends=(0.05, 0.19))
LOSS = metric(0.5, 0.4, "lower", better="higher", label="Avg@8", ends=(-0.2, -0.01))
SAME = metric(0.3, 0.31, better="higher", label="Avg@8", ends=(-0.1, 0.1))
CUT = metric(0.38, 0.98, "higher", better="lower", label="Truncated share", ends=(0.5, 0.7))


def test_the_first_sentence_says_gain_and_harm(run):
    found = evaluated({"avg": GAIN}, art={"avg": LOSS, "truncated_fraction": CUT})
    said = lead(found)
    assert "".join(spaced(said)) == (
        "After training the accuracy is better on physics (trained) (0.500 to 0.620), the accuracy is worse on art "
        "(0.500 to 0.400), and Truncated share on art is worse."
    )
    assert [type(part) for part in said if isinstance(part, Better | Worse)] == [Better, Worse, Worse]


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"avg": SAME}, "After training no change is sure in the accuracy."),
        (
            {"avg": SAME, "truncated_fraction": CUT},
            "After training no change is sure in the accuracy, but Truncated share on physics (trained) is worse.",
        ),
        (
            {"avg": metric(0.3, 0.4, "too few questions", better="higher")},
            "There are too few questions to tell whether training changed the accuracy.",
        ),
        ({}, "Nothing can be said about what training changed."),
        (
            {"avg": GAIN, "maj": metric(0.3, 0.3, better="higher", ends=(-0.1, 0.1))},
            "After training the accuracy is better on physics (trained) (0.500 to 0.620); no other change is sure.",
        ),
    ],
)
def test_the_first_sentence_claims_no_more_than_was_shown(metrics, said):
    assert "".join(spaced(lead(evaluated(metrics)))) == said


def test_every_row_that_any_table_marks_red_is_in_the_summary(run):
    """Also of folded tables, of other domains and of the mean over them."""
    art = run.results.cross.domains["art"]
    worse = {"truncated_fraction": CUT, "mce": dataclasses.replace(CUT, label="MCE-15")}
    art = dataclasses.replace(art, metrics={**art.metrics, **worse})
    mean = dataclasses.replace(run.results.cross.mean, num_domains=2, metrics=art.metrics)
    found = dataclasses.replace(run.results, cross=Domains(domains={"art": art, "law": art}, mean=mean))
    made = {section.name: section.blocks for section in sections(dataclasses.replace(run, results=found))}
    red = [
        row
        for name in ("results", "calibration")
        for table in made[name]
        if hasattr(table, "rows")
        for row in table.rows
        if row[-1] == "higher (worse)"
    ]
    assert len(red) >= 6
    (table,) = (
        block for block in made["summary"] if getattr(block, "caption", "").startswith("What changed")
    )
    for label, *_, difference, verdict in red:
        shown = [row for row in table.rows if row[-2:] == [difference, verdict]]
        assert [row for row in shown if row[1] == label or row[1].endswith(f": {label}")], label
    places = {row[0] for row in table.rows}
    assert places == {"physics (trained)", "art", "law", "mean of the others"}


def test_no_green_head_where_another_domain_got_worse():
    """A gain in the trained domain stands beside the loss elsewhere, in the sentence, the pictures and the table."""
    found = evaluated({"avg": GAIN}, art={"avg": LOSS})
    rows = facts_table(found).rows
    assert [(row[0], row[-1]) for row in rows] == [
        ("physics (trained)", "higher (better)"),
        ("art", "lower (worse)"),
    ]
    blocks = summary(ReportInputs(results=found), None)
    drawn = next(block for block in blocks if type(block).__name__ == "Figures").items
    assert drawn[0].caption == "Accuracy. Better on physics (trained); worse on art."
    assert 'class="change good"' in drawn[0].svg
    assert 'class="change bad"' in drawn[0].svg


def unread(run, share):
    """The run as if that share of the trained model's replies in physics could be read."""
    block = run.results.in_domain
    parsed = metric(1.0, share, "lower", better="higher", label="Parse rate", ends=(-1.0, -0.9))
    block = dataclasses.replace(block, metrics={**block.metrics, "parse_rate": parsed})
    return dataclasses.replace(run, results=dataclasses.replace(run.results, in_domain=block))


def test_of_replies_that_were_not_read_no_vote_share_and_no_calibration_is_shown(run, tmp_path):
    found = without_empty_votes(unread(run, 0.02)).results
    shown = found.in_domain.metrics
    for name in ("vote_share", "answer_entropy", "ece", "brier", "auroc"):
        assert shown[name].trained.value is None, name
        assert shown[name].verdict == UNREAD
        assert shown[name].base.value is not None  # of the model whose replies were read
    assert shown["avg"].trained.value is not None  # that few answers are right is true
    assert found.in_domain.reliability is None
    assert found.cross == run.results.cross
    write_report(unread(run, 0.02), tmp_path)
    for name in ("report.html", "report.md"):
        text = (tmp_path / name).read_text().replace("\\", "")
        assert "Hardly any reply could be read on physics (trained) (a share of 1.000 to 0.020)" in text
    assert without_empty_votes(unread(run, 0.5)).results == unread(run, 0.5).results


def test_votes_of_unread_rollouts_and_steps_are_left_out(run):
    rollouts = [dataclasses.replace(rollout, answer=None) for rollout in run.rollouts]
    rows = [
        {"step": 1, "parse_rate": 0.01, "vote_share": 1.0},
        {"step": 2, "parse_rate": 0.9, "vote_share": 0.6},
    ]
    shown = without_empty_votes(dataclasses.replace(run, rollouts=rollouts, training_metrics=rows))
    assert {one.vote_share for one in shown.selection} == {None}
    assert [row.get("vote_share") for row in shown.training_metrics] == [None, 0.6]


def test_sentences_of_the_evaluation_say_why_instead(run):
    block = unread(run, 0.0).results.in_domain
    said = " ".join(verdict_sentences("physics", block, {}, Domains(domains={}, mean=None), None))
    assert "hardly any reply could be read (100.0% before, 0.0% after)" in said
    assert "ECE" not in said
    assert "Vote share" not in said
    cut = dataclasses.replace(
        run.results.in_domain, metrics={**run.results.in_domain.metrics, "truncated_fraction": CUT}
    )
    assert "Truncated share 0.380 before, 0.980 after; higher" in " ".join(
        verdict_sentences("physics", cut, {}, Domains(domains={}, mean=None), None)
    )


def test_three_questions_whose_answer_changed(run):
    (shown,) = changed_questions(run)
    assert [one.label for one in shown.items] == [RIGHT, WRONG, OTHER]
    assert [one.judgement for one in shown.items] == ["better", "worse", ""]
    first = shown.items[0]
    assert first.before == "C. choice 2 (50%)"
    assert first.where.startswith("physics, ")  # the trained domain first
    rows = [row for row in run.results.questions if row.base_majority_correct == row.trained_majority_correct]
    few = dataclasses.replace(run, results=dataclasses.replace(run.results, questions=tuple(rows)))
    assert {one.label for one in changed_questions(few)[0].items} == {OTHER}
    same = tuple(row for row in rows if row.base_answer == row.trained_answer)
    assert (
        changed_questions(dataclasses.replace(run, results=dataclasses.replace(run.results, questions=same)))
        == []
    )


def test_ties_of_unread_answers_have_words(run):
    rows = tuple(
        dataclasses.replace(row, trained_answer=None, trained_vote_share=1.0) for row in run.results.questions
    )
    (shown,) = changed_questions(
        dataclasses.replace(run, results=dataclasses.replace(run.results, questions=rows))
    )
    assert {one.after for one in shown.items} == {"no readable answer"}


def test_markdown_has_the_sentence_the_table_and_the_examples(run, tmp_path):
    write_report(run, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    summary = text.partition("## Summary")[2].partition("\n## ")[0]
    assert re.search(r"but .* (is|are) \*\*worse\*\*\.", summary)
    assert "**What changed, domain by domain**" in summary
    assert "**Questions whose answer changed**" in summary
    assert "No sure change on physics" in summary
