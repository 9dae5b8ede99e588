"""Run the Dockerfile's steps without Docker, in a clean virtual environment: `run_dockerfile.py FOLDER [--borrow]`.

COPY, WORKDIR, ARG, ENV and RUN do in FOLDER what they do in an image, for the base that this machine is. A RUN that
installs packages of the system is named and left out. --borrow takes dependencies from the environment that runs this
script, so that nothing large is downloaded.
"""

import argparse
import os
import re
import shutil
import site
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
OURS = {"BASE": "this machine", "PIP_EXTRA_INDEX_URL": ""}  # build arguments


def instructions(text: str) -> list[tuple[str, str]]:
    """Each instruction and its arguments, continued lines joined, comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [
        (word, rest)
        for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())
    ]


def main() -> None:
    """Run every step. The exit status is that of the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--borrow", action="store_true")
    arguments = parser.parse_args()
    root = arguments.folder.absolute()
    root.mkdir(parents=True, exist_ok=True)
    variables = {"PATH": os.environ["PATH"]}
    given = OURS | {"VENV": str(root / "venv")}
    here = root
    for word, rest in instructions((ROOT / "Dockerfile").read_text(encoding="utf-8")):
        if word == "ARG":
            name, _, value = rest.partition("=")
            variables[name] = given.get(name, value.strip('"'))
        elif word == "ENV":
            for name, value in re.findall(r"(\w+)=(\S+)", rest):
                variables[name] = re.sub(r"\$\{(\w+)\}", lambda found: variables[found[1]], value)
        elif word == "WORKDIR":
            here = root / rest.lstrip("/")
            here.mkdir(parents=True, exist_ok=True)
        elif word == "COPY":
            copy(rest.split(), here)
        elif word == "RUN" and "apt-get" in rest:
            print(f"not run: {rest}", flush=True)
        elif word == "RUN":
            print(f"run: {rest}", flush=True)
            subprocess.run(["sh", "-c", rest], cwd=here, env=os.environ | variables, check=True)
            if arguments.borrow and "-m venv" in rest:
                lend(Path(variables["VENV"]))


def copy(paths: list[str], here: Path) -> None:
    """COPY: files into the folder, a folder's content into a folder of that name."""
    *sources, target = paths
    for source in sources:
        if (ROOT / source).is_dir():
            shutil.copytree(
                ROOT / source,
                here / target,
                dirs_exist_ok=True,
                ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"),
            )
        else:
            shutil.copy(ROOT / source, here / target)


def lend(environment: Path) -> None:
    """Let a virtual environment find the packages of this one, behind its own."""
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text("\n".join(site.getsitepackages()))


if __name__ == "__main__":
    sys.exit(main())
