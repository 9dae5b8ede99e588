"""The check of shapes in signatures, as jaxtyping's import hook takes it."""

from typing import Any

from beartype import beartype


def check(made: Any) -> Any:
    """beartype, but not for functions inside functions: these are made anew at each call, and name no shapes."""
    return made if "<locals>" in made.__qualname__ else beartype(made)
