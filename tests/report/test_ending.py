"""What a run says when it ends, in lines that a person can read."""

from dataclasses import replace

from made_up_results import domain_result, metric
from test_summary import CUT, GAIN, LOSS, evaluated

from neuron_opsd.report.ending import ending, standing
from neuron_opsd.report.tables import interval_text

BETTER = metric(0.244, 0.12, "lower", better="lower", label="ECE-15", ends=(-0.2, -0.05))


def test_a_line_each_on_the_field_elsewhere_calibration_and_on_what_else_got_worse() -> None:
    found = evaluated({"avg": GAIN, "ece": BETTER}, art={"avg": LOSS, "truncated_fraction": CUT})
    assert ending(found) == [
        "In the field: accuracy on physics (trained) 0.500 before, 0.620 after, +0.120 (+0.050 to +0.190), better.",
        "Elsewhere: accuracy on art 0.500 before, 0.400 after, −0.100 (−0.200 to −0.010), worse.",
        "Calibration: error on physics (trained) 0.244 before, 0.120 after, −0.124 (−0.200 to −0.050), better.",
        "Worse after training: Avg@8 on art and Truncated share on art.",
    ]


def test_what_was_not_measured_has_no_line() -> None:
    votes = metric(0.5, 0.5, label="Vote share", ends=(-0.1, 0.1))
    assert ending(evaluated({"vote_share": votes})) == [
        "In the field: vote share on physics (trained) 0.500 before, 0.500 after, +0.000 (−0.100 to +0.100), no sure "
        "change."
    ]


def test_each_of_several_domains_is_named() -> None:
    found = evaluated({"avg": GAIN}, law={"avg": GAIN})
    own = {"art": domain_result(avg=GAIN), "music": domain_result(avg=LOSS)}
    field, elsewhere, worse = ending(replace(found, train_domain="all 2 domains", own=own))
    assert [part.split(" (trained)")[0] for part in field.split("; ")] == [
        "In the field: accuracy on all 2 trained domains 0.500 before, 0.620 after, +0.120 (+0.050 to +0.190), better",
        "accuracy on art",
        "accuracy on music",
    ]
    assert elsewhere.startswith("Elsewhere: accuracy on law 0.500")
    assert worse == "Worse after training: Avg@8 on music (trained)."


def test_without_test_questions_of_the_field_the_rest_is_elsewhere() -> None:
    found = replace(evaluated({"avg": GAIN}, law={"avg": GAIN}), in_domain=None)
    assert [line.split(":")[0] for line in ending(found)] == ["Elsewhere"]


def test_a_model_that_is_not_trained_stands_alone() -> None:
    assert standing(evaluated({"avg": GAIN, "ece": BETTER}, art={"avg": LOSS})) == [
        f"As it is: accuracy on physics {interval_text(GAIN.base)}; accuracy on art {interval_text(LOSS.base)}.",
        f"Calibration: error on physics {interval_text(BETTER.base)}.",
    ]
