"""Every setting with its type, default and meaning: as lines, as docs/settings.md, and as a JSON schema for editors."""

import difflib
import functools
import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from neuron_opsd.config import Config
from neuron_opsd.config.load import spell_out
from neuron_opsd.errors import ConfigError

HEAD = """# Settings

<!-- Made by `neuron-opsd settings --markdown`. Edit the descriptions in src/neuron_opsd/config/. -->
Each can stand in a recipe ([recipes.md](recipes.md)), and `section.key=value` on the command line wins over it. "as in
Neuron-OPSD" is the paper's value (arXiv 2607.02460), "our choice" was measured or chosen here. `neuron-opsd settings
training` lists a section in the terminal. `neuron-opsd settings --schema` prints a JSON schema, with which an editor
completes and checks a recipe.
"""


def find_settings(name: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """(dotted name, field) of each setting whose name is or begins with this one.

    Raises:
        ConfigError: there is none. Names the nearest.
    """
    found = [
        (full, field)
        for full, field in _leaves(Config, "")
        if not name or full == name or full.startswith(f"{name}.")
    ]
    if not found:
        known = [full for full, _ in _leaves(Config, "")] + list(Config.model_fields)
        near = difflib.get_close_matches(name, known, n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(f"There is no setting {name!r}.{hint} `neuron-opsd settings` lists all of them.")
    yield from found


def describe_settings(name: str = "") -> Iterator[str]:
    """A line for each setting: what it is called, what it may be, its default, what it means."""
    for full, field in find_settings(name):
        yield f"{full} ({_kind(full)}. Default: {_default(field)}). {spell_out(field.description or '')}"


def as_markdown() -> str:
    """The page docs/settings.md."""
    lines, section = [HEAD], None
    for full, field in find_settings():
        head, _, _ = full.rpartition(".")
        if head != section:
            section = head
            lines.append(
                f"\n## {head or 'The run'}\n{_about(head)}\n\n| setting | type | default | |\n|---|---|---|---|"
            )
        cells = (f"`{full}`", _kind(full), _default(field, code="`"), spell_out(field.description or ""))
        lines.append("| " + " | ".join(cell.replace("|", r"\|").replace("<", r"\<") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


@functools.cache
def schema() -> dict[str, Any]:
    """A JSON schema of recipes. Nothing is required in it, since the command line may give the rest."""
    tree = Config.model_json_schema()
    for part in [tree, *tree["$defs"].values()]:
        part.pop("required", None)
        for field in part.get("properties", {}).values():
            if "description" in field:
                field["description"] = spell_out(field["description"])
    return (
        {"$schema": "https://json-schema.org/draft/2020-12/schema"}
        | tree
        | {"title": "A recipe of neuron-opsd"}
    )


def schema_text() -> str:
    """The same as a file has it."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def _leaves(section: type[BaseModel], before: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _leaves(inner, f"{before}{name}.")
        else:
            yield f"{before}{name}", field


def _about(section: str) -> str:
    """What a section says of itself."""
    model: Any = Config
    for part in section.split(".") if section else ():
        model = model.model_fields[part].annotation
    return spell_out((model.__doc__ or "").strip().partition("\n\n")[0])


def _kind(full: str) -> str:
    """What a setting may be, read from the schema."""
    tree = schema()
    part = tree
    for name in full.split("."):
        part = part["properties"][name]
        part = tree["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part
    return _words(part, tree)


def _words(part: dict[str, Any], tree: dict[str, Any]) -> str:
    if "$ref" in part:
        return ", ".join(tree["$defs"][part["$ref"].rpartition("/")[2]].get("properties", {"settings": 0}))
    if "anyOf" in part:
        return " or ".join(dict.fromkeys(_words(one, tree) for one in part["anyOf"]))
    if "enum" in part or "const" in part:
        return ", ".join(map(str, part.get("enum") or [part["const"]]))
    words: dict[str, str] = {
        "string": "text",
        "boolean": "true or false",
        "integer": "whole number",
        "null": "null",
        "object": "mapping",
    }
    kind: str = part.get("type", "any")
    if kind == "array":
        return f"list of {_words(part['items'], tree)}" if "items" in part else "list"
    limits = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    ends = [f"{word} {part[key]:g}" for key, word in limits.items() if key in part and part[key] < 2**31]
    return " ".join([words.get(kind, kind), *ends])


def _default(field: FieldInfo, *, code: str = "") -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "none"
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    text = json.dumps(plain, ensure_ascii=False, default=str)
    return f"{code}{text}{code}"
