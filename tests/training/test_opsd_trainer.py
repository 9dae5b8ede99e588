"""On-policy distillation on a tiny model: exact accumulation, bit-equal resumption, and it learns."""

import re
import shutil

import pytest
import torch
from training_runs import (
    TOKENIZER,
    assert_same_bits,
    grouped_item,
    make_item,
    rows,
    run,
    settings,
    weights,
)

from helpers import build_tiny_model
from neuron_opsd.engines.base import Request, Sampling
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.errors import ConfigError, ModelError
from neuron_opsd.progress import listening, track
from neuron_opsd.training import opsd_trainer, teacher
from neuron_opsd.training.checkpoints import CHECKSUMS_FILE
from neuron_opsd.training.items import LazyItems, TrainingItem
from neuron_opsd.training.progress import ProgressCallback
from neuron_opsd.training.schedule import num_steps, question_order
from neuron_opsd.training.train import train, training_arguments


@pytest.mark.parametrize(
    ("teacher", "divergence"),
    [
        ("frozen", "reverse_kl"),
        ("frozen", "forward_kl"),
        ("frozen", "jsd"),
        ("ema", "reverse_kl"),
        ("live", "reverse_kl"),
    ],
)
def test_equal_prompts_and_weights_give_zero_loss(tmp_path, teacher, divergence):
    def same(place: int) -> TrainingItem:
        item = make_item(place)
        return TrainingItem(item.question_id, item.student_ids, item.student_ids, item.seed)

    start = build_tiny_model()
    # SGD: Adam would scale rounding noise up to full steps.
    student = run(
        tmp_path, steps=2, item=same, teacher=teacher, divergence=divergence, trainer={"optim": "sgd"}
    )
    for row in rows(tmp_path):
        assert row["divergence"] == pytest.approx(0, abs=1e-5)
        assert row["loss"] == pytest.approx(0, abs=1e-5)
        assert row["grad_norm"] == pytest.approx(0, abs=1e-4)
        assert row["student_entropy"] == pytest.approx(row["teacher_entropy"], abs=1e-4)
        assert row["student_entropy"] > 0.5
    for name, value in weights(student).items():
        torch.testing.assert_close(value, start.state_dict()[name], atol=1e-6, rtol=1e-5)


def test_the_log_says_where_the_time_of_each_step_went(tmp_path, caplog):
    with caplog.at_level("INFO", logger="neuron_opsd.training.opsd_trainer"):
        run(tmp_path, steps=2)
    told = [record.message for record in caplog.records if " s (" in record.message]
    pattern = (
        r"training: step [12], \d+\.\d s \(generation \d+%, teacher \d+%, student \d+%, optimiser \d+%\)"
    )
    assert len(told) == 2
    assert all(re.fullmatch(pattern, line) for line in told)


def test_a_step_tells_what_it_is_doing(tmp_path):
    told: list[str] = []
    with track("training", total=1, unit="steps") as tracker, listening(lambda _, doing: told.append(doing)):
        run(tmp_path, steps=1, micro_batch_size=2, callbacks=[ProgressCallback(tracker)])
    assert told[0] == "reading 8 prompts of up to 12 tokens"
    assert told[-4:] == [f"learning from batch {number} of 4" for number in (1, 2, 3, 4)]


