"""`evaluation.exact` from the command line, beside samples of the same model; and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from end_to_end.conftest import command_for, write_questions
from end_to_end.test_bad_input import attempt, lines  # noqa: F401
from end_to_end.test_pipeline import run
from neuron_opsd.commands.status import OUTDATED, run_status
from neuron_opsd.config import EvaluationSettings
from neuron_opsd.config.graph import ROLES
from neuron_opsd.evaluation import stage
from neuron_opsd.model import base_kl
from neuron_opsd.model.base_kl import keep_states, kl_from_base
from neuron_opsd.records import BaseDivergence, ExactRollout, TruthScore
from neuron_opsd.rollouts.pseudo_label import group_by_question
from neuron_opsd.run import inputs
from neuron_opsd.store.run_folder import RunFolder

NUM_SAMPLES = 200
EXACT = "evaluation.exact=true"


@pytest.fixture(scope="module")
def command(lettered_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("exact")
    pool, cross = (
        write_questions(folder / f"{name}.jsonl", name, count) for name, count in (("sums", 20), ("other", 4))
    )
    ids = [json.loads(line)["question_id"] for file in (pool, cross) for line in file.open()]
    key = folder / "answers.jsonl"
    key.write_text("".join(json.dumps({"question_id": name, "answer": "B"}) + "\n" for name in ids))
    return [
        *command_for(lettered_model_folder, pool, cross),
        "--answers",
        str(key),
        "evaluation.temperature=0.8",
    ]


def reading_nothing(function: Callable) -> Callable:
    def called(*arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(base_kl, "states_of_texts", lambda *_: pytest.fail("a text is read again"))
            return function(*arguments)

    return called


def results_of(folder: Path) -> dict:
    return json.loads((folder / "evaluation" / "results.json").read_text())


@pytest.mark.slow
def test_many_samples_say_the_same(
    command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["run", "base", *command[2:]]
    sampled, exact = tmp_path / "sampled", tmp_path / "exact"
    assert run([*base, "--output", str(sampled), f"evaluation.num_samples={NUM_SAMPLES}"], monkeypatch) == 0
    assert run([*base, "--output", str(exact), EXACT], monkeypatch) == 0
    said = capsys.readouterr().out
    assert "As it is: accuracy on sums 0." in said
    assert "before" not in said
    found, expected = results_of(exact), results_of(sampled)
    for ours, theirs in zip(found["questions"], expected["questions"], strict=True):
        p = ours["base_correct_fraction"]
        error = (p * (1 - p) / NUM_SAMPLES) ** 0.5 + 1e-3  # a reply may go on after its letter
        assert theirs["base_correct_fraction"] == pytest.approx(p, abs=4 * error)
    for name in ("option_confidence", "option_mass", "option_ece"):
        values = [block["in"]["metrics"][name]["base"]["value"] for block in (found, expected)]
        assert values[0] == pytest.approx(values[1], abs=1e-4)
    assert not (exact / "evaluation" / "base_options").exists()
    assert "not samples" in (exact / "report.md").read_text()
    assert "is_exact" not in expected


@pytest.mark.slow
def test_a_whole_run_with_shuffled_choices_and_general_questions(
    command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    general = write_questions(tmp_path / "general.jsonl", "general", 5)
    extra = [EXACT, "evaluation.shuffle_choices=true", f"evaluation.general_paths=[{general}]"]
    for function in (keep_states, kl_from_base):
        monkeypatch.setattr(stage, function.__name__, reading_nothing(function))
    assert run([*command, *extra, "--output", str(tmp_path / "run")], monkeypatch) == 0
    folder = RunFolder.open(tmp_path / "run")
    texts = [
        (answer.prompt_ids, answer.completion_ids)
        for answer in folder.stage("evaluation/general_base").read(ExactRollout)
        if answer.rollout_index == 0
    ]
    base, trained = (
        AutoModelForCausalLM.from_pretrained(path) for path in (command[3], str(folder.model_folder))
    )
    expected = kl_from_base(trained, texts, keep_states(base, texts))
    sums = [item.kl for item in folder.stage("evaluation/general_kl").read(BaseDivergence)]
    assert sums == pytest.approx(expected, rel=1e-3)
    assert min(sums) > 0
    answers = folder.stage("evaluation/base").read(ExactRollout)
    assert {answer.rollout_index for answer in answers} == {0, 1, 2}
    assert len({answer.choice_order for answer in answers}) > 3
    assert all(sum(answer.answer_probabilities) == pytest.approx(1, abs=1e-3) for answer in answers)
    found = results_of(folder.path)
    assert found["general"]["domains"]["general"]["metrics"]["vote_share"]["base"]["value"]
    assert run([*command, *extra, "--output", str(tmp_path / "run")], monkeypatch) == 0  # nothing to do


def test_the_second_model_may_read_a_context(
    command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["run", "base", *command[2:]]
    assert run([*base, EXACT, "evaluation.context=true", "--output", str(tmp_path / "run")], monkeypatch) == 0
    assert "In the field: accuracy on " in capsys.readouterr().out
    assert results_of(tmp_path / "run")["is_exact"]
    monkeypatch.setattr(inputs, "READER_VERSION", 99)
    found = {stage.stage: stage.state for stage in run_status(RunFolder.open(tmp_path / "run")).stages}
    assert found["evaluation/base"] == OUTDATED  # a newer reader needs another pass


def test_the_model_that_reads_a_context_is_asked_about_its_answer_after_it(
    command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["run", "base_context", *command[2:], EXACT, "evaluation.p_true=true", "contexts.retrieval=random"]
    assert run([*line, "--output", str(tmp_path / "run")], monkeypatch) == 0
    folder = RunFolder.open(tmp_path / "run")
    bare, after = (
        {one.question_id: one for one in folder.stage(f"evaluation/{role}_truth").read(TruthScore)}
        for role in ROLES
    )
    alike = [name for name in bare.keys() & after.keys() if bare[name].answer == after[name].answer]
    assert alike
    assert all(
        bare[name].yes_no_mass != after[name].yes_no_mass for name in alike
    )  # the share is ever a half here
    states = {stage.stage: stage for stage in run_status(folder).stages}
    assert states["evaluation/trained_truth"].state == states["evaluation/base_truth"].state


def test_the_second_model_may_average_the_cyclic_orders(
    command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = [
        "run",
        "base_order_average",
        *command[2:],
        "evaluation.p_true=true",
        "--output",
        str(tmp_path / "run"),
    ]
    assert run(line, monkeypatch) == 0
    folder = RunFolder.open(tmp_path / "run")
    groups = group_by_question(folder.stage("evaluation/trained").read(ExactRollout))
    found = {row["question_id"]: row for row in results_of(folder.path)["questions"]}
    for question_id, group in groups.items():
        assert [answer.choice_order for answer in group] == [
            (0, 1, 2, 3),
            (1, 2, 3, 0),
            (2, 3, 0, 1),
            (3, 0, 1, 2),
        ]
        mean = sum(answer.answer_probabilities[1] for answer in group) / 4  # the key says B
        assert found[question_id]["trained_correct_fraction"] == pytest.approx(mean, abs=1e-6)
    (state,) = (stage for stage in run_status(folder).stages if stage.stage == "evaluation/trained")
    told = folder.stage("evaluation/trained_truth").read(TruthScore)
    assert {one.question_id: one.answer for one in told} == {
        name: row["trained_answer"] for name, row in found.items() if row["trained_answer"] is not None
    }
    assert "p_true" in results_of(folder.path)["in"]["confidence_kinds"]
    assert "P(True)" in (folder.path / "report.md").read_text()
    depends_on = [folder.stage(f"evaluation/{role}").manifest()["inputs"]["evaluation"] for role in ROLES]
    assert [made_from.get("order_average") for made_from in depends_on] == [None, True]
    assert state.num_records == state.num_needed == 4 * len(found)
    base = {answer.question_id: answer for answer in folder.stage("evaluation/base").read(ExactRollout)}
    assert all(
        group[0].answer_probabilities == base[name].answer_probabilities for name, group in groups.items()
    )


def test_an_average_without_probabilities_is_refused() -> None:
    with pytest.raises(ValueError, match=r"evaluation\.exact is false"):
        EvaluationSettings(order_average=True)


@pytest.mark.parametrize(
    ("overrides", "questions", "expected"),
    [
        ([], None, "prompts.answer_format is reasoned. Use prompts.answer_format=letter"),
        (
            ["prompts.answer_format=letter"],
            lines(*({"question_id": f"f{i}", "question": f"What is {i} + 1?"} for i in range(20))),
            "have no choices (f",
        ),
        (
            ["prompts.answer_format=letter", "engine.name=server", "engine.url=http://127.0.0.1:9/v1"],
            None,
            "engine.name is server",
        ),
        (
            ["prompts.answer_format=letter", "prompts.answer_pattern=([A-D])"],
            None,
            "prompts.answer_pattern reads longer",
        ),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(attempt, overrides, questions, expected) -> None:  # noqa: F811
    message = attempt(EXACT, *overrides, questions=questions)
    assert "evaluation.exact reads answers of one token" in message
    assert expected in message
