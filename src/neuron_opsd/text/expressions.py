r"""Mathematical expressions as answers: written `$\frac{1}{2}$`, and equal where math-verify says so.

The dollar signs are the mark: no other canonical answer begins with one. math-verify is an optional package and is
imported here alone, when two expressions are compared.
"""

import importlib
import importlib.util
import re
import threading
from functools import lru_cache
from typing import Any

from neuron_opsd.errors import ConfigError

INSTALL = "Install it with pip install neuron-opsd[math]."
SECONDS = 5  # that one comparison may take. math-verify keeps time by a signal, which only the main thread may ask for


def expression(text: str) -> str | None:
    """The canonical form of an expression. None for an empty one."""
    text = text.strip().rstrip(".").strip().removeprefix("$").removesuffix("$").strip()
    return f"${text}$" if text else None


def is_expression(answer: str) -> bool:
    """Whether a canonical answer is an expression."""
    return answer.startswith("$")


def looks_like_expression(text: str) -> bool:
    """Whether an answer that was given as text is LaTeX: dollar signs, a command, a power or an index."""
    return re.search(r"\\|\^|^\s*\$.*\$\s*$|_\{", text) is not None


def is_installed() -> bool:
    """Whether expressions can be compared."""
    return importlib.util.find_spec("math_verify") is not None


@lru_cache(maxsize=1 << 16)
def same_expression(first: str, second: str) -> bool:
    """Whether two answers are mathematically equal, in either order.

    Raises:
        ConfigError: math-verify is not installed.
    """
    if not is_installed():
        raise ConfigError(f"Comparing {first} with {second} needs math-verify. {INSTALL}")
    math_verify: Any = importlib.import_module("math_verify")
    limit = SECONDS if threading.current_thread() is threading.main_thread() else None
    one, other = (
        math_verify.parse(f"${answer.strip('$')}$", parsing_timeout=limit) for answer in (first, second)
    )
    return any(math_verify.verify(*sides, timeout_seconds=limit) for sides in ((one, other), (other, one)))
