"""Which completions a step trains on: by hand, and in real runs of a tiny model."""

import json
import shutil

import pytest
import torch
from pydantic import ValidationError
from training_runs import (
    TOKENIZER,
    assert_same_bits,
    grouped_item,
    make_item,
    relative_difference,
    rows,
    run,
    settings,
    tiny_train,
)

from helpers import build_tiny_model
from neuron_opsd.engines.base import Request, Sampling
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.errors import ConfigError
from neuron_opsd.text.answers import Vote
from neuron_opsd.training.checkpoints import CHECKSUMS_FILE, STATE_FILE
from neuron_opsd.training.figures import interval_row
from neuron_opsd.training.items import (
    LazyItems,
    StudentRollouts,
    TrainingItem,
    carries_loss,
    first_of_groups,
    loss_places,
    marked,
    micro_batches,
    padding_fraction,
)


def item(place: int, length: int = 3, *, finish: str = "stop", has_loss: bool = True) -> TrainingItem:
    return TrainingItem("q", (5,), (5, 6), 0, (7,) * length, finish, place=place, has_loss=has_loss)


class CountingEngine(HFEngine):
    """The real engine, that remembers what it was asked."""

    def generate(self, requests, sampling):
        self.asked = [*getattr(self, "asked", []), list(requests)]
        return super().generate(requests, sampling)


def test_disagreeing_completions_alone_carry_loss():
    chosen = settings(distil="disagreeing", num_rollouts=4)
    vote = Vote("B", 3, 4)
    assert not carries_loss(item(0), "B", vote, chosen)
    assert carries_loss(item(0), "A", vote, chosen)
    assert carries_loss(item(0), None, vote, chosen)
    assert not carries_loss(item(0), None, Vote(None, 0, 4), chosen)  # no majority, nothing to disagree with
    strict = settings(distil="disagreeing", num_rollouts=4, min_vote_share=0.8)
    assert not carries_loss(item(0), "A", vote, strict)
    assert carries_loss(item(0), "A", vote, strict.model_copy(update={"min_vote_share": 0.75}))
    assert carries_loss(item(0), "B", vote, settings())


def test_completions_that_give_the_pseudo_label_alone_are_distilled():
    chosen, vote = settings(distil="agreeing"), Vote("B", 3, 4)
    found = [marked(item(0), answer, vote, chosen).has_loss for answer in ("B", "A", None)]
    assert found == [True, False, False]
    assert not marked(item(0), "A", Vote(None, 0, 4), chosen).has_loss  # no vote, nothing to agree with
    assert not marked(item(0), "A", None, chosen).has_loss
    strict = chosen.model_copy(update={"min_vote_share": 0.8})
    assert not marked(item(0), "B", vote, strict).has_loss


def test_what_disagrees_with_the_vote_of_the_rollouts_is_pushed_down():
    chosen, vote = settings(distil="agreeing", unlikelihood_weight=0.5, truncated="mask"), Vote("B", 3, 4)
    found = [marked(item(0), answer, vote, chosen) for answer in ("B", "A", None)]
    assert [(each.has_loss, each.is_pushed_down) for each in found] == [
        (True, False), (True, True), (True, True)
    ]  # fmt: skip
    assert not marked(item(0, finish="length"), "A", vote, chosen).has_loss
    assert not marked(item(0), "A", Vote(None, 0, 4), chosen).has_loss
    assert not marked(item(0), "A", vote, settings()).is_pushed_down


def test_cut_completions_keep_or_lose_their_loss():
    cut = item(0, finish="length")
    assert carries_loss(cut, None, None, settings())
    assert not carries_loss(cut, None, None, settings(truncated="mask"))
    assert carries_loss(item(0), None, None, settings(truncated="mask"))


def test_first_tokens_are_skipped():
    assert loss_places(item(0, 4), settings(skip_first_tokens=3)) == [False, False, False, True]
    assert loss_places(item(0, 2), settings(skip_first_tokens=3)) == [False, False]
    assert loss_places(item(0, 2, has_loss=False), settings()) == [False, False]


def test_micro_batches_hold_like_lengths_and_are_as_many_as_asked():
    lengths = [3, 9, 1, 7, 5, 2]
    batches = micro_batches([item(i, n) for i, n in enumerate(lengths)], 3)
    assert [[len(row.completion_ids) for row in batch] for batch in batches] == [[9, 7], [5, 3], [2, 1]]
    masked = [item(i, n, has_loss=i < 3) for i, n in enumerate(lengths)]
    assert [[row.place for row in batch] for batch in micro_batches(masked, 2)] == [[1, 0], [2]]
    # Too few with loss: the shortest others fill in, so that every process makes as many passes.
    assert [[row.place for row in batch] for batch in micro_batches(masked, 4)] == [[1], [0], [2], [5]]


