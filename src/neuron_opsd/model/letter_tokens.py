"""Which tokens of a tokenizer are a letter and nothing else: "A", " A", "(A", "a"."""

import unicodedata
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from neuron_opsd.text.answers import LETTERS


@dataclass(frozen=True, slots=True)
class LetterToken:
    """A token that holds one letter, and no other letter or digit."""

    token: int
    letter: str  # A, B, C, ...
    # Equal for letters that are written alike: small or capital, with the same other characters, by the same piece.
    spelling: str


def letter_tokens(tokenizer: PreTrainedTokenizerBase) -> list[LetterToken]:
    """All of a vocabulary, in its order."""
    vocabulary = tokenizer.get_vocab()
    texts = tokenizer.batch_decode([[token] for token in vocabulary.values()])
    found: list[LetterToken] = []
    for (piece, token), text in zip(vocabulary.items(), texts, strict=True):
        plain = unicodedata.normalize("NFKC", text)
        own = "".join(filter(str.isalnum, plain))
        if len(own) == 1 and own.upper() in LETTERS:
            # SentencePiece's "A", "\u2581A" and the byte <0x41> can all decode to "A".
            kind = next((mark for mark in ("\u2581", "<0x") if piece.startswith(mark)), "")
            spelling = f"{plain.replace(own, '')} {own.isupper()} {plain == text} {kind}"
            found.append(LetterToken(token, own.upper(), spelling))
    return found


def spellings(tokens: list[LetterToken]) -> list[dict[str, int]]:
    """For each spelling, the token of each letter that has one so spelt. Of equal ones the lowest id."""
    rows: dict[str, dict[str, int]] = {}
    for found in sorted(tokens, key=lambda found: found.token):
        rows.setdefault(found.spelling, {}).setdefault(found.letter, found.token)
    return list(rows.values())
