"""The licence of a base model, by its own card or GGUF file. What is trained from it stays under it."""

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.errors import HFValidationError

from neuron_opsd.model.gguf import CARD, card_of_gguf, folder_of
from neuron_opsd.model.locate import cached_file

KEYS = ("license", "license_name", "license_link")  # as the hub's cards spell them
EMBEDDED = {"embedded:smollm2-135m": {"license": "apache-2.0"}}
MAX_CARD = 1 << 20  # bytes


def licence_of(name: str) -> dict[str, str]:
    """The `KEYS` that a model names, of those that are on this machine. Empty where nothing names one."""
    if name in EMBEDDED:
        return EMBEDDED[name]
    path = Path(name).expanduser()
    if path.is_file():
        return _of_card(_gguf_card(path))
    try:
        card = path / CARD if path.is_dir() else cached_file(name, CARD)
    except HFValidationError:  # a folder that is gone
        return {}
    if card is None or not card.is_file() or card.stat().st_size > MAX_CARD:
        return {}
    return _of_card(card.read_text(encoding="utf-8", errors="replace"))


def _of_card(text: str) -> dict[str, str]:
    front = _front_matter(text)
    return {key: front[key] for key in KEYS if isinstance(front.get(key), str)}


def _gguf_card(path: Path) -> str:
    """That of the converted file. Reading the file itself takes half a minute where its vocabulary is large."""
    card = folder_of(path) / CARD
    if card.is_file():
        return card.read_text(encoding="utf-8")
    try:
        return card_of_gguf(str(path))
    except Exception:  # of a file of others: there is no list of what the reader raises
        return ""


def _front_matter(text: str) -> dict[str, Any]:
    """The YAML at the head of a card. Empty where there is none, or none that can be read."""
    parts = text.lstrip("\ufeff").split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        front = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return {}
    return front if isinstance(front, dict) else {}
