"""GGUF files that are cut short, empty or made up are refused by name."""

import struct
from pathlib import Path

import pytest
from transformers import LlamaConfig

from model.test_gguf_write import SIZES, save, trained_tokenizer
from neuron_opsd.errors import ModelError
from neuron_opsd.model.gguf import converted_gguf, embedded_gguf
from neuron_opsd.model.gguf_write import write_gguf


@pytest.fixture(scope="module")
def begins() -> bytes:
    return embedded_gguf("embedded:smollm2-135m").read_bytes()[: 2**20]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("small")
    save(LlamaConfig(**SIZES), trained_tokenizer("gpt-2"), folder / "model")
    write_gguf(folder / "model", folder / "model.gguf", name="tiny")
    return (folder / "model.gguf").read_bytes()


HEAD = b"GGUF" + struct.pack("<I", 3)
CONTENTS = {
    "empty": b"",
    "magic alone": b"GGUF",
    "no magic": b"\0" * 64,
    "an old version": b"GGUF" + struct.pack("<IQQ", 99, 0, 0),
    "nothing in it": HEAD + struct.pack("<QQ", 0, 0),
    "absurd counts": HEAD + struct.pack("<QQ", 2**62, 2**62) + b"\0" * 64,
    "an absurd key": HEAD + struct.pack("<QQQ", 0, 1, 2**61) + b"\0" * 64,
    "an unknown type": HEAD + struct.pack("<QQQ", 0, 1, 1) + b"k" + struct.pack("<I", 77),
    "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
}


@pytest.mark.parametrize("name", CONTENTS)
def test_made_up_files_are_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_OPSD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "m.gguf").write_bytes(CONTENTS[name])
    with pytest.raises(ModelError, match=r"m\.gguf"):
        converted_gguf(tmp_path / "m.gguf")
    assert not list((tmp_path / "cache").rglob("config.json"))


@pytest.mark.parametrize("length", [24, 4096, 2**20])
def test_an_interrupted_download_is_refused(
    tmp_path: Path, begins: bytes, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_OPSD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "m.gguf").write_bytes(begins[:length])
    with pytest.raises(ModelError, match=r"m\.gguf"):
        converted_gguf(tmp_path / "m.gguf")


@pytest.mark.parametrize("part", [0.5, 0.999])
def test_a_file_whose_weights_are_cut_is_refused(
    tmp_path: Path, small: bytes, part: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its description is whole."""
    monkeypatch.setenv("NEURON_OPSD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "m.gguf").write_bytes(small)
    assert converted_gguf(tmp_path / "m.gguf")
    (tmp_path / "m.gguf").write_bytes(small[: int(part * len(small))])
    with pytest.raises(ModelError, match=r"m\.gguf"):
        converted_gguf(tmp_path / "m.gguf")
