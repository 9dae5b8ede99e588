"""A model's fingerprint is that of its bytes, whatever the notes in the cache say."""

import os
import resource
import shutil
from pathlib import Path

import pytest

from neuron_opsd.model.fingerprint import model_fingerprint

LARGE = 2**24 + 1


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEURON_OPSD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def model(folder: Path, letter: bytes) -> str:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(letter * LARGE)
    return str(folder)


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "merges.txt", "tokenizer.model", "chat_template.jinja", "model.bin"],
)
def test_every_file_that_makes_a_model_counts(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b"a")
    before = model_fingerprint(str(tmp_path))
    (tmp_path / name).write_bytes(b"b")
    assert model_fingerprint(str(tmp_path)) != before


@pytest.mark.parametrize(
    "left", [b"", b"0", b"0" * 63, b"0" * 65, b"0" * 64 + b"\n", b"\xff" * 64, b"x" * 64, None]
)
def test_a_note_that_is_no_full_digest_is_not_believed(
    tmp_path: Path, cache: Path, left: bytes | None
) -> None:
    name = model(tmp_path / "a", b"a")
    right = model_fingerprint(name)
    (note,) = (cache / "digests").iterdir()
    if left is None:
        note.unlink()
        note.symlink_to("/dev/zero")
    else:
        note.write_bytes(left)
    assert model_fingerprint(name) == right


def test_a_note_that_others_may_write_is_not_believed(tmp_path: Path, cache: Path) -> None:
    name = model(tmp_path / "a", b"a")
    right = model_fingerprint(name)
    (note,) = (cache / "digests").iterdir()
    note.write_text("0" * 64)
    assert model_fingerprint(name) != right  # of its owner it is believed
    note.chmod(0o666)
    assert model_fingerprint(name) == right


def test_a_full_cache_disk_leaves_no_note(tmp_path: Path, cache: Path) -> None:
    names = [model(tmp_path / letter, letter.encode()) for letter in "ab"]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        found = [model_fingerprint(name) for name in names for _ in range(2)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((cache / "digests").iterdir()) == []
    assert [found[0], found[2]] == [found[1], found[3]]
    assert found[0] != found[2]
    assert found[::2] == [model_fingerprint(name) for name in names]


def test_other_weights_of_equal_size_and_time_are_other_weights(tmp_path: Path, cache: Path) -> None:
    """`cp -p` over the file keeps path, inode, size and mtime; a rename keeps all but the inode."""
    name, other = model(tmp_path / "a", b"a"), model(tmp_path / "b", b"b")
    weights, others = Path(name) / "model.safetensors", Path(other) / "model.safetensors"
    os.utime(weights, ns=(10**18, 10**18))
    os.utime(others, ns=(10**18, 10**18))
    before = model_fingerprint(name)
    shutil.copy2(others, weights)
    assert model_fingerprint(name) == model_fingerprint(other) != before
