"""Whatever generation configuration a base has, what is loaded can be saved, and what was unset is known."""

import pytest
from transformers import GenerationConfig

from neuron_opsd.model.generation import unset_invalid


@pytest.mark.parametrize(
    ("given", "unset"),
    [
        ({}, {}),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, {}),
        ({"temperature": 0.7}, {"temperature": 0.7}),
        ({"temperature": 0.6, "top_p": 0.9, "top_k": 20}, {"temperature": 0.6, "top_p": 0.9, "top_k": 20}),
        ({"early_stopping": True, "length_penalty": 2.0}, {"early_stopping": True, "length_penalty": 2.0}),
        ({"use_cache": False, "cache_implementation": "static"}, {"cache_implementation": "static"}),
        ({"pad_token_id": -1, "temperature": 0.7}, {"pad_token_id": -1, "temperature": 0.7}),
    ],
)
def test_what_cannot_be_saved_is_unset(given, unset, tmp_path) -> None:
    config = GenerationConfig.from_dict({"eos_token_id": [2, 5], "max_length": 99, **given})
    assert unset_invalid(config) == unset
    config.eos_token_id = [2]
    config.save_pretrained(tmp_path)
    kept = GenerationConfig.from_pretrained(tmp_path)
    assert kept.max_length == 99
    assert all(getattr(kept, name) == value for name, value in given.items() if name not in unset)
