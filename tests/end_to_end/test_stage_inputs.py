"""Which setting makes which stages again, and a stage command on outdated stages."""

import json
from itertools import permutations
from pathlib import Path

import pytest

from end_to_end.test_pipeline import run
from neuron_opsd.config import Config, load_config
from neuron_opsd.config.graph import OF_THE_TRAINED_MODEL, STAGES_BEFORE
from neuron_opsd.questions import load
from neuron_opsd.records import Question
from neuron_opsd.run.inputs import StageInputs
from neuron_opsd.store.run_folder import RunFolder

# What reads the trained weights can be told after training alone; some stages are made by some recipes alone.
LEFT_OUT = {*OF_THE_TRAINED_MODEL, "demonstrations", "gold_labels", "evaluation/contexts"}
STAGES = [name for name in STAGES_BEFORE if name not in LEFT_OUT]
ALL = set(STAGES)
AFTER_SELECTION = {"contexts", "preflight", "training"}
AFTER_NEURONS = {"selection", *AFTER_SELECTION}
AFTER_ROLLOUTS = {"neurons", *AFTER_NEURONS}
POOL = {"rollouts", *AFTER_ROLLOUTS}
TEST = {"evaluation/base", "evaluation/base_options", "evaluation/base_truth"}
GENERAL = {
    "evaluation/general_base",
    "evaluation/general_base_options",
    "evaluation/general_base_truth",
}
BASE = TEST | GENERAL
MODEL_WORK = POOL | BASE

REMADE = {
    "rollouts.temperature=0.9": POOL,
    "rollouts.num_rollouts=3": POOL,
    "rollouts.max_new_tokens=7": POOL,
    "rollouts.batch_size=3": set(),
    "rollouts.shard_size=7": MODEL_WORK,
    "neurons.activation=gate_up": AFTER_ROLLOUTS,
    "neurons.batch_size=3": set(),
    "selection.fraction=0.7": AFTER_NEURONS,
    "selection.score=random": AFTER_NEURONS,
    "contexts.num_demonstrations=1": AFTER_SELECTION,
    "contexts.order=nearest_last": AFTER_SELECTION,
    "preflight.num_questions=2": {"preflight"},
    "prompts.keep_thinking=true": AFTER_SELECTION,
    "prompts.system=Be brief.": MODEL_WORK,
    "prompts.answer_format=reasoned": MODEL_WORK,
    "model.dtype=bfloat16": MODEL_WORK,
    "model.device=cuda": set(),
    "model.template_args={extra: 1}": MODEL_WORK,
    "model.teacher_template_args={extra: 1}": AFTER_SELECTION,
    "seed=7": MODEL_WORK,
    "training.learning_rate=0.5": {"training"},
    "training.max_new_tokens=5": AFTER_SELECTION,  # what it takes of the model's context is not the prompt's
    "training.save_steps=7": set(),
    "training.teacher_entropy=matched": {"preflight", "training"},
    "training.loss_chunk_tokens=7": set(),
    "evaluation.temperature=0.9": BASE,
    "evaluation.max_general=7": set(),  # there are none
    "evaluation.general_samples=5": GENERAL,
    "evaluation.batch_size=3": set(),
    "evaluation.num_bootstrap=60": set(),
    "engine.name=vllm": MODEL_WORK,
    "engine.timeout_s=7": set(),
    "num_threads=1": set(),
    "recipe=another": set(),
    "questions.cross_paths=[]": {"questions", *TEST},  # the pool is as it was
    "questions.max_train=9": {"questions", *POOL},  # the test questions are as they were
}


def settings(command: list[str], *overrides: str) -> Config:
    paths = {"questions.cross_paths": [command[7]], "model.name": command[3], "questions.path": command[5]}
    return load_config("neuron_opsd", overrides=[*command[8:], *overrides], values=paths)


def fingerprints(config: Config, folder: Path) -> dict[str, str]:
    inputs = StageInputs(config, RunFolder(folder))
    return {name: inputs.fingerprint(name) for name in STAGES}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in STAGES if before[name] != after[name]}