@pytest.mark.parametrize("num_skipped", [0, 3])
def test_loss_is_the_mean_divergence_of_the_tokens_that_carry_it(tmp_path, num_skipped):
    """Loss and gradient as logged, recomputed from the model alone: one row at a time, full vocabulary, float64."""
    options = {"skip_first_tokens": num_skipped, "max_grad_norm": 1e6}
    run(tmp_path, steps=1, micro_batch_size=2, teacher="frozen", **options)
    model = build_tiny_model().double()
    engine = HFEngine(build_tiny_model(), TOKENIZER)
    terms, num_tokens = [], 0
    for place in range(8):
        item = make_item(place)
        asked = [Request(prompt_ids=item.student_ids, seeds=(item.seed,))]
        ((_, (completion,)),) = engine.generate(asked, Sampling(temperature=1.0, max_new_tokens=6))
        scored = []
        for prompt in (item.student_ids, item.teacher_ids):
            logits = model(torch.tensor([[*prompt, *completion.token_ids]])).logits[0, len(prompt) - 1 : -1]
            scored.append(torch.log_softmax(logits.double(), -1))
        terms.append((scored[0].exp() * (scored[0] - scored[1].detach())).sum(-1)[num_skipped:])
        num_tokens += len(completion.token_ids)
    loss = torch.cat(terms).mean()
    loss.backward()
    (row,) = rows(tmp_path)
    assert row["num_completion_tokens"] == num_tokens
    assert row["num_loss_tokens"] == sum(map(len, terms))
    assert row["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert row["divergence"] == pytest.approx(loss.item(), rel=1e-4)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert row["grad_norm"] == pytest.approx(torch.nn.utils.get_total_norm(gradients).item(), rel=1e-3)


@pytest.mark.parametrize("teacher", ["frozen", "ema", "live"])
def test_whole_run_is_the_plain_loop_by_hand(tmp_path, teacher):
    """Sampling, loss, step and teacher written out naively: one row at a time, two models, no Trainer."""
    steps, rate, ema_rate = 4, 0.2, 0.4
    options = {"teacher": teacher, "ema_rate": ema_rate, "learning_rate": rate, "trainer": {"optim": "sgd"}}
    found = run(tmp_path, steps=steps, micro_batch_size=4, **options)

    student, other = build_tiny_model(), build_tiny_model()
    losses = []
    for step in range(steps):
        if teacher == "live":
            other.load_state_dict(student.state_dict())
        scored = []
        for item in map(make_item, range(8 * step, 8 * step + 8)):
            asked = [Request(prompt_ids=item.student_ids, seeds=(item.seed,))]
            sampling = Sampling(temperature=1.0, max_new_tokens=6)
            ((_, (completion,)),) = HFEngine(student, TOKENIZER).generate(asked, sampling)
            log_probs = []
            for model, prompt in ((student, item.student_ids), (other, item.teacher_ids)):
                logits = model(torch.tensor([[*prompt, *completion.token_ids]])).logits
                log_probs.append(torch.log_softmax(logits[0, len(prompt) - 1 : -1], -1))
            scored.append((log_probs[0].exp() * (log_probs[0] - log_probs[1].detach())).sum(-1))
        loss = torch.cat(scored).mean()
        student.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        with torch.no_grad():
            for mine, theirs in zip(student.parameters(), other.parameters(), strict=True):
                mine -= rate * mine.grad
                if teacher == "ema":
                    theirs.copy_((1 - ema_rate) * theirs + ema_rate * mine)
        losses.append(loss.item())

    assert [row["loss"] for row in rows(tmp_path)] == pytest.approx(losses, rel=1e-3)
    for (name, a), b in zip(weights(found).items(), weights(student).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_twice_is_the_same_bits(tmp_path):
    first = run(tmp_path / "a", steps=3)
    assert_same_bits(first, run(tmp_path / "b", steps=3))
    assert (tmp_path / "a/metrics.jsonl").read_bytes() == (tmp_path / "b/metrics.jsonl").read_bytes()
    other = run(tmp_path / "c", steps=3, item=lambda place: make_item(place + 50))
    with pytest.raises(AssertionError):
        assert_same_bits(other, first)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("teacher", ["frozen", "ema", "live"])
def test_resuming_changes_no_bit(tmp_path, method, teacher):
    options = {"steps": 5, "method": method, "teacher": teacher, "ema_rate": 0.3}
    options |= {"batch_size": 4, "micro_batch_size": 2}
    whole = run(tmp_path / "whole", **options)
    # As a kill after step 3 leaves it: checkpoint 2 whole, checkpoint 4 cut short, a row too many in the metrics.
    cut = tmp_path / "cut"
    cut.mkdir()
    shutil.copytree(tmp_path / "whole/checkpoint-4", cut / "checkpoint-4")
    (cut / "checkpoint-4" / CHECKSUMS_FILE).unlink()
    shutil.copytree(tmp_path / "whole/checkpoint-2", cut / "checkpoint-2")
    lines = (tmp_path / "whole/metrics.jsonl").read_text().splitlines(keepends=True)
    (cut / "metrics.jsonl").write_text("".join(lines[:3]))

    resumed = run(cut, **options)

    assert_same_bits(resumed, whole)
    assert (cut / "metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()


def test_resuming_with_sparser_logging_keeps_the_rows_before_the_checkpoint(tmp_path):
    options = {"trainer": {"logging_steps": 2}, "save_steps": 3, "micro_batch_size": 4}
    run(tmp_path / "whole", steps=6, **options)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut/checkpoint-6")
    with (tmp_path / "cut/metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')  # the kill came in the middle of a row
    run(tmp_path / "cut", steps=6, **options)
    assert [row["step"] for row in rows(tmp_path / "cut")] == [2, 4, 6]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer": {"learning_rat": 1}}, "learning_rat"),
        ({"trainer": {"optim": "no_such_optimiser"}}, "training.trainer"),
        (
            {"trainer": {"learning_rate": 1e-3}},
            r"trainer\.learning_rate is decided by training\.learning_rate",
        ),
        ({"micro_batch_size": 3}, "multiple of training.micro_batch_size"),
        ({"micro_batch_size": 16}, "multiple of training.micro_batch_size"),
    ],
)
def test_bad_settings_are_refused_by_name(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        training_arguments(
            settings(**changes), folder=tmp_path, num_steps=2, seed=0, device=torch.device("cpu")
        )


def test_full_training_in_bfloat16_is_refused(tmp_path):
    items = LazyItems(8, make_item)
    with pytest.raises(ModelError, match=r"training\.dtype=float32"):
        train(
            build_tiny_model().bfloat16(), lambda s: HFEngine(s, TOKENIZER), items, settings(),
            folder=tmp_path, num_steps=1, seed=0,
        )  # fmt: skip


@pytest.mark.parametrize("method", ["full", "lora"])
def test_student_learns_what_the_context_told_the_teacher(tmp_path, method):
    """The teacher reads a fixed hint before each question; the student, without it, comes to answer alike."""
    hint = tuple(range(40, 52))

    def with_hint(place: int) -> TrainingItem:
        question = make_item(place % 4).student_ids
        return TrainingItem(f"q{place % 4}", question, hint + question, seed=place)

    rate, steps = (5e-3, 18) if method == "full" else (2e-2, 24)
    options = {"batch_size": 4, "micro_batch_size": 4}
    options |= {"item": with_hint, "method": method, "teacher": "frozen", "save_steps": 100, "spread": 0.15}
    run(tmp_path / "learns", steps=steps, learning_rate=rate, **options)
    values = [row["divergence"] for row in rows(tmp_path / "learns")]
    assert sum(values[-6:]) < 0.7 * sum(values[:6])
    assert sum(values[-6:]) > 0
    if method == "full":
        run(tmp_path / "idle", steps=12, learning_rate=1e-9, **options)
        idle = [row["divergence"] for row in rows(tmp_path / "idle")]
        assert sum(idle[-6:]) > 0.85 * sum(idle[:6])


def test_first_batch_is_shown_with_its_sample(tmp_path):
    seen = []
    chosen = settings()
    train(
        build_tiny_model(), lambda s: HFEngine(s, TOKENIZER), LazyItems(16, make_item), chosen,
        folder=tmp_path, num_steps=2, seed=0, on_first_batch=seen.append,
    )  # fmt: skip
    assert [item.question_id for item in seen] == ["q5"]  # of the eight of the first step, the longest
    assert seen[0].completion_ids
    assert seen[0].finish_reason in {"stop", "length"}


def test_steps_are_capped_by_passes_over_the_selection():
    chosen = settings(batch_size=16, num_steps=150, max_epochs=3.4, micro_batch_size=4)
    assert num_steps(100, chosen) == 22  # ceil(340 / 16)
    assert num_steps(10_000, chosen) == 150
    assert num_steps(1, chosen) == 1
    assert num_steps(1, settings(num_steps=7, max_epochs=None)) == 7


def test_no_question_comes_twice_before_all_came_once():
    ids = [f"q{i}" for i in range(7)]
    order = question_order(ids, 25, seed=3)
    assert len(order) == 25
    for start in (0, 7, 14):
        assert sorted(order[start : start + 7]) == ids
    assert order[:7] != order[7:14]
    assert question_order(ids[::-1], 25, seed=3) == order
    assert question_order(ids, 10, seed=3) == order[:10]
    assert question_order(ids, 25, seed=4) != order


@pytest.mark.parametrize("method", ["lora", "full"])
def test_autocast_is_around_every_pass_and_the_head_and_changes_the_loss_little(
    tmp_path, monkeypatch, method
):
    """bf16: true. Softmax stays float32: `logits_from_hidden` gives it float32."""
    seen: dict[str, set[bool]] = {"shared prompt": set(), "head": set()}

    def spy(name, function):
        def seen_function(*args, **kwargs):
            seen[name].add(torch.is_autocast_enabled("cpu"))
            return function(*args, **kwargs)

        return seen_function

    monkeypatch.setattr(teacher, "scoring_states", spy("shared prompt", teacher.scoring_states))
    for module in (opsd_trainer, teacher):
        monkeypatch.setattr(module, "logits_from_hidden", spy("head", module.logits_from_hidden))
    shared = {"method": method, "steps": 2, "num_rollouts": 4, "item": grouped_item(4), "temperature": 1e-4}
    half = run(tmp_path / "half", trainer={"bf16": True}, **shared)
    assert seen == {"shared prompt": {True}, "head": {True}}
    run(tmp_path / "whole", **shared)
    losses = [[row["divergence"] for row in rows(tmp_path / name)] for name in ("half", "whole")]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    start = weights(run(tmp_path / "start", learning_rate=1e-12, **shared))
    trained = [name for name, parameter in half.named_parameters() if parameter.requires_grad]
    assert [name for name in trained if torch.equal(weights(half)[name], start[name])] == []
