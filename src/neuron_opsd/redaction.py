"""Secrets: where they may come from (the environment alone), and how they are kept out of what is written or said.

Every error of ours and every line of the log passes through `redact`. What a model wrote never does: a password may be
a word, such as postgres.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

API_KEY = "NEURON_OPSD_API_KEY"
# The keys that a run itself sends: the server's and the hub's.
OWN = (API_KEY, "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACEHUB_API_TOKEN")
SHOWN = "[secret]"
MIN_LENGTH = 8  # a shorter value of such a variable is no secret, and would blot out words
_VARIABLE = re.compile(r"(API_?KEY|TOKEN|SECRET|PASSWORD)$")
_SETTING = re.compile(
    r"(?i)^((.*_)?(api_?key|password|passwd|secret|hub_token|auth_token|access_token)|token)$"
)
# user:password@ in an address, a key in its query, and what is known by its shape.
# The name of a protocol is bounded: without a bound, a long word would be read again from each of its places.
_USER = re.compile(r"(?i)\b([a-z][a-z0-9+.-]{0,30}://)[^\s/@'\"]+@")
_QUERY = re.compile(r"(?i)([?&][\w.-]*(?:key|token|secret|password|sig|signature)=)[^&\s'\"]+")
_SHAPE = re.compile(r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,})")
_HEADER = re.compile(r"(?i)(\bBearer\s+)[^\s'\"]+")


def redact(text: object) -> str:
    """A message without the environment's secrets, and without what looks like one."""
    return _hide_shapes(_hide(str(text), _secrets(os.environ)))


def hide_own(text: str) -> str:
    """The text without the keys that a run itself sends."""
    return _hide(text, _secrets(OWN))


def _hide_shapes(text: str) -> str:
    shown = _HEADER.sub(rf"\1{SHOWN}", _QUERY.sub(rf"\1{SHOWN}", _USER.sub(rf"\1{SHOWN}@", text)))
    return _SHAPE.sub(SHOWN, shown)


def _hide(text: str, secrets: Iterable[str]) -> str:
    """The text without these values, also as addresses and JSON write them."""
    for secret in secrets:
        for form in {secret, quote(secret, safe=""), json.dumps(secret)[1:-1]}:
            text = text.replace(form, SHOWN)
    return text


def secrets_in(settings: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """(setting, environment variable to use) of every secret in a tree of settings as it was given."""
    if isinstance(settings, dict):
        for key, value in settings.items():
            path = f"{name}.{key}" if name else str(key)
            if _SETTING.match(str(key)) and isinstance(value, str) and value:
                yield path, _variable_for(path)
            else:
                yield from secrets_in(value, path)
    elif isinstance(settings, list | tuple):
        for index, value in enumerate(settings):
            yield from secrets_in(value, f"{name}[{index}]")
    elif isinstance(settings, str) and _hide_shapes(hide_own(settings)) != settings:
        yield name, _variable_for(name)


def api_key() -> str | None:
    """The key of the inference server, without white space around it. None where there is none.

    Raises:
        ValueError: it cannot be a header's value. The message does not show it.
    """
    key = os.environ.get(API_KEY, "").strip()
    if not re.fullmatch(r"[\x21-\x7e]*", key):
        raise ValueError(f"{API_KEY} holds white space or characters that no key has. Set it again.")
    return key or None


def _secrets(variables: Iterable[str]) -> list[str]:
    """Values of those variables that hold a secret, the longest first: one may begin another."""
    values = (os.environ.get(name, "").strip() for name in variables if _VARIABLE.search(name.upper()))
    return sorted({value for value in values if len(value) >= MIN_LENGTH}, key=len, reverse=True)


def _variable_for(setting: str) -> str:
    if "hub" in setting:
        return "HF_TOKEN"
    return (
        API_KEY if setting.startswith("engine") else "an environment variable of the program that asks for it"
    )
