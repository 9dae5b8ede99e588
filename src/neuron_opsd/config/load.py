"""Recipes, overrides and run folders -> `Config`, with errors that name the setting, its value and what is allowed."""

import difflib
import functools
import os
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from neuron_opsd.config.run import Config
from neuron_opsd.config.stages import PromptSettings
from neuron_opsd.errors import ConfigError
from neuron_opsd.redaction import secrets_in

# What the marks in descriptions stand for.
SOURCES = {
    "N": "as in Neuron-OPSD",
    "F": "as in NeuFS, arXiv 2607.02423",
    "P": "as in the first author's prototype",
    "ours": "our choice",
}


def list_recipes() -> list[str]:
    """Names of the recipes that ship with the package."""
    folder = resources.files("neuron_opsd") / "recipes"
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def load_config(
    recipe: str, *, overrides: Iterable[str] = (), values: Mapping[str, Any] | None = None
) -> Config:
    """Read a recipe (a shipped name or a YAML file), apply overrides, and check everything.

    Args:
        recipe: A name from `list_recipes()`, or the path of a YAML file.
        overrides: `section.key=value` strings. The value is read as YAML.
        values: Dotted key to value, applied after the recipe and before the overrides.

    Raises:
        ConfigError: unknown recipe, malformed YAML or override, unknown key, wrong type, value out of range, a secret.
    """
    tree = _read_recipe(recipe)
    for key, value in (values or {}).items():
        _set_dotted(tree, key, value)
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not key:
            raise ConfigError(
                f"'{override}' is no setting. Write section.key=value without spaces, e.g. selection.fraction=0.3. "
                "Quote a value that has spaces: 'prompts.system=Be brief.'"
            )
        if key == "recipe" and value in list_recipes() and value != recipe:
            raise ConfigError(
                f"recipe={value} names the run, and changes none of its settings. Begin with that recipe: "
                f"`neuron-opsd run {value}`."
            )
        _set_dotted(tree, key, _parse_yaml(value, where=f"the value of {key}"))
    for name, variable in secrets_in(tree):
        raise ConfigError(
            f"{name} holds a secret (a key, a token, a password), and settings are written to config.yaml and reports. "
            f"Leave it out, and set {variable}."
        )
    return check_config(tree)


def read_config(file: Path) -> Config:
    """Read a whole configuration, as a run folder keeps it.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    try:
        return _config_of(_read_text(file), str(file))
    except ConfigError as error:
        raise ConfigError(f"The settings of this run, {file}, are damaged. {error}") from None


@functools.lru_cache(maxsize=4)  # each command reads the settings of its run several times
def _config_of(text: str, where: str) -> Config:
    return check_config(_parse_sections(text, where=where))


def check_config(tree: Mapping[str, Any]) -> Config:
    """Validate a tree of settings, with errors that name the setting, its value and what is allowed."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(_describe(detail) for detail in error.errors())) from None


def check_prompts(values: Mapping[str, Any]) -> PromptSettings:
    """The same of the section `prompts` alone, for a command that needs no run."""
    try:
        return PromptSettings.model_validate(values)
    except ValidationError as error:
        lines = (_describe(detail, section="prompts") for detail in error.errors())
        raise ConfigError("\n".join(lines)) from None


def _read_recipe(recipe: str) -> dict[str, Any]:
    shipped = resources.files("neuron_opsd") / "recipes" / f"{recipe}.yaml"
    if recipe in list_recipes():
        text, where = shipped.read_text(encoding="utf-8"), f"recipe {recipe}"
    elif os.path.isfile(recipe):
        text, where = _read_text(Path(recipe)), recipe
    elif recipe == "auto":
        raise ConfigError(
            "auto chooses a recipe by the questions, for `neuron-opsd run` and `improve()` alone. Here name one of "
            f"{', '.join(list_recipes())}."
        )
    else:
        raise ConfigError(
            f"No recipe '{recipe}'.{_suggest(recipe, list_recipes())} "
            f"Use one of {', '.join(list_recipes())}, or the path of a YAML file."
        )
    try:
        tree = _parse_sections(text, where=where)
    except ConfigError as error:
        raise ConfigError(
            f"{error} A recipe is a YAML file of settings (docs/recipes.md). Questions are given apart: "
            "neuron-opsd run auto --questions FILE."
        ) from None
    if "recipe" not in tree:
        tree["recipe"] = Path(recipe).stem
    return tree


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read as UTF-8 text: {error}") from None


