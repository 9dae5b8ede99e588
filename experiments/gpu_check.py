"""What experiments/gpu.sh asks of a machine before it works there.

    python experiments/gpu_check.py missing [--extra NAME]...    packages that are missing or too old, one a line
    python experiments/gpu_check.py model --model MODEL --dtype DTYPE --output environment.json [--needs-gpu]

`missing` needs the standard library alone. `model` loads the model, which converts a GGUF file, and asks one question.
"""

# ruff: noqa: T201
import argparse
import importlib.metadata
import json
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
GIVEN = {"torch"}  # of these neither their version's neighbours nor their dependencies are our business


def missing(extras: Sequence[str]) -> list[str]:
    """Names of the packages that the project, `extras` and what these need in turn lack; too old counts as missing."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        from pip._vendor.packaging.requirements import Requirement
    waiting = [*tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["dependencies"], *extras]
    seen, found = set[str](), list[str]()
    while waiting:
        wanted = Requirement(waiting.pop(0))
        name = wanted.name.lower().replace("_", "-")
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = None
        if version is None or not wanted.specifier.contains(version, prereleases=True):
            found.append(name)
        if version is not None and name not in seen | GIVEN:
            seen.add(name)
            waiting += importlib.metadata.requires(name) or []
    return list(dict.fromkeys(found))


def check_model(arguments: argparse.Namespace) -> None:
    """Print what the machine is and what the model says; the same goes into a file."""
    import torch
    from transformers.utils import logging

    from neuron_opsd.config import ModelSettings
    from neuron_opsd.engines.base import Request, Sampling
    from neuron_opsd.engines.hf import HFEngine
    from neuron_opsd.environment import describe_environment
    from neuron_opsd.errors import NeuronOpsdError
    from neuron_opsd.model.chat import ChatEncoder
    from neuron_opsd.model.load import load_model

    logging.disable_progress_bar()
    has_gpu = torch.cuda.is_available()
    if arguments.needs_gpu and not has_gpu:
        sys.exit("gpu.sh: torch sees no GPU here. Use --toy on a machine without one.")
    device = torch.device("cuda" if has_gpu else "cpu")
    facts = describe_environment()
    if has_gpu:
        memory = torch.cuda.get_device_properties(0).total_memory
        facts |= {"gpu_memory_gb": round(memory / 1e9, 1), "bfloat16": torch.cuda.is_bf16_supported()}
        facts["bfloat16_product_tflops"] = product_speed(device)
    try:
        began = time.perf_counter()
        model, tokenizer = load_model(ModelSettings(name=arguments.model, dtype=arguments.dtype))
    except NeuronOpsdError as error:
        sys.exit(f"gpu.sh: {error}")
    facts["model"] = {"name": Path(arguments.model).name, "dtype": arguments.dtype}
    facts["model"]["load_s"] = round(time.perf_counter() - began, 1)
    ids = ChatEncoder(tokenizer).encode(
        [{"role": "user", "content": "What is the capital of France? One word."}]
    )
    sampling = Sampling(temperature=0.0, max_new_tokens=8)
    ((_, (reply,)),) = HFEngine(model, tokenizer).generate(
        [Request(prompt_ids=tuple(ids), seeds=(0,))], sampling
    )
    facts["model"]["reply"] = tokenizer.decode(list(reply.token_ids), skip_special_tokens=True)
    text = json.dumps(facts, indent=1)
    arguments.output.write_text(text + "\n", encoding="utf-8")
    print(text)


def product_speed(device, size: int = 8192) -> float:
    """TFLOP/s of a bfloat16 matrix product; rough, so that a machine that is far off is seen."""
    import torch

    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        torch.mm(left, right)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(10):
        torch.mm(left, right)
    torch.cuda.synchronize()
    return round(10 * 2 * size**3 / (time.perf_counter() - began) / 1e12, 1)


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("missing").add_argument("--extra", action="append", default=[])
    model = commands.add_parser("model")
    model.add_argument("--model", required=True)
    model.add_argument("--dtype", required=True)
    model.add_argument("--output", type=Path, required=True)
    model.add_argument("--needs-gpu", action="store_true")
    arguments = parser.parse_args()
    if arguments.command == "missing":
        print("\n".join(missing(arguments.extra)))
    else:
        check_model(arguments)


if __name__ == "__main__":
    main()
