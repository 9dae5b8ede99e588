"""GGUF files in the hands of llama.cpp itself: it must tokenise, and continue greedily, as transformers does."""

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Metaspace, Sequence, Split
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from helpers import CHATML, SPECIAL
from neuron_opsd.errors import ModelError
from neuron_opsd.model.gguf import converted_gguf
from neuron_opsd.model.gguf_tokenizer import LETTERS, REST, split_rule
from neuron_opsd.model.gguf_write import check_family, write_gguf
from neuron_opsd.model.licence import licence_of
from neuron_opsd.model.locate import resolve_model
from neuron_opsd.store import digests
from neuron_opsd.store.files import file_digest

TEXT = "It's 1234 things, isn't it? We'll pay 1234.50 for   naïve spaces\n\n\tand 你好, and 1234 is 12 and 34! It's so."
WORDS, BYTES = (ByteLevel(add_prefix_space=False, use_regex=is_so) for is_so in (True, False))
RULES = {
    "gpt-2": WORDS,
    "smollm": Sequence([Digits(individual_digits=True), WORDS]),
    "qwen2": Sequence([Split(Regex(LETTERS + r"\p{N}" + REST), "isolated"), BYTES]),
    "llama-bpe": Sequence([Split(Regex(LETTERS + r"\p{N}{1,3}" + REST), "isolated"), BYTES]),
}
LENGTH = 16  # tokens of a reply
SIZES: dict[str, Any] = {
    "vocab_size": 420,  # more than any of these tokenizers has
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}


def pieces() -> dict[str, Any]:
    """SentencePiece's kind of vocabulary. Which of two merges comes first decides: "and" is a, nd and not an, d."""
    merges = [("n", "d"), ("a", "n"), ("2", "3"), ("1", "2"), ("3", "4"), ("▁", "i"), ("i", "s"), ("s", "n")]
    characters = sorted(set(TEXT) - set(" 你好") | {"▁"})  # the others are written as bytes
    tokens = [*SPECIAL, "<unk>", *(f"<0x{i:02X}>" for i in range(256)), *characters, *map("".join, merges)]
    vocab = {token: i for i, token in enumerate(tokens)}
    return {"vocab": vocab, "merges": merges, "byte_fallback": True, "unk_token": "<unk>"}


