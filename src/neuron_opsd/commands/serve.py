"""The command of vLLM's or transformers' own server for the trained model of a run. There is no server of ours."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

from neuron_opsd.config import Config
from neuron_opsd.engines.student_folders import vllm_rank
from neuron_opsd.errors import ConfigError
from neuron_opsd.model.locate import ADAPTER_CONFIG, is_adapter_folder, resolve_model
from neuron_opsd.store.files import read_json
from neuron_opsd.store.run_folder import RunFolder

SERVERS = ("vllm", "transformers")
HOST = "127.0.0.1"  # this machine alone: neither server asks who is there
INSTALL = {"vllm": "pip install 'neuron-opsd[vllm]'", "transformers": "pip install 'transformers[serving]'"}


def server_command(folder: RunFolder, *, server: str | None = None, port: int = 8000) -> list[str]:
    """The command line, program first.

    Args:
        folder: A run with a trained model.
        server: "vllm" or "transformers". Default: vLLM where it is installed.
        port: On the loopback address.

    Raises:
        RunFolderError: no trained model, or a damaged one.
        ConfigError: no such server, or a model that it cannot serve.
    """
    folder.require_model()
    server = server or ("vllm" if importlib.util.find_spec("vllm") else "transformers")
    if server not in SERVERS:
        raise ConfigError(f"--server is {server!r}. It must be one of {', '.join(SERVERS)}.")
    model, config = folder.model_folder.resolve(), folder.config()
    make = _vllm if server == "vllm" else _transformers
    return [*make(model, config), "--host", HOST, "--port", str(port), *_code_of_others(config)]


def _vllm(model: Path, config: Config) -> list[str]:
    command, name = ["vllm", "serve", str(model)], model.parent.name
    if is_adapter_folder(str(model)):
        rank = (read_json(model / ADAPTER_CONFIG) or {}).get("r", config.training.lora.rank)
        command = ["vllm", "serve", resolve_model(config.model.name), "--tokenizer", str(model)]
        command += ["--enable-lora", "--max-lora-rank", str(vllm_rank(rank))]
        command += ["--lora-modules", f"{name}={model}"]
    else:
        command += ["--served-model-name", name]
    if config.model.template_args:
        command += ["--default-chat-template-kwargs", json.dumps(config.model.template_args)]
    return command


def _transformers(model: Path, config: Config) -> list[str]:
    if is_adapter_folder(str(model)):
        raise ConfigError(
            f"{model} is an adapter alone, which `transformers serve` cannot load. Use --server vllm, or publish a "
            "whole model: `neuron-opsd run` again with training.save=merged."
        )
    command = ["transformers", "serve", str(model)]
    if config.model.template_args:
        command += ["--chat-template-kwargs", json.dumps(config.model.template_args)]
    return command


def _code_of_others(config: Config) -> list[str]:
    return ["--trust-remote-code"] if config.model.trust_remote_code else []


def find_program(name: str) -> str:
    """Where the server's program is: beside this Python, or on the path.

    Raises:
        ConfigError: nowhere, or without the packages that a server needs. Says what to install.
    """
    beside = shutil.which(name, path=str(Path(sys.executable).parent))
    if (found := beside or shutil.which(name)) is None:
        raise ConfigError(f"{name} is not installed. Run {INSTALL[name]}, or see the command with --print.")
    if name == "transformers" and beside and not _can_serve():
        raise ConfigError(
            f"The server of transformers needs further packages. Run {INSTALL[name]}, or see the command with --print."
        )
    return found


def _can_serve() -> bool:
    from transformers.utils.import_utils import is_serve_available

    return is_serve_available()
