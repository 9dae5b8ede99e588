"""Every setting outdates exactly the stages whose records it changes: no stale record is used, no work is done twice.

The rule is by section; what departs from it stands in a table, with its reason where it changes no record at all.
"""

import functools
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from end_to_end.conftest import command_for, write_questions
from end_to_end.test_stage_inputs import (
    AFTER_NEURONS,
    AFTER_ROLLOUTS,
    AFTER_SELECTION,
    ALL,
    BASE,
    GENERAL,
    MODEL_WORK,
    POOL,
    TEST,
    changed,
    fingerprints,
    settings,
)
from neuron_opsd.config import Config, check_config
from neuron_opsd.errors import ConfigError
from neuron_opsd.run.inputs import CODE_VERSIONS

BY_SECTION = {
    "model": MODEL_WORK,
    "prompts": MODEL_WORK,
    "questions": ALL - GENERAL,
    "rollouts": POOL,
    "neurons": AFTER_ROLLOUTS,
    "selection": AFTER_NEURONS,
    "contexts": AFTER_SELECTION,
    "preflight": {"preflight"},
    "training": {"training"},
    "evaluation": BASE,
}

NO_RECORD = {
    "recipe": "a name",
    "description": "words",
    "num_threads": "rounding alone",
    "model.device": "rounding alone",
    "model.device_map": "rounding alone",
    "model.trust_remote_code": "lets code run; the code is among the model's files",
    "questions.fields": "what is read counts, not under which name it stood",
    "questions.answer_base": "read by evaluation; no record before results.json holds an answer",
    "questions.max_bad_fraction": "which rows are left out counts, and none is here",
    "rollouts.batch_size": "rounding alone",
    "neurons.batch_size": "rounding alone",
    "evaluation.batch_size": "rounding alone",
    "engine.url": "where a server stands",
    "engine.cache_tokens": "rounding alone",
    "engine.concurrency": "speed",
    "engine.timeout_s": "patience",
    "engine.max_retries": "patience",
    "engine.adapter_root": "where adapters are handed over",
    "engine.max_model_len": "memory",
    "engine.tensor_parallel": "rounding alone",
    "engine.gpu_memory_share": "memory",
    "engine.enforce_eager": "rounding alone",
    "contexts.other_path": "read for retrieval=other_domain alone",
    "training.keep_prefixes": "rounding alone",
    "training.loss_chunk_tokens": "rounding alone",
    "training.micro_batch_size": "memory, and rounding",
    "training.save_steps": "what a kill can lose",
    "evaluation.answers": "no answer is in a record before results.json, which is always written anew",
    "evaluation.general_answers": "the same",
    "evaluation.context": "which stages there are, not what is in them",
    "evaluation.option_probability": "which stages there are",
    "evaluation.p_true": "which stages there are",
    "evaluation.max_general": "there are no general questions here",
    "evaluation.pass_k": "results.json is always written anew",
    "evaluation.num_bins": "results.json is always written anew",
    "evaluation.num_bootstrap": "the same",
}

DEPARTS = {
    "seed": MODEL_WORK,
    "model.teacher_template_args": AFTER_SELECTION,
    "questions.cross_paths": {"questions", *TEST},
    "questions.max_test": {"questions", *TEST},
    "questions.max_train": {"questions", *POOL},
    "prompts.keep_thinking": AFTER_SELECTION,
    # Option probabilities read samples without their answers. P(True) is asked about those answers.
    "prompts.answer_pattern": POOL
    | {f"evaluation/{asked}base{what}" for asked in ("", "general_") for what in ("", "_truth")},
    "rollouts.shard_size": MODEL_WORK,
    "engine.name": MODEL_WORK,
    "engine.served_model": MODEL_WORK,
    "training.objective": AFTER_SELECTION,  # others than distillation read no context
    "training.max_new_tokens": AFTER_SELECTION,  # what it takes of the model's context is not the prompt's
    "training.teacher_orders": {"preflight", "training"},  # the preflight's teacher reads them, too
    "training.teacher_entropy": {"preflight", "training"},  # what its verdict says of sureness depends on it
    "evaluation.general_samples": GENERAL,
    "evaluation.exact": BASE,
    "evaluation.order_average": set(),  # an input of the second model's stages alone
}

