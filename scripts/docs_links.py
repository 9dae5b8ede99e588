"""A hook of mkdocs: links that leave docs/ lead nowhere on the site, so their text names the file in the repository."""

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]+\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page as the site has it."""
    return OUTSIDE.sub(r"`\1` (in the repository)", markdown)
