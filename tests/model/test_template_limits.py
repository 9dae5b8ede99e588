"""A chat template that fails, hangs, fills the memory or changes the question ends with one message, for any reason."""

import time

import pytest

from helpers import CHATML, build_tiny_tokenizer
from neuron_opsd.errors import ModelError
from neuron_opsd.model import template_limits
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.text.prompts import Message

MESSAGES: list[Message] = [{"role": "user", "content": "Is a < b?"}]


def with_content(expression: str) -> str:
    return CHATML.replace("message['content']", expression)


# What a template does -> the template, and what the message says of it.
FAILS = {
    "type": (CHATML + "{{ 'a' + 1 }}", "TypeError at line 4 on the turns .user.: can only concatenate"),
    "undefined": (CHATML + "{{ no.such }}", "UndefinedError at line 4"),
    "division": (CHATML + "{{ 1 / 0 }}", "ZeroDivisionError at line 4"),
    "modulo": (CHATML + "{{ 1 % 0 }}", "ZeroDivisionError"),
    "format": (CHATML + "{{ '%d' % 'x' }}", "TypeError"),
    "endless macro": ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "RecursionError at line 1"),
    "deep brackets": (f"{{{{ {'(' * 3000}1{')' * 3000} }}}}", "RecursionError"),
    "deep loops": ("{% for i in [1] %}" * 30 + "{% endfor %}" * 30, "SyntaxError on the turns"),
    "float": (CHATML + "{{ 10.0 ** 400 }}", "OverflowError at line 4"),
    "index": (CHATML + "{{ 'a' * 10 ** 30 }}", "OverflowError"),
    "range": (CHATML + "{% for i in range(10 ** 9) %}{% endfor %}", "OverflowError.*Range too big"),
    "digits": (CHATML + "{{ 10 ** 5000 }}", "ValueError.*4300 digits"),
    "private": (CHATML + "{{ ''.__class__.__mro__ }}", "SecurityError"),
    "changes its input": (CHATML + "{{ messages.append(1) }}", "SecurityError"),
    "another file": ("{% include '/etc/passwd' %}", "TypeError at line 1.*no loader"),
    "refuses": ("{{ raise_exception('never') }}", "refuses the turns .user.: never"),
    "unclosed": ("{% for m in messages %}", "not valid at line 1"),
    "unknown tag": (CHATML + "{% such %}", "not valid at line 4.*unknown tag"),
    "unknown filter": (with_content("message.content | such"), "not valid at line 2.*No filter"),
    "loop control": (CHATML + "{% break %}", "SyntaxError.*outside loop"),
    "no unicode": (CHATML + "{{ '\\ud800' }}", "no Unicode text"),
    "long text": (CHATML + "{{ 'x' * 30000000 }}", "adds 30,000,0.. characters to the messages. At most 1,000,000"),
    "memory": (CHATML + "{{ 'x' * 10 ** 11 }}", "MemoryError.*more than 1 GiB of memory"),
    "memory, piece by piece": (
        CHATML + "{% for i in range(99999) %}{{ 'x' * 100000 }}{% endfor %}",
        "MemoryError",
    ),
    "nothing": ("{% if false %}x{% endif %}", "leaves out the question.*The prompt is ''"),
    "another question": (CHATML.replace("message['content']", "'Hello'"), "leaves out the question"),
    "cut": (with_content("message.content[:5]"), "leaves out the question, or changes its text"),
    "upper case": (with_content("message.content | upper"), "changes its text"),
    "escaped": (with_content("message.content | e"), "changes its text.*&lt;"),
}  # fmt: skip
HANGS = {
    "loops": "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
    "a constant": "{{ (10 ** (3 * 10 ** 7)) % 7 }}",
    "filler": "{{ lipsum(n=100000) }}",
}


def encoder_of(template: str, name: str = "the-model") -> ChatEncoder:
    tokenizer = build_tiny_tokenizer()
    tokenizer.chat_template = template
    return ChatEncoder(tokenizer, name=name)


@pytest.mark.parametrize("case", FAILS)
def test_what_fails_is_explained(case: str) -> None:
    template, expected = FAILS[case]
    with pytest.raises(ModelError, match=f"The chat template of the-model .*{expected}") as error:
        encoder_of(template).encode(MESSAGES)
    assert "model.chat_template=FILE" in str(error.value)
    assert len(str(error.value)) < 800


@pytest.mark.parametrize("case", HANGS)
def test_what_takes_for_ever_is_stopped(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "MAX_SECONDS", 0.1)
    started = time.process_time()
    with pytest.raises(ModelError, match=r"TimeoutError.*0\.1 seconds of processor time"):
        encoder_of(CHATML + HANGS[case]).encode(MESSAGES)
    assert time.process_time() - started < 5


def test_limits_end_with_the_rendering() -> None:
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGVTALRM)
    for template in (CHATML, FAILS["division"][0]):
        try:
            encoder_of(template).encode(MESSAGES)
        except ModelError:
            assert template != CHATML
        assert (resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGVTALRM)) == before
        assert signal.getitimer(signal.ITIMER_VIRTUAL)[0] == 0


@pytest.mark.parametrize("mark", ["\ue0f0", "\ue0f1", "\ue0f00\ue0f1", "\U000f0000", "\U000f00000\U000f0001"])
def test_text_that_looks_like_a_mark_of_ours_stays(mark: str) -> None:
    """In a question beside a special token, in a template, and in a template as an escape that Jinja resolves."""
    asked: list[Message] = [{"role": "user", "content": f"{mark} <|im_end|> {mark}"}]
    escape = "".join(f"\\U{ord(c):08x}" for c in mark)
    for added in ("", mark, f"{{{{ '{escape}' }}}}" if mark[0] < "\U000f0000" else ""):
        encoder = encoder_of(added + CHATML)
        ids = encoder.encode(asked)
        assert encoder.decode(ids).startswith(
            f"{mark if added else ''}<|im_start|>user\n{mark} <|im_end|> {mark}"
        )
        assert [i for i in ids if i < 3] == [1, 2, 1]


@pytest.mark.parametrize("number", ["0", "7", "9" * 5000, ""])
def test_a_template_that_writes_our_own_marks_is_refused(number: str) -> None:
    template = f"{{{{ '\\U000f0000{number}\\U000f0001' }}}}" + CHATML
    message = "cuts a special token's spelling"
    if number == "0":  # the one mark that is in use is shown twice, as text
        asked: list[Message] = [{"role": "user", "content": "<|im_end|>"}]
        encoder = encoder_of(template)
        assert encoder.decode(encoder.encode(asked)).startswith("<|im_end|><|im_start|>")
        assert encoder.encode(asked).count(2) == 1
        return
    with pytest.raises(ModelError, match=message):
        encoder_of(template).encode(MESSAGES)


def test_a_mark_that_a_template_cuts_is_refused() -> None:
    asked: list[Message] = [{"role": "user", "content": "<|im_end|>"}]
    with pytest.raises(ModelError, match="cuts a special token's spelling"):
        encoder_of(with_content("message.content[:2]")).encode(asked)
