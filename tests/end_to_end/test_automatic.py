"""`auto`: the recipe goes with the questions, without a label, and the reason is said."""

import json
import logging
from pathlib import Path

import pytest

from neuron_opsd.commands.automatic import choose_recipe
from neuron_opsd.config import load_config
from neuron_opsd.errors import ConfigError, DataError

WITH_CHOICES = [{"question": f"{n} and 1?", "choices": [str(n + 1), str(n)]} for n in range(30)]
FREE = [{"question": f"{n} and 2?"} for n in range(30, 32)]


def chosen(rows: list[dict], folder: Path, *overrides: str, recipe: str = "auto", model: str = "tiny") -> str:
    (folder / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {"model.name": model, "questions.path": str(folder / "pool.jsonl")}
    return choose_recipe(recipe, overrides=overrides, values=values)


@pytest.mark.parametrize(
    ("rows", "overrides", "recipe", "why"),
    [
        (WITH_CHOICES, [], "order_average", "all 30 questions have choices"),
        (WITH_CHOICES + FREE, [], "entropy_matched", "2 of 32 questions have no choices"),
        (
            WITH_CHOICES,
            ["prompts.answer_format=reasoned"],
            "entropy_matched",
            "prompts.answer_format is reasoned",
        ),
    ],
)
def test_the_questions_choose(
    rows, overrides, recipe, why, tiny_model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert chosen(rows, tmp_path, *overrides, model=str(tiny_model_folder)) == recipe
    assert f"auto: {why}, so recipe {recipe}" in caplog.text


def test_a_recipe_that_is_named_is_that_recipe(tmp_path: Path) -> None:
    assert chosen(FREE, tmp_path, recipe="mine.yaml") == "mine.yaml"


def test_what_cannot_be_read_is_refused_as_in_a_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"pool\.jsonl"):
        chosen([{"text": 3}], tmp_path)
    with pytest.raises(ConfigError, match="num_stepz"):
        chosen(FREE, tmp_path, "training.num_stepz=3")


def test_elsewhere_auto_is_no_recipe() -> None:
    with pytest.raises(ConfigError, match="auto chooses a recipe"):
        load_config("auto", values={"model.name": "any", "questions.path": "any"})
