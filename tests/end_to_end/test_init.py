"""`neuron-opsd init`: a settings file that runs, or one message and no file."""

import io
import json
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from end_to_end.conftest import write_questions
from end_to_end.test_pipeline import run
from neuron_opsd.commands.duration import in_words
from neuron_opsd.commands.init import GOALS, as_yaml
from neuron_opsd.config import load_config


class Terminal(io.StringIO):
    """What a person types."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def asked(tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    write_questions(tmp_path / "sums.jsonl", "sums", 30)
    return ["init", "my sums.yaml", "--model", str(tiny_model_folder), "--questions", "sums.jsonl"]


def test_flags_give_a_commented_file_that_a_run_takes(asked, monkeypatch, capsys) -> None:
    Path("key.jsonl").write_text(
        "".join(json.dumps({"question_id": f"sums-{i}", "answer": "A"}) + "\n" for i in range(30))
    )
    options = ["neurons.batch_size=4", "--goal", "trial", "--answers", "key.jsonl", "--yes"]
    assert run([*asked, *options], monkeypatch) == 0
    said = capsys.readouterr().out
    for part in (
        "30 questions of 30 rows",
        "written: my sums.yaml",
        "Time: ",
        "next: neuron-opsd run 'my sums.yaml' --output 'runs/my sums'",
    ):
        assert part in said
    text = Path("my sums.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=neuron_opsd.schema.json\n")
    assert "# Optimiser steps, at most. (as in Neuron-OPSD)\n  num_steps: 20\n" in text
    config = load_config("my sums.yaml")
    assert (config.neurons.batch_size, config.evaluation.answers) == (4, ("key.jsonl",))
    jsonschema.validate(yaml.safe_load(text), json.loads(Path("neuron_opsd.schema.json").read_text()))


@pytest.mark.slow
def test_batches_fit_the_memory_that_is_given(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_questions(tmp_path / "sums.jsonl", "sums", 30)
    asked = ["--model", "embedded:smollm2-135m", "--questions", "sums.jsonl", "--goal", "trial", "--yes"]
    asked += ["model.dtype=float32"]  # on every processor
    assert run(["init", "sums.yaml", *asked, "--memory", "1.5GB"], monkeypatch) == 0
    assert "Memory at the peak" in capsys.readouterr().out
    assert load_config("sums.yaml").training.trainer["gradient_checkpointing"] is True


def test_on_a_terminal_it_asks_for_what_no_flag_says(asked, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("sums.jsonl\n-\nfame\nfree\n"))
    assert run(asked[:4], monkeypatch) == 2
    said = capsys.readouterr()
    for question in ("Questions: ", "Gold answers", "Goal [method]", "Memory that a run may take"):
        assert question in said.out
    assert "--goal is 'fame'" in said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--goal", "fame"],
            "--goal is 'fame'. It must be one of method, small-model, position, trial.",
        ),
        (["--memory", "much"], "--memory is 'much'. It must be a size such as 24GB"),
        (["--questions", "none.jsonl"], "none.jsonl"),
        (["--model", "./nowhere"], "nowhere"),
    ],
)
def test_what_a_run_would_stop_for_leaves_no_file(arguments, message, asked, monkeypatch, capsys) -> None:
    assert run([*asked, "--yes", *arguments], monkeypatch) == 2
    assert message in capsys.readouterr().err
    assert not list(Path().glob("*.yaml")) + list(Path().glob("*.json"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["init", "sums.yaml", "--yes"], "--model is required"),
        (["init", "sums.jsonl", "--yes"], "must end in .yaml"),
        (["init", "there.yaml", "--yes"], "exists, and is not overwritten"),
        (["init", "no/such.yaml", "--yes"], "which is no folder"),
    ],
)
def test_what_is_missing_or_in_the_way(arguments, message, asked, monkeypatch, capsys) -> None:
    Path("there.yaml").touch()
    assert run(arguments, monkeypatch) == 2
    assert message in capsys.readouterr().err
    assert not Path("there.yaml").read_text()


@pytest.mark.parametrize("goal", GOALS)
def test_what_is_written_is_read_back_equal(goal: str, tmp_path: Path) -> None:
    values = {"model.name": "a: [b", "questions.path": "q #1.csv", **GOALS[goal].settings}
    given = load_config(GOALS[goal].recipe, values=values, overrides=["training.trainer={bf16: true}"])
    file = tmp_path / "mine.yaml"
    file.write_text(as_yaml(given, GOALS[goal], file), encoding="utf-8")
    same = {"recipe": given.recipe, "description": given.description}
    assert load_config(str(file)).model_copy(update=same) == given


def test_a_time_is_said_as_people_say_it() -> None:
    assert [in_words(seconds) for seconds in (5, 600, 9000, 400_000)] == ["5 s", "10 min", "2 h", "5 days"]
