"""vLLM's own environment (`make venv-vllm`), and a server of it that tests may freeze, kill and start again."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from neuron_opsd.config import ModelSettings
from neuron_opsd.model.load import resolve_model

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("NEURON_OPSD_VLLM", ROOT / ".venv-vllm")) / "bin" / "python"
MODEL = ModelSettings(name="embedded:smollm2-135m", dtype="float32")
ENVIRONMENT = os.environ | {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT / "src"),
}
NEEDS_VLLM = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="no vLLM environment: make venv-vllm"),
]


class Server:
    """`vllm serve` on loopback with the small real model, in float32, ready to load adapters."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.start()

    def start(self) -> None:
        """Begin to start, on the same port each time."""
        command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", resolve_model(MODEL.name)]
        command += ["--served-model-name", "smollm2", "--dtype", "float32", "--enforce-eager"]
        command += ["--enable-lora", "--max-lora-rank", "8", "--max-model-len", "1024"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        self.process = subprocess.Popen(command, env=ENVIRONMENT, start_new_session=True)

    def wait(self) -> str:
        """The URL, once it answers."""
        for _ in range(300):
            assert self.process.poll() is None, "the server ended"
            try:
                httpx.get(f"{self.url}/models", timeout=2, trust_env=False).raise_for_status()
                return self.url
            except httpx.HTTPError:
                time.sleep(1)
        raise AssertionError("the server did not start in five minutes")

    def send(self, number: int) -> None:
        """A signal to all of its processes."""
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """At once, as the kernel does when memory runs out."""
        if self.process.poll() is None:
            self.send(signal.SIGKILL)
        self.process.wait()
