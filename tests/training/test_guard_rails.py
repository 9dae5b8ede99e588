"""When training stops by itself: the decision by hand, and real runs that are stopped."""

import math

import pytest
import torch
from training_runs import TOKENIZER, rows, run, settings, tiny_train, weights

from helpers import build_tiny_model
from neuron_opsd.config import GuardRailSettings
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.errors import NotFiniteError, TrainingError
from neuron_opsd.training.figures import MetricsFile
from neuron_opsd.training.guard_rails import RAILS, find_stop, limits
from neuron_opsd.training.items import TrainingItem

FIVE = GuardRailSettings(baseline_steps=5, window_steps=5)
WELL = {
    "loss": 0.5,
    "completion_tokens_mean": 100.0,
    "truncated_fraction": 0.1,
    "student_entropy": 1.0,
    "parse_rate": 0.9,
    "vote_share": 0.7,
    "divergence": 0.2,
    "grad_norm": 1.0,
}


def made(*values: dict) -> list[dict]:
    return [{"step": i + 1, **WELL, **value} for i, value in enumerate(values)]


def test_a_steady_run_goes_on():
    assert find_stop(made(*[{}] * 50), FIVE) is None
    assert find_stop([], FIVE) is None


@pytest.mark.parametrize(
    ("figure", "fine", "beyond", "setting"),
    [
        ("completion_tokens_mean", 51.0, 49.0, "max_length_ratio"),
        ("completion_tokens_mean", 199.0, 201.0, "max_length_ratio"),
        ("truncated_fraction", 0.29, 0.31, "max_end_rate_drop"),
        ("student_entropy", 0.34, 0.33, "max_entropy_ratio"),
        ("student_entropy", 2.9, 3.1, "max_entropy_ratio"),
        ("parse_rate", 0.71, 0.69, "max_parse_rate_drop"),
        ("vote_share", 0.51, 0.49, "max_vote_share_drop"),
        ("divergence", 0.59, 0.61, "max_divergence_ratio"),
        ("grad_norm", 9.9, 10.1, "max_grad_norm_ratio"),
    ],
)
def test_each_rail_holds_just_beyond_its_limit(figure, fine, beyond, setting):
    assert find_stop(made(*[{}] * 5, *[{figure: fine}] * 5), FIVE) is None
    stop = find_stop(made(*[{}] * 5, *[{figure: beyond}] * 5), FIVE)
    assert stop is not None
    assert (stop.step, stop.last_healthy_step) == (10, 5)
    assert setting in stop.reason
    assert f"{WELL[figure]:.3g}" in stop.reason
    assert f"{beyond:.3g}" in stop.reason
    free = FIVE.model_copy(update={setting: None})
    assert find_stop(made(*[{}] * 5, *[{figure: beyond}] * 5), free) is None


@pytest.mark.parametrize(
    ("figure", "before", "now"),
    [
        ("completion_tokens_mean", 2.0, 0.9),  # letters: one token fewer is no collapse
        ("student_entropy", 0.05, 0.001),
        ("divergence", 0.001, 0.01),
        ("grad_norm", 0.01, 0.9),  # below the clip
        ("parse_rate", 0.5, 1.0),  # better
        ("truncated_fraction", 0.9, 0.0),
        ("divergence", 1.0, 0.01),
    ],
)
def test_small_or_good_changes_are_no_reason(figure, before, now):
    assert find_stop(made(*[{figure: before}] * 5, *[{figure: now}] * 5), FIVE) is None


def test_means_are_compared_not_single_rows():
    one_outlier = made(*[{}] * 5, *[{}] * 4, {"completion_tokens_mean": 10.0})
    assert find_stop(one_outlier, FIVE) is None


def test_too_few_rows_never_compare_but_a_nan_stops_at_once():
    assert find_stop(made(*[{}] * 5, *[{"parse_rate": 0.0}] * 4), FIVE) is None
    stop = find_stop(made({}, {}, {"grad_norm": math.nan}), FIVE)
    assert (stop.step, stop.last_healthy_step) == (3, 2)
    assert "grad_norm is nan" in stop.reason
    assert find_stop(made({"loss": math.inf}), FIVE).last_healthy_step == 0


def test_off_means_off():
    off = FIVE.model_copy(update={"enabled": False})
    assert find_stop(made({"loss": math.nan}), off) is None
    assert limits(made(*[{}] * 5), off) == {}


def test_missing_figures_are_left_out():
    bare = [{"step": i, "loss": 1.0} for i in range(30)]
    assert find_stop(bare, FIVE) is None
    assert limits(bare, FIVE) == {}


def test_limits_are_where_the_rails_hold():
    found = limits(made(*[{}] * 5), FIVE)
    assert set(found) == {rail.figure for rail in RAILS}
    assert found["completion_tokens_mean"] == [50.0, 200.0]
    assert found["parse_rate"] == [pytest.approx(0.7), None]
    assert found["truncated_fraction"] == [None, pytest.approx(0.3)]
    assert limits(made(*[{}] * 4), FIVE) == {}


GUARDED = {
    "guard_rails": GuardRailSettings(baseline_steps=2, window_steps=2, max_parse_rate_drop=0.5),
    "save_steps": 1,
    "num_layers": 1,
}


def unreadable_after(step: int):
    """A reader for whom every answer becomes unreadable, as after a collapse."""
    return lambda item: "A" if item.place < 8 * step else None


