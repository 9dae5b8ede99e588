"""Forty hostile texts in every format that we write: none becomes markup, a command, a formula or an order."""

import csv
import io
import re
import unicodedata
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from neuron_opsd.report.blocks import Paragraph
from neuron_opsd.report.html import _block
from neuron_opsd.report.markdown import render
from neuron_opsd.report.markup import Code, tag
from neuron_opsd.text.escape import (
    csv_cell,
    html_text,
    markdown_block,
    markdown_code,
    markdown_text,
    terminal_text,
    tex_comment,
    tex_text,
)

PAYLOADS = [
    "<script>alert(1)</script>",
    "`<script>alert(1)</script>`",
    "a ` b <img src=x onerror=alert(1)> ` c",
    "```\n<script>alert(1)</script>\n```",
    "``` ` `` <b>x</b>",
    '"><img src=x onerror="alert(1)">',
    "' onmouseover='alert(1)",
    "</td></tr></table><script>alert(1)</script>",
    "</script><script>alert(1)</script><!--<script>",
    "<!-- --> <svg onload=alert(1)>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;",
    "[click](javascript:alert(1))",
    "![x](http://evil.example/x.png)",
    "<http://evil.example>",
    "http://evil.example and www.evil.example",
    "[ref]: http://evil.example\n\n[ref]",
    "# heading",
    "- bullet\n- bullet",
    "+ plus",
    "1. one\n2) two",
    "> quote",
    "a\n===\nb",
    "---",
    "    indented code",
    "| a | b |\n|---|---|\n| c | d |",
    "**bold** __bold__ *it* _it_ ~~gone~~ a_b_c",
    "$x$ $$y$$ \\(z\\)",
    "\\write18{rm -rf /}",
    "sums\n\\input{/etc/passwd}",
    "sums\r\\immediate\\write18{id}",
    "x\x0b\\input{a}\x0c\\input{b}\x85\\input{c}\u2028\\input{d}",
    "^^5cinput{x} ^^M %comment #1 & ~ _{}^{}",
    '=HYPERLINK("http://evil.example","x")',
    "+1+cmd|' /C calc'!A0",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(1+9)*cmd|' /C calc'!A0",
    "\t=1+1",
    "\n\r=1+1",
    "\uff1d1+1 \ufeff=1",
    "\x1b[2J\x1b]0;owned\x07\x1b[31mred",
    "\x9b31mred \x90q\x9c \x7f\x08\x08",
    "safe\u202egpj.exe\u202c \u2066x\u2069 \u200f",
    "half \ud800 of a pair and \x00 nul",
    "progress 100%\rerror: nothing",
]


class Seen(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.tags += [f"{tag}[{name}]" for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def is_control(character: str, *, allowed: str = "") -> bool:
    bidi = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    return character not in allowed and (unicodedata.category(character) in ("Cc", "Cs") or character in bidi)


def assert_no_controls(text: str) -> None:
    assert [c for c in text if is_control(c, allowed="\n\t")] == []


def rendered(markdown: str) -> Seen:
    """As a code host renders it: raw HTML passes through."""
    return Seen(MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(markdown))


def words(text: str) -> list[str]:
    """What is read, whatever stands for controls."""
    return re.findall(r"[A-Za-z0-9]+", text)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_html(payload: str) -> None:
    for page in (
        html_text(payload),
        str(tag("p", payload)),
        str(tag("p", "x", title=payload)),
        str(_block(Paragraph(payload))),
        str(_block(Paragraph((payload, Code("neuron-opsd run"), payload)))),
    ):
        assert set(Seen(page).tags) <= {"p", "p[title]", "code"}
        assert Seen(page).tags.count("code") <= 1
        assert_no_controls(page)
    assert words(Seen(html_text(payload)).text) == words(payload)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_markdown(payload: str) -> None:
    for text in (markdown_text(payload), render(Paragraph(payload)), f"- {markdown_text(payload)}"):
        seen = rendered(text)
        assert set(seen.tags) <= {"p", "ul", "li"}, text
        assert words(seen.text) == words(payload)
        assert_no_controls(text)
    assert "\n" not in markdown_text(payload)
    row = f"| a | b |\n|---|---|\n| {markdown_text(payload)} | end |\n"
    assert rendered(row).tags.count("td") == 2
    assert not {"script", "img", "a", "svg", "h1", "code", "em", "strong", "s"} & set(rendered(row).tags)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_markdown_code(payload: str) -> None:
    for text in (
        markdown_code(payload),
        render(Paragraph(("Run", Code(payload), "now."))),
        markdown_block(payload),
    ):
        seen = rendered(text)
        assert set(seen.tags) <= {"p", "pre", "code", "code[class]"}, text
        assert seen.tags.count("code") == 1
        assert_no_controls(text)


TEX_SPECIAL = re.compile(r"\\(textbackslash|textasciitilde|textasciicircum)\{\}|\\[&%$#_{}]")


@pytest.mark.parametrize("payload", PAYLOADS)
def test_tex(payload: str) -> None:
    text = tex_text(payload)
    assert not set(TEX_SPECIAL.sub("", text)) & set("\\&%$#_{}~^")
    comment = tex_comment(payload)
    assert comment.startswith("% ")
    for line in (text, comment):
        assert len(line.splitlines()) == 1 or not line.strip()
        assert_no_controls(line)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_csv(payload: str) -> None:
    buffer = io.StringIO()
    csv.writer(buffer).writerow([csv_cell(payload), csv_cell(-0.5), csv_cell(None)])
    ((cell, number, nothing),) = csv.reader(io.StringIO(buffer.getvalue()))
    assert not cell.strip("\ufeff\u200b ").startswith(tuple("=+-@\uff1d\t\r\n"))
    assert (number, nothing) == ("-0.5", "")
    assert_no_controls(cell)
    assert words(cell) == words(payload)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_terminal(payload: str) -> None:
    text = terminal_text(payload)
    assert_no_controls(text)
    assert not set(text) & set("\u200e\u200f\u061c\r\x1b\x9b")
    text.encode()  # halves of surrogate pairs are gone


@pytest.mark.parametrize("escape", [html_text, markdown_text, tex_text, csv_cell, terminal_text])
def test_plain_words_stay(escape: Callable[[str], str]) -> None:
    for text in ("High-school physics", "Größe 2,5 m", "数学", "الفيزياء"):
        assert escape(text) == text


def test_the_terminal_shows_what_it_does_not_obey() -> None:
    assert terminal_text("a\x1b[31m\u202eb\r\n\tc") == "a\\x1b[31m\\u202eb\\r\n\tc"
