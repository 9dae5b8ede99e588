"""What stands around an answer and says nothing: turns that a model wrote for the user, markup, odd characters."""

import re
import unicodedata

MAX_CHARS = 10_000  # an answer stands at the end. The bound keeps every later step fast

# A model that does not stop writes the user's next turn, or the next question of an exam. Only the
# first turn is its own.
_NEXT_TURN = re.compile(
    r"<\|(?:im_start|im_end|eot_id|end|endoftext|user|assistant|start_header_id)\|>|</s>|<end_of_turn>|"
    r"<start_of_turn>"
    r"|\[INST\]|\n#{1,6} ?(?:question|problem|instruction|input)\b|\n[ \t*#]{0,6}+(?:(?:human|user|"
    r"assistant|system|instruction|用户|问题)[ \t*]{0,3}:"
    r"|(?:next |new )?(?:question|problem|exercise|example|q)(?: ?\d{1,4}[ \t*]{0,3}[:.)\n]|[ \t*]{0,3}:))",
    re.IGNORECASE,
)
_LATEX_FONT = re.compile(r"\\(?:text|math|mbox|bm|bf|rm)[a-z]{0,2}\s?\{([^{}]{0,200})\}")
_LATEX_BLANK = re.compile(r"\\[,;:! ()\[\]]|\$")
_EMPHASIS = re.compile(r"(?<!\w)[*_`]{1,3}(?=[^\s*_`])|(?<=[^\s*_`])[*_`]{1,3}(?!\w)")
_HTML = re.compile(
    r"</?(?:b|i|u|p|em|strong|span|center|code|li|ul|mark)>|[\u200b-\u200f\u2060\ufeff]", re.IGNORECASE
)
_SAME = str.maketrans("“”„«»「」‘’−⁄【】İ\xa0。؟،؛", '"""""""\'\'-/[]I .?,;')


def own_turn(reply: str) -> str:
    """The reply without the turns that the model wrote after its own."""
    next_turn = _NEXT_TURN.search(reply, len(reply) - len(reply.lstrip()) + 1)
    return reply[: next_turn.start()] if next_turn else reply


def plain(text: str) -> str:
    """The text without Markdown, LaTeX fonts and HTML, full-width characters as plain ones, blanks joined.

    Lower case keeps the length of what this returns, so that a place in one is the same place in the other.
    """
    # One character may become eighteen.
    text = unicodedata.normalize("NFKC", text)[-MAX_CHARS:].translate(_SAME)
    for _ in range(2):  # one font within another
        text = _LATEX_FONT.sub(r"\1", text)
    text = _LATEX_BLANK.sub("", text)
    return without_markup(text)


def without_markup(text: str) -> str:
    """The text without Markdown's and HTML's emphasis, and with its blanks joined. LaTeX stays."""
    text = re.sub(r"<br ?/?>|```[a-z]{0,10}", "\n", _HTML.sub("", text))
    text = _EMPHASIS.sub("", text)
    return re.sub(r" ?\n[ \n]*", "\n", re.sub(r"[^\S\n]+", " ", text)).strip()