def test_a_run_is_stopped_and_the_model_from_before_is_kept(tmp_path, caplog):
    trained = tiny_train(tmp_path, steps=12, read_answer=unreadable_after(6), **GUARDED)
    # Rows 7 and 8 are the first window without an answer; step 6 was the last one well.
    assert trained.summary["stop_step"] == 8
    assert trained.summary["best_step"] == 6
    assert "readable answer: 1 over the first 2 rows, 0 over the last 2" in trained.summary["stopped_because"]
    assert trained.summary["limits"]["parse_rate"] == [0.5, None]
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, 9))
    assert "stopped at step 8" in caplog.text
    until_6 = tiny_train(tmp_path / "six", steps=6, read_answer=unreadable_after(6), **GUARDED)
    for name, value in weights(until_6.student).items():
        assert torch.equal(value, weights(trained.student)[name]), name


def test_a_stopped_run_that_is_started_again_stops_alike(tmp_path):
    first = tiny_train(tmp_path, steps=12, read_answer=unreadable_after(2), **GUARDED)
    again = tiny_train(tmp_path, steps=12, read_answer=unreadable_after(2), **GUARDED)
    assert first.summary["stop_step"] == 4
    assert again.summary == first.summary
    for name, value in weights(first.student).items():
        assert torch.equal(value, weights(again.student)[name]), name


def test_an_adapters_weights_kept_are_those_of_the_checkpoint(tmp_path):
    options = {**GUARDED, "method": "lora"}
    stopped = tiny_train(tmp_path / "a", steps=12, read_answer=unreadable_after(4), **options)
    until = tiny_train(
        tmp_path / "b", steps=stopped.summary["best_step"], read_answer=unreadable_after(4), **options
    )
    for name, value in weights(until.student).items():
        assert torch.equal(value, weights(stopped.student)[name]), name


def test_weights_that_overflow_stop_the_run_with_a_plain_error(tmp_path):
    with pytest.raises(
        TrainingError,
        match=r"stopped at step 2 because of .* \(float32\) is the first module.*training\.learning_rate",
    ):
        run(
            tmp_path,
            steps=12,
            learning_rate=1e30,
            save_steps=50,
            trainer={"optim": "sgd"},
            max_grad_norm=1e30,
        )
    assert [row["step"] for row in rows(tmp_path)] == [1]


def overflows_after(step: int):
    """An engine after whose step the student's head is infinite, as if an update had broken it."""

    class Engine(HFEngine):
        num_steps = 0

        def generate(self, requests, sampling):
            self.num_steps += 1
            if self.num_steps == step + 1:
                with torch.no_grad():
                    self.model.lm_head.weight[0] = torch.inf
            return super().generate(requests, sampling)

    return lambda student: Engine(student, TOKENIZER)


def test_logits_that_overflow_bring_the_model_from_before_back(tmp_path):
    """Step 4 cannot be sampled: step 3 may have broken the weights, so step 2 is kept."""
    trained = tiny_train(tmp_path, steps=6, make_engine=overflows_after(3), **GUARDED)
    assert (trained.summary["stop_step"], trained.summary["best_step"]) == (4, 2)
    assert "lm_head (float32) is the first module" in trained.summary["stopped_because"]
    assert all(value.isfinite().all() for value in weights(trained.student).values())
    off = {"guard_rails": GuardRailSettings(enabled=False)}
    with pytest.raises(NotFiniteError, match="lm_head"):
        tiny_train(tmp_path / "off", steps=6, make_engine=overflows_after(3), **off)


def test_a_teacher_whose_logits_overflow_ends_training_with_the_layers_name(tmp_path):
    """The student samples well; the loss alone meets the infinite weight, and no update is made from it."""
    model = build_tiny_model()
    with torch.no_grad():
        model.model.embed_tokens.weight[7] = torch.inf  # only the teacher's context holds this token
    item = lambda place: TrainingItem("q", (10, 11), (7, 10, 11), seed=place)  # noqa: E731
    with pytest.raises(TrainingError, match=r"stopped at step 1 .*loss.* model.embed_tokens \(float32\)"):
        tiny_train(tmp_path, steps=2, model=model, item=item)
    assert not rows(tmp_path)


def test_what_is_no_number_comes_back_from_a_checkpoint(tmp_path):
    """A resumed run tells the same reason to stop."""
    metrics = MetricsFile(tmp_path / "metrics.jsonl", checkpoint=None)
    metrics.append({"step": 1, "loss": math.nan, "grad_norm": math.inf, "num_loss_tokens": 3})
    again = MetricsFile(tmp_path / "resumed" / "metrics.jsonl", checkpoint=tmp_path)
    assert again.rows[0]["num_loss_tokens"] == 3
    assert find_stop(again.rows, FIVE) == find_stop(metrics.rows, FIVE) is not None
    assert (tmp_path / "resumed/metrics.jsonl").read_text() == (tmp_path / "metrics.jsonl").read_text()


def test_on_by_default_and_silent_on_a_run_that_goes_well(tmp_path):
    assert settings().guard_rails.enabled
    trained = tiny_train(
        tmp_path, steps=20, num_layers=1, batch_size=4, micro_batch_size=4, learning_rate=1e-5
    )
    assert trained.summary["stopped_because"] is None
    assert trained.summary["best_step"] == 20
    assert trained.summary["limits"]  # they were looked at
