"""`neuron-opsd push` against a server on loopback that speaks the hub's protocol: what arrives is the model alone."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from neuron_opsd import cli
from neuron_opsd.commands.push import push
from neuron_opsd.config import load_config
from neuron_opsd.errors import HubError, RunFolderError
from neuron_opsd.store.run_folder import RunFolder

TOKEN = "hf_secret"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished training stage with a model, as far as `push` looks; and records that must stay here."""
    config = load_config("neuron_opsd", values={"model.name": "any", "questions.path": "any"})
    folder = RunFolder.create(tmp_path / "run")
    folder.write_config(config)
    model = folder.path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "README.md").write_text("# card")
    stage = folder.stage("training")
    stage.begin({"seed": 0})
    stage.finish({}, files=[model / "model.safetensors"])
    return folder.path


@pytest.fixture
def hub():
    """The hub's calls that an upload makes; every file comes within the commit."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.seen = []  # pyright: ignore[reportAttributeAccessIssue]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


class Hub(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
        self.server.seen.append((self.path, self.headers["Authorization"], body))  # pyright: ignore[reportAttributeAccessIssue]
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid credentials"})
        if self.path.endswith("/preupload/main"):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        address = f"http://127.0.0.1:{self.server.server_address[1]}/o/m"
        return self.answer(
            200,
            {
                "url": address,
                "commitUrl": f"{address}/commit/0123abcd",
                "commitOid": "0123abcd",
                "success": True,
            },
        )

    def do_GET(self):
        self.answer(200, {"id": "o/m", "sha": "0123abcd", "siblings": []})

    def answer(self, status: int, body: dict) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


def test_the_model_arrives_and_nothing_else(run, hub):
    own = {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}",
        "HF_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(run.parent / "hf"),
    }
    command = [sys.executable, "-m", "neuron_opsd.cli", "push", str(run), "o/m"]
    done = subprocess.run(
        command, env={**os.environ, **own}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("/commit/0123abcd")
    calls = {path: body for path, _, body in hub.seen}
    assert json.loads(calls["/api/repos/create"])["visibility"] == "private"
    lines = [json.loads(line) for line in calls["/api/models/o/m/commit/main"].splitlines()]
    files = {line["value"]["path"]: line["value"]["content"] for line in lines if line["key"] == "file"}
    assert {path: base64.b64decode(content) for path, content in files.items()} == {
        "model.safetensors": b"weights",
        "README.md": b"# card",
    }


def test_a_wrong_token_and_no_hub_are_told(run, hub, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for endpoint, token in (
        (f"http://127.0.0.1:{hub.server_address[1]}", "hf_other"),
        ("http://127.0.0.1:9", TOKEN),
    ):
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", endpoint)
        monkeypatch.setenv("HF_TOKEN", token)
        monkeypatch.setattr(sys, "argv", ["neuron-opsd", "push", str(run), "o/m", "--public"])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        told = capsys.readouterr().err
        assert stop.value.code == 2
        assert "o/m was not pushed" in " ".join(told.split())
        assert "Traceback" not in told
        assert token not in told


def test_offline_nothing_is_sent(run, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        push(RunFolder.open(run), "o/m")


def test_a_changed_model_stays_here(run):
    (run / "model/model.safetensors").write_bytes(b"changed")
    with pytest.raises(RunFolderError, match=r"model\.safetensors is corrupted"):
        push(RunFolder.open(run), "o/m")


def test_an_unfinished_run_has_no_model(run):
    (run / "training/manifest.json").unlink()
    with pytest.raises(RunFolderError, match="training is not finished"):
        push(RunFolder.open(run), "o/m")
