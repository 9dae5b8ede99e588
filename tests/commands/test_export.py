"""Exports hold what both roles read and no answer; each is read by the loader of the trainer it is for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import load_dataset
from typer.testing import CliRunner

from end_to_end.conftest import question_files, tiny_model_folder  # noqa: F401
from end_to_end.tiny_run import SMALL
from neuron_opsd.cli import app
from neuron_opsd.commands.export import context_text
from neuron_opsd.contexts.prompts import both_messages
from neuron_opsd.run.session import Run
from neuron_opsd.store.run_folder import RunFolder

STUDENT = [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]


@pytest.fixture
def run(tmp_path: Path, tiny_model_folder: Path, question_files: list[Path]) -> Path:  # noqa: F811
    folder = tmp_path / "run"
    words = [
        "run",
        "neuron_opsd",
        *SMALL,
        "--model",
        str(tiny_model_folder),
        "--questions",
        str(question_files[0]),
    ]
    done = CliRunner().invoke(app, [*words, "--output", str(folder), "--until", "contexts"])
    assert done.exit_code == 0, done.output
    return folder


def test_context_is_what_the_student_does_not_read():
    demonstration = [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "B!"}]
    assert context_text(STUDENT, [STUDENT[0], *demonstration, STUDENT[1]]) == "Question:\nA?\n\nAnswer:\nB!"
    assert context_text(STUDENT, STUDENT) == ""


def test_all_three_formats(run, tmp_path):
    files = {
        "trl": tmp_path / "out/trl.jsonl",
        "ms-swift": tmp_path / "out/swift.jsonl",
        "verl": tmp_path / "out/verl.parquet",
    }
    for name, file in files.items():
        done = CliRunner().invoke(app, ["export", str(run), "--format", name, "--output", str(file)])
        assert done.exit_code == 0, done.output
    session = Run(RunFolder.open(run))
    ids = session.records.kept_ids()
    student, teacher = both_messages(session, ids[0], (0, 1, 2, 3))
    reply = session.records.context(ids[0]).demonstrations[0].reply.strip()

    trl = [json.loads(line) for line in files["trl"].read_text().splitlines()]
    assert [row["question_id"] for row in trl] == ids
    assert trl[0]["prompt"] == student
    assert reply in trl[0]["privileged_context"]

    swift = [json.loads(line) for line in files["ms-swift"].read_text().splitlines()]
    assert swift[0]["messages"] == student
    assert swift[0]["teacher_prompt"].endswith(student[-1]["content"])
    assert swift[0]["teacher_prompt"].startswith(trl[0]["privileged_context"])

    verl = load_dataset(
        "parquet", data_files=str(files["verl"]), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert set(verl.column_names) == {"data_source", "prompt", "ability", "reward_model", "extra_info"}
    assert verl[0]["prompt"] == student
    assert verl[0]["extra_info"]["teacher_prompt"] == teacher
    assert {row["reward_model"]["ground_truth"] for row in verl} == {""}

    _trl_reads(files["trl"], tmp_path, student)


def _trl_reads(file: Path, tmp_path: Path, student: list[dict[str, str]]) -> None:
    """SDFTTrainer builds both prompts from the exported columns and scores them."""
    sdft = pytest.importorskip("trl.experimental.sdft", reason="this TRL has no SDFTTrainer")
    from helpers import build_tiny_model, build_tiny_tokenizer

    data = load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))
    arguments = sdft.SDFTConfig(
        output_dir=str(tmp_path / "sdft"), use_cpu=True, bf16=False, report_to=[], max_prompt_length=None,
        teacher_model_kind="live", num_generations=2, per_device_train_batch_size=2,
    )  # fmt: skip
    tokenizer = build_tiny_tokenizer()
    trainer = sdft.SDFTTrainer(
        model=build_tiny_model(), args=arguments, train_dataset=data, processing_class=tokenizer
    )
    row = data[0]
    (teacher,) = trainer.teacher_context_builder.select_generation_prompts(
        [row["prompt"]], [row["privileged_context"]]
    )
    assert teacher[-1]["role"] == "user"
    assert teacher[-1]["content"].startswith(student[-1]["content"])
    assert row["privileged_context"] in teacher[-1]["content"]
    batch = next(iter(trainer.get_train_dataloader()))
    assert {"prompt", "privileged_context"} <= set(batch[0])


@pytest.mark.slow
def test_verl_and_ms_swift_read_theirs(run, tmp_path):
    """Their own loaders, in a process whose last import path is `make peers`'s folder."""
    peers = Path(os.environ.get("NEURON_OPSD_PEERS", Path(__file__).parents[2] / ".venv-peers"))
    if not (peers / "verl").is_dir():
        pytest.skip("`make peers` was not run: neither verl nor ms-swift is there")
    for name, file in {"verl": "verl.parquet", "ms-swift": "swift.jsonl"}.items():
        done = CliRunner().invoke(
            app, ["export", str(run), "--format", name, "--output", str(tmp_path / file)]
        )
        assert done.exit_code == 0, done.output
    session = Run(RunFolder.open(run))
    student, _ = both_messages(session, session.records.kept_ids()[0], (0, 1, 2, 3))
    command = [sys.executable, str(Path(__file__).parents[1] / "peers_read.py"), str(peers), str(tmp_path)]
    done = subprocess.run(command, input=json.dumps(student), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["verl", "ms-swift"]


def test_a_wrong_format_is_refused(run, tmp_path):
    done = CliRunner().invoke(
        app, ["export", str(run), "--format", "axolotl", "--output", str(tmp_path / "x")]
    )
    assert done.exit_code != 0
    assert "trl, ms-swift, verl" in str(done.exception)
    done = CliRunner().invoke(app, ["export", str(run), "--format", "verl", "--output", str(tmp_path / "x")])
    assert ".parquet" in str(done.exception)
