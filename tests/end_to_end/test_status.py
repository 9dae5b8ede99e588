"""`neuron-opsd status`: what is there, what is outdated and why, and what a run then really makes again."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from end_to_end.fork_run import WholeRun
from end_to_end.test_pipeline import run
from end_to_end.test_stage_inputs import REMADE
from neuron_opsd.commands.status import OUTDATED, describe_status, run_status
from neuron_opsd.config import load_config
from neuron_opsd.config.graph import OF_THE_TRAINED_MODEL, STAGES_BEFORE
from neuron_opsd.store.run_folder import RunFolder

# What none of these runs has, though other settings would.
ABSENT = {name for name in STAGES_BEFORE if "general" in name or name.endswith("_truth")} | {
    "evaluation/contexts",
    "demonstrations",
    "gold_labels",
}


def outdated(folder: Path, override: str) -> set[str]:
    config = load_config(str(folder / "config.yaml"), overrides=[override])
    return {stage.stage for stage in run_status(RunFolder(folder), config).stages if stage.state == OUTDATED}


def expected(override: str) -> set[str]:
    remade = set(REMADE[override])
    if "training" in remade:
        remade |= set(OF_THE_TRAINED_MODEL)
    return remade - ABSENT


# Those of which a run of more shards and fewer domains has another value, or whose trained half the table lacks.
ELSEWHERE = {
    "rollouts.shard_size=7",
    "seed=7",
    "model.dtype=bfloat16",
    "questions.cross_paths=[]",
    "evaluation.temperature=0.9",
}


@pytest.mark.parametrize("override", sorted(REMADE.keys() - ELSEWHERE))
def test_status_foretells_what_a_setting_makes_again(whole_run: WholeRun, override: str) -> None:
    assert outdated(whole_run.folder, override) == expected(override)


@pytest.mark.parametrize(
    ("override", "remade"),
    [
        ("selection.fraction=0.7", expected("selection.fraction=0.7")),
        (
            "evaluation.temperature=0.9",
            {f"evaluation/{role}{what}" for role in ("base", "trained") for what in ("", "_options")},
        ),
        ("training.save_steps=7", set()),
    ],
)
def test_a_run_makes_again_what_status_foretold(
    whole_run: WholeRun, override: str, remade: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole_run.folder, folder)
    assert outdated(folder, override) == remade
    (folder / "timings.jsonl").unlink()
    assert run([*whole_run.command, override, "--output", str(folder)], monkeypatch) == 0
    assert {row["stage"] for row in RunFolder(folder).timings()} == remade
    assert outdated(folder, override) == set()


def test_the_text_names_settings_costs_and_the_holder(
    whole_run: WholeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole_run.folder, folder)
    assert run(["status", str(folder)], monkeypatch) == 0
    text = capsys.readouterr().out
    assert "no process is at work on it" in text
    assert "Every stage is finished." in text
    with RunFolder(folder).locked():
        assert run(["status", str(folder), "rollouts.temperature=0.9"], monkeypatch) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert "in use by process" in lines[f"{folder}:"]
    assert lines["questions"].split()[1] == "finished"
    assert "outdated" in lines["rollouts"]
    assert "rollouts.temperature was 0.6 and is 0.9" in lines["rollouts"]
    assert "rollouts changed" in lines["neurons"]
    assert "the model is trained again" in lines["evaluation/trained"]
    assert "about" in lines["To"]
    assert "unknown" not in lines["To"]
    with RunFolder(folder).locked():  # a look takes no lock
        pass


def test_damage_and_interruption_are_named(whole_run: WholeRun, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole_run.folder, folder)
    shard = folder / "rollouts" / "part-00001.parquet"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    states = {stage.stage: stage for stage in run_status(RunFolder(folder)).stages}
    assert (states["rollouts"].state, states["neurons"].state) == ("damaged", "finished")
    assert "part-00001.parquet" in states["rollouts"].why
    shard.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])  # seen by its checksum alone
    assert {stage.state for stage in run_status(RunFolder(folder)).stages} == {"finished"}
    states = {stage.stage: stage for stage in run_status(RunFolder(folder), verify=True).stages}
    assert states["rollouts"].state == "damaged"
    shard.write_bytes(content)

    stage = RunFolder(folder).stage("neurons")
    stage.begin((stage.manifest() or {})["inputs"])  # as a kill before `finish` leaves it
    shutil.rmtree(folder / "contexts")
    status = run_status(RunFolder(folder))
    states = {stage.stage: stage for stage in status.stages}
    assert states["neurons"].state == "unfinished"
    assert states["neurons"].num_records == states["neurons"].num_needed > 0
    assert states["contexts"].state == "not begun"
    assert "To finish" in describe_status(status)


def test_a_look_imports_no_torch_and_writes_nothing(whole_run: WholeRun) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole_run.folder.rglob("*")}
    code = (
        "import sys; from neuron_opsd import cli; sys.argv = ['neuron-opsd', 'status', sys.argv[1], '--json']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code, str(whole_run.folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [stage["state"] for stage in json.loads(done.stdout)["stages"]] == ["finished"] * 11
    assert {path: path.stat().st_mtime_ns for path in whole_run.folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "config.yaml").unlink(), "is not a run folder"),
        (lambda folder: (folder / "config.yaml").write_text("model: ["), "are damaged"),
        (lambda folder: (folder / "timings.jsonl").write_text('{"stage": 3}\n{"seconds": "x"}\nno\n'), ""),
        (lambda folder: (folder / "neurons/manifest.json").write_text("{}"), ""),
        (lambda folder: shutil.rmtree(folder / "model"), ""),
    ],
)
def test_a_spoilt_run_gives_a_message_or_a_status(
    whole_run: WholeRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil,
    says,
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole_run.folder, folder)
    spoil(folder)
    assert run(["status", str(folder)], monkeypatch) == (2 if says else 0)
    assert says in capsys.readouterr().err
