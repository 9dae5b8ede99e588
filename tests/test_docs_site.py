"""The site of the docs builds strictly, and the errors that docs/errors.md explains are those of the source."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MESSAGE = re.compile(r"^\| `([^`]+)` \|", re.MULTILINE)


def literals(tree: ast.AST) -> Iterator[str]:
    """Texts of the source, with … for what is put into them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def source_texts() -> list[str]:
    files = (ROOT / "src" / "neuron_opsd").rglob("*.py")
    return [text for file in files for text in literals(ast.parse(file.read_text(encoding="utf-8")))]


def is_raised(message: str, texts: list[str]) -> bool:
    """Whether the source has these words, in this order, between what differs."""
    parts = [part.strip(" .") for part in message.split("…")]
    words = re.compile(".*".join(re.escape(part) for part in parts), re.DOTALL)
    return any(words.search(text) for text in texts)


def test_explained_errors_are_those_of_the_source() -> None:
    messages = MESSAGE.findall((ROOT / "docs" / "errors.md").read_text(encoding="utf-8"))
    texts = source_texts()
    assert len(messages) > 25
    assert [message for message in messages if not is_raised(message, texts)] == []
    assert not is_raised("There is no folder … (looked in …).", texts)


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the extra `docs` has mkdocs-material")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    site = tmp_path / "site"
    assert (site / "search" / "search_index.json").stat().st_size > 100_000
    home = (site / "results.html").read_text(encoding="utf-8")
    assert "](../" not in home
    assert 'src="https://' not in home  # nothing is loaded from elsewhere