def _parse_sections(text: str, *, where: str) -> dict[str, Any]:
    tree = _parse_yaml(text, where=where)
    if not isinstance(tree, dict):
        raise ConfigError(f"{where} holds no sections of settings.")
    return cast("dict[str, Any]", tree)


class _Loader(yaml.SafeLoader):
    """YAML in which each setting stands once, as text.

    There are no aliases: with them, a few lines stand for more settings than memory holds, or for themselves.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse `*name`, which stands for a value given elsewhere."""
        parser: Any = self  # types of PyYAML say nothing of its events
        if parser.check_event(yaml.AliasEvent):
            event = parser.peek_event()
            raise ComposerError(
                None, None, f"*{event.anchor} refers to another value. Write it out", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that is given twice, of which YAML would keep the last, and one that is no text."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise ConstructorError(None, None, "a setting's name must be text. Quote it", key.start_mark)
            if key.value in seen:
                raise ConstructorError(
                    None, None, f"{key.value!r} is given twice. Leave one out", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _parse_yaml(text: str, *, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date of month 13
        is_cut = text.count("{") > text.count("}") or text.count("[") > text.count("]")
        quotes = (
            " Put quotes around a setting that has spaces: 'section.key={name: value}'." if is_cut else ""
        )
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}.{quotes}") from None


def _set_dotted(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for depth, parent in enumerate(parents):
        if tree.get(parent) is None:
            tree[parent] = {}
        below = tree[parent]
        if not isinstance(below, dict):
            raise ConfigError(
                f"'{'.'.join(parents[: depth + 1])}' is a single value, so '{key}' cannot be set below it."
            )
        tree = cast("dict[str, Any]", below)
    tree[last] = value


def _describe(detail: ErrorDetails, *, section: str | None = None) -> str:
    """One validation error, of all settings or of one section alone, as a sentence a user can act on."""
    path = [*([section] if section else []), *(str(part) for part in detail["loc"])]
    name = ".".join(path)
    if detail["type"] == "extra_forbidden":
        known = _known_keys(path[:-1])
        hint = _suggest_setting(path[-1]) or _suggest(path[-1], known)
        return f"Unknown setting '{name}'.{hint} Known here: {', '.join(known)}."
    if detail["type"] == "missing":
        hint = {
            "model": "--model",
            "model.name": "--model",
            "questions": "--questions",
            "questions.path": "--questions",
        }
        return f"'{name}' is missing and has no default. Set it with {hint.get(name, name + '=...')}."
    message = detail["msg"].removeprefix("Value error, ").removesuffix(".")
    if not name:
        return f"{message}."
    about = describe_setting(name)
    return f"{name} is {detail['input']!r}: {message[:1].lower()}{message[1:]}.{' It means: ' + about if about else ''}"


def _section_of(path: list[str]) -> type[BaseModel] | None:
    section: type[BaseModel] = Config
    for part in path:
        field = section.model_fields.get(part)
        if field is None or not (
            isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        ):
            return None
        section = field.annotation
    return section


def _known_keys(path: list[str]) -> list[str]:
    section = _section_of(path)
    return list(section.model_fields) if section else []


def describe_setting(name: str) -> str:
    """What a setting means, by its dotted name, with its source in words. Empty for a section."""
    *parents, last = name.split(".")
    section = _section_of(parents)
    field = section.model_fields.get(last) if section else None
    return spell_out((field.description or "") if field else "")


def spell_out(description: str) -> str:
    """The description with the marks of sources, [N] or [2601.18734], in words."""
    for mark, meaning in SOURCES.items():
        description = description.replace(f"[{mark}]", f"({meaning})")
    return re.sub(r"\[(\d{4}\.\d{5}(?:, \d{4}\.\d{5})*)\]", r"(arXiv \1)", description)


def setting_names(section: type[BaseModel] = Config, before: str = "") -> list[str]:
    """The dotted name of every setting."""
    names: list[str] = []
    for name in section.model_fields:
        inner = _section_of([*before.split(".")[:-1], name])
        names += setting_names(inner, f"{before}{name}.") if inner else [f"{before}{name}"]
    return names


def _suggest_setting(last: str) -> str:
    """Settings of any section that are called so."""
    by_last: dict[str, list[str]] = {}
    for name in setting_names():
        by_last.setdefault(name.rpartition(".")[2], []).append(name)
    if last in by_last:
        return " Did you mean " + " or ".join(f"'{name}'" for name in by_last[last]) + "?"
    return ""


def _suggest(word: str, known: Iterable[str]) -> str:
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{match[0]}'?" if match else ""
