"""experiments/gpu.sh: its command line, carrying a model in pieces, and the whole of it at toy size."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments" / "gpu.sh"
STEPS = ["check", "grid-0", "grid-1", "grid-2", "lmsi", "signal", "kl", "study", "divergences", "speed"]


def gpu(work: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The script on a work folder of its own."""
    own = {"NEURON_OPSD_GPU_WORK": str(work), "PYTHON": sys.executable}
    environment = {name: value for name, value in os.environ.items() if name not in ("OUT", "MODEL")}
    return subprocess.run(
        ["bash", str(SCRIPT), *words],
        capture_output=True,
        text=True,
        env=environment | own | variables,
        check=False,
    )


def piece(folder: Path, number: int, content: bytes, whole: bytes) -> Path:
    """As `prepare` writes it."""
    folder = folder / f"piece-{number:02}"
    folder.mkdir(parents=True)
    files = {f"model.gguf.{number:02}-of-02": content, "model.sha256": f"{sha256(whole)}\n".encode()}
    sums = ""
    for name, data in files.items():
        (folder / name).write_bytes(data)
        sums += f"{sha256(data)}  ./{name}\n"
    (folder / "SHA256SUMS").write_text(sums)
    return folder


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_list_prints_the_steps_in_order(tmp_path):
    done = gpu(tmp_path, "list")
    assert done.returncode == 0, done.stderr
    named = [line.split()[1] for line in done.stdout.splitlines() if line[:4].strip().isdigit()]
    assert named == STEPS
    assert done.stdout.count("to do") == len(STEPS)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("nonsense",), "no step 'nonsense'"),
        (("check", "12"), "no step '12'"),
        (("--fast", "all"), "no option --fast"),
        (("--minutes", "0", "all"), "--minutes is 0"),
        (("--results",), "--results needs a value"),
        (("receive",), "receive needs a folder"),
        (("receive", "nowhere"), "nowhere holds no SHA256SUMS"),
        (("prepare",), "prepare needs a folder"),
        (("prepare", "x", "--model", "none.gguf"), "none.gguf is no file"),
        (("prepare", "x", "--add", "physics.jsonl"), "takes NAME.questions.jsonl"),
    ],
)
def test_a_mistake_ends_with_one_message(tmp_path, words, told):
    done = gpu(tmp_path, *words)
    assert done.returncode == 2
    assert done.stderr.startswith("gpu.sh: ")
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_absent_python_is_named(tmp_path):
    done = gpu(tmp_path, "list", PYTHON="/no/python")
    assert (done.returncode, "no /no/python" in done.stderr) == (2, True)


def test_pieces_join_in_any_order_and_twice_is_harmless(tmp_path):
    whole = b"GGUF" * 3
    first, second = (piece(tmp_path, i, part, whole) for i, part in ((1, whole[:7]), (2, whole[7:])))
    work = tmp_path / "work"
    told = [gpu(work, "receive", str(folder)).stdout for folder in (second, second, first, first)]
    assert told[0] == told[1] == "received 1 of 2 pieces\n"
    assert told[2].endswith(f"the model is complete: {work}/model.gguf\n")
    assert told[3] == "the model is complete already\n"
    assert (work / "model.gguf").read_bytes() == whole
    assert not list((work / "carried").glob("model.*"))


def test_a_damaged_piece_is_refused(tmp_path):
    folder = piece(tmp_path, 1, b"content", b"contents")
    (folder / "model.gguf.01-of-02").write_bytes(b"damaged")
    done = gpu(tmp_path / "work", "receive", str(folder))
    assert done.returncode == 2
    assert "is damaged" in done.stderr
    assert not (tmp_path / "work" / "carried").exists()


def test_a_whole_with_another_checksum_is_refused(tmp_path):
    pieces = [piece(tmp_path, number, b"half", b"something else") for number in (1, 2)]
    work = tmp_path / "work"
    done = [gpu(work, "receive", str(folder)) for folder in pieces]
    assert (done[0].returncode, done[1].returncode) == (0, 2)
    assert "wrong checksum" in done[1].stderr
    assert not (work / "model.gguf").exists()


def test_pieces_of_two_models_are_not_mixed(tmp_path):
    mine, other = (
        piece(tmp_path / name, number, b"x", name.encode()) for number, name in ((1, "a"), (2, "b"))
    )
    assert gpu(tmp_path / "work", "receive", str(mine)).returncode == 0
    done = gpu(tmp_path / "work", "receive", str(other))
    assert (done.returncode, "another model" in done.stderr) == (2, True)


def test_full_size_without_a_model_says_what_to_do(tmp_path):
    questions = tmp_path / "carried" / "questions"
    questions.mkdir(parents=True)
    for name in ("openbookqa", "medmcqa", "film_reviews"):
        for kind in ("questions", "answers"):
            (questions / f"{name}.{kind}.jsonl").touch()
    done = gpu(tmp_path, "check")
    assert done.returncode == 1
    assert "there is no model at" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_toy_steps_end_to_end(tmp_path):
    """Those of every kind; `--toy all` has more of the same."""
    steps = ("check", "grid-0", "signal", "speed")
    done = gpu(tmp_path, "--toy", "--minutes", "30", *steps)
    assert done.returncode == 0, done.stdout + done.stderr
    again = gpu(tmp_path, "--toy", "list").stdout
    assert all(f"{step} " in line for step, line in zip(steps, _done_lines(again), strict=True))
    results = tmp_path / "toy" / "results"
    names = {file.name for file in results.iterdir()}
    wanted = "environment.json log.txt runs.json.gz steps.tsv summary.json tables.md texts.md"
    assert names == set(wanted.split())
    summary = json.loads((results / "summary.json").read_text())
    assert list(summary) == ["openbookqa", "medmcqa"]
    assert [row["name"] for row in summary["openbookqa"]] == ["neuron_opsd", "random_context"]
    texts = (results / "texts.md").read_text()
    assert all(
        part in texts
        for part in ("signal.txt", "speed-generation.txt", "speed-neurons.txt", "speed-training")
    )


def _done_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.rstrip().endswith(" done")]
