"""vLLM's own server on loopback: ids, adapters, a whole run; frozen, killed and started again under a run."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from peft import PeftModel

from end_to_end.fork_run import shards_of
from engines import vllm_runs
from engines.vllm_environment import ENVIRONMENT, MODEL, NEEDS_VLLM, Server
from engines.vllm_students import GREEDY, far_student, greedy_ids, prompts
from neuron_opsd.config import EngineSettings
from neuron_opsd.engines.base import Request, Sampling
from neuron_opsd.engines.server import ServerEngine
from neuron_opsd.model.load import load_model

pytestmark = NEEDS_VLLM


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    started = Server()
    try:
        yield started
    finally:
        started.kill()


def settings(server: Server, *, timeout_s: int = 60) -> tuple[str, ...]:
    """A run's."""
    return (
        "engine.name=server",
        f"engine.url={server.url}",
        f"engine.timeout_s={timeout_s}",
        "engine.max_retries=1",
    )


def test_served_ids_and_the_students_weights(server: Server) -> None:
    student, tokenizer, end_ids = far_student()
    chosen = EngineSettings(name="server", url=server.wait(), timeout_s=60.0)
    engine = ServerEngine(chosen, tokenizer, end_ids, student=student)
    assert engine.identity()["token_ids"] == "as sampled"
    asked = [Request(prompt_ids=ids, seeds=(1, 2)) for ids in prompts(tokenizer)]
    base, trained = (greedy_ids(student, tokenizer, adapter=adapter) for adapter in (False, True))

    def ids(sampling: Sampling) -> list[list[tuple[int, ...]]]:
        done = dict(engine.generate(asked, sampling))
        return [[completion.token_ids for completion in done[i]] for i in range(len(asked))]

    assert ids(GREEDY) == [[tuple(row)] * 2 for row in base]
    engine.refresh()
    assert ids(GREEDY) == [[tuple(row)] * 2 for row in trained]
    sampled = Sampling(temperature=1.0, max_new_tokens=12)
    assert ids(sampled) == ids(sampled)
    engine.close()
    assert served_names(server) == ["smollm2"]  # the adapter is taken back


def served_names(server: Server) -> list[str]:
    listed = httpx.get(f"{server.url}/models", trust_env=False).json()["data"]
    return [model["id"] for model in listed]


def test_a_run_trains_on_what_the_server_samples_from_the_adapter_as_it_is(
    server: Server, tmp_path: Path
) -> None:
    server.wait()
    done = vllm_runs.run(tmp_path / "run", MODEL.name, *settings(server))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").exists()
    summary = json.loads((tmp_path / "run" / "rollouts" / "manifest.json").read_text())["summary"]
    assert (summary["engine"]["model"], summary["engine"]["token_ids"]) == ("smollm2", "as sampled")
    first, second = vllm_runs.steps_of(tmp_path / "run")
    base, _ = load_model(MODEL)
    assert vllm_runs.distance(base, first) < 2e-3
    assert vllm_runs.distance(base, second) > 0.1
    trained = PeftModel.from_pretrained(base, str(tmp_path / "run" / "training" / "checkpoint-1"))
    assert vllm_runs.distance(trained, second) < 2e-3
    assert served_names(server) == ["smollm2"]


def test_a_run_outlives_a_server_that_hangs_and_one_that_is_killed(server: Server, tmp_path: Path) -> None:
    folder, started = tmp_path / "run", server.wait()
    small = (
        "rollouts.shard_size=1",
        "rollouts.num_rollouts=4",
        "rollouts.max_new_tokens=16",
        "training.num_steps=4",
        "preflight.num_questions=0",
    )
    command = vllm_runs.command_of(
        folder, MODEL.name, *settings(server, timeout_s=8), *small, "--until", "train"
    )

    run = begin(command, until=folder / "rollouts" / "part-00000.parquet")
    server.send(signal.SIGSTOP)
    error = end(run, status=2)
    assert f"{started} did not answer /completions within engine.timeout_s=8 s" in error
    server.send(signal.SIGCONT)
    made = shards_of(folder)
    assert 1 <= len(made) < 6

    run = begin(command, until=folder / "training" / "checkpoint-1")
    server.kill()
    error = end(run, status=2)
    assert f"{started} cannot be reached after 2 attempts" in error
    assert made.items() <= shards_of(folder).items()
    made = shards_of(folder)
    steps = (folder / "training" / "metrics.jsonl").read_text().splitlines()
    assert 1 <= len(steps) < 4

    server.start()
    server.wait()
    log = end(begin(command), status=0)
    assert "training: resumes at step" in log
    assert made.items() <= shards_of(folder).items()
    rows = (folder / "training" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2, 3, 4]
    kept = [json.loads(row)["step"] for row in steps]
    assert rows[: len(kept) - 1] == steps[: len(kept) - 1]


def begin(command: list[str], *, until: Path | None = None) -> subprocess.Popen[str]:
    """Start a run, and wait for a file of it."""
    run = subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while until is not None and not until.exists():
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.005)
    return run


def end(run: subprocess.Popen[str], *, status: int) -> str:
    """What the run said, on one line, once it has ended as it should."""
    said = " ".join(run.communicate(timeout=240)[0].split())
    assert run.returncode == status, said
    assert "Traceback" not in said
    return said
