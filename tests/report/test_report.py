import base64
import dataclasses
import html
import json
import re
import zlib
from html.parser import HTMLParser

import pytest
import yaml
from made_up_run import HOSTILE, made_up_run

from neuron_opsd.report import ReportInputs, model_card, write_report
from neuron_opsd.report.markup import escape, tag
from neuron_opsd.report.model_card import hub_name
from neuron_opsd.report.svg import linear_ticks, tick_text, x_axis
from neuron_opsd.report.tables import cross_caption, metrics_table, number
from neuron_opsd.text.escape import markdown_text

ALLOWED = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "header",
        "nav",
        "main",
        "section",
        "footer",
        "div",
        "span",
    ),
    *("a", "p", "h1", "h2", "h3", "ul", "ol", "li", "strong", "pre", "code", "details", "summary"),
    *(
        "table",
        "caption",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "label",
        "input",
        "button",
        "select",
        "option",
        "noscript",
        "script",
    ),
    *("figure", "figcaption", "svg", "desc", "line", "text", "path", "polyline", "circle", "rect"),
}
PARTS = [field.name for field in dataclasses.fields(ReportInputs)]


class Page(HTMLParser):
    """What a browser would see: elements, attributes, ids, texts, scripts."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.ids, self.scripts, self.texts, self.open = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        self.ids += [value for key, value in attributes if key == "id"]
        if name not in {"meta", "input", "br", "hr", "link"}:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name, f"</{name}> closes another element"

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        (self.scripts if inside == "script" else self.texts).append(data)


@pytest.fixture(scope="module")
def inputs():
    return made_up_run()


@pytest.fixture(scope="module")
def hostile():
    return made_up_run(hostile=True)


def written(inputs, folder):
    write_report(inputs, folder)
    return (folder / "report.html").read_text(encoding="utf-8"), (folder / "report.md").read_text(
        encoding="utf-8"
    )


def unpacked(data):
    return json.loads(zlib.decompress(base64.b64decode(data)))


def test_page_is_well_formed_and_loads_nothing(inputs, tmp_path):
    page = Page(written(inputs, tmp_path)[0])
    assert not page.open
    assert len(page.ids) == len(set(page.ids))
    assert {name for name, _ in page.elements} <= ALLOWED
    for _, attributes in page.elements:
        assert not {"src", "srcset", "style", "background", "data", "poster"} & attributes.keys()
        assert not any(key.startswith("on") for key in attributes)
        assert attributes.get("href", "#").startswith("#")
    anchors = {a["href"][1:] for name, a in page.elements if name == "a"}
    assert anchors <= set(page.ids)


def test_policy_allows_its_own_style_and_script_alone(inputs, tmp_path):
    page = Page(written(inputs, tmp_path)[0])
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert len(re.findall(r"'sha256-[A-Za-z0-9+/]{43}='", policy)) == 2


def test_every_figure_has_a_name_and_a_description(inputs, tmp_path):
    page = Page(written(inputs, tmp_path)[0])
    drawings = [attributes for name, attributes in page.elements if name == "svg"]
    assert len(drawings) >= 10
    for attributes in drawings:
        assert attributes["role"] == "img"
        assert set(attributes["aria-labelledby"].split()) <= set(page.ids)
    assert sum(name == "caption" for name, _ in page.elements) == sum(n == "table" for n, _ in page.elements)


def test_hostile_text_appears_as_text_only(hostile, tmp_path):
    text, _ = written(hostile, tmp_path)
    page = Page(text)
    assert {name for name, _ in page.elements} <= ALLOWED
    assert [a for name, a in page.elements if name == "script"] == [
        {"type": "text/plain", "id": "question-data"},
        {},
    ]
    assert sum(name == "style" for name, _ in page.elements) == 1
    for _, attributes in page.elements:
        assert not any(key.startswith("on") for key in attributes)
        assert attributes.get("href", "#").startswith("#")
    shown = " ".join(page.texts)
    assert HOSTILE[0] in shown  # shown, not run
    data, script = page.scripts
    assert re.fullmatch(r"[A-Za-z0-9+/]+=*", data)
    assert "hacked" not in script
    assert any(HOSTILE[3] in row["text"] for row in unpacked(data)["questions"])


def test_hostile_text_is_inert_in_markdown(hostile, tmp_path):
    _, text = written(hostile, tmp_path)
    for card in (text, model_card(hostile)):
        outside = re.sub(r"^(`{3,})text\n.*?^\1$", "", card, flags=re.DOTALL | re.MULTILINE)
        assert not re.search(r"(?<!\\)<(?!\d)", outside)
        assert not re.search(r"(?<!\\)\](?=[(\[])", outside)  # no link, no image
        rows = [line for line in outside.splitlines() if line.startswith("|")]
        assert rows
        assert all(re.search(r"(?<!\\)\|$", row) for row in rows)


def test_tables_in_markdown_have_as_many_cells_as_columns(hostile, tmp_path):
    _, text = written(hostile, tmp_path)
    widths, in_table = [], False
    for line in text.splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        if cells and in_table:
            assert cells == widths[-1]
        elif cells:
            widths.append(cells)
        in_table = bool(cells)
    assert len(widths) >= 8


def test_same_run_same_bytes_but_for_the_footer(tmp_path):
    first, first_md = written(made_up_run(seconds=1.0), tmp_path / "a")
    again, again_md = written(made_up_run(seconds=1.0), tmp_path / "b")
    slower, slower_md = written(made_up_run(seconds=99.0), tmp_path / "c")
    assert (first, first_md) == (again, again_md)
    assert first != slower
    assert first.split("<footer>")[0] == slower.split("<footer>")[0]
    assert first_md == slower_md


def test_page_markdown_and_model_card_say_the_same_numbers(inputs, tmp_path):
    """Every number of the card's two tables, row by row, stands in the page and in report.md."""
    page, text = written(inputs, tmp_path)
    # A number and its interval are two spans that stay whole.
    page = re.sub(r'<span class="whole">([^<]*)</span>', r"\1", html.unescape(page))
    card = model_card(inputs)
    tables = [
        metrics_table(caption, block)
        for caption, block in (
            ("In-domain: physics", inputs.results.in_domain),
            (cross_caption(inputs.results), inputs.results.cross.mean),
        )
    ]
    for table in tables:
        assert len(table.rows) >= 10
        for row in table.rows:
            line = "| " + " | ".join(map(markdown_text, row)) + " |"
            assert line in text, line
            assert line in card, line
            cells = [f"<span>{value}</span>" for value in row[1:-1]]
            assert all(cell in page for cell in cells), row
    entry = inputs.results.in_domain.metrics["ece"]
    shown = f"{number(entry.base.value)} ({number(entry.base.low)} to {number(entry.base.high)})"
    assert all(shown in document for document in (page, text, card))
    for verdict in inputs.results.verdicts:
        sentence = verdict.partition("): ")[2]
        assert sentence in page
        assert all(markdown_text(sentence) in document for document in (text, card))


