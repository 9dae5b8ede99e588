"""Whether a user's own answer pattern can be trusted with any reply. A bad one would hang a run for hours."""

import json
import resource
import subprocess
import sys
from collections.abc import Iterator

from neuron_opsd.errors import ConfigError

TRIAL_SECONDS = 2  # of processor time, for all trial texts
TRIAL_LENGTH = 2_000  # characters of a trial text

_CHILD = """
import json, re, sys
pattern, texts = json.load(sys.stdin)
for text in texts:
    list(re.finditer(pattern, text))
"""


def check_pattern(pattern: str) -> None:
    """Refuse a pattern that takes too long on texts made to mislead it.

    The trial runs in a process of its own, because a search that has begun cannot be stopped otherwise.

    Raises:
        ConfigError: it does, and what to write instead.
    """
    trial = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _CHILD],
        input=json.dumps([pattern, list(_trial_texts(pattern))]).encode(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (TRIAL_SECONDS, TRIAL_SECONDS)),
        stderr=subprocess.DEVNULL,
        check=False,
    )
    if trial.returncode:
        raise ConfigError(
            f"prompts.answer_pattern is {pattern!r}: searching a text of {TRIAL_LENGTH:,} characters takes over "
            f"{TRIAL_SECONDS} seconds. Leave out repeats within repeats, such as (?:a+)+, and repeats that can match "
            "the same text, such as .*.*"
        )


def _trial_texts(pattern: str) -> Iterator[str]:
    """Long runs of each character that the pattern names, of all of them in turn, of a word, a digit and a blank."""
    own = "".join(dict.fromkeys(character for character in pattern if character.isalnum()))
    for repeated in (*own, own, "a", "1", " ", "a ", "word "):
        yield (repeated * TRIAL_LENGTH)[:TRIAL_LENGTH] + "!"