def test_padding_by_hand():
    # Student rows 1+3 and 1+1, teacher rows 2+3 and 2+1: 14 real places of 2*4 + 2*5.
    assert padding_fraction([[item(0, 3), item(1, 1)]]) == pytest.approx(1 - 14 / 18)
    assert padding_fraction([[item(0, 3)], [item(1, 1)]]) == 0


def test_sorting_by_length_wastes_fewer_places():
    rng = torch.Generator().manual_seed(0)
    items = [item(i, n) for i, n in enumerate(torch.randint(1, 200, (64,), generator=rng).tolist())]
    plain = [items[i : i + 4] for i in range(0, 64, 4)]
    assert padding_fraction(micro_batches(items, 16)) < 0.1 < 0.3 < padding_fraction(plain)


def test_an_interval_is_a_mean_and_counts_are_summed():
    found = interval_row(
        [{"loss": 1.0, "num_completion_tokens": 10}, {"loss": 3.0, "num_completion_tokens": 20}]
    )
    assert found == {"loss": 2.0, "num_completion_tokens": 30}


def test_one_question_is_read_once_for_its_group_and_ids_are_the_engines():
    chosen = settings(num_rollouts=4, batch_size=2)
    engine = CountingEngine(build_tiny_model(), TOKENIZER)
    items = LazyItems(8, grouped_item(4))
    drawn = StudentRollouts(lambda: engine, items, chosen).of_step([items[i] for i in range(8)])
    ((first, second),) = engine.asked
    assert first.seeds == (5000, 5001, 5002, 5003)
    assert second.prompt_ids == make_item(1).student_ids
    assert [row.place for row in drawn] == list(range(8))
    assert len({row.completion_ids for row in drawn[:4]}) > 1
    for row in drawn:  # alone, the same ids: groups and batches change nothing, nothing is encoded again
        asked = [Request(prompt_ids=row.student_ids, seeds=(row.seed,))]
        sampling = Sampling(temperature=1.0, max_new_tokens=6)
        ((_, (completion,)),) = HFEngine(build_tiny_model(), TOKENIZER).generate(asked, sampling)
        assert row.completion_ids == completion.token_ids


def test_several_steps_are_sampled_at_once_and_each_place_is_used_once():
    chosen = settings(batch_size=2, rollout_steps=3)
    engine = CountingEngine(build_tiny_model(), TOKENIZER)
    items = LazyItems(10, make_item)
    rollouts = StudentRollouts(lambda: engine, items, chosen)
    steps = [rollouts.of_step([items[i], items[i + 1]]) for i in range(0, 10, 2)]
    assert [sum(len(r.seeds) for r in asked) for asked in engine.asked] == [6, 4]
    assert [row.place for step in steps for row in step] == list(range(10))
    assert rollouts.held == {}


def test_held_completions_survive_a_checkpoint():
    chosen = settings(batch_size=2, rollout_steps=3)
    items = LazyItems(6, make_item)
    first = StudentRollouts(lambda: HFEngine(build_tiny_model(), TOKENIZER), items, chosen)
    first.of_step([items[0], items[1]])
    second = StudentRollouts(lambda: HFEngine(build_tiny_model(seed=9), TOKENIZER), items, chosen)
    second.restore(json.loads(json.dumps(first.state())))
    assert second.held == first.held
    assert second.of_step([items[2], items[3]]) == first.of_step([items[2], items[3]])


def answer_by_parity(row: TrainingItem) -> str | None:
    """A reader with opinions: by the completion's first id."""
    return [None, "A", "B"][row.completion_ids[0] % 3]


def test_a_run_distils_disagreeing_completions_only(tmp_path):
    options = {"num_rollouts": 4, "batch_size": 4, "micro_batch_size": 4, "item": grouped_item(4)}
    options |= {"steps": 2, "read_answer": answer_by_parity}
    tiny_train(tmp_path / "some", distil="disagreeing", **options)
    tiny_train(tmp_path / "all", **options)
    some, every = rows(tmp_path / "some")[0], rows(tmp_path / "all")[0]
    assert 0 < some["num_loss_tokens"] < some["num_completion_tokens"] == every["num_loss_tokens"]
    assert some["parse_rate"] == every["parse_rate"] < 1
    assert 0.25 < some["vote_share"] < 1


