"""The studies behind docs/results.md: their counts are the product's own, and they go on after a kill."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from neuron_opsd.config import NeuronSettings
from neuron_opsd.neurons.capture import capture_neurons
from neuron_opsd.records import Rollout

FOLDER = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch):
    """Import a script of experiments/ by name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in (
        "studies",
        "forest",
        "signal_study",
        "context_study",
        "training_study",
        "preflight_study",
        "promise_study",
        "sureness_study",
        "results_page",
        "kept_rows",
        "power",
    ):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("kind", ["gate", "gate_up"])
def test_the_signal_study_counts_what_capture_counts(study, tiny_model, tiny_tokenizer, kind) -> None:
    rollout = Rollout(
        question_id="q", rollout_index=0, choice_order=(), prompt_ids=(5, 6, 7, 8), completion_ids=tuple(range(9, 49)),
        token_log_probs=(0.0,) * 40, finish_reason="stop", reply="", answer=None,
    )  # fmt: skip
    counts = study("signal_study").neuron_counts(tiny_model, rollout, NeuronSettings())

    def captured(**changes) -> float:
        settings = NeuronSettings(activation=kind, **changes)
        (found,) = capture_neurons(tiny_model, tiny_tokenizer, [rollout], settings)
        return found.consensus_score

    assert counts[f"s_{kind}"] == captured()
    d_ff = tiny_model.config.intermediate_size
    per_token = max(1, round(round(0.206 * d_ff) / 32))
    assert counts[f"per_token_{kind}"] == captured(per_token_entries=per_token)
    if kind == "gate":
        assert counts["first_gate"] == captured(tokens="first", first_tokens=32, num_entries=32 * per_token)


def test_rows_survive_a_kill(study, tmp_path) -> None:
    studies = study("studies")
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"name": "a", "value": 1}) + "\n" + '{"name": "b", "val')
    made = []

    def make(items):
        made.extend(items)
        return [{"name": item, "value": 2} for item in items]

    rows = studies.resumable(path, ["a", "b", "c"], str, make, batch=1)
    assert made == ["b", "c"]
    assert [(row["name"], row["value"]) for row in rows] == [("a", 1), ("b", 2), ("c", 2)]


def test_length_is_taken_out_and_nothing_else(study) -> None:
    without_length = study("signal_study").without_length
    tokens = np.array([4.0, 8.0, 16.0, 32.0])
    assert np.allclose(without_length(1000 * tokens**-0.5, tokens), 0)
    same = np.array([10.0, 30.0, 20.0, 40.0])
    assert list(np.argsort(without_length(same, np.full(4, 2.0)))) == list(np.argsort(same))


def test_two_points_need_about_1200_questions(study) -> None:
    power = study("power")
    assert power.questions_needed(0.06, 0.02, 1) == 1169
    assert power.standard_error(100, 0.0625, 0.0, 1) == pytest.approx(0.025)


def test_both_studies_run_and_report(
    study, tmp_path, monkeypatch, capsys, tiny_model, tiny_tokenizer
) -> None:
    tiny_model.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    questions = [
        {"question_id": f"q{i}", "question": f"Which is {i}? {'abcdefgh'[i]}", "choices": [str(i), "x"]}
        for i in range(8)
    ]
    answers = [{"question_id": f"q{i}", "answer": "AB"[i % 2]} for i in range(8)]
    for name, rows in (("questions", questions), ("answers", answers)):
        (tmp_path / f"n.{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = [
        "measure", "--model", str(tmp_path / "model"), "--label", "tiny", "--dtype", "float32",
        "--questions", str(tmp_path / "n.questions.jsonl"), "--answers", str(tmp_path / "n.answers.jsonl"),
    ]  # fmt: skip

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        study(name).main()
        return capsys.readouterr().out

    rows, folder = tmp_path / "rows.jsonl", tmp_path / "context"
    run("signal_study", *common, "--output", str(rows), "--votes", "2")
    written = rows.read_bytes()
    run("signal_study", *common, "--output", str(rows), "--votes", "2")  # nothing left to do
    assert rows.read_bytes() == written
    assert written.count(b"\n") == 8
    assert "tiny, letter" in run("signal_study", "report", str(rows))

    small = ["--output", str(folder), "--pool", "8", "--queries", "4", "--demonstrations", "2"]
    run("context_study", *common, *small)
    table = run("context_study", "report", str(folder))
    assert [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| ")][1:] == [
        f"| {name}"
        for name in (
            "none", "neuron", "random", "template", "tfidf", "embedding", "neuron_permuted", "random_permuted",
        )
    ]  # fmt: skip


