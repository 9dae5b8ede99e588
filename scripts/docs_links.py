"""A hook of mkdocs: links that leave docs/ lead nowhere on the site, so their text names the file in the repository."""

import posixpath
import re
from typing import Any

UPWARDS = re.compile(r"\[([^\]]+)\]\((\.\./[^)]+)\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page as the site has it."""
    folder = posixpath.dirname(page.file.src_uri)

    def shown(link: re.Match[str]) -> str:
        leaves = posixpath.normpath(posixpath.join(folder, link[2])).startswith("..")
        return f"`{link[1]}` (in the repository)" if leaves else link[0]

    return UPWARDS.sub(shown, markdown)