def trained_tokenizer(rule: str) -> PreTrainedTokenizerFast:
    """A few merges, with a split rule that decides which of them apply. `sentencepiece` is llama's first one."""
    is_pieces = rule in ("sentencepiece", "metaspace")
    inner = Tokenizer(models.BPE(**(pieces() if is_pieces else {})))
    if is_pieces:
        if rule == "metaspace":
            inner.pre_tokenizer = Metaspace(prepend_scheme="always", split=False)
        else:
            inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        inner.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
    else:
        inner.pre_tokenizer, inner.decoder = RULES[rule], decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=list(SPECIAL),
            initial_alphabet=ByteLevel.alphabet(),
            show_progress=False,
        )
        inner.train_from_iterator([TEXT, TEXT.replace("1234", "123 12 34")], trainer)
    inner.model.ignore_merges = rule == "llama-bpe"
    names = {"unk_token": "<unk>"} if is_pieces else {}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<|im_end|>",
        bos_token="<|im_start|>",
        pad_token="<|endoftext|>",
        **names,
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def save(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:  # they begin at 0 and 1, where a fault would not show
            torch.nn.init.normal_(parameter.data, mean=float("norm" in name), std=0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def unprintable(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that llama.cpp's reply would not list one by one: special ones, and parts of a character."""
    return [
        i
        for i in range(SIZES["vocab_size"])
        if not tokenizer.decode([i], skip_special_tokens=True).isascii()
        or not tokenizer.decode([i], skip_special_tokens=True)
    ]


def by_llama_cpp(file: Path, question: str, *, without: list[int]) -> list[int]:
    """The ids of a greedy reply. The chat template and the tokenizer are those of the file."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="no llama.cpp: pip install xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path, params.hostnames, params.port = str(file), ["127.0.0.1"], 0
    params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 512, 1, False, -1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    asked = {"messages": [{"role": "user", "content": question}], "max_tokens": LENGTH, "temperature": 0}
    asked |= {"logit_bias": [[i, False] for i in without], "logprobs": True, "top_logprobs": 1}
    reply = xllamacpp.Server(params).handle_chat_completions(asked)
    return [token["id"] for token in reply["choices"][0]["logprobs"]["content"]]


def by_transformers(folder: Path, question: str, *, without: list[int]) -> list[int]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
    )
    reply = model.generate(
        torch.tensor([ids]), max_new_tokens=LENGTH, do_sample=False, suppress_tokens=without or None
    )
    return [i for i in reply[0, len(ids) :].tolist() if i != tokenizer.eos_token_id]


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        (LlamaConfig(**SIZES, tie_word_embeddings=True), "smollm"),
        (LlamaConfig(**SIZES, rope_parameters=LLAMA3, attention_bias=True), "llama-bpe"),
        (LlamaConfig(**SIZES), "sentencepiece"),
        (LlamaConfig(**SIZES), "metaspace"),
        (Qwen2Config(**SIZES, rope_parameters=YARN), "qwen2"),
        (Qwen3Config(**SIZES, head_dim=32, tie_word_embeddings=True), "gpt-2"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.model_type,
)
def test_llama_cpp_replies_as_transformers_does(config: PretrainedConfig, rule: str, tmp_path: Path) -> None:
    folder = save(config, trained_tokenizer(rule), tmp_path / "model")
    assert write_gguf(folder, tmp_path / "model.gguf", name="tiny") == "f32"
    without = unprintable(AutoTokenizer.from_pretrained(folder))
    expected = by_transformers(folder, TEXT, without=without)
    assert len(set(expected)) > 3
    assert by_llama_cpp(tmp_path / "model.gguf", TEXT, without=without) == expected


@pytest.fixture
def untied(tmp_path: Path) -> Path:
    return save(LlamaConfig(**SIZES), trained_tokenizer("gpt-2"), tmp_path / "model")


@pytest.mark.parametrize(("weights", "kept"), [("f16", 2.0), ("bf16", 2.0), ("q8_0", 34 / 32), (None, 4.0)])
def test_matrices_have_the_type_that_was_asked_for(
    untied: Path, weights: str | None, kept: float, tmp_path: Path
) -> None:
    """Vectors stay f32. Values are those of the folder, rounded once."""
    written = write_gguf(untied, file := tmp_path / "model.gguf", weights=weights, name="tiny", licence="mit")
    assert written == weights or weights is None
    reader = gguf.GGUFReader(file)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert tensors["output_norm.weight"].tensor_type == gguf.GGMLQuantizationType.F32
    matrix = tensors["blk.1.ffn_down.weight"]
    assert matrix.n_bytes == kept * matrix.n_elements
    own = load_file(untied / "model.safetensors")["model.layers.1.mlp.down_proj.weight"].numpy()
    found = gguf.quants.dequantize(matrix.data, matrix.tensor_type).reshape(own.shape)
    assert abs(found - own).max() <= {2.0: 2**-8, 34 / 32: 0.5 / 127, 4.0: 0}[kept] * abs(own).max()
    assert reader.fields["general.license"].contents() == "mit"
    assert file.read_bytes() == (
        write_gguf(untied, tmp_path / "again.gguf", weights=weights, name="tiny", licence="mit")
        and (tmp_path / "again.gguf").read_bytes()
    )


def test_a_file_is_read_once_and_every_weight_comes_back(
    untied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(untied, file := tmp_path / "model.gguf", name="tiny", licence="mit")
    read: list[str] = []

    class CountingReader(gguf.GGUFReader):
        def __init__(self, path: str, *arguments: Any) -> None:
            read.append(path)
            super().__init__(path, *arguments)

    tables: list[tuple[Any, ...]] = []

    def counting_names(*arguments: Any, make: Any = gguf.get_tensor_name_map) -> gguf.TensorNameMap:
        tables.append(arguments)
        return make(*arguments)

    monkeypatch.setenv("NEURON_OPSD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gguf, "GGUFReader", CountingReader)
    monkeypatch.setattr(gguf, "get_tensor_name_map", counting_names)
    found = load_file(converted_gguf(file) / "model.safetensors")
    expected = load_file(untied / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert licence_of(str(file)) == {"license": "mit"}
    assert read == [str(file)]
    assert len(tables) == 1
    assert gguf.GGUFReader is CountingReader
    assert gguf.get_tensor_name_map is counting_names


def test_a_large_file_is_hashed_once(untied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(untied, file := tmp_path / "model.gguf", name="tiny")
    hashed: list[Path] = []

    def counting_digest(path: Path) -> str:
        hashed.append(path)
        return file_digest(path)

    monkeypatch.setenv("NEURON_OPSD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "LARGE", 0)
    monkeypatch.setattr(digests, "file_digest", counting_digest)
    assert converted_gguf(file) == converted_gguf(file)
    assert hashed == [file]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (GPT2Config(), "family gpt2.*llama, qwen2, qwen3.*convert_hf_to_gguf.py"),
        (LlamaConfig(**SIZES, hidden_act="gelu"), "activation is gelu"),
        (
            LlamaConfig(**SIZES, rope_parameters={"rope_type": "dynamic", "factor": 2.0}),
            "scaled by 'dynamic'",
        ),
        (Qwen2Config(**SIZES, use_sliding_window=True, max_window_layers=0), "sliding window"),
    ],
)
def test_what_gguf_has_no_place_for_is_refused(config: PretrainedConfig, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        check_family(config)


def test_an_unknown_split_rule_is_refused() -> None:
    tokenizer = trained_tokenizer("gpt-2")
    tokenizer.backend_tokenizer.pre_tokenizer = Digits(individual_digits=False)
    with pytest.raises(ModelError, match=r"Digits.*gpt-2, llama-bpe, qwen2, smollm"):
        split_rule(tokenizer)


@pytest.mark.slow
def test_a_real_model_replies_as_in_transformers(tmp_path: Path) -> None:
    folder = Path(resolve_model("embedded:smollm2-135m"))
    write_gguf(folder, tmp_path / "model.gguf", name="smollm2")
    question = "Name three planets, and say in a sentence what 12 times 34 is."
    expected = by_transformers(folder, question, without=[])
    assert by_llama_cpp(tmp_path / "model.gguf", question, without=[]) == expected