def test_a_run_with_nothing_says_what_is_missing(tmp_path):
    page, text = written(ReportInputs(), tmp_path)
    for document in (page, text):
        for command in ("evaluate", "neurons", "contexts", "train"):
            assert f"neuron-opsd {command}" in document
    assert "has not been evaluated" in model_card(ReportInputs())


@pytest.mark.parametrize("part", PARTS)
def test_any_part_may_be_missing_or_alone(inputs, part, tmp_path):
    empty = getattr(ReportInputs(), part)
    for some in (dataclasses.replace(inputs, **{part: empty}), ReportInputs(**{part: getattr(inputs, part)})):
        page, _ = written(some, tmp_path)
        assert not Page(page).open
        assert model_card(some).startswith("---\n")


def test_without_answers_nothing_is_claimed_about_accuracy(tmp_path):
    page, text = written(made_up_run(with_answers=False), tmp_path)
    for document in (page, text):
        assert "nothing is claimed about accuracy" in document
        assert "Vote share" in document
        assert "calibration cannot be measured" in document
        assert "Reliability before" not in document


@pytest.mark.parametrize(
    "name", ["owner/model", "/home/me/secret/folder", "./models/x", "embedded:smollm2-135m", "m.gguf"]
)
def test_model_card_front_matter(inputs, name):
    config = {**inputs.config, "model": {"name": name}}
    card = model_card(dataclasses.replace(inputs, config=config))
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == "transformers"
    assert "license" not in front
    assert "neuron-opsd" in front["tags"]
    assert ("base_model" in front) == (hub_name(name) is not None)
    assert "/home/me" not in card


def test_hub_names():
    assert hub_name("owner/model") == "owner/model"
    assert hub_name("embedded:smollm2-135m") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert [hub_name(name) for name in ("model", "/a/b", "./a", "../a", "a/b/c", "a/b.gguf", "")] == [
        None
    ] * 7


def test_everything_but_markup_is_escaped():
    assert tag("p", "<b>", tag("i", "&"), title='"x"') == '<p title="&quot;x&quot;">&lt;b&gt;<i>&amp;</i></p>'
    assert tag("input", hidden=True, value=None) == "<input hidden>"
    assert escape("a\x00\x1bb") == "a\ufffd\ufffdb"


def test_numbers():
    assert [number(v) for v in (0.1234, 12.345, 1234, 0, 0.00012, None, float("nan"))] == [
        "0.123", "12.3", "1,234", "0", "1.2e−04", "–", "–",
    ]  # fmt: skip
    assert number(-0.5, signed=True) == "−0.500"


def test_ticks_are_round_and_inside():
    assert linear_ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert x_axis("tokens", 3, 2000, is_log=True).ticks() == [10, 100, 1000]
    assert x_axis("flat", 5, 5).ticks()
    assert [tick_text(v) for v in (25000, 2_500_000, 4e-6, 0.25, -1)] == ["25k", "2.5M", "4e−6", "0.25", "−1"]


def test_long_replies_are_shortened_with_their_count(inputs, tmp_path):
    long = dataclasses.replace(inputs.rollouts[0], reply="x" * 10_000)
    page, _ = written(dataclasses.replace(inputs, rollouts=[long, *inputs.rollouts[1:]]), tmp_path)
    rows = unpacked(Page(page).scripts[0])["questions"]
    reply, cut, _ = next(row for row in rows if row["id"] == long.question_id)["replies"][0]
    assert len(reply) + cut == 10_000
    assert cut > 0