@pytest.mark.parametrize("distil", ["disagreeing", "agreeing"])
def test_agreement_needs_answers(tmp_path, distil):
    options = {"steps": 1, "distil": distil, "num_rollouts": 2, "batch_size": 4}
    with pytest.raises(ConfigError, match="read_answer"):
        run(tmp_path, **options)
    if distil == "agreeing":
        with pytest.raises(ConfigError, match="pseudo_labels"):
            run(tmp_path, **options, read_answer=answer_by_parity)


def first_token(item: TrainingItem) -> str | None:
    """A reader with opinions: by the completion's first id."""
    return "A" if item.completion_ids[0] < 130 else "B"


@torch.no_grad()
def share_of_a(model: torch.nn.Module) -> float:
    """The probability of answer A after the bare prompts, as `first_token` reads it."""
    model.eval()
    prompts = [make_item(place).student_ids for place in range(8)]
    last = [model(torch.tensor([prompt])).logits[0, -1].softmax(-1)[:130].sum() for prompt in prompts]
    return float(torch.stack(last).mean())


def test_a_student_leaves_what_the_vote_is_against(tmp_path):
    """The teacher reads what the student reads, so that only the unlikelihood of the others can teach."""

    def same(place: int) -> TrainingItem:
        item = make_item(place % 8)
        return TrainingItem(item.question_id, item.student_ids, item.student_ids, seed=place)

    options = {
        "steps": 12,
        "item": same,
        "max_new_tokens": 1,
        "trainer": {"optim": "sgd"},
        "teacher": "frozen",
    }
    options |= {
        "read_answer": first_token,
        "pseudo_labels": {f"q{place}": Vote("A", 5, 8) for place in range(8)},
    }
    options |= {"distil": "agreeing", "learning_rate": 0.05}
    before = share_of_a(build_tiny_model(spread=0.25))
    kept = run(tmp_path / "agreeing", **options)
    assert share_of_a(kept) == pytest.approx(before, abs=1e-4)
    pushed = run(tmp_path / "pushed", unlikelihood_weight=1.0, **options)
    assert share_of_a(pushed) > before + 0.005
    some, every = rows(tmp_path / "agreeing")[0], rows(tmp_path / "pushed")[0]
    assert 0 < some["agreeing_fraction"] == some["num_loss_tokens"] / some["num_completion_tokens"] < 1
    assert every["num_loss_tokens"] == every["num_completion_tokens"]


def test_a_step_in_which_nothing_carries_loss_measures_nothing(tmp_path):
    """An entropy of 0 would be a collapse to the guard rails."""
    options = {
        "read_answer": first_token,
        "pseudo_labels": {f"q{place}": Vote("Z", 5, 8) for place in range(8)},
    }
    run(tmp_path, steps=2, max_new_tokens=1, distil="agreeing", **options)
    (row, _) = rows(tmp_path)
    assert (row["num_loss_tokens"], row["loss"], row["agreeing_fraction"]) == (0, 0.0, 0.0)
    assert not {"student_entropy", "teacher_entropy", "divergence"} & row.keys()


def test_left_out_rows_change_nothing_but_the_count(tmp_path):
    """Masked completions out of the batch or in it: the same weights."""
    options = {"steps": 2, "max_new_tokens": 40, "trainer": {"optim": "sgd"}, "learning_rate": 0.05}
    masked = run(tmp_path / "a", truncated="mask", micro_batch_size=8, **options)
    split = run(tmp_path / "b", truncated="mask", micro_batch_size=1, **options)
    kept = run(tmp_path / "c", truncated="keep", micro_batch_size=8, **options)
    row = rows(tmp_path / "a")[0]
    assert 0 < row["truncated_fraction"] < 1
    assert row["num_loss_tokens"] < row["num_completion_tokens"]
    assert relative_difference(masked, split) < 1e-6
    assert relative_difference(masked, kept) > 1e-5


def test_a_step_without_any_loss_changes_nothing(tmp_path):
    trained = run(tmp_path, steps=2, skip_first_tokens=6, trainer={"optim": "sgd"})
    assert [row["loss"] for row in rows(tmp_path)] == [0.0, 0.0]
    assert_same_bits(trained, build_tiny_model())


def test_stale_completions_are_corrected(tmp_path):
    options = {"steps": 4, "learning_rate": 0.05, "trainer": {"optim": "sgd"}}
    run(tmp_path / "stale", rollout_steps=4, **options)
    found = rows(tmp_path / "stale")
    assert found[0]["importance_ratio"] == pytest.approx(1, abs=1e-4)  # fresh
    assert any(abs(row["importance_ratio"] - 1) > 1e-3 for row in found[1:])
    run(tmp_path / "fresh", **options)
    assert [row["importance_ratio"] for row in rows(tmp_path / "fresh")] == [1.0] * 4


