"""Sections -> one self-contained page: no request leaves it, and its security policy allows none.

The policy names the hashes of the page's own style sheet and script, so nothing else can style or run,
whatever text the questions and replies bring along.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from neuron_opsd.report import story
from neuron_opsd.report.blocks import (
    Block,
    Browser,
    Bullets,
    Example,
    Examples,
    Figures,
    Paragraph,
    Section,
    Table,
    Text,
)
from neuron_opsd.report.html_browser import browser
from neuron_opsd.report.inputs import ReportInputs
from neuron_opsd.report.markup import Html, escape, join, prose, tag, trusted

MANY_COLUMNS = 6  # of more, numbers may break before their intervals
VERDICT_CLASSES = {"better": "good", "worse": "bad"}


def page(inputs: ReportInputs, sections: Sequence[Section]) -> str:
    """The whole page as text."""
    style, script = _asset("page.css"), _asset("page.js")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(style, script)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", f"{story.title(inputs)} · Neuron-OPSD report"),
        tag("style", trusted(style)),
    )
    body = tag(
        "body",
        tag("a", "Skip to the report", class_="skip", href="#main"),
        _header(inputs),
        _navigation(sections),
        tag("main", [_section(section) for section in sections], id="main", tabindex="-1"),
        _footer(inputs),
        tag("script", trusted(script)),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; style-src 'sha256-{_sha256(style)}'; script-src 'sha256-{_sha256(script)}'; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _asset(name: str) -> str:
    return (resources.files("neuron_opsd.report") / name).read_text(encoding="utf-8")


def _header(inputs: ReportInputs) -> Html:
    return tag(
        "header",
        tag("p", "Neuron-OPSD", class_="kicker"),
        tag("h1", story.title(inputs)),
        tag("p", story.subtitle(inputs), class_="subtitle"),
    )


def _navigation(sections: Sequence[Section]) -> Html:
    links = [tag("li", tag("a", section.title, href=f"#{section.name}")) for section in sections]
    return tag("nav", tag("ul", links), aria_label="Sections")


def _section(section: Section) -> Html:
    """A section that opens and closes; the first needs no heading to be seen.

    page.js opens the one that a link leads to, and all of them for print.
    """
    is_first = section.name == "summary"
    heading = tag("h2", section.title, id=f"{section.name}-heading", class_="unseen" if is_first else None)
    content = join(*(_block(block) for block in section.blocks))
    if is_first:
        content = join(heading, content)
    else:
        content = tag("details", tag("summary", heading), content, class_="part", open=not section.folded)
    return tag("section", content, id=section.name, aria_labelledby=f"{section.name}-heading")


def _block(block: Block) -> Html:
    match block:
        case Paragraph(text, is_notice, is_lead):
            return tag("p", prose(text), class_="notice" if is_notice else "lead" if is_lead else None)
        case Bullets(items):
            return tag("ul", [tag("li", item) for item in items], class_="prose")
        case Examples(title, items, note):
            shown = tag("div", [_example(one) for one in items], class_="examples")
            return tag("div", tag("h3", title), shown, tag("p", note, class_="note"))
        case Table():
            return _table(block)
        case Figures(items, label, note):
            drawn = tag("div", [_figure(figure) for figure in items], class_="figures")
            drawn = join(tag("p", note, class_="note") if note else None, drawn)
            return _fold(label, drawn) if label else drawn
        case Text(label, text, folded):
            shown = tag("pre", text, tabindex="0", aria_label=label)
            return _fold(label, shown) if folded else tag("div", tag("h3", label), shown)
        case Browser():
            return browser(block)


def _example(one: Example) -> Html:
    kind = VERDICT_CLASSES.get(one.judgement, "neutral")
    answers = [
        tag("p", tag("span", f"{word} ", class_="when"), tag("span", answer, class_=class_))
        for word, class_, answer in (("Before:", "before", one.before), ("After:", "after", one.after))
    ]
    return tag(
        "div",
        tag("p", tag("span", one.label, class_=f"verdict {kind}")),
        tag("p", one.question, class_="asked"),
        answers,
        tag("p", one.where, class_="where"),
        class_="example",
    )


def _verdict(verdict: str) -> Html:
    if verdict.endswith("; unreliable"):
        return tag("span", verdict, class_="verdict neutral")
    parts = verdict.split("; ") if verdict else []
    return tag("span", [_judged(part, index < len(parts) - 1) for index, part in enumerate(parts)])


def _judged(part: str, has_more: bool) -> Html:
    """One thing that was shown, in the colour of what it means."""
    kind = next(
        (kind for word, kind in VERDICT_CLASSES.items() if f"({word})" in part or part.startswith(word)),
        "neutral",
    )
    return join(tag("span", part, class_=f"verdict {kind}"), "; " if has_more else None)


def _table(table: Table) -> Html:
    """A table with its note, folded where it is long."""
    note = tag("p", table.note, class_="note") if table.note else None
    return (
        _fold(table.caption, join(_scroller(table), note)) if table.folded else join(_scroller(table), note)
    )


def _scroller(table: Table) -> Html:
    """A table that scrolls on its own.

    A phone shows each row as a small list. The roles keep it a table for screen readers.
    """
    heads = [
        tag("th", name, scope="col", role="columnheader", class_=None if table.is_text(index) else "number")
        for index, name in enumerate(table.columns)
    ]
    rows = [
        tag("tr", [_cell(table, index, value) for index, value in enumerate(row)], role="row")
        for row in table.rows
    ]
    made = tag(
        "table",
        tag("caption", table.caption),
        tag("thead", tag("tr", heads, role="row"), role="rowgroup"),
        tag("tbody", rows, role="rowgroup"),
        role="table",
        class_="many" if len(table.columns) > MANY_COLUMNS else None,
    )
    return tag("div", made, class_="scroll", role="group", aria_label=table.caption, tabindex="0")


def _cell(table: Table, index: int, value: str) -> Html:
    name = table.columns[index]
    if index == 0:
        return tag("th", value, scope="row", role="rowheader")
    kind = None if table.is_text(index) else "number"
    shown = _verdict(value) if name == "Verdict" else tag("span", _number(value) if kind else value)
    return tag("td", shown, role="cell", class_=kind, data_label=name)


def _number(value: str) -> Html:
    """A number that may break before its interval, and nowhere else."""
    first, bracket, interval = value.partition(" (")
    return (
        escape(value)
        if not bracket
        else join(tag("span", first, class_="whole"), " ", tag("span", f"({interval}", class_="whole"))
    )


def _fold(label: str, content: Html) -> Html:
    return tag("details", tag("summary", label), content)


def _figure(figure: Any) -> Html:
    data = _fold("Numbers of this figure", _scroller(figure.data)) if figure.data else None
    conclusion = figure.caption.removeprefix(figure.title)
    title = tag("strong", figure.title) if conclusion != figure.caption else None
    return tag("figure", tag("figcaption", title, conclusion), figure.svg, data)


def _footer(inputs: ReportInputs) -> Html:
    """All that may differ between equal runs: wall times and the machine."""
    parts: list[Html] = []
    if inputs.timings:
        parts.append(_table(_timings_table(inputs.timings)))
    if inputs.environment:
        rows = [[str(key), _plain(value)] for key, value in inputs.environment.items()]
        parts.append(_table(Table("Environment", ["What", "Value"], rows, num_text_columns=2, folded=True)))
    parts.append(tag("p", "Made by neuron-opsd. This page is one file and loads nothing from anywhere."))
    return tag("footer", tag("h2", "This machine and its times") if len(parts) > 1 else None, parts)


def _timings_table(timings: Sequence[Mapping[str, Any]]) -> Table:
    keys = [key for key in dict.fromkeys(key for row in timings for key in row) if key != "stage"]
    rows = [[_plain(row.get("stage", "")), *(_plain(row.get(key, "")) for key in keys)] for row in timings]
    columns = ["Stage", *(key.replace("num_", "").replace("_", " ").capitalize() for key in keys)]
    return Table("Wall times", columns, rows)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    return f"{value:,.1f}" if isinstance(value, float) else str(value)
