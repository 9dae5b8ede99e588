"""Where the hub cannot be reached, that is found out once, and what is cached is used."""

import os
from pathlib import Path

import pytest
from datasets import config
from huggingface_hub import constants
from transformers import LlamaConfig

from neuron_opsd.config import ModelSettings
from neuron_opsd.errors import DataError, ModelError
from neuron_opsd.model.load import load_model_config
from neuron_opsd.questions.read import read_questions

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The hub's cache, while nothing answers where the hub should be."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    for name, value in {"HF_HUB_OFFLINE": False, "ENDPOINT": NOWHERE, "HF_HUB_CACHE": str(tmp_path)}.items():
        monkeypatch.setattr(constants, name, value)
    return tmp_path


def test_a_model_that_is_not_here_is_refused(cache: Path) -> None:
    with pytest.raises(ModelError, match=f"no/such is neither .* {NOWHERE} cannot be reached .* HF_ENDPOINT"):
        load_model_config(ModelSettings(name="no/such"))
    assert not constants.HF_HUB_OFFLINE  # in a notebook the network may come back


def test_a_cached_model_is_taken_from_there(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = cache / "models--an--it"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("a" * 40)
    LlamaConfig(num_hidden_layers=3).save_pretrained(folder / "snapshots" / ("a" * 40))
    assert load_model_config(ModelSettings(name="an/it")).num_hidden_layers == 3
    assert caplog.text.count(f"{NOWHERE} cannot be reached") == 1
    assert constants.HF_HUB_OFFLINE
    assert os.environ["HF_HUB_OFFLINE"] == "1"  # for the processes that this one starts


def test_a_data_set_that_is_not_here_is_refused(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DataError, match=r"no/such is not a file here, .* cannot load"):
        read_questions("no/such")
    assert f"{NOWHERE} cannot be reached" in caplog.text
    assert config.HF_HUB_OFFLINE