# Completions sampled for three steps at once, rows every two steps, a checkpoint at each.
HELD = {
    "steps": 5, "rollout_steps": 3, "save_steps": 1, "teacher": "ema", "ema_rate": 0.3, "batch_size": 4,
    "trainer": {"logging_steps": 2}, "micro_batch_size": 4, "item": grouped_item(2), "num_rollouts": 2,
    "guard_rails": {"window_steps": 2}, "method": "lora", "num_layers": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def held_run(tmp_path_factory):
    """The folder and the student of a run that nothing stopped. Read only."""
    folder = tmp_path_factory.mktemp("held") / "whole"
    return folder, run(folder, **HELD)


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_resuming_at_any_step_changes_no_bit_with_held_completions_and_an_open_interval(
    held_run, tmp_path, stop
):
    folder, whole = held_run
    cut = tmp_path / "cut"
    shutil.copytree(folder, cut)
    for step in range(stop + 1, 6):
        shutil.rmtree(cut / f"checkpoint-{step}")
    assert (cut / f"checkpoint-{stop}" / CHECKSUMS_FILE).is_file()
    held = json.loads((cut / f"checkpoint-{stop}" / STATE_FILE).read_text())
    assert bool(held["rollouts"]) == (stop != 3)
    assert len(held["interval"]) == stop % 2
    resumed = run(cut, **HELD)
    assert_same_bits(resumed, whole)
    assert (cut / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()


def test_rows_of_longer_intervals_are_means_of_the_steps(tmp_path):
    run(tmp_path / "each", steps=4)
    run(tmp_path / "two", steps=4, trainer={"logging_steps": 2})
    each, two = rows(tmp_path / "each"), rows(tmp_path / "two")
    assert [row["step"] for row in two] == [2, 4]
    for i, row in enumerate(two):
        pair = each[2 * i : 2 * i + 2]
        for name in ("loss", "divergence", "student_entropy", "grad_norm", "completion_tokens_mean"):
            assert row[name] == pytest.approx((pair[0][name] + pair[1][name]) / 2, rel=1e-6), name
        assert row["num_completion_tokens"] == sum(step["num_completion_tokens"] for step in pair)


class CopyingEngine(HFEngine):
    """Like one in another process: it has weights of its own, which are the student's when it is told."""

    def __init__(self, student) -> None:
        super().__init__(build_tiny_model(), TOKENIZER)
        self.student = student

    def refresh(self) -> None:
        self.model.load_state_dict(self.student.state_dict())


def test_an_engine_with_weights_of_its_own_is_told_before_each_step(tmp_path):
    options = {"steps": 3, "learning_rate": 0.05}
    told = run(tmp_path / "told", make_engine=CopyingEngine, **options)
    assert_same_bits(told, run(tmp_path / "own", **options))
    rows_of = [rows(tmp_path / name) for name in ("told", "own")]
    assert rows_of[0] == rows_of[1]


def test_dropout_is_for_the_loss_of_the_student_alone(tmp_path):
    found = {}
    for dropout in (0.0, 0.5):
        model = build_tiny_model()
        model.config.attention_dropout = dropout
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = dropout
        run(tmp_path / str(dropout), steps=1, model=model)
        (found[dropout],) = rows(tmp_path / str(dropout))
    # The same samples, read by the same teacher.
    for name in ("num_completion_tokens", "teacher_entropy"):
        assert found[0.0][name] == found[0.5][name]
    assert found[0.0]["loss"] != found[0.5]["loss"]


def test_the_learning_rate_warms_up_and_stays(tmp_path):
    run(tmp_path, steps=8, batch_size=2, micro_batch_size=2, learning_rate=0.01, warmup_steps=4)
    rates = [row["learning_rate"] for row in rows(tmp_path)]
    assert rates[:5] == sorted(set(rates[:5]))  # rising
    assert rates[0] <= 0.0025
    assert rates[4:] == [pytest.approx(0.01)] * 4


def test_the_first_few_disagreeing_completions_of_each_group_carry_loss():
    chosen = settings(distil="disagreeing", num_rollouts=4, max_distilled=2)
    assert first_of_groups([7, 0, 3, 2, 5], chosen) == {0, 2, 5, 7}
    with pytest.raises(ValidationError, match=r"training.max_distilled is 3, but training.distil is all"):
        settings(max_distilled=3)


def test_the_student_samples_by_the_settings():
    chosen = settings(temperature=1.1, top_p=0.95, sample_top_k=20, max_new_tokens=6)
    rollouts = StudentRollouts(lambda: None, LazyItems(0, make_item), chosen)
    assert rollouts.sampling == Sampling(temperature=1.1, top_p=0.95, top_k=20, max_new_tokens=6)
