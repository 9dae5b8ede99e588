"""Bad input ends with status 2, one clear message, no traceback and no folder."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer, MixtralConfig

from end_to_end.tiny_run import SMALL
from neuron_opsd import cli

GOOD = {"question_id": "q", "question": "What is 1 + 1?", "choices": ["1", "2"]}


def lines(*rows: dict | str) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def many(count: int) -> list[dict]:
    return [GOOD | {"question_id": f"q{i}", "question": f"What is {i} + 1?"} for i in range(count)]


QUESTION_FILES = {
    "empty file": ("", ["pool.jsonl"]),
    "broken JSON on line 7": (lines(*many(6), '{"question": '), ["pool.jsonl:7"]),
    "missing field": (
        lines(*many(2), {"question_id": "x", "choices": ["1", "2"]}),
        ["pool.jsonl:3", "question"],
    ),
    "duplicate ids": (lines(*many(2), GOOD | {"question_id": "q1", "question": "Another?"}), ["q1"]),
    "one choice": (
        lines(*many(2), GOOD | {"question_id": "x", "choices": ["1"]}),
        ["pool.jsonl:3", "1 choice(s)"],
    ),
}


@pytest.fixture
def attempt(tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    def call(
        *extra: str, questions: str | None = None, model: Path | None = None, recipe: str = "neuron_opsd"
    ) -> str:
        pool, folder = tmp_path / "pool.jsonl", tmp_path / "run"
        pool.write_text(lines(*many(20)) if questions is None else questions)
        command = ["run", recipe, "--model", str(model or tiny_model_folder), "--questions", str(pool)]
        lengths = [f"{part}.max_new_tokens=4" for part in ("rollouts", "training", "evaluation")]
        monkeypatch.setattr(sys, "argv", ["neuron-opsd", *command, "--output", str(folder), *lengths, *extra])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        message = capsys.readouterr().err
        assert stop.value.code == 2
        assert "error: " in message
        assert "Traceback" not in message
        assert not folder.exists()
        return message

    return call


@pytest.mark.parametrize("case", QUESTION_FILES)
def test_question_files(case: str, attempt) -> None:
    text, expected = QUESTION_FILES[case]
    message = attempt(questions=text)
    for part in expected:
        assert part in message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("selection.fracton=0.3", ["selection.fracton", "fraction"]),
        ("selection.fraction=1.5", ["selection.fraction is 1.5", "1.0 to keep every question"]),
        ("neurons.activation=up", ["'gate' or 'gate_up'"]),
        ("selection.score=vote_share", ["rollouts.num_rollouts"]),
        ("selection", ["section.key=value"]),
        ("num_steps=5", ["Did you mean 'training.num_steps'?"]),
        ("max_new_tokens=5", ["'rollouts.max_new_tokens' or 'training.max_new_tokens'"]),
        ("training.fraction=0.5", ["Did you mean 'selection.fraction'?"]),
        ("training.ema_rate=2", ["training.ema_rate is 2", "(as in Neuron-OPSD)"]),
        (
            "training.max_grad_norm=-1",
            ["Gradients are clipped to this norm. (arXiv 2601.18734)"],
        ),
        ("training.trainer={optim: adam}", ["training.trainer.optim is 'adam'"]),
        ("training.micro_batch_size=3", ["Use training.micro_batch_size=2"]),
    ],
)
def test_settings(override: str, expected: list[str], attempt) -> None:
    message = attempt(override)
    for part in expected:
        assert part in message


def test_unknown_recipe(attempt) -> None:
    assert "Did you mean 'neuron_opsd'" in attempt(recipe="neuron_ospd")


def test_model_without_chat_template(attempt, tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    shutil.copytree(tiny_model_folder, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = None
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    assert "no chat template" in attempt(model=folder)


def test_folder_that_is_no_model(attempt, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    assert "no config.json" in attempt(model=tmp_path / "nothing")


def test_mixture_of_experts(attempt, tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "moe"
    shutil.copytree(tiny_model_folder, folder)
    MixtralConfig(num_local_experts=4).save_pretrained(folder)
    assert "mixture of 4 experts" in attempt(model=folder)


def test_question_longer_than_the_context(attempt) -> None:
    long = GOOD | {"question_id": "long", "question": "word " * 3000}
    message = attempt(questions=lines(*many(20), long))
    assert "pool.jsonl:21: Question long needs" in message
    assert "2048" in message


def test_answers_that_stop_a_run_at_once(attempt, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    answers.write_text(lines({"question_id": "q0", "answer": 1}))
    assert "answers.jsonl:1 answer 1 could be an index" in attempt(f"evaluation.answers={answers}")
    answers.write_text(lines({"question_id": "other", "answer": "A"}))
    assert "none of the 1 rows of" in attempt("--answers", str(answers))


def test_missing_answers_file(attempt) -> None:
    assert "nowhere.jsonl" in attempt("--answers", "nowhere.jsonl")


def test_a_folder_with_other_things_is_left_alone(
    tiny_model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    (tmp_path / "pool.jsonl").write_text(lines(*many(20)))
    arguments = [
        "run",
        "neuron_opsd",
        "--model",
        str(tiny_model_folder),
        "--questions",
        str(tmp_path / "pool.jsonl"),
    ]
    monkeypatch.setattr(sys, "argv", ["neuron-opsd", *arguments, "--output", str(tmp_path / "mine"), *SMALL])
    with pytest.raises(SystemExit):
        cli.main()
    assert "is not a run folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


LONG, PARTS = "x" * 5000, "/".join(["y" * 200] * 30)


@pytest.mark.parametrize("path", [LONG, PARTS])
@pytest.mark.parametrize(
    "command",
    [
        *("status {}", "report {}", "train {}", "export {} --format trl --output x.jsonl", "explain {} q"),
        *("run neuron_opsd --questions q.jsonl --model {}", "run neuron_opsd --model m --questions {}.jsonl"),
        *("harness {}", "run {} --model m --questions q.jsonl", "questions --check {}.jsonl"),
    ],
)
def test_a_path_that_is_too_long(command: str, path: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["neuron-opsd", *command.format(path).split()])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    message = capsys.readouterr().err
    assert stop.value.code == 2
    assert "error: " in message
    assert "Traceback" not in message


def test_usage_errors_show_controls_and_obey_none(monkeypatch, capsys) -> None:
    for arguments in (["\x1b[31mred\x9b"], ["env", "\x1b[31mred\x9b"], ["run", "base", "--\x1b[31mred"]):
        monkeypatch.setattr(sys, "argv", ["neuron-opsd", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        message = capsys.readouterr().err
        assert stop.value.code == 2
        assert "\x1b" not in message
        assert "\x9b" not in message
