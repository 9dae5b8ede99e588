"""Every test: one torch thread, no hub, and the shapes written in signatures checked by jaxtyping + beartype."""

import functools
import gc
import importlib.metadata
import os
import sys
from pathlib import Path

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
    OMP_WAIT_POLICY="PASSIVE",
    NEURON_OPSD_STAGES="off",  # a test computes; those of the cache name one
)

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

# pytest's rewritten assertions and our modules are compiled once, and not anew by each process of the tests, of which
# there are many. `make clean` removes what is kept.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

SOURCE = Path(__file__).parents[1] / "src"


def modules_with_shapes() -> list[str]:
    """Those that write shapes in signatures: in the others a check of each call finds no shape and costs time."""
    paths = [
        path
        for room in ("model", "neurons")
        for path in sorted((SOURCE / "neuron_opsd" / room).glob("*.py"))
        if "jaxtyping" in path.read_text(encoding="utf-8")
    ]
    return [".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in paths]


install_import_hook(modules_with_shapes(), "shapes.check")

# Which packages are installed stays as it is; each stage of each run writes it down.
importlib.metadata.version = functools.cache(importlib.metadata.version)

# Each run of the tests draws the same examples; HYPOTHESIS_PROFILE=search draws new ones.
settings.register_profile(
    "fixed",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.register_profile("search", settings.get_profile("fixed"), derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


def pytest_xdist_make_scheduler(config, log):
    """With --dist loadfile the whole runs stay in one process, which makes their models and their fork server once.

    So do the tests of vLLM: two at a time would wait for each other's cores and memory.
    """
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            together = ("tests/end_to_end/", "tests/engines/test_vllm")
            return next((part for part in together if part in nodeid), super()._split_scope(nodeid))

    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


num_kept = 0  # modules
gc.disable()  # while the tests are collected: what they import stays


def pytest_collection_finish() -> None:
    keep_imports()
    gc.enable()


def pytest_runtest_teardown() -> None:
    if len(sys.modules) > num_kept + 100:  # a test imported torch, or transformers' trainer
        gc.collect()
        keep_imports()


def keep_imports() -> None:
    """Leave the imports out of garbage collection: accelerate collects at the start and the end of each training."""
    global num_kept
    num_kept = len(sys.modules)
    gc.freeze()


# torch comes with the first test that needs it: the process that only hands out tests does without.
@pytest.fixture(scope="session")
def tiny_model():
    """A tiny random llama; read only: a test that trains builds its own."""
    from helpers import build_tiny_model

    return build_tiny_model()


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """Byte-level, with a ChatML template."""
    from helpers import build_tiny_tokenizer

    return build_tiny_tokenizer()