def test_each_setting_makes_again_what_depends_on_it_and_no_more(command: list[str], tmp_path: Path) -> None:
    before = fingerprints(settings(command), tmp_path)
    remade = {
        override: changed(before, fingerprints(_with(settings(command), override), tmp_path))
        for override in REMADE
    }
    assert remade == REMADE


def _with(config: Config, override: str) -> Config:
    """The settings with one changed, whatever else named it before."""
    import yaml

    from neuron_opsd.config import check_config

    name, _, text = override.partition("=")
    values = config.model_dump(mode="json")
    *sections, key = name.split(".")
    place = values
    for section in sections:
        place = place[section]
    place[key] = yaml.safe_load(text)
    return check_config(values)


def test_training_names_only_settings_that_it_reads(command: list[str], tmp_path: Path) -> None:
    """A model that was trained before there was such a setting is not trained again for it."""
    orders = {"teacher_orders", "orders_version", "teacher_entropy", "entropy_at"}
    plain, ordered = (
        StageInputs(settings(command, *extra), RunFolder(tmp_path)).of("training")["training"].keys()
        for extra in ([], ["training.teacher_orders=2", "training.teacher_entropy=matched"])
    )
    assert (plain & orders, ordered & orders) == (set(), orders)


@pytest.mark.parametrize("setting", ["teacher_entropy", "student_entropy"])
def test_the_temperature_at_which_entropies_are_matched_counts(
    command: list[str], tmp_path: Path, setting: str
) -> None:
    """Of a recipe without rollouts, too, whose temperature nothing else reads."""
    found = [
        StageInputs(
            settings(command, f"training.{setting}=matched", f"rollouts.temperature={temperature}"),
            RunFolder(tmp_path),
        ).of("training")["training"]["entropy_at"]
        for temperature in (0.6, 1.0)
    ]
    assert found == [0.6, 1.0]


def test_what_questions_say_counts(command: list[str], tmp_path: Path) -> None:
    before = fingerprints(settings(command), tmp_path)
    pool = Path(command[5])
    rows = [json.loads(line) for line in pool.read_text().splitlines()]
    pool.write_text("".join(json.dumps(row | {"question": row["question"] + " Now?"}) + "\n" for row in rows))
    assert changed(before, fingerprints(settings(command), tmp_path)) == ALL - GENERAL


def test_choices_count_where_they_move_no_question(command: list[str], tmp_path: Path) -> None:
    """One question alone: of several, other choices change the order, too."""
    general, found = tmp_path / "general.jsonl", []
    for other in ("no", "never"):
        row = {"question_id": "g", "domain": "g", "question": "Is it so?", "choices": ["yes", other]}
        general.write_text(json.dumps(row))
        config = settings(command, f"evaluation.general_paths=[{general}]")
        found.append(fingerprints(config, tmp_path))
    assert changed(*found) == GENERAL


def test_test_questions_are_asked_in_an_order_of_their_own() -> None:
    """Runs that train on different domains read their files in another order, and share the answers."""
    asked = [
        Question(question_id=name, domain=name[0], question="?", split="test") for name in ("a1", "a2", "b1")
    ]
    trained_on = Question(question_id="a0", domain="a", question="?")
    for questions in permutations([*asked, trained_on]):
        assert load.test_questions(questions) == asked


def test_a_stage_command_refuses_outdated_stages_and_says_why(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert run([*command, "--output", str(folder), "--until", "neurons"], monkeypatch) == 0
    more = ["--until", "questions", "rollouts.temperature=0.9"]
    assert run([*command, "--output", str(folder), *more], monkeypatch) == 0
    before = (folder / "neurons" / "manifest.json").read_bytes()
    capsys.readouterr()
    assert run(["neurons", str(folder)], monkeypatch) == 2
    message = capsys.readouterr().err
    assert "rollouts.temperature was 0.6 and is 0.9" in message
    assert "neuron-opsd rollouts RUN" in message
    assert (folder / "neurons" / "manifest.json").read_bytes() == before

    Path(command[5]).unlink()  # the run holds its questions
    assert run(["rollouts", str(folder)], monkeypatch) == 0
    assert run(["neurons", str(folder)], monkeypatch) == 0
