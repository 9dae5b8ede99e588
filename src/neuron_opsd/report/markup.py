"""HTML and SVG by construction: a plain str is always escaped, only what `tag` made is not. No templates.

Model and data text reaches the page as str, so there is no place where forgetting to escape is possible.
"""

from typing import Any

from neuron_opsd.text.escape import html_text

_VOID = frozenset({"meta", "link", "input", "br", "hr"})


class Html(str):
    """Text that is markup already. Made by `tag` and `join` only."""

    __slots__ = ()


class Code(str):
    """A part of a sentence that is code: a command, the name of a setting."""

    __slots__ = ()


def escape(text: object) -> Html:
    """The text as markup, quotes included."""
    return text if isinstance(text, Html) else Html(html_text(text))


def join(*children: object) -> Html:
    """Children one after another. Lists are flattened, None is nothing."""
    parts: list[str] = []
    for child in children:
        if isinstance(child, list | tuple):
            parts.append(join(*child))
        elif child is not None:
            parts.append(escape(child))
    return Html("".join(parts))


def tag(name: str, /, *children: object, **attributes: Any) -> Html:
    """An element. `class_` is class, other underscores are hyphens. None and False leave an attribute out."""
    written = ""
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-").replace("viewbox", "viewBox")
        written += f" {key}" if value is True else f' {key}="{escape(_number(value))}"'
    opening = f"<{name}{written}>"
    return Html(opening if name in _VOID else f"{opening}{join(*children)}</{name}>")


def prose(text: str | tuple[str, ...]) -> list[object]:
    """A paragraph's parts, those that are code as such."""
    parts = (text,) if isinstance(text, str) else text
    spaced = [part for item in parts for part in (" ", item)][1:]
    return [tag("code", part) if isinstance(part, Code) else part for part in spaced]


def trusted(text: str) -> Html:
    """Our own style sheet or script, which must not be escaped."""
    return Html(text)


def _number(value: Any) -> Any:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
