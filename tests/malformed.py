"""Strategies that spoil a good file, as disks, editors and transfers do."""

from collections.abc import Callable
from typing import TypeVar

from hypothesis import strategies as st

from neuron_opsd.errors import NeuronOpsdError

Result = TypeVar("Result")
PIECES = [
    *(b"\n", b"\x00", b'"', b"{", b"}", b"[", b"null", b"NaN", b"1e999", b"-", b"\\ud800", b": ", b"\xff"),
    *(b"&a [*a]", b"2020-13-45"),
]


def result_or_message(call: Callable[[], Result]) -> tuple[Result | None, str]:
    """What a call returns, or what an expected error says; any other error fails the test."""
    try:
        return call(), ""
    except NeuronOpsdError as error:
        return None, str(error)


@st.composite
def spoiled(draw: st.DrawFn, good: bytes) -> bytes:
    """The bytes with one to three pieces cut off, altered, removed, put in, or doubled."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, max(len(data) - 1, 0)))
        end = start + draw(st.integers(1, 40))
        match draw(st.sampled_from(["cut", "flip", "remove", "insert", "double"])):
            case "cut":
                del data[start:]
            case "flip" if data:
                data[start] ^= 1 << draw(st.integers(0, 7))
            case "remove":
                del data[start:end]
            case "insert":
                data[start:start] = draw(st.binary(min_size=1, max_size=8) | st.sampled_from(PIECES))
            case "double":
                data[start:start] = data[start:end]
    return bytes(data)
