"""Inputs -> report.html and report.md in a folder, each written whole or not at all."""

import logging
from pathlib import Path

from neuron_opsd.report.content import sections
from neuron_opsd.report.html import page
from neuron_opsd.report.inputs import ReportInputs
from neuron_opsd.report.markdown import document
from neuron_opsd.store.files import write_atomically

logger = logging.getLogger(__name__)


def write_report(inputs: ReportInputs, folder: Path) -> None:
    """Write the page and its Markdown twin.

    Args:
        inputs: What the run has so far. Missing parts are named in the report.
        folder: Where report.html and report.md go. Made if missing.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made = sections(inputs)
    _write(folder / "report.html", page(inputs, made))
    _write(folder / "report.md", document(inputs, made))


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_bytes(text.encode("utf-8", "replace")))
    logger.info("%s: %.0f kB", path, path.stat().st_size / 1000)
