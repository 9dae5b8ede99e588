"""Whatever a configuration holds, it is refused with a ConfigError, or it means after saving what it meant before."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malformed import result_or_message, spoiled
from neuron_opsd.config import Config, load_config
from neuron_opsd.errors import ConfigError
from neuron_opsd.store.run_folder import RunFolder

GOOD = b"""\
recipe: mine
seed: 7
model: {name: folder/model, template_args: {enable_thinking: false}}
questions:
  path: questions.jsonl
  cross_paths: [a.jsonl, b.csv]
rollouts:
  temperature: 0.6
selection: {score: consensus, fraction: 0.2}
training: {lora: {rank: 8}, trainer: {optim: sgd}}
"""
NEEDED = {"model.name": "m", "questions.path": "q.jsonl"}
paths = st.sampled_from(
    ["seed", "model", "model.name", "questions.cross_paths", "rollouts.temperature", "training.lora",
     "training.trainer",
     "training.lora.rank.x", "no.such", "", ".", "a..b", "training.trainer.seed.x", "evaluation.num_samples"]
)  # fmt: skip
yaml_values = st.text(max_size=12) | st.sampled_from(
    ["null", ".nan", ".inf", "-1", "1e400", "[", "{a: 1}", "[1, [2]]", "&a [*a]", "{[1]: 2}", "2020-13-45", "0o9",
     "!!python/object:os.system x", "{1: 2}", '"\\ud800"', '"\\0"', "9" * 5000, "~", "=", "<<", "0x_", "1:99:99"]
)  # fmt: skip


def keeps(config: Config | None, folder: Path) -> bool:
    """Whether a run folder gives these settings back."""
    assert config is not None
    run = RunFolder.create(folder)
    run.write_config(config)
    return repr(run.config()) == repr(config)  # by their text, since nan is not nan


@settings(max_examples=200)
@given(data=spoiled(GOOD) | st.binary(max_size=60))
def test_a_spoiled_recipe_is_refused_or_kept_as_it_is(tmp_path, data):
    (tmp_path / "recipe.yaml").write_bytes(data)
    config, message = result_or_message(lambda: load_config(str(tmp_path / "recipe.yaml"), values=NEEDED))
    assert message or keeps(config, tmp_path / "run")


@settings(max_examples=300)
@given(path=paths | st.text(max_size=8), value=yaml_values)
def test_any_override_is_refused_or_kept_as_it_is(tmp_path, path, value):
    override = f"{path}={value}"
    config, message = result_or_message(
        lambda: load_config("neuron_opsd", overrides=[override], values=NEEDED)
    )
    assert message or keeps(config, tmp_path / "run")


@settings(max_examples=200)
@given(data=spoiled(GOOD))
def test_spoiled_settings_of_a_run_are_named(tmp_path, data):
    (RunFolder.create(tmp_path).path / "config.yaml").write_bytes(data)
    config, message = result_or_message(lambda: RunFolder.open(tmp_path).config())
    assert config or "config.yaml" in message


@pytest.mark.parametrize("value", ["4294967296", "-1", ".nan"])
def test_a_seed_is_one_that_every_library_takes(value):
    with pytest.raises(ConfigError, match="seed is"):
        load_config("neuron_opsd", overrides=[f"seed={value}"], values=NEEDED)


@pytest.mark.parametrize("depth", [1, 40])
def test_a_few_lines_do_not_stand_for_more_than_memory_holds(tmp_path, depth):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, depth + 1)]
    (tmp_path / "recipe.yaml").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="Write it out"):
        load_config(str(tmp_path / "recipe.yaml"), values=NEEDED)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("seed: 1\nseed: 2", "'seed' is given twice"),
        ("training:\n  num_steps: 1\n  num_steps: 2", "'num_steps' is given twice.*line 3"),
        ("1: 2", "a setting's name must be text"),
        ("training:\n  trainer: {2020-01-01: 1}", "a setting's name must be text"),
        ("? null\n: 1", "a setting's name must be text"),
    ],
)
def test_a_setting_stands_once_and_its_name_is_text(tmp_path, recipe, message):
    (tmp_path / "recipe.yaml").write_text(recipe)
    with pytest.raises(ConfigError, match=f"recipe.yaml is not valid YAML: .*{message}"):
        load_config(str(tmp_path / "recipe.yaml"))


def test_a_name_that_no_file_can_have_is_no_recipe():
    with pytest.raises(ConfigError, match="No recipe"):
        load_config("x" * 5000)


def test_a_message_ends_with_one_full_stop() -> None:
    for override in ("evaluation={exact: true, stop_votes: true}", "training=5", "seed=x"):
        _, message = result_or_message(
            lambda override=override: load_config("neuron_opsd", overrides=[override], values=NEEDED)
        )
        assert message
        assert ".." not in message
