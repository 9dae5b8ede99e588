"""What each recipe is: the method's published values, and how every other recipe departs from them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from neuron_opsd.config import list_recipes, load_config
from neuron_opsd.errors import ConfigError

# Of arXiv 2607.02460, as docs/method.md has them.
METHOD = {
    "rollouts.num_rollouts": 1,
    "rollouts.temperature": 0.6,
    "neurons.activation": "gate",
    "neurons.score": "unembed",
    "neurons.alignment": "predicting",
    "neurons.entries_fraction": 0.206,
    "neurons.overlap_fraction": 0.0143,
    "selection.score": "consensus",
    "selection.keep": "lowest",
    "selection.fraction": 0.2,
    "contexts.retrieval": "neuron_overlap",
    "contexts.num_demonstrations": 10,
    "contexts.max_prompt_tokens": 10240,
    "training.objective": "distillation",
    "training.divergence": "reverse_kl",
    "training.teacher": "ema",
    "training.ema_rate": 0.01,
    "training.num_steps": 150,
    "training.batch_size": 16,
    "training.temperature": 1.0,
    "training.warmup_steps": 10,
    "training.max_grad_norm": 1.0,
    "training.learning_rate": None,  # by the kind of weights: 5e-6 for adapters
    "training.lora.rank": 64,
    "training.lora.alpha": 128,
    "evaluation.num_samples": 8,
    "evaluation.temperature": 0.6,
    "evaluation.num_bins": 15,
}
WORDS = ("recipe", "description", "contexts.other_path")


def settings(recipe: str) -> dict[str, Any]:
    given = {"model.name": "m", "questions.path": "q"}
    if recipe == "other_domain_context":
        given["contexts.other_path"] = "o"
    return dict(leaves(load_config(recipe, values=given).model_dump(mode="json")))


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value and prefix + name != "training.trainer":
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def test_the_method_has_the_published_values() -> None:
    found = settings("neuron_opsd")
    assert {name: found[name] for name in METHOD} == METHOD


def test_every_recipe_departs_from_the_method_as_written() -> None:
    method = settings("neuron_opsd")
    found = {
        recipe: {
            name: value
            for name, value in settings(recipe).items()
            if value != method.get(name) and name not in WORDS
        }
        for recipe in list_recipes()
        if recipe != "demo"  # its sizes are the demo's own
    }
    table = Path(__file__).with_name("recipes.yaml")
    assert found == yaml.safe_load(table.read_text(encoding="utf-8"))
    assert [recipe for recipe, departs in found.items() if not departs] == ["neuron_opsd"]


def test_a_shipped_recipes_name_as_an_override_is_refused():
    """It would name the run, and run another recipe."""
    values = {"model.name": "m", "questions.path": "q"}
    with pytest.raises(ConfigError, match="`neuron-opsd run ssd`"):
        load_config("neuron_opsd", overrides=["recipe=ssd"], values=values)
    assert load_config("neuron_opsd", overrides=["recipe=mine"], values=values).recipe == "mine"


@pytest.mark.parametrize("recipe", ["lmsi", "ssd", "ttrl", "intuitor"])
def test_a_choice_of_completions_that_training_would_not_read_is_refused(recipe: str):
    """It was silently unread. `objective=none` keeps it, so that a recipe's untrained run can be asked for."""
    values = {"model.name": "m", "questions.path": "q"}
    with pytest.raises(ConfigError, match=r"training\.distil is disagreeing, but training\.objective is"):
        load_config(
            recipe, overrides=["training.distil=disagreeing", "training.num_rollouts=8"], values=values
        )
    load_config("u_opsd", overrides=["training.objective=none"], values=values)
