"""`auto`: the recipe goes with the questions, without a label, and the reason is said."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config

from end_to_end.conftest import write_questions
from end_to_end.test_pipeline import run
from end_to_end.tiny_run import SMALL
from neuron_opsd import improve
from neuron_opsd.commands.automatic import choose_by_questions
from neuron_opsd.commands.status import FINISHED, run_status
from neuron_opsd.config import load_config
from neuron_opsd.errors import ConfigError, DataError
from neuron_opsd.store.run_folder import RunFolder

WITH_CHOICES = [{"question": f"{n} and 1?", "choices": [str(n + 1), str(n)]} for n in range(30)]
FREE = [{"question": f"{n} and 2?"} for n in range(30, 32)]
POINTING = [{**row, "choices": ["3", "4", "none of the above"]} for row in WITH_CHOICES]


def chosen(rows: list[dict], folder: Path, *overrides: str, recipe: str = "auto", model: str = "tiny") -> str:
    (folder / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {"model.name": model, "questions.path": str(folder / "pool.jsonl")}
    return choose_by_questions(recipe, overrides=overrides, values=values)


@pytest.mark.parametrize(
    ("rows", "overrides", "recipe", "why"),
    [
        (WITH_CHOICES, [], "order_average", "all 30 questions have choices"),
        (POINTING, [], "entropy_matched", "the choices of every question have one order"),
        (POINTING + WITH_CHOICES[:1], [], "order_average", "all 31 questions have choices"),
        (WITH_CHOICES + FREE, [], "entropy_matched", "2 of 32 questions have no choices"),
        (
            WITH_CHOICES,
            ["prompts.answer_format=reasoned"],
            "entropy_matched",
            "prompts.answer_format is reasoned",
        ),
        (
            WITH_CHOICES,
            ["engine.name=vllm"],
            "entropy_matched",
            "engine.name is vllm, which does not give probabilities of all tokens",
        ),
        (
            WITH_CHOICES,
            ["engine.name=vllm", "evaluation.exact=false"],
            "order_average",
            "all 30 questions have choices",
        ),
        (
            WITH_CHOICES,
            ["evaluation.general_paths=[FREE]"],
            "entropy_matched",
            "2 of the questions that evaluation asks have no choices (g1)",
        ),
    ],
)
def test_the_questions_choose(
    rows, overrides, recipe, why, tiny_model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    free = tmp_path / "free.jsonl"
    free.write_text("".join(json.dumps({"question_id": f"g{i}", **row}) + "\n" for i, row in enumerate(FREE)))
    overrides = [override.replace("FREE", str(free)) for override in overrides]
    assert chosen(rows, tmp_path, *overrides, model=str(tiny_model_folder)) == recipe
    assert f"auto: {why}, so recipe {recipe}" in caplog.text


def test_a_model_whose_logits_no_weight_divides_is_not_made_as_sure_as_its_base(
    tiny_model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder = shutil.copytree(tiny_model_folder, tmp_path / "capped")
    Gemma2Config(
        **json.loads((folder / "config.json").read_text()) | {"model_type": "gemma2"}
    ).save_pretrained(folder)
    assert chosen(WITH_CHOICES, tmp_path, model=str(folder)) == "entropy_matched"
    assert "auto: Gemma2ForCausalLM caps its logits, so that no weight takes a temperature in" in caplog.text


def test_a_recipe_that_is_named_is_that_recipe(tmp_path: Path) -> None:
    assert chosen(FREE, tmp_path, recipe="mine.yaml") == "mine.yaml"


def test_what_cannot_be_read_is_refused_as_in_a_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"pool\.jsonl"):
        chosen([{"text": 3}], tmp_path)
    with pytest.raises(ConfigError, match="num_stepz"):
        chosen(FREE, tmp_path, "training.num_stepz=3")


def test_what_the_later_choice_would_refuse_is_refused_at_once(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"student_entropy is matched, but training\.save is adapter"):
        chosen(WITH_CHOICES, tmp_path, "training.save=adapter", model=str(tiny_model_folder))


def test_elsewhere_auto_is_no_recipe() -> None:
    with pytest.raises(ConfigError, match="auto chooses a recipe"):
        load_config("auto", values={"model.name": "any", "questions.path": "any"})


@pytest.fixture(scope="module")
def even_model_folder(lettered_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, to which all letters are alike."""
    folder = tmp_path_factory.mktemp("even-model")
    model = AutoModelForCausalLM.from_pretrained(lettered_model_folder)
    tokenizer = AutoTokenizer.from_pretrained(lettered_model_folder)
    letters = [tokenizer.encode(letter)[0] for letter in "ABCD"]
    with torch.no_grad():
        model.lm_head.weight[letters] = model.lm_head.weight[letters].mean(dim=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("model", "recipe", "said"),
    [
        ("lettered_model_folder", "order_average", "the model answers by position"),
        ("even_model_folder", "entropy_kept", "the model does not surely answer by position"),
    ],
)
def test_the_model_chooses_where_answers_are_letters(
    model, recipe, said, request, tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    pool = write_questions(tmp_path / "sums.jsonl", "sums", 150)  # with fewer, chance alone looks like a bias
    # As settings and not as options, so that the later choice must read them, too.
    asked = [f"model.name={request.getfixturevalue(model)}", f"questions.path={pool}", *SMALL]
    line = ["run", "auto", *asked, "--output", str(tmp_path / "run"), "--until"]
    assert run([*line, "rollouts"], monkeypatch) == 0
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    assert run([*line, "select"], monkeypatch) == 0
    assert f"auto: {said}" in caplog.text
    folder = RunFolder.open(tmp_path / "run")
    config = folder.config()
    assert (config.recipe, config.prompts.answer_format, config.evaluation.exact) == (recipe, "letter", True)
    # Nothing that was made before the choice is outdated by it, and commands after the rollouts go on with the choice.
    states = {stage.stage: stage.state for stage in run_status(folder).stages}
    assert {states[name] for name in ("questions", "rollouts", "neurons", "selection")} == {FINISHED}
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before


def test_improve_chooses_as_the_command_line_does(lettered_model_folder: Path, tmp_path: Path) -> None:
    pool = write_questions(tmp_path / "sums.jsonl", "sums", 20)
    settings: dict[str, Any] = {}
    for line in SMALL:
        (section, name), value = line.partition("=")[0].split(".", 1), yaml.safe_load(line.partition("=")[2])
        settings.setdefault(section, {})[name] = value
    result = improve(str(lettered_model_folder), pool, output=tmp_path / "run", recipe="auto", **settings)
    assert result.run_folder.config().recipe == "order_average"
    assert result.results
