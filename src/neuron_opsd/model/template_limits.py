"""Limits for a chat template, which is a program of others: processor time, memory, and the text that it adds.

A template that fails for any reason is explained, with its line. Time and memory are limited in the main thread, where
alone signals arrive. All that renders does so there.
"""

import resource
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType

from jinja2 import TemplateError, TemplateSyntaxError

from neuron_opsd.errors import ModelError
from neuron_opsd.text.prompts import Message

MAX_SECONDS = 2.0  # of processor time, so that a busy machine refuses nothing. A template takes milliseconds
MAX_BYTES = 2**30  # beyond what the process has
MAX_OWN_CHARACTERS = 10**6  # beside the messages. A template adds hundreds
ROLES_SHOWN = 3
OTHER = "Mend it, or give another template with model.chat_template=FILE."


@contextmanager
def explained(name: str, messages: Sequence[Message]) -> Iterator[None]:
    """Render within the limits. Whatever goes wrong is a ModelError that names the template.

    Raises:
        ModelError: the template, its line, what it did, and the next step.
    """
    try:
        with _limited_time(), _limited_memory():
            yield
    except Exception as error:  # a template can raise anything
        roles = [message["role"] for message in messages]
        shown = ", ".join([*roles[:ROLES_SHOWN], "..."] if len(roles) > ROLES_SHOWN else roles)
        said = " ".join(str(error).split())[:300].rstrip(".")
        hint = (
            "If it takes no system turn, leave prompts.system empty, and `system` of the questions. "
            if "system" in roles
            else ""
        )
        raise ModelError(
            f"The chat template of {name} {_what(error)} ({shown}): {said}. {hint}{OTHER}"
        ) from None


def check_text(text: str, messages: Sequence[Message], name: str) -> str:
    """Refuse a rendered prompt that no tokenizer should see.

    Raises:
        ModelError: the text is enormous, or no Unicode.
    """
    own = len(text) - sum(len(message["content"]) for message in messages)
    if own > MAX_OWN_CHARACTERS:
        raise ModelError(
            f"The chat template of {name} adds {own:,} characters to the messages. At most {MAX_OWN_CHARACTERS:,} are "
            f"allowed. {OTHER}"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ModelError(
            f"The chat template of {name} writes what is no Unicode text: {error}. {OTHER}"
        ) from None
    return text


def _what(error: Exception) -> str:
    if isinstance(error, TemplateSyntaxError):
        return f"is not valid at line {error.lineno}, for the turns"
    if type(error) is TemplateError:  # the template's own raise_exception
        return "refuses the turns"
    line = _line(error.__traceback__)
    return f"fails with {type(error).__name__}{f' at line {line}' if line else ''} on the turns"


def _line(traceback: TracebackType | None) -> int | None:
    """The last line of the template itself. Jinja writes it into tracebacks."""
    line = None
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "<template>":
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


@contextmanager
def _limited_time() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it takes more than {MAX_SECONDS:g} seconds of processor time")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, stop)
    # Again after as long: Jinja tries constants while it compiles, and passes over what they raise.
    signal.setitimer(signal.ITIMER_VIRTUAL, MAX_SECONDS, MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextmanager
def _limited_memory() -> Iterator[None]:
    """For the moment of rendering, in which no other thread takes as much."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    statm = Path("/proc/self/statm")  # of Linux. Elsewhere memory is not limited
    if threading.current_thread() is not threading.main_thread() or not statm.exists():
        yield
        return
    limit = int(statm.read_text().split()[0]) * resource.getpagesize() + MAX_BYTES
    if soft != resource.RLIM_INFINITY and soft < limit:
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    except MemoryError:
        raise MemoryError(f"it takes more than {MAX_BYTES / 2**30:g} GiB of memory") from None
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
