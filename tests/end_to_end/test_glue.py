"""The glue between the stages: whose weights answered, what was compared with what, and which questions were used.

One whole run on a tiny model. Everything is worked out again here from its records, with plain transformers.
"""

import json
import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

from end_to_end.conftest import command_for, write_questions
from end_to_end.test_pipeline import run
from neuron_opsd.config import NeuronSettings
from neuron_opsd.contexts.prompts import both_messages
from neuron_opsd.engines.base import Request, sampling_of
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.model.fingerprint import model_fingerprint
from neuron_opsd.model.load import end_token_ids
from neuron_opsd.neurons.capture import capture_neurons
from neuron_opsd.preflight.stage import prompt_pairs
from neuron_opsd.random_state import derive_seed
from neuron_opsd.records import NeuronSets, PreflightItem, Question, Rollout, SelectedQuestion, TeacherContext
from neuron_opsd.run.inputs import preflight_sampling
from neuron_opsd.run.session import Run
from neuron_opsd.store.run_folder import RunFolder
from neuron_opsd.training.prompts import TrainingPrompts

GOLD = "ABCD"
SETTINGS = [
    "rollouts.num_rollouts=2",
    "rollouts.temperature=2.0",  # both replies to a question differ
    "neurons.overlap_size=40",  # enough neurons that a wrong neighbour shows
    "training.learning_rate=0.003",
    "preflight.num_questions=4",
    "evaluation.temperature=0.8",
]


