"""A hostile run: a server that echoes the key and writes escape sequences, and questions whose domain does too."""

import json
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from end_to_end.conftest import command_for, write_questions
from end_to_end.fork_run import ForkedRun
from engines.test_server import serve  # noqa: F401  (a fixture)
from neuron_opsd.records import Rollout
from neuron_opsd.redaction import redact
from neuron_opsd.store.run_folder import RunFolder

KEY = 'sk"planted\\secret-0123456789'
TOKEN = "hf_PlantedHubTokenOf0123456789"
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egpj\u2066\r"
SERVED = ["engine.name=server", "engine.max_retries=0", "--until", "rollouts"]


def assert_clean(text: str, *, of: str = "") -> None:
    """No control but line breaks and tabs, nothing that reorders text, no secret."""
    bad = [c for c in text if unicodedata.category(c) == "Cc" and c not in "\n\t"]
    bad += [c for c in text if c in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f"]
    assert bad == [], of
    for secret in (KEY, TOKEN, json.dumps(KEY)[1:-1]):
        assert secret not in text, of


@pytest.fixture
def asked(tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command of a run on questions of a hostile domain, with secrets in the environment."""
    monkeypatch.setenv("NEURON_OPSD_API_KEY", f" {KEY}\r\n")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    pool = write_questions(tmp_path / "pool.jsonl", "sums", 20)
    rows = [json.loads(line) | {"domain": f"sums{ESCAPES}"} for line in pool.read_text().splitlines()]
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return command_for(tiny_model_folder, pool, write_questions(tmp_path / "cross.jsonl", "other", 6))


def outcome(arguments: list[str], tmp_path: Path) -> tuple[int, str]:
    log = tmp_path / "log"
    status = ForkedRun([*arguments, "--output", str(tmp_path / "run")], log).wait()
    return status, log.read_text(encoding="utf-8", errors="surrogateescape")


def files_of(run: Path) -> dict[str, str]:
    return {
        str(path): path.read_bytes().decode(errors="replace")
        for path in run.rglob("*")
        if path.is_file() and path.suffix != ".parquet"
    }


@pytest.mark.parametrize("in_replies", [False, True])
def test_a_server_that_echoes_the_key(
    serve,  # noqa: F811
    asked: list[str],
    tmp_path: Path,
    in_replies: bool,
) -> None:
    keys = []

    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        keys.append(body["_key"])
        if path == "/v1/models":
            return 200, {"data": [{"id": "served"}]}
        if path == "/version":
            return 200, {"version": f"1 {KEY}"}
        return 200, {
            "choices": [{"text": f"A {KEY if in_replies else ''}", "finish_reason": "stop", "logprobs": None}]
        }

    status, said = outcome([*asked, *SERVED, f"engine.url={serve(answer)}"], tmp_path)
    assert status == (2 if in_replies else 0), said
    assert ("wrote the value of NEURON_OPSD_API_KEY in a reply" in " ".join(said.split())) == in_replies
    assert set(keys) == {f"Bearer {KEY}"}  # as it is, without the line break
    assert_clean(said)
    files = files_of(tmp_path / "run")
    assert in_replies or any("records.jsonl" in name for name in files)
    for name, text in files.items():
        assert KEY not in text, name
        assert json.dumps(KEY)[1:-1] not in text, name
        assert TOKEN not in text, name


def test_a_password_that_is_a_word_changes_no_reply_and_no_setting(
    serve,  # noqa: F811
    asked: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/v1/models":
            return 200, {"data": [{"id": "postgres-7b"}]}
        reply = {"text": "The database is postgres. A", "finish_reason": "stop", "logprobs": None}
        return 200, {"choices": [reply]}

    monkeypatch.setenv("POSTGRES_PASSWORD", "postgres")
    pool = tmp_path / "postgres" / "q.jsonl"
    pool.parent.mkdir()
    pool.write_bytes((tmp_path / "pool.jsonl").read_bytes())
    command = [str(pool) if word == str(tmp_path / "pool.jsonl") else word for word in asked]
    assert command != asked
    command += [*SERVED, f"engine.url={serve(answer)}"]
    for _ in range(2):  # also the run that is there
        status, said = outcome(command, tmp_path)
        assert status == 0, said
    assert {rollout.reply for rollout in RunFolder(tmp_path / "run").stage("rollouts").read(Rollout)} == {
        "The database is postgres. A"
    }
    assert RunFolder(tmp_path / "run").config().questions.path == str(pool)


def test_a_long_text_is_looked_through_in_no_time() -> None:
    start = time.process_time()
    for long in ("a" * 200_000, "a." * 100_000, "a://" * 50_000):
        assert redact(long) == long
    assert time.process_time() - start < 2


@pytest.mark.parametrize("status", [401, 500])
def test_a_refusal_that_echoes_the_key_and_orders_the_terminal(
    serve,  # noqa: F811
    asked: list[str],
    tmp_path: Path,
    status: int,
) -> None:
    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return status, {"error": f"no {ESCAPES} Authorization: Bearer {KEY} {TOKEN}"}

    ended, said = outcome([*asked, *SERVED, f"engine.url={serve(answer)}"], tmp_path)
    assert ended == 2
    assert f"answers {status}" in said
    assert_clean(said)
    for name, text in files_of(tmp_path / "run").items():
        assert KEY not in text, name


SECRET_SETTINGS = [
    ("engine.url=http://user:hunter2hunter2@127.0.0.1:9/v1", "NEURON_OPSD_API_KEY"),
    ("engine.url=http://hunter2hunter2@127.0.0.1:9/v1", "NEURON_OPSD_API_KEY"),
    ("engine.url=http://127.0.0.1:9/v1?api_key=hunter2hunter2", "NEURON_OPSD_API_KEY"),
    ("engine.api_key=hunter2hunter2", "NEURON_OPSD_API_KEY"),
    ("training.trainer={hub_token: hunter2hunter2}", "HF_TOKEN"),
    ("training.trainer={deepspeed: {x: {password: hunter2hunter2}}}", "environment variable"),
    (f"model.name={TOKEN}", "environment variable"),
    ("prompts.system=Bearer hunter2hunter2", "environment variable"),
]


@pytest.mark.parametrize(("setting", "variable"), SECRET_SETTINGS)
def test_a_secret_in_a_setting_is_refused_and_not_shown(
    asked: list[str], tmp_path: Path, setting: str, variable: str
) -> None:
    status, said = outcome([*asked, *SERVED, setting], tmp_path)
    assert status == 2
    assert "hunter2hunter2" not in said
    assert_clean(said)
    assert variable in " ".join(said.split())
    assert not (tmp_path / "run").exists()


def test_a_key_that_no_header_can_carry(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_OPSD_API_KEY", "two words\nof-a-secret")
    status, said = outcome([*asked, *SERVED, "engine.url=http://127.0.0.1:9/v1"], tmp_path)
    assert status == 2
    assert "NEURON_OPSD_API_KEY holds white space" in said
    assert "of-a-secret" not in said


@pytest.mark.parametrize(
    "name", ["x\x1b[31m.y=1", "selection.\u202efraction=1", 'training.trainer={"a\x9b": 1}']
)
def test_a_setting_that_orders_the_terminal(asked: list[str], tmp_path: Path, name: str) -> None:
    status, said = outcome([*asked, *SERVED, name], tmp_path)
    assert status == 2
    assert_clean(said)


def test_what_is_shown_of_a_hostile_run(asked: list[str], tmp_path: Path) -> None:
    """Without a server: every view of a run whose domain, questions and answer file order the terminal."""
    answers = tmp_path / "answers.jsonl"
    rows = [{"question_id": f"nobody{ESCAPES}", "answer": f"A{ESCAPES}"}]
    rows += [{"question_id": f"sums-{i}", "answer": "A"} for i in range(20)]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, said = outcome([*asked, "--until", "contexts", "--answers", str(answers)], tmp_path)
    assert_clean(said)
    assert status == 0, said
    run = tmp_path / "run"
    asked_first = json.loads((run / "contexts" / "records.jsonl").read_text().splitlines()[0])["question_id"]
    for arguments in (["show", str(run), asked_first], ["explain", str(run), asked_first], ["status", str(run)],
                      ["report", str(run)], ["show", str(run), ESCAPES], ["status", f"{run}{ESCAPES}"]):  # fmt: skip
        ForkedRun(arguments, tmp_path / "view").wait()
        assert_clean((tmp_path / "view").read_text(errors="surrogateescape"), of=arguments[0])
    assert_clean((run / "report.md").read_text(), of="report.md")
