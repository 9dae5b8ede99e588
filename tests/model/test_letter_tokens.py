"""Which tokens are a letter, of a vocabulary as SentencePiece makes them."""

from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from neuron_opsd.model.letter_tokens import letter_tokens, spellings


def test_pieces_that_decode_alike_are_spelt_apart():
    """ "A", "\u2581A" and the byte <0x41> all decode to "A": none is left without its row."""
    bytes_ = {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    pieces = ["<unk>", "<s>", "</s>", *bytes_, "\u2581A", "\u2581B", "A", "B", "\u2581a", "\u2581b"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
    space = decoders.Replace("\u2581", " ")
    backend.decoder = decoders.Sequence(
        [space, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    rows = [(row["A"], row["B"]) for row in spellings(letter_tokens(tokenizer)) if {"A", "B"} <= row.keys()]
    found = {tuple(tokenizer.convert_ids_to_tokens(list(row))) for row in rows}
    assert found == {
        ("A", "B"), ("\u2581A", "\u2581B"), ("\u2581a", "\u2581b"), ("<0x41>", "<0x42>"), ("<0x61>", "<0x62>"),
    }  # fmt: skip
