"""The parts of a report, independent of how it is written.

Made by `content.py`. Rendered by `html.py` and `markdown.py`. Every text here is plain. Escaping is the
renderers' work, so nothing can be escaped twice or not at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from neuron_opsd.report.markup import Html

Prose = str | tuple[str, ...]  # the parts of a paragraph, those of type Code marked as code


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: Prose
    is_notice: bool = False  # something missing, or something to be careful about
    is_lead: bool = False  # the sentence that says most


@dataclass(frozen=True, slots=True)
class Bullets:
    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class Example:
    """One question whose answer changed. `judgement` is better, worse or empty."""

    label: str
    judgement: str
    where: str
    question: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Examples:
    title: str
    items: Sequence[Example]
    note: str


TEXT_COLUMNS = ("Verdict", "Note", "Remark")  # wherever they stand


@dataclass(frozen=True, slots=True)
class Table:
    """The first column holds row headers. `num_text_columns` columns from the left are text."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    num_text_columns: int = 1
    folded: bool = False

    def is_text(self, index: int) -> bool:
        """Whether a column holds text, which stands to the left."""
        return index < self.num_text_columns or self.columns[index] in TEXT_COLUMNS


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing with its caption. `description` says in words what it shows, for those who cannot see it.

    `data` are its numbers (of many points: a summary), shown on demand beside it.
    """

    name: str
    title: str
    description: str
    caption: str
    svg: Html
    data: Table | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures side by side where there is room. With a label they are folded under it. The note is said of all."""

    items: Sequence[Figure]
    label: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    """Text as it is, white space and all: a prompt, a reply, a citation."""

    label: str
    text: str
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Browser:
    """The questions browser. Only the page can hold it."""

    num_questions: int
    domains: Sequence[str]
    data: str  # of `browser.pack`
    note: Prose


Block = Paragraph | Bullets | Examples | Table | Figures | Text | Browser


@dataclass(frozen=True, slots=True)
class Section:
    name: str  # its anchor
    title: str
    blocks: Sequence[Block]
    folded: bool = False  # when the page opens