def test_differences_are_paired_means_over_questions_and_seeds(study) -> None:
    training = study("training_study")

    def table(*seeds):  # of each seed: Avg, Maj, vote share, a column a question
        names = ("correct_fraction", "majority_correct", "vote_share")
        return {name: np.array([seed[i] for seed in seeds]) for i, name in enumerate(names)}

    before = table(([0.0, 0.5], [0, 1], [1.0, 1.0]), ([0.5, 0.5], [0, 1], [1.0, 1.0]))
    after = table(([0.5, 1.0], [1, 1], [1.0, 1.0]), ([1.0, 1.0], [0, 1], [1.0, 1.0]))
    assert training.difference(before, after, "Avg").value == pytest.approx(0.5)
    assert training.difference(before, after, "Maj").value == pytest.approx(0.25)
    # always sure: ECE is the share of wrong majorities, .5 before, then 0 and .5
    assert training.difference(before, after, "ECE-15").value == pytest.approx(-0.25)
    always = training.difference(
        before, {**before, "correct_fraction": before["correct_fraction"] + 0.25}, "Avg"
    )
    assert (always.low, always.high) == pytest.approx((0.25, 0.25))  # unpaired, it would spread
    assert training.difference(after, before, "Avg").value == pytest.approx(-0.5)


def test_an_interval_over_seeds_by_hand(study) -> None:
    found = study("training_study").over_seeds([0.0, 0.1, 0.2])  # sd .1, t(.975, 2) = 4.3027
    assert (found.value, found.high) == pytest.approx((0.1, 0.1 + 4.3027 * 0.1 / 3**0.5), abs=1e-5)


def test_an_area_above_half_means_that_low_scores_are_right(study) -> None:
    signal, studies = study("signal_study"), study("studies")
    rows = [{"s": s, "right": right, "tokens": 4} for s, right in ((10, 1), (20, 1), (30, 0), (40, 0))]
    assert studies.auroc_interval(*signal._of(rows, "s", False)).value == 1
    rows[0]["right"], rows[3]["right"] = 0, 1
    assert studies.auroc_interval(*signal._of(rows, "s", False)).value == 0.25  # one of four pairs


def test_one_right_reply_makes_no_area(study, capsys) -> None:
    signal = study("signal_study")
    rows = [{"right": i < 9} for i in range(30)]
    assert not signal._are_enough("maths", rows)
    assert "maths is left out below: only 9 replies" in capsys.readouterr().out
    assert signal._are_enough("maths", [*rows, {"right": True}])


def test_figures_of_a_context_by_hand(study) -> None:
    context = study("context_study")
    row = {"log_probs": [float(np.log(0.6)), float(np.log(0.2))], "right": 1}  # .75 and .25 of .8
    found = context.figures([row])
    assert found["accuracy"][0] == 0
    assert found["confidence"][0] == pytest.approx(0.75)
    assert found["p_right"][0] == pytest.approx(0.25)
    assert found["mass"][0] == pytest.approx(0.8)
    assert found["entropy"][0] == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))


def test_a_study_goes_on_under_its_own_settings_alone(study, tmp_path) -> None:
    studies = study("studies")
    studies.keep_settings(tmp_path, {"pool": 8, "conditions": "none"}, free=("conditions",))
    studies.keep_settings(tmp_path, {"pool": 8, "conditions": "random"}, free=("conditions",))
    with pytest.raises(SystemExit, match="pool is 9, and was 8"):
        studies.keep_settings(tmp_path, {"pool": 9, "conditions": "none"}, free=("conditions",))


def test_what_was_not_set_may_be_set_later_and_stays(study, tmp_path) -> None:
    def keep(other):
        study("studies").keep_settings(tmp_path, {"pool": 8, "other": other}, free=(), later=("other",))
        return json.loads((tmp_path / "settings.json").read_text())["other"]

    assert [keep(None), keep("films"), keep(None)] == [None, "films", "films"]
    with pytest.raises(SystemExit, match="other is laws, and was films"):
        keep("laws")


@pytest.mark.slow
def test_the_results_page_is_what_the_kept_rows_say(study, monkeypatch, capsys) -> None:
    page = study("results_page")
    monkeypatch.setattr(sys, "argv", ["results_page", "--check"])
    assert page.main() == 0, capsys.readouterr().out


def test_packing_adds_rows_replaces_older_ones_and_loses_none(study, monkeypatch, tmp_path) -> None:
    rows = study("kept_rows")
    monkeypatch.setattr(rows, "ROWS", tmp_path / "rows")
    rows.ROWS.mkdir()

    def pack(**files: str) -> bytes:
        for name, text in files.items():
            path = tmp_path / "work" / "context" / "small" / f"{name}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        rows.pack(tmp_path / "work")
        shutil.rmtree(tmp_path / "work")
        return (rows.ROWS / "context.zip").read_bytes()

    pack(old="1", longer="1\n", **{"replies-own": "text"})
    both = pack(new="2", longer="1\n2\n")
    rows.unpack(tmp_path / "out")
    found = {path.name: path.read_text() for path in (tmp_path / "out" / "context" / "small").iterdir()}
    assert found == {"old.jsonl": "1", "longer.jsonl": "1\n2\n", "new.jsonl": "2"}
    assert pack(**{name.removesuffix(".jsonl"): text for name, text in found.items()}) == both


def test_a_run_that_is_kept_reads_as_before(study, tmp_path, monkeypatch) -> None:
    """Rows of training runs survive `--keep` and a second reading."""
    training = study("training_study")
    study("kept_rows").unpack(tmp_path)
    (kept,) = sorted(map(str, tmp_path.glob("large/full_forward_kl-seed0.json")))
    monkeypatch.setattr(training, "report", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["training_study", kept, "--keep", str(tmp_path / "again")])
    training.main()
    (again,) = sorted(map(str, (tmp_path / "again").iterdir()))
    assert training.read_runs([again]) == training.read_runs([kept])


