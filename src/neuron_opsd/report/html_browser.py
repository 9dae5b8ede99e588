"""The questions browser as markup: fields, an empty list and the packed data. page.js fills the list."""

from collections.abc import Sequence

from neuron_opsd.report.blocks import Browser
from neuron_opsd.report.markup import Html, prose, tag

WHICH = {
    "all": "All questions",
    "selected": "Selected for training",
    "rest": "Pool, not selected",
    "test": "Held out",
    "flipped": "Majority answer changed",
    "better": "More samples right after training",
    "worse": "Fewer samples right after training",
    "unread": "Some answer not readable",
}
ORDER = {
    "listed": "Selected first",
    "lowest": "Lowest s(x)",
    "highest": "Highest s(x)",
    "shortest": "Shortest reply",
    "longest": "Longest reply",
    "unsure": "Lowest vote share before",
}


def browser(block: Browser) -> Html:
    """The search form, the list and the data."""
    search = tag("input", type="search", id="search", autocomplete="off", spellcheck="false")
    fields = [
        _field("search", "Search in ids, prompts, choices and replies", search, class_="field wide"),
        _field("which", "Show", _select("which", list(WHICH.items()))),
        _field(
            "domain", "Domain", _select("domain", [("", "All domains"), *((d, d) for d in block.domains)])
        ),
        _field("order", "Order", _select("order", list(ORDER.items()))),
    ]
    return tag(
        "div",
        tag("div", fields, class_="fields", role="search", aria_label="Questions"),
        tag("p", f"{block.num_questions:,} questions.", id="matches", role="status"),
        tag("ol", id="found", aria_label="Questions found"),
        tag("button", "Show more", type="button", id="more", hidden=True),
        tag("p", prose(block.note), class_="note"),
        tag(
            "noscript",
            tag("p", "Searching needs JavaScript; the run folder has every record.", class_="notice"),
        ),
        tag("script", block.data, type="text/plain", id="question-data"),
        class_="browser",
    )


def _field(name: str, label: str, control: Html, *, class_: str = "field") -> Html:
    return tag("div", tag("label", label, for_=name), control, class_=class_)


def _select(name: str, options: Sequence[tuple[str, str]]) -> Html:
    shown = [tag("option", label, value=value) for value, label in options]
    return tag("select", shown, id=name, autocomplete="off")
