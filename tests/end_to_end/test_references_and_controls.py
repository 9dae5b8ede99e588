"""Recipes that need no trainer of their own: references, controls of selection, controls of the context."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from end_to_end.conftest import write_questions
from end_to_end.fork_run import NEVER_EQUAL, artefacts
from end_to_end.test_pipeline import run
from end_to_end.tiny_run import SMALL
from neuron_opsd.commands.export import export
from neuron_opsd.config import list_recipes, load_config
from neuron_opsd.config.graph import TRAINED_FROM
from neuron_opsd.contexts.replies import demonstrating_replies
from neuron_opsd.errors import ConfigError
from neuron_opsd.evaluation import stage
from neuron_opsd.run.inputs import StageInputs
from neuron_opsd.run.session import Run
from neuron_opsd.store.run_folder import RunFolder


def records(run: Path, stage: str) -> list[dict]:
    return [json.loads(line) for line in (run / stage / "records.jsonl").read_text().splitlines()]


def with_recipe(command: list[str], recipe: str) -> list[str]:
    return ["run", recipe, *command[2:]]


@pytest.fixture
def made(command: list[str], shared_stages: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes a run of a recipe up to a stage."""

    def make(recipe: str, *options: str, until: str = "contexts") -> Path:
        folder = tmp_path / recipe
        line = [*with_recipe(command, recipe), *options, "--output", str(folder), "--until", until]
        assert run(line, monkeypatch) == 0
        return folder

    return make


def test_base_is_evaluated_and_nothing_else(made) -> None:
    folder = made("base", until="report")
    assert not (folder / "rollouts").exists()
    assert not (folder / "model").exists()
    assert not (folder / "evaluation" / "trained").exists()  # it would say what base says
    results = json.loads((folder / "evaluation" / "results.json").read_text())
    difference = results["in"]["metrics"]["vote_share"]["difference"]
    assert difference["value"] == 0
    assert (folder / "report.html").is_file()


def test_base_with_context_reads_the_pool_before_each_test_question(made) -> None:
    folder = made("base_context", "contexts.num_demonstrations=2", until="report")
    assert not (folder / "selection").exists()
    assert not (folder / "model").exists()
    contexts = {row["question_id"]: row for row in records(folder, "evaluation/contexts")}
    questions = {row["question_id"]: row for row in records(folder, "questions")}
    test = {name for name, row in questions.items() if row["split"] == "test"}
    assert contexts.keys() == test
    for context in contexts.values():
        assert len(context["demonstrations"]) == 2
        assert {questions[shown["question_id"]]["split"] for shown in context["demonstrations"]} == {"train"}
        assert context["num_teacher_prompt_tokens"] > context["num_student_prompt_tokens"]
    tokens = {  # the prompts as they were read
        role: [len(r.prompt_ids) for r in stage_rollouts(folder, f"evaluation/{role}")]
        for role in ("base", "trained")
    }
    assert min(tokens["trained"]) > max(tokens["base"])


def test_a_context_that_all_share_asks_no_neurons_of_test_questions(made, monkeypatch) -> None:
    monkeypatch.setattr(stage, "capture_neurons", lambda *_, **__: pytest.fail("a test question is read"))
    options = ("contexts.retrieval=medoids", "contexts.num_demonstrations=2", "evaluation.num_samples=1")
    folder = made("base_context", *options, until="evaluate")
    shown = {
        tuple(shown["question_id"] for shown in row["demonstrations"])
        for row in records(folder, "evaluation/contexts")
    }
    assert len(shown) == 1


def stage_rollouts(folder: Path, stage: str) -> list:
    from neuron_opsd.records import Rollout

    return RunFolder(folder).stage(stage).read(Rollout)


def test_permuted_replies_keep_their_distribution_and_lose_their_question(made) -> None:
    folder = made("label_prior")
    own = {row["question_id"]: row["reply"] for row in records(folder, "rollouts")}
    shown = [d for row in records(folder, "contexts") for d in row["demonstrations"]]
    assert all(d["reply"] in own.values() for d in shown)
    assert any(d["reply"] != own[d["question_id"]] for d in shown)
    assert sorted(records_of_ring(folder)) == sorted(own.values())


def records_of_ring(folder: Path) -> list[str]:
    from neuron_opsd.contexts.replies import permuted_replies

    rollouts = {r.question_id: r for r in stage_rollouts(folder, "rollouts")}
    permuted = permuted_replies(rollouts, seed=0)
    assert permuted.keys() == rollouts.keys()
    sources = [permuted[name].reply is not rollouts[name].reply for name in rollouts]
    assert all(sources)  # a ring passes every reply on
    return [rollout.reply for rollout in permuted.values()]