def test_a_figure_that_the_rows_do_not_say_is_named(study, monkeypatch, capsys, tmp_path) -> None:
    page = study("results_page")
    text = page.PAGE.read_text(encoding="utf-8")
    block = next(match for match in page.BLOCK.finditer(text) if match[2] == "preflight_study")
    (tmp_path / "results.md").write_text(block[0].replace("+0.058", "+0.085"), encoding="utf-8")
    monkeypatch.setattr(page, "PAGE", tmp_path / "results.md")
    monkeypatch.setattr(sys, "argv", ["results_page", "--check"])
    assert page.main() == 1
    assert "+0.085" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("written", "printed", "same"),
    [
        ("| +0.153 [−.021, .090], n = 593 |", "| +0.152 [−.020, .090], n = 593 |", True),
        ("| +0.153 |", "| +0.155 |", False),
        ("| −0.001 |", "| +0.000 |", True),  # a half-way value on either side of nought
        ("| +0.15 |", "| +0.153 |", False),
        ("| n = 593 |", "| n = 592 |", False),
        ("| higher |", "| lower |", False),
        ("| .119 |", "", False),
    ],
)
def test_only_the_last_decimal_of_a_figure_is_forgiven(study, written, printed, same) -> None:
    assert (not study("results_page").differences(written, printed)) == same


def promise_run(gain: float, rise: float, elsewhere: float) -> dict:
    """A run whose trained answers are right oftener by `gain`, with a change of ECE and of Avg elsewhere."""

    def metrics(**changes: float) -> dict:
        ends = {name: {"value": 0.5} for name in ("base", "trained")}
        names = ("avg", "maj", "maj_at_k", "pass_at_k", "ece", "option_ece", "option_ece_matched")
        return {
            name: {**ends, "difference": {"value": by, "low": by - 0.005, "high": by + 0.005}}
            for name in names
            for by in (changes.get(name, 0.0),)
        }

    voted = [0.3, 0.7, 0.4, 0.6] * 5
    return {
        "num_questions": 20,
        "in": metrics(avg=gain, option_ece=rise),
        "cross": metrics(avg=elsewhere),
        "trained": [value + gain for value in voted],
        "base_voted": voted,
    }


@pytest.mark.parametrize(
    ("gain", "rise", "elsewhere", "rule"),
    [
        (0.1, -0.1, 0.0, "a kept, b kept, c kept"),
        (-0.1, 0.1, -0.1, "a missed, b missed, c missed"),
        (0.1, 0.0, -0.004, "a kept, b kept, c kept"),
    ],
)
def test_the_promise_study_reads_its_rule(study, tmp_path: Path, capsys, gain, rise, elsewhere, rule) -> None:
    for domain in ("law", "art"):
        (tmp_path / f"small-{domain}").mkdir()
        for seed in (0, 1):
            file = tmp_path / f"small-{domain}" / f"ours-seed{seed}.json"
            file.write_text(json.dumps(promise_run(gain, rise, elsewhere)))
    promise = study("promise_study")
    found = promise.read_groups(tmp_path)
    assert promise.beyond_majority(found["small-law"]["ours"]).value == pytest.approx(gain)
    promise.report(found)
    assert f"| ours | 2 | {gain:+.3f} " in capsys.readouterr().out
    assert promise.verdict(promise.judged(found["small-law"]["ours"])) == rule


def test_a_student_that_is_only_less_sure_has_learnt_a_temperature(study, tmp_path: Path, capsys) -> None:
    """Half the base's logits: slope and temperature are 1/2, and with it the student is the base model again."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(40, 4))
    base, trained = (
        (values - np.log(np.exp(values).sum(axis=1, keepdims=True))).tolist()
        for values in (logits, logits / 2)
    )
    law = {"gold": rng.integers(4, size=40).tolist(), "base": base, "trained": trained}
    (tmp_path / "small-law").mkdir()
    file = tmp_path / "small-law" / "ours-seed0.json"
    file.write_text(json.dumps({"temperature": 0.6, "domains": {"law": law}}))
    sureness = study("sureness_study")
    assert sureness.slope(law) == pytest.approx(0.5)
    assert sureness.temperature_of(law) == pytest.approx(0.5, rel=1e-4)
    assert sureness.main([str(tmp_path), "--keep", str(tmp_path / "kept")]) == 0
    assert (tmp_path / "kept" / "small-law" / "ours-seed0.json").read_text() == file.read_text()
    row = capsys.readouterr().out.splitlines()[-1].split(" | ")
    assert row[2:4] == ["0.50", "0.50"]
    for cell in row[4:7]:
        before, _, matched = map(float, cell.split(", "))
        assert matched == pytest.approx(before, abs=1.1e-3)
    assert row[7].startswith(("+0.000", "-0.000"))
    assert row[8].startswith("+0.000")
    assert abs(float(row[9].split(" [")[0])) < 1.1e-3
