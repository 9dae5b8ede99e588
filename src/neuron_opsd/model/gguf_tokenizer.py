"""A tokenizer as GGUF's tables. llama.cpp knows how text is split by a name alone, so an unknown rule is refused."""

import json
from typing import Any

import gguf
from transformers import PreTrainedTokenizerBase

from neuron_opsd.errors import ModelError

# What the rule of a tokenizer.json is called in llama.cpp. Split patterns stand as themselves.
LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLIT_RULES = {
    ("bytes by words",): "gpt-2",
    ("single digits", "bytes by words"): "smollm",
    (LETTERS + r"\p{N}" + REST, "bytes"): "qwen2",
    (LETTERS + r"\p{N}{1,3}" + REST, "bytes"): "llama-bpe",
}
# SentencePiece's pieces: text is not split, and a space may go before each stretch of it.
SENTENCEPIECE_RULES = ((), ("pieces with a space before",), ("pieces",))


def add_tokenizer(
    writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase, *, num_rows: int, end_ids: list[int]
) -> None:
    """Write the vocabulary, how text becomes tokens, the special tokens and the chat template.

    Args:
        writer: Of the file.
        tokenizer: Of the model.
        num_rows: Of the model's embedding. Rows without a token get names that no text has.
        end_ids: Tokens that end a reply.

    Raises:
        ModelError: llama.cpp has no name for how this tokenizer splits text.
    """
    described = _description(tokenizer)
    model, is_by_bytes = described["model"], not described["model"].get("byte_fallback")
    if is_by_bytes:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(split_rule(tokenizer))
    else:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre(split_rule(tokenizer))
        spaces = json.dumps([described["normalizer"], described["pre_tokenizer"]])
        writer.add_add_space_prefix('"Prepend"' in spaces or '"always"' in spaces)
    known = {token_id: token for token, token_id in tokenizer.get_vocab().items()}
    tokens = [known.get(i, f"[PAD{i}]") for i in range(num_rows)]
    writer.add_token_list(tokens)
    writer.add_token_types(_types(tokenizer, tokens, has_byte_tokens=not is_by_bytes))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    if is_by_bytes:
        writer.add_token_merges(merges)
    else:  # llama.cpp merges what has the highest score: the earlier a merge, the higher
        rank = {merge.replace(" ", ""): -float(i) for i, merge in reversed(list(enumerate(merges)))}
        writer.add_token_scores([rank.get(token, -float(len(merges))) for token in tokens])
    for name in ("bos", "eos", "unk", "pad"):
        if (token_id := getattr(tokenizer, f"{name}_token_id")) is not None:
            getattr(writer, f"add_{name}_token_id")(token_id)
    further = [i for i in end_ids if i != tokenizer.eos_token_id]
    if further:
        writer.add_eot_token_id(further[0])
    ids = tokenizer("x").input_ids
    writer.add_add_bos_token(ids[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(ids[-1] == tokenizer.eos_token_id)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def split_rule(tokenizer: PreTrainedTokenizerBase) -> str:
    """llama.cpp's name for how text is split before its bytes are merged.

    Raises:
        ModelError: it has none that we know.
    """
    described = _description(tokenizer)
    model, given = described["model"], described["pre_tokenizer"] or {}
    steps = given.get("pretokenizers", [given]) if given else []
    rule = tuple(map(_step, steps))
    if model["type"] == "BPE" and model.get("byte_fallback"):
        name = "default" if rule in SENTENCEPIECE_RULES else None
    else:
        name = SPLIT_RULES.get(rule) if model["type"] == "BPE" else None
    if name is None or bool(model.get("ignore_merges")) != (name == "llama-bpe"):
        raise ModelError(
            f"The tokenizer ({model['type']}, split by {' then '.join(rule) or 'nothing'}) has no name "
            f"in llama.cpp that is known here. Known are those of {', '.join(sorted(SPLIT_RULES.values()))} and "
            "SentencePiece's with bytes. Write it with `--format merged`, and convert that folder with llama.cpp's own "
            "convert_hf_to_gguf.py."
        )
    return name


def _description(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What tokenizer.json says."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            f"The tokenizer is {type(tokenizer).__name__}, which has no tokenizer.json. Write the model with "
            "`--format merged`, and convert that folder with llama.cpp's own convert_hf_to_gguf.py."
        )
    return json.loads(backend.to_str())


def _step(step: dict[str, Any]) -> str:
    """One step of a pre-tokenizer, as `SPLIT_RULES` has it."""
    kind = step.get("type")
    if kind == "ByteLevel" and not step["add_prefix_space"]:
        return "bytes by words" if step["use_regex"] else "bytes"
    if kind == "Digits" and step["individual_digits"]:
        return "single digits"
    if kind == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
        return str(step["pattern"].get("Regex", step["pattern"]))
    if kind == "Metaspace" and not step["split"] and step["replacement"] == "▁":
        how = {"always": "pieces with a space before", "never": "pieces"}
        return how.get(step["prepend_scheme"], json.dumps(step, ensure_ascii=False))
    return json.dumps(step, ensure_ascii=False)


def _types(
    tokenizer: PreTrainedTokenizerBase, tokens: list[str], *, has_byte_tokens: bool
) -> list[gguf.TokenType]:
    """What each token is: llama.cpp prints no control tokens, and finds added ones in text before any merge."""
    added = tokenizer.added_tokens_decoder

    def type_of(token_id: int, token: str) -> gguf.TokenType:
        if token_id in added:
            is_unknown = has_byte_tokens and token_id == tokenizer.unk_token_id
            control = gguf.TokenType.UNKNOWN if is_unknown else gguf.TokenType.CONTROL
            return control if added[token_id].special else gguf.TokenType.USER_DEFINED
        if token == f"[PAD{token_id}]":
            return gguf.TokenType.UNUSED
        is_byte = has_byte_tokens and len(token) == 6 and token.startswith("<0x") and token.endswith(">")
        return gguf.TokenType.BYTE if is_byte else gguf.TokenType.NORMAL

    return [type_of(token_id, token) for token_id, token in enumerate(tokens)]