# Values that differ from the run's, where the type alone does not say one.
OTHER = {
    "model.chat_template": None,  # a file: made by the test
    "model.template_date": "2027-03-05",
    "model.template_args": {"extra": 1},
    "model.teacher_template_args": {"extra": 1},
    "prompts.answer_pattern": "([A-D])",
    "questions.cross_paths": [],
    "questions.max_train": 9,
    "questions.max_test": 2,
    "questions.test_fraction": 0.6,
    "questions.fields": {"question": "question"},
    "training.max_new_tokens": 5,
    "training.quantization": "4bit",
    "training.lora.dropout": 0.5,
    "training.micro_batch_size": 1,
    "training.trainer": {"adam_beta1": 0.8},
    "evaluation.answers": ["a.jsonl"],
    "evaluation.pass_k": 1,
    "evaluation.general_answers": ["a.jsonl"],
    "contexts.max_prompt_tokens": 64,
}
# What a setting needs beside it to be allowed, or to be read at all.
WITH = {
    "engine.served_model": ["engine.name=server", "engine.url=http://127.0.0.1:9/v1"],
    "selection.score": ["rollouts.num_rollouts=2"],
    "rollouts.stop_votes": ["rollouts.num_rollouts=2"],
    "evaluation.order_average": ["evaluation.exact=true"],
    "training.unlikely_fraction": ["training.objective=unlikely_tokens"],
    "training.distil": ["training.num_rollouts=2"],
    "training.min_truth": ["training.objective=verified_sft"],
    "training.unlikelihood_weight": ["rollouts.num_rollouts=2", "training.distil=agreeing"],
    "training.max_distilled": ["training.num_rollouts=2", "training.distil=disagreeing"],
    "training.quantization": ["training.save=adapter"],
}
# Another file is another model or another set of questions: tests of their own.
OWN_TESTS = {"model.name", "questions.path", "questions.domain", "evaluation.general_paths"}


def leaves(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(name, type) of every setting."""
    for name, field in section.model_fields.items():
        kinds = [field.annotation, *typing.get_args(field.annotation)]
        below = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if below:
            yield from leaves(below[0], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.annotation


SETTINGS = {name: kind for name, kind in leaves(Config) if name not in OWN_TESTS}


def expected(name: str) -> set[str]:
    if name in NO_RECORD:
        return set()
    return DEPARTS.get(name, BY_SECTION.get(name.partition(".")[0], {"no section's rule"}))


def others(name: str, kind: Any, value: Any) -> list[Any]:
    """Values other than the run's, likeliest to be allowed first."""
    if name in OTHER:
        return [OTHER[name]]
    kinds = [kind, *typing.get_args(kind)]
    choices = [
        choice for one in kinds if typing.get_origin(one) is Literal for choice in typing.get_args(one)
    ]
    if choices or typing.get_origin(kind) is Literal:
        return [choice for choice in choices or typing.get_args(kind) if choice != value]
    if bool in kinds:
        return [not value]
    if isinstance(value, (int, float)):
        return [value + 1, value / 2, value * 2]
    if any(
        str(one).startswith(("typing.Annotated[int", "<class 'float'>", "<class 'int'>")) for one in kinds
    ):
        return [7]
    return ["other"]


@pytest.fixture(scope="module")
def command(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("settings")
    files = (write_questions(folder / f"{name}.jsonl", name, 20) for name in ("sums", "other"))
    return command_for(tiny_model_folder, *files)


@pytest.fixture(scope="module")
def plain(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, str]]:
    """The fingerprints of a run, worked out once for all tests that change a setting of it."""
    folder = tmp_path_factory.mktemp("plain")
    return functools.cache(lambda *beside: fingerprints(settings(command, *beside), folder))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_outdates_what_it_changes(
    command: list[str], plain: Callable[..., dict[str, str]], tmp_path: Path, name: str
) -> None:
    if name == "model.chat_template":
        OTHER[name] = str(tmp_path / "template.jinja")
        (tmp_path / "template.jinja").write_text("{{ messages[0]['content'] }}")
    beside = WITH.get(name, [])
    before = settings(command, *beside)
    for value in others(name, SETTINGS[name], value_of(before, name)):
        after = with_value(before, name, value)
        if after is not None:
            break
    else:
        pytest.fail(f"No other value of {name} is allowed: give one in OTHER, with what it needs in WITH.")
    remade = changed(plain(*beside), fingerprints(after, tmp_path))
    assert remade == expected(name), f"{name}={value}"


def test_gradient_checkpointing_outdates_nothing(command: list[str], tmp_path: Path) -> None:
    before, after = (
        fingerprints(settings(command, f"training.trainer={trainer}"), tmp_path)
        for trainer in ("{adam_beta1: 0.8}", "{adam_beta1: 0.8, gradient_checkpointing: true}")
    )
    assert changed(before, after) == set()


def value_of(config: Config, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def with_value(config: Config, name: str, value: Any) -> Config | None:
    """The settings with one changed; None where that value is not allowed."""
    values = config.model_dump(mode="json")
    *sections, key = name.split(".")
    place = values
    for section in sections:
        place = place[section]
    place[key] = value
    try:
        return check_config(values)
    except ConfigError:
        return None


def test_the_tables_name_settings_that_exist() -> None:
    named = {*NO_RECORD, *DEPARTS, *OTHER, *OWN_TESTS, *WITH}
    assert named <= {name for name, _ in leaves(Config)}


@pytest.mark.parametrize("stage", sorted(ALL))
def test_a_raised_code_version_outdates_its_stage_and_what_reads_it(
    command: list[str],
    plain: Callable[..., dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
) -> None:
    before = plain()
    monkeypatch.setitem(CODE_VERSIONS, stage, 99)
    after = fingerprints(settings(command), tmp_path)
    assert stage in changed(before, after)
