"""What makes two questions the same: the id of a question's content.

Questions are told apart, split and, where a file has no ids, named by it, and `evaluation/answer_key.py`
finds answers by it. Letter case counts: in SMILES, `c` and `C` are different atoms.
"""

import hashlib
import json
import unicodedata
from collections.abc import Sequence


def normalise(text: str) -> str:
    """Unicode-composed (NFC), white space collapsed. Letter case is kept."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def content_id(question: str, choices: Sequence[str] = ()) -> str:
    """16 hexadecimal digits of SHA-256 over the normalised question and its sorted normalised choices."""
    content = [normalise(question), sorted(normalise(choice) for choice in choices)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