@pytest.fixture(scope="module")
def made(lettered_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with answers and general questions."""
    folder = tmp_path_factory.mktemp("glue")
    counts = {"sums": 24, "other": 8, "general": 5}
    pool, cross, general = (
        write_questions(folder / f"{name}.jsonl", name, count) for name, count in counts.items()
    )
    add_near_duplicates(pool)
    key = folder / "answers.jsonl"
    ids = [json.loads(line)["question_id"] for file in (pool, cross, general) for line in file.open()]
    rows = [{"question_id": name, "answer": gold_of(name)} for name in ids]
    key.write_text("".join(json.dumps(row) + "\n" for row in rows))
    extra = [f"evaluation.general_paths=[{general}]", f"evaluation.general_answers=[{key}]"]
    command = [*command_for(lettered_model_folder, pool, cross), *SETTINGS, *extra, "--answers", str(key)]
    with pytest.MonkeyPatch.context() as patch:
        assert run([*command, "--output", str(folder / "run")], patch) == 0
    return folder / "run"


def add_near_duplicates(pool: Path) -> None:
    """Questions that differ in one sign of a long text: near by their neurons, but no example for one another."""
    long = (
        "A grocer counts apples and pears in the morning, sells some of them, and counts again at night. " * 3
    )
    rows = [
        {
            "question_id": f"sums-{24 + i}",
            "domain": "sums",
            "question": f"{long}Are {n} left?",
            "choices": list("wxyz"),
        }
        for i, n in enumerate((7, 8, 9))
    ]
    with pool.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def is_near_duplicate(one: str, other: str) -> bool:
    return all(int(name.split("-")[1]) >= 24 for name in (one, other))


def gold_of(question_id: str) -> str:
    return GOLD[int(question_id.split("-")[1]) % 4]


def plain_model(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@torch.no_grad()
def log_probs(model: PreTrainedModel, prompt: tuple[int, ...], completion: tuple[int, ...]) -> torch.Tensor:
    """(tokens, vocabulary), of each completion token."""
    logits = model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits.float(), dim=-1)


@pytest.mark.parametrize(
    ("stage", "is_trained"),
    [
        ("rollouts", False),
        ("evaluation/base", False),
        ("evaluation/trained", True),
        ("evaluation/general_base", False),
        ("evaluation/general_trained", True),
    ],
)
def test_every_sample_is_of_the_model_that_the_stage_names(
    made: Path, lettered_model_folder: Path, stage: str, is_trained: bool
) -> None:
    own, other = lettered_model_folder, made / "model"
    if is_trained:
        own, other = other, own
    rollouts = RunFolder(made).stage(stage).read(Rollout)
    found, wrong = [], []
    for folder, errors in ((own, found), (other, wrong)):
        model = plain_model(folder)
        for rollout in rollouts:
            rows = log_probs(model, rollout.prompt_ids, rollout.completion_ids)
            written = rows[range(len(rows)), rollout.completion_ids]
            errors.append(float((written - torch.tensor(rollout.token_log_probs)).abs().max()))
    assert max(found) < 1e-3
    assert fmean(wrong) > 1e-2


def test_results_tell_before_from_after(made: Path) -> None:
    results = json.loads((made / "evaluation/results.json").read_text())
    for name, place, domain in (
        ("base", "in", "sums"),
        ("trained", "in", "sums"),
        ("base", "cross", "other"),
        ("trained", "cross", "other"),
    ):
        rollouts = RunFolder(made).stage(f"evaluation/{name}").read(Rollout)
        right = [
            rollout.answer == gold_of(rollout.question_id)
            for rollout in rollouts
            if rollout.question_id.startswith(domain)
        ]
        entry = results[place] if place == "in" else results["cross"]["domains"][domain]
        assert entry["metrics"]["avg"][name]["value"] == pytest.approx(fmean(right))
    both = results["in"]["metrics"]["avg"]
    assert both["difference"]["value"] == pytest.approx(both["trained"]["value"] - both["base"]["value"])
    assert both["difference"]["value"] != 0  # or a swap would not show


def test_a_stage_draws_by_its_own_settings_and_seeds(made: Path, lettered_model_folder: Path) -> None:
    session = Run(RunFolder.open(made))
    config, general = session.config, session.config.evaluation.for_general()
    engine = HFEngine(plain_model(lettered_model_folder), session.models.tokenizer)
    for stage, purpose, settings, count in (
        ("rollouts", "rollouts", config.rollouts, config.rollouts.num_rollouts),
        ("evaluation/base", "evaluation", config.evaluation, config.evaluation.num_samples),
        ("evaluation/general_base", "general", general, general.num_samples),
    ):
        rollouts = session.folder.stage(stage).read(Rollout)
        requests = [
            Request(
                prompt_ids=rollout.prompt_ids,
                seeds=(derive_seed(config.seed, purpose, rollout.question_id, rollout.rollout_index),),
            )
            for rollout in rollouts
        ]
        done = dict(engine.generate(requests, sampling_of(settings)))
        assert [done[i][0].token_ids for i in range(len(rollouts))] == [r.completion_ids for r in rollouts]
        assert {*Counter(rollout.question_id for rollout in rollouts).values()} == {count}


def test_temperature_0_is_the_likeliest_answer(
    made: Path, lettered_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [made.parent / "sums.jsonl", made.parent / "other.jsonl"]
    command = ["run", "base", *command_for(lettered_model_folder, *files)[2:]]
    greedy = ["rollouts.temperature=0", "evaluation.temperature=0", "evaluation.num_samples=1"]
    assert run([*command, *greedy, "--output", str(tmp_path / "run")], monkeypatch) == 0
    model = plain_model(lettered_model_folder)
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=4,
        eos_token_id=sorted(end_token_ids(model, AutoTokenizer.from_pretrained(lettered_model_folder))),
    )
    for rollout in RunFolder(tmp_path / "run").stage("evaluation/base").read(Rollout):
        prompt = torch.tensor([rollout.prompt_ids])
        written = model.generate(prompt, generation_config=settings)[0, prompt.shape[1] :].tolist()
        assert list(rollout.completion_ids) == written


def test_training_draws_from_the_selection_alone(made: Path) -> None:
    selected = {
        record.question_id
        for record in RunFolder(made).stage("selection").read(SelectedQuestion)
        if record.selected
    }
    items = TrainingPrompts(Run(RunFolder.open(made))).items(40)
    assert {items[place].question_id for place in range(40)} == selected
    assert len({items[place].seed for place in range(40)}) == 40


def test_a_students_prompt_is_bare_and_a_teachers_has_its_context(made: Path) -> None:
    folder = RunFolder.open(made)
    questions = {question.question_id: question for question in folder.stage("questions").read(Question)}
    contexts = {context.question_id: context for context in folder.stage("contexts").read(TeacherContext)}
    tokenizer = AutoTokenizer.from_pretrained(made / "model")
    items = TrainingPrompts(Run(folder)).items(8)
    for item in (items[place] for place in range(8)):
        student, teacher = (tokenizer.decode(ids) for ids in (item.student_ids, item.teacher_ids))
        asked = [questions[shown.question_id].question for shown in contexts[item.question_id].demonstrations]
        own = questions[item.question_id].question
        assert len(asked) == 2
        assert own in student
        assert own in teacher
        context, question = (
            tokenizer.decode(ids) for ids in (item.context, item.teacher_ids[item.context_tokens :])
        )
        assert all(text in context for text in asked)
        assert question.startswith(own)
        assert all(text in teacher and text not in student for text in asked)


def test_neurons_are_those_of_the_first_rollout(made: Path, lettered_model_folder: Path) -> None:
    folder = RunFolder.open(made)
    tokenizer = AutoTokenizer.from_pretrained(lettered_model_folder)
    rollouts = folder.stage("rollouts").read(Rollout)
    settings = NeuronSettings(overlap_size=40)
    model = plain_model(lettered_model_folder)
    sets = {item.question_id: item for item in folder.stage("neurons").read(NeuronSets)}
    first, second = (
        {
            found.question_id: found.overlap_set.tolist()
            for found in capture_neurons(
                model,
                tokenizer,
                [rollout for rollout in rollouts if rollout.rollout_index == index],
                settings,
            )
        }
        for index in (0, 1)
    )
    assert {name: item.overlap_set.tolist() for name, item in sets.items()} == first
    assert first != second  # or another rollout's would not show


def test_demonstrations_are_the_neuron_nearest_questions_with_their_first_reply(made: Path) -> None:
    folder = RunFolder.open(made)
    sets = {
        item.question_id: set(item.overlap_set.tolist()) for item in folder.stage("neurons").read(NeuronSets)
    }
    replies, last = (
        {
            rollout.question_id: rollout.reply
            for rollout in folder.stage("rollouts").read(Rollout)
            if rollout.rollout_index == index
        }
        for index in (0, 1)
    )
    differing = 0
    for context in folder.stage("contexts").read(TeacherContext):
        own = sets[context.question_id]
        others = [
            name
            for name in sets
            if name != context.question_id
            and not is_near_duplicate(name, context.question_id)
            and replies[name].strip()
        ]
        nearest = sorted(1 - len(own & sets[name]) / len(own | sets[name]) for name in others)
        shown = context.demonstrations
        assert [one.distance for one in shown] == pytest.approx(nearest[: len(shown)], abs=1e-6)
        assert {one.question_id for one in shown} <= set(others)
        for one in shown:
            theirs = sets[one.question_id]
            assert one.distance == pytest.approx(1 - len(own & theirs) / len(own | theirs), abs=1e-6)
            assert one.reply == replies[one.question_id]
            differing += one.reply != last[one.question_id]
    assert differing  # or another rollout's would not show


def test_the_preflight_scores_the_student_bare_and_the_teacher_with_its_context(
    made: Path, lettered_model_folder: Path
) -> None:
    folder = RunFolder.open(made)
    model = plain_model(lettered_model_folder)
    pairs = {}
    for pair in prompt_pairs(Run(folder)):
        pairs.setdefault(pair.question_id, pair)  # the first sample is scored
    tokenizer = AutoTokenizer.from_pretrained(lettered_model_folder)
    items = [
        item
        for item in folder.stage("preflight").read(PreflightItem)
        if len(tokenizer.encode(item.student_reply)) == item.num_completion_tokens - 1
    ]
    assert items  # replies that ended by themselves, whose tokens are known again
    for item in items:
        completion = (*tokenizer.encode(item.student_reply), tokenizer.eos_token_id)
        pair = pairs[item.question_id]
        student, teacher = (log_probs(model, ids, completion) for ids in (pair.student_ids, pair.teacher_ids))
        entropy = [float(-(rows.exp() * rows).sum()) for rows in (student, teacher)]
        assert item.student_entropy == pytest.approx(entropy[0], rel=1e-3)
        assert item.teacher_entropy == pytest.approx(entropy[1], rel=1e-3)
        assert item.reverse_kl == pytest.approx(
            float((student.exp() * (student - teacher)).sum()), rel=1e-2, abs=1e-4
        )
        assert abs(entropy[0] - entropy[1]) > 1e-2  # or a swap would not show


def test_both_roles_answer_the_preflight_with_what_they_read(
    command: list[str],
    shared_stages: None,
    tiny_model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matched = [*command, "training.teacher_entropy=matched"]
    assert run([*matched, "--output", str(tmp_path / "run"), "--until", "preflight"], monkeypatch) == 0
    session = Run(RunFolder.open(tmp_path / "run"))
    verdict = json.loads((tmp_path / "run" / "preflight" / "verdict.json").read_text())
    assert "training.teacher_entropy=matched" in verdict["measures"][0]["note"]
    engine = HFEngine(plain_model(tiny_model_folder), session.models.tokenizer)
    first = {pair.question_id: pair for pair in reversed(prompt_pairs(session))}
    for item in session.folder.stage("preflight").read(PreflightItem):
        pair = first[item.question_id]
        requests = [
            Request(prompt_ids=ids, seeds=(pair.seed,)) for ids in (pair.student_ids, pair.teacher_ids)
        ]
        done = dict(engine.generate(requests, preflight_sampling(session.config)))
        student, teacher = (session.models.encoder().decode_reply(done[i][0].token_ids) for i in (0, 1))
        assert (item.student_reply, item.teacher_reply) == (student, teacher)
        assert student != teacher  # or another prompt would not show


def test_samples_of_the_trained_model_depend_on_its_files(made: Path, lettered_model_folder: Path) -> None:
    inputs = Run(RunFolder.open(made)).inputs
    for role, folder in (("base", lettered_model_folder), ("trained", made / "model")):
        for stage in (f"evaluation/{role}", f"evaluation/general_{role}"):
            assert inputs.of(stage)["model"]["files"] == model_fingerprint(str(folder))


def test_held_out_prompts_without_room_give_way_to_others(made: Path) -> None:
    session = Run(RunFolder.open(made))
    used = {
        tuple(
            session.models.encoder().encode(
                both_messages(session, name, tuple(range(len(session.records.pool_by_id[name].choices))), ())[
                    0
                ]
            )
        )
        for name in session.records.training_ids()
    }
    num_held_out, everyone = TrainingPrompts(session).held_out(99, max_tokens=None)
    assert [ids in used for ids in everyone] == [False] * num_held_out + [True] * len(used)
    limit = len(everyone[0]) - 1
    fitting = [ids for ids in everyone if len(ids) <= limit]
    assert TrainingPrompts(session).held_out(99, max_tokens=limit)[1] == fitting
    assert TrainingPrompts(session).held_out(3, max_tokens=limit) == (
        sum(ids not in used for ids in fitting[:3]),
        fitting[:3],
    )
    assert TrainingPrompts(session).held_out(3, max_tokens=1) == (0, [])


def test_the_published_model_ends_where_the_base_ends(made: Path, lettered_model_folder: Path) -> None:
    ends = [
        end_token_ids(plain_model(folder), AutoTokenizer.from_pretrained(folder))
        for folder in (lettered_model_folder, made / "model")
    ]
    assert ends[0] == ends[1] != frozenset()
    assert plain_model(made / "model").generation_config.eos_token_id is not None


def test_a_letter_stands_for_the_choice_that_was_shown_beside_it(made: Path) -> None:
    folder = RunFolder.open(made)
    session = Run(folder)
    questions = {question.question_id: question for question in folder.stage("questions").read(Question)}
    tokenizer = AutoTokenizer.from_pretrained(made / "model")
    letter = tuple(tokenizer.encode("B"))
    items = TrainingPrompts(session).items(24)
    meant = defaultdict(set)
    for place in range(24):
        item = items[place]
        shown = re.search(r"^B\. (\d+)$", tokenizer.decode(item.student_ids), re.MULTILINE)
        assert shown
        own = GOLD[questions[item.question_id].choices.index(shown[1])]
        assert (
            TrainingPrompts(session).read_answer(replace(item, completion_ids=letter, finish_reason="stop"))
            == own
        )
        meant[item.question_id].add(own)
    assert any(len(letters) > 1 for letters in meant.values())  # each group has an order of its own


def test_more_demonstrations_than_there_are_questions_are_as_many_as_there_are(
    made: Path, lettered_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = write_questions(tmp_path / "few.jsonl", "few", 8)
    command = command_for(lettered_model_folder, pool, made.parent / "other.jsonl")
    many = ["contexts.num_demonstrations=20", "selection.fraction=1.0"]
    assert run([*command, *many, "--output", str(tmp_path / "run"), "--until", "contexts"], monkeypatch) == 0
    folder = RunFolder(tmp_path / "run")
    ids = {
        question.question_id
        for question in folder.stage("questions").read(Question)
        if question.split == "train"
    }
    for context in folder.stage("contexts").read(TeacherContext):
        shown = [one.question_id for one in context.demonstrations]
        assert sorted(shown) == sorted(ids - {context.question_id})