def test_other_domain_demonstrates_and_is_nowhere_else(made, tmp_path: Path) -> None:
    other = write_questions(tmp_path / "third.jsonl", "third", 8)
    folder = made("other_domain_context", f"contexts.other_path={other}", "contexts.num_demonstrations=2")
    shown = {d["question_id"] for row in records(folder, "contexts") for d in row["demonstrations"]}
    assert shown
    assert all(name.startswith("third-") for name in shown)
    assert not any(row["question_id"].startswith("third-") for row in records(folder, "questions"))
    assert len(records(folder, "demonstrations")) == 8


def test_other_domain_asks_for_its_file(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [*with_recipe(command, "other_domain_context"), "--output", str(tmp_path / "run")]
    assert run(line, monkeypatch) == 2
    assert "contexts.other_path" in capsys.readouterr().err


def test_words_retrieve_without_neurons_deciding(made) -> None:
    made_by = [made(recipe) for recipe in ("tfidf_context", "embedding_context", "neuron_opsd")]
    picked = [
        [[d["question_id"] for d in row["demonstrations"]] for row in records(folder, "contexts")]
        for folder in made_by
    ]
    assert picked[0] != picked[1] != picked[2] != picked[0]


def test_every_shipped_recipe_is_valid_and_says_what_it_is() -> None:
    for name in list_recipes():
        config = load_config(name, values={"model.name": "m", "questions.path": "q"})
        assert len(config.description) > 20, name


GOLD = "USES GOLD ANSWERS: upper bound"
TRAINS_FROM = (*TRAINED_FROM, "gold_labels", "training")


def inputs_before_evaluation(recipe: str, line: list[str], answers: Path, folder: Path) -> dict[str, object]:
    """What each stage before the evaluation depends on, with these gold answers."""
    values = {"model.name": line[3], "questions.path": line[5], "evaluation.answers": [str(answers)]}
    if recipe == "other_domain_context":
        values["contexts.other_path"] = line[7]
    inputs = StageInputs(load_config(recipe, overrides=SMALL, values=values), RunFolder(folder))
    return {name: inputs.of(name) for name in TRAINS_FROM if name in inputs.made}


def write_answers(path: Path, questions: Path, letter: str) -> Path:
    ids = [json.loads(line)["question_id"] for line in questions.read_text().splitlines()]
    path.write_text("".join(json.dumps({"question_id": i, "answer": letter}) + "\n" for i in ids))
    return path


@pytest.mark.parametrize("recipe", [name for name in list_recipes() if name != "demo"])
def test_no_recipe_but_the_upper_bound_depends_on_gold_answers(
    command: list[str], tmp_path: Path, recipe: str
) -> None:
    key = [write_answers(tmp_path / f"{letter}.jsonl", Path(command[5]), letter) for letter in "AD"]
    right, poisoned = (inputs_before_evaluation(recipe, command, answers, tmp_path) for answers in key)
    differing = {name for name in right if right[name] != poisoned[name]}
    assert differing == ({"gold_labels", "training"} if recipe == "gold_upper_bound" else set())


@pytest.mark.slow
def test_the_upper_bound_learns_gold_answers_of_the_pool_and_says_so(
    made,
    command: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, options = Path(command[5]), ["training.batch_size=2", "training.truncated=keep"]
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text(
        "".join(json.dumps(row | {"choices": []}) + "\n" for row in rows)
    )  # its noise is an answer then
    rollouts = made(
        "neuron_opsd", "rollouts.num_rollouts=8", "rollouts.temperature=0.7", until="rollouts"
    )  # the bound's own
    zero_shot = {row["question_id"]: row["answer"] for row in records(rollouts, "rollouts")}
    for kind in ("right", "empty"):
        answers = [
            {"question_id": i, "answer": a if kind == "right" else ""} for i, a in zero_shot.items() if a
        ]
        (tmp_path / kind).with_suffix(".jsonl").write_text("".join(json.dumps(a) + "\n" for a in answers))
    folder = made("gold_upper_bound", *options, "--answers", str(tmp_path / "right.jsonl"), until="report")
    labels = {row["question_id"] for row in records(folder, "gold_labels")}
    pool = {row["question_id"] for row in records(folder, "questions") if row["split"] == "train"}
    assert labels
    assert labels <= pool
    for name in (
        "gold_labels/manifest.json",
        "training/manifest.json",
        "model/README.md",
        "report.md",
        "report.html",
    ):
        assert GOLD in (folder / name).read_text(), name
    assert "No gold answer was used" not in (folder / "model" / "README.md").read_text()
    assert "label-free" not in (folder / "model" / "README.md").read_text().split("---")[1]
    assert f"training: {GOLD}" in caplog.text
    line = [*with_recipe(command, "gold_upper_bound"), *options, "--output", str(tmp_path / "other")]
    with pytest.MonkeyPatch.context() as patch:
        assert run([*line, "--answers", str(tmp_path / "empty.jsonl")], patch) == 2
        assert "answers one of the" in capsys.readouterr().err
        assert run(line, patch) == 2
        assert "needs the pool's gold answers" in capsys.readouterr().err


@pytest.mark.parametrize(
    "recipe",
    [
        *("lmsi", "ttrl"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("ssd", "self_verified", "intuitor", "opsa")
        ),
    ],
)
def test_a_rival_trains_from_questions_to_a_model_and_says_what_it_is(
    made, recipe: str, lettered_model_folder: Path
) -> None:
    more = ["training.batch_size=2", "training.truncated=keep", *one_letter(lettered_model_folder)]
    more += ["training.min_truth=0.2"] if recipe == "self_verified" else []  # of a tiny model
    folder = made(recipe, "training.num_steps=1", *more, until="report")
    fine_tunes = recipe in ("lmsi", "ssd", "self_verified")
    assert (folder / "rollouts").exists() == fine_tunes
    assert not (folder / "selection").exists()
    rows = [json.loads(line) for line in (folder / "training" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1]
    assert (rows[0]["num_completion_tokens"] == 0) == fine_tunes  # they sample nothing while they train
    assert rows[0]["num_loss_tokens"] > 0
    card = (folder / "model" / "README.md").read_text()
    assert f"trained by {recipe}, a rival of Neuron-OPSD" in card
    report = (folder / "report.md").read_text()
    assert f"Trained by {recipe} from" in report
    assert "No training yet" not in report
    assert (folder / "evaluation" / "results.json").is_file()


def test_a_teacher_of_every_order_trains_and_is_looked_at_before(made, lettered_model_folder: Path) -> None:
    more = ["training.batch_size=2", "preflight.num_questions=2", "preflight.num_samples=3"]
    folder = made(
        "order_average", "training.num_steps=1", *more, *one_letter(lettered_model_folder), until="train"
    )
    rows = [json.loads(line) for line in (folder / "training" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["num_loss_tokens"] > 0
    looked_at = records(folder, "preflight")
    assert looked_at
    assert all(len(row["teacher_answers"]) == 3 for row in looked_at)
    assert any(row["reverse_kl"] > 1e-6 for row in looked_at)  # no demonstration: the orders alone differ
    averaged = [row["averaged_letter"] for row in looked_at]
    assert averaged == [
        row["teacher_letter"] for row in looked_at
    ]  # this teacher is the mean over the orders
    assert set(averaged) <= set("ABCD")
    measures = json.loads((folder / "preflight" / "verdict.json").read_text())["measures"]
    assert [m["teacher"] for m in measures if m["name"] == "order_agreement_change"] == [1.0]


def one_letter(model: Path) -> list[str]:
    return [f"model.name={model}", "rollouts.max_new_tokens=1", "training.max_new_tokens=1"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["agree_only", "ttpo"])
def test_by_vote_the_same_model_comes_of_any_gold_answers(
    command: list[str],
    recipe: str,
    lettered_model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for letter in "AD":
        monkeypatch.setenv("NEURON_OPSD_STAGES", str(tmp_path / f"cache {letter}"))
        answers = write_answers(tmp_path / f"{letter}.jsonl", Path(command[5]), letter)
        more = ["training.num_steps=2", "training.batch_size=2", *one_letter(lettered_model_folder)]
        line = [*with_recipe(command, recipe), *more, "--answers", str(answers), "--until", "train"]
        assert run([*line, "--output", str(tmp_path / letter)], monkeypatch) == 0
        found.append(artefacts(tmp_path / letter, without=NEVER_EQUAL | {"config.yaml"}))
    assert found[0] == found[1]
    metrics = [json.loads(line) for line in found[0]["training/metrics.jsonl"].splitlines()]
    for row in metrics:
        carries = row["num_loss_tokens"] / row["num_completion_tokens"]
        assert carries == pytest.approx(row["agreeing_fraction"] if recipe == "agree_only" else 1)


def test_settings_by_vote_that_cannot_work_are_refused_by_name() -> None:
    given = {"model.name": "m", "questions.path": "q"}
    for more, words in (
        ({"rollouts.num_rollouts": 1}, "training.distil is agreeing, but rollouts.num_rollouts is 1"),
        ({"contexts.retrieval": "own_group", "training.num_rollouts": 8}, "contexts.retrieval is own_group"),
        ({"training.objective": "unlikely_tokens"}, "training.objective is unlikely_tokens"),
        ({"rollouts.stop_votes": True, "training.min_vote_share": 0.5}, "training.min_vote_share is 0.5"),
        ({"training.distil": "all", "training.unlikelihood_weight": 1}, "training.unlikelihood_weight is 1"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_config("agree_only", values={**given, **more})
    load_config("agree_only", values={**given, "training.objective": "none", "rollouts.num_rollouts": 1})
    load_config("agree_only", values={**given, "rollouts.stop_votes": True})


def test_a_vote_that_nobody_can_read_is_said_before_training(
    made, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(AssertionError):  # the tiny model never answers with a letter
        made("agree_only", "rollouts.num_rollouts=2", until="train")
    assert "questions that training uses has a majority answer" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["canon", "u_opsd"])
def test_own_answers_teach_from_questions_to_a_model(made, recipe: str, lettered_model_folder: Path) -> None:
    own = ["selection.fraction=1.0", "training.batch_size=2", "training.num_steps=2"]
    folder = made(recipe, *own, *one_letter(lettered_model_folder), until="report")
    assert (folder / "rollouts").exists() == (folder / "contexts").exists() == (recipe == "canon")
    assert not (folder / "neurons").exists()
    assert not (folder / "selection").exists()
    if recipe == "canon":
        replies = {(row["question_id"], row["reply"]) for row in records(folder, "rollouts")}
        for row in records(folder, "contexts"):
            (shown,) = row["demonstrations"]
            assert shown["question_id"] == row["question_id"]
            assert (shown["question_id"], shown["reply"]) in replies
    metrics = [json.loads(line) for line in (folder / "training" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == [1, 2]
    assert ("settled_fraction" in metrics[0]) == (recipe == "u_opsd")
    assert sum(row["num_loss_tokens"] for row in metrics) > 0
    card = (folder / "model" / "README.md").read_text().replace("\\", "")  # Markdown escapes the underscore
    assert f"trained by {recipe}, a rival" in card


@pytest.mark.slow
def test_own_answers_of_selected_questions_alone(made, lettered_model_folder: Path) -> None:
    folder = made("canon", "selection.score=vote_share", *one_letter(lettered_model_folder))
    kept = {row["question_id"] for row in records(folder, "selection") if row["selected"]}
    assert {row["question_id"] for row in records(folder, "contexts")} <= kept


def test_settings_of_own_answers_that_contradict_one_another_are_refused() -> None:
    given = {"model.name": "m", "questions.path": "q"}
    for more, words in (
        (
            {"training.num_rollouts": 1, "training.distil": "all", "training.max_distilled": None},
            "training.num_rollouts is 1",
        ),
        ({"evaluation.context": True}, "evaluation.context"),
        ({"contexts.replies": "permuted"}, "contexts.replies is permuted"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_config("u_opsd", values={**given, **more})


@pytest.mark.parametrize(
    "recipe", ["lmsi", "ttrl", "u_opsd", "canon", "vote_selection", "agree_only", "self_verified"]
)
def test_a_vote_over_answers_that_nothing_asks_for_is_refused(
    command: list[str],
    recipe: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "sums.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row | {"choices": []}) + "\n" for row in rows))
    line = [*with_recipe(command, recipe), "--output", str(tmp_path / "run"), "--until", "questions"]
    assert run([*line, "prompts.answer_format=free"], monkeypatch) == 2
    told = capsys.readouterr().err
    assert ("asks about answers" if recipe == "self_verified" else "takes a vote") in told
    assert "answer_format=reasoned" in told
    assert run([*line, "prompts.answer_format=reasoned"], monkeypatch) == 0


def test_what_takes_no_vote_takes_any_question(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "sums.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row | {"choices": []}) + "\n" for row in rows))
    line = [*with_recipe(command, "opsa"), "--output", str(tmp_path / "run"), "--until", "questions"]
    assert run([*line, "prompts.answer_format=free"], monkeypatch) == 0


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ("base", "training.objective is none, which has no teacher"),
        ("ttrl", "training.objective is majority_reward, which has no teacher"),
        ("opsa", "training.objective is unlikely_tokens, which has no teacher"),
        ("u_opsd", "contexts are sampled at each step"),
    ],
)
def test_what_has_no_contexts_is_not_exported(made, recipe: str, reason: str, tmp_path: Path) -> None:
    folder = made(recipe, "selection.fraction=1.0", until="questions")
    with pytest.raises(ConfigError, match=reason):
        export(Run(RunFolder.open(folder)), format_name="trl", output=tmp_path / "x.jsonl")


@pytest.mark.slow
def test_own_answers_are_exported(made, lettered_model_folder: Path, tmp_path: Path) -> None:
    folder = made(
        "canon",
        "selection.fraction=1.0",
        "rollouts.shuffle_choices=false",
        *one_letter(lettered_model_folder),
    )
    count = export(Run(RunFolder.open(folder)), format_name="trl", output=tmp_path / "x.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    replies = {row["question_id"]: row["demonstrations"][0]["reply"] for row in records(folder, "contexts")}
    assert count == len(rows) == len(replies)
    for row in rows:
        assert row["privileged_context"] == f"Answer:\n{replies[row['question_id']]}"


def test_expressions_need_math_verify(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("neuron_opsd.early_checks.settings.is_installed", lambda: False)
    line = [*command, "--output", str(tmp_path / "run"), "--until", "questions", "prompts.answer_format=math"]
    assert run(line, monkeypatch) == 2
    assert "pip install neuron-opsd[math]" in capsys.readouterr().err


def test_a_pool_without_a_usable_reply_is_named(
    command: list[str], tmp_path: Path, monkeypatch, capsys
) -> None:
    line = [*command, "selection.usable_only=true", "--output", str(tmp_path / "run"), "--until", "select"]
    assert run(line, monkeypatch) == 2  # the tiny model never answers with a letter and ends
    assert "selection.usable_only left no question of domain sums: all" in capsys.readouterr().err


@pytest.mark.parametrize("replies", ["own", "permuted"])
def test_only_usable_replies_demonstrate(made, monkeypatch: pytest.MonkeyPatch, replies: str) -> None:
    folder = made("neuron_opsd", f"contexts.replies={replies}", until="select")
    session = Run(RunFolder.open(folder))
    rollouts = list(session.records.first_rollouts())
    assert not any(rollout.is_usable for rollout in rollouts)
    given = [replace(r, finish_reason="stop", answer="A") if i % 2 else r for i, r in enumerate(rollouts)]
    monkeypatch.setattr(session.records, "first_rollouts", lambda: iter(given))
    usable = {r.question_id for r in given if r.is_usable}
    assert demonstrating_replies(session).keys() == {r.question_id for r in given}
    session.config = session.config.model_copy(
        update={"contexts": session.config.contexts.model_copy(update={"usable_only": True})}
    )
    found = demonstrating_replies(session)
    assert found.keys() == usable
    assert {rollout.reply for rollout in found.values()} <= {r.reply for r in given if r.is_usable}


def test_the_likeliest_replies_are_selected(made) -> None:
    folder = made("log_prob_selection", "selection.fraction=0.4", until="select")
    rows = records(folder, "selection")
    logs = {
        r.question_id: sum(r.token_log_probs) / len(r.token_log_probs)
        for r in stage_rollouts(folder, "rollouts")
        if r.rollout_index == 0
    }
    kept = {row["question_id"] for row in rows if row["selected"]}
    assert 0 < len(kept) < len(rows)
    assert min(logs[i] for i in kept) >= max(logs[i] for i in logs.keys() - kept)


def test_our_variant_selects_and_shows_usable_replies(
    made, command: list[str], lettered_model_folder: Path
) -> None:
    command[3] = str(lettered_model_folder)
    folder = made("usable_replies", "rollouts.temperature=1.5")  # hot, so that some reply says something else
    usable = {r.question_id for r in stage_rollouts(folder, "rollouts") if r.is_usable}
    assert usable
    assert {row["question_id"] for row in records(folder, "selection") if row["selected"]} <= usable
    shown = {d["question_id"] for row in records(folder, "contexts") for d in row["demonstrations"]}
    assert shown
    assert shown <= usable


def test_what_the_demo_refuses_is_heard_before_its_first_run(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("neuron_opsd.commands.demo_questions.prepare_sets", lambda config: None)
    pool = write_questions(tmp_path / "sums.jsonl", "sums", 20)
    asked = [f"model.name={tiny_model_folder}", f"questions.path={pool}", "questions.cross_paths=[]"]
    asked += ["evaluation.answers=[]", "training.max_new_tokens=4000"]
    assert run(["demo", *asked, "--output", "demo"], monkeypatch) == 2
    assert "training.max_new_tokens" in capsys.readouterr().err
    assert not Path("demo-before").exists()
