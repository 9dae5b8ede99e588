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


class Better(str):
    """A part of a sentence that says that something got better."""

    __slots__ = ()


class Worse(str):
    """A part of a sentence that says that something got worse."""

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
    return [_marked(part) for part in spaced(text)]


def spaced(text: str | tuple[str, ...]) -> list[str]:
    """The parts of a paragraph with a blank between them, but not before a comma or a full stop."""
    first, *others = (text,) if isinstance(text, str) else text
    return [first, *(piece for part in others for piece in ([part] if part[:1] in ",.;" else [" ", part]))]


def _marked(part: str) -> object:
    """A part as an element of its own, where it is one of the marked kinds."""
    if isinstance(part, Code):
        return tag("code", part)
    if isinstance(part, Better | Worse):
        return tag("strong", part, class_=f"verdict {'good' if isinstance(part, Better) else 'bad'}")
    return part


def trusted(text: str) -> Html:
    """Our own style sheet or script, which must not be escaped."""
    return Html(text)


def _number(value: Any) -> Any:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
