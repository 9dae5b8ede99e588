"""What is told of settings is what the models hold: the page, the lines and the schema."""

import json
from functools import cache
from pathlib import Path

import jsonschema
import pytest
import yaml
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for

from neuron_opsd.commands.settings import as_markdown, describe_settings, find_settings, schema
from neuron_opsd.config import list_recipes
from neuron_opsd.config.load import setting_names
from neuron_opsd.errors import ConfigError

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "src" / "neuron_opsd" / "recipes"


@cache
def validator() -> Validator:
    """Of the schema, which is itself looked at once."""
    kind = validator_for(schema())
    kind.check_schema(schema())
    return kind(schema())


def test_the_page_of_settings_is_up_to_date() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == as_markdown(), "Run: neuron-opsd settings --markdown > docs/settings.md"


def test_every_setting_is_listed() -> None:
    assert [name for name, _ in find_settings()] == setting_names()
    assert len(list(describe_settings("selection"))) == sum(
        name.startswith("selection.") for name in setting_names()
    )
    (line,) = describe_settings("selection.fraction")
    assert line.startswith("selection.fraction (number above 0 at most 1. Default: 0.2). ")


@pytest.mark.parametrize("recipe", list_recipes())
def test_an_editor_accepts_every_recipe(recipe: str) -> None:
    validator().validate(yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("selection: {fractoin: 0.3}", "fractoin"),
        ("selection: {fraction: 2}", "maximum"),
        ("evaluation: {answers: 3}", "not valid"),
    ],
)
def test_an_editor_marks_what_we_refuse(recipe: str, message: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match=message):
        validator().validate(yaml.safe_load(recipe))


def test_one_file_needs_no_brackets() -> None:
    validator().validate({"evaluation": {"answers": "a.jsonl"}, "questions": {"cross_paths": ["b"]}})
    json.dumps(schema())


def test_a_setting_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match="Did you mean selection"):
        list(describe_settings("selektion"))
