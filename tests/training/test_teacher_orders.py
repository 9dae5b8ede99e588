"""A teacher that reads several orders of the choices, or is brought to the student's entropy."""

import json
import shutil

import pytest
import torch
from training_runs import TOKENIZER, assert_same_bits, make_item, ordered_item, rows, run, tiny_train

from helpers import build_tiny_model
from neuron_opsd.engines.base import Request, Sampling
from neuron_opsd.engines.hf import HFEngine
from neuron_opsd.model import order_average
from neuron_opsd.training.entropy_match import GRID, entropies_at, matching


@pytest.mark.parametrize("micro_batch_size", [1, 8])
def test_the_teacher_is_the_mean_over_its_orders(tmp_path, micro_batch_size):
    """The logged loss, recomputed one order at a time."""
    run(
        tmp_path,
        steps=1,
        item=ordered_item,
        micro_batch_size=micro_batch_size,
        teacher="frozen",
        teacher_orders=3,
    )
    model, engine = build_tiny_model().double(), HFEngine(build_tiny_model(), TOKENIZER)

    def read(prompt, completion):
        with torch.no_grad():
            return model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1].softmax(-1)

    terms = []
    for item in map(ordered_item, range(8)):
        asked = [Request(prompt_ids=item.student_ids, seeds=(item.seed,))]
        ((_, (completion,)),) = engine.generate(asked, Sampling(temperature=1.0, max_new_tokens=6))
        means = []
        for view in item.views:
            probs = read(view.prompt_ids, view.rename(completion.token_ids))
            places = torch.arange(probs.shape[1])
            for token, other in view.renamed.items():
                places[token] = other
            means.append(probs[:, places])
        student, teacher = read(item.student_ids, completion.token_ids), sum(means) / len(means)
        terms.append((student * (student.log() - teacher.log())).sum(-1))
    assert rows(tmp_path)[0]["loss"] == pytest.approx(torch.cat(terms).mean().item(), rel=1e-4)


def test_a_frozen_teacher_reads_a_question_once_and_a_resumed_one_is_equal_to_the_bit(tmp_path, monkeypatch):
    options = {
        "steps": 4,
        "item": lambda place: ordered_item(place % 12),
        "max_new_tokens": 1,
        "save_steps": 2,
    }
    options |= {"teacher": "frozen", "teacher_orders": 3, "micro_batch_size": 4}
    read, plain = [], order_average.scoring_states

    def counted(model, prompts, texts, **kept):
        read.extend(prompts)
        return plain(model, prompts, texts, **kept)

    monkeypatch.setattr(order_average, "scoring_states", counted)
    whole = run(tmp_path / "whole", **options)
    assert len(read) == sum(
        2 + place % 2 for place in range(12)
    )  # each order of each of 12 questions, in 32 places
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoint-4")
    assert_same_bits(run(tmp_path / "cut", **options), whole)
    monkeypatch.setattr(order_average, "MAX_KNOWN", 1)
    assert_same_bits(run(tmp_path / "forgetful", **options), whole)


@pytest.mark.parametrize("sampled_at", [1.0, 0.6])
def test_a_matched_teacher_has_the_base_students_entropy(tmp_path, sampled_at):
    options = {"steps": 2, "teacher": "frozen", "teacher_entropy": "matched", "learning_rate": 1e-9}
    trained = tiny_train(tmp_path, entropy_at=sampled_at, **options)
    temperature = trained.summary["teacher_temperature"]
    assert temperature != 1
    assert json.loads((tmp_path / "teacher_temperature.json").read_text()) == {
        "teacher_temperature": temperature
    }

    model, engine = build_tiny_model().double(), HFEngine(build_tiny_model(), TOKENIZER)
    found = {"student": [], "teacher": []}
    for item in map(make_item, range(16)):
        asked = [Request(prompt_ids=item.student_ids, seeds=(item.seed,))]
        ((_, (completion,)),) = engine.generate(asked, Sampling(temperature=1.0, max_new_tokens=6))
        for role, prompt, t in (("student", item.student_ids, 1), ("teacher", item.teacher_ids, temperature)):
            with torch.no_grad():
                logits = model(torch.tensor([[*prompt, *completion.token_ids]])).logits[
                    0, len(prompt) - 1 : -1
                ]
            log_probs = (logits / t / sampled_at).log_softmax(-1)
            found[role].append(-(log_probs.exp() * log_probs).sum(-1))
    student, teacher = (torch.cat(values).mean().item() for values in found.values())
    assert teacher == pytest.approx(student, abs=2e-3)


def test_a_resumed_training_keeps_the_temperature(tmp_path):
    options = {"steps": 3, "teacher": "frozen", "teacher_entropy": "matched", "save_steps": 1}
    whole = run(tmp_path / "whole", **options)
    for name in ("cut", "other"):
        shutil.copytree(tmp_path / "whole", tmp_path / name)
        for step in (2, 3):
            shutil.rmtree(tmp_path / name / f"checkpoint-{step}", ignore_errors=True)
    (tmp_path / "other/teacher_temperature.json").write_text('{"teacher_temperature": 5.0}')
    assert_same_bits(run(tmp_path / "cut", **options), whole)
    with pytest.raises(AssertionError):
        assert_same_bits(run(tmp_path / "other", **options), whole)


def test_what_the_temperature_was_measured_on_is_read_as_in_a_step(tmp_path):
    """The frozen teacher's first tokens are kept, and a resumed training, which measures nothing, reads them anew."""
    options = {"steps": 3, "item": ordered_item, "max_new_tokens": 1, "save_steps": 1, "teacher_orders": 3}
    options |= {"teacher": "frozen", "teacher_entropy": "matched", "trainer": {"bf16": True}}
    whole = run(tmp_path / "whole", **options)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for step in (2, 3):
        shutil.rmtree(tmp_path / "cut" / f"checkpoint-{step}")
    assert_same_bits(run(tmp_path / "cut", **options), whole)


@pytest.mark.parametrize("target", [0.2, 1.0, 2.5])
def test_the_temperature_gives_the_entropy_that_is_asked_for(target):
    logits = torch.randn(4, 30, generator=torch.Generator().manual_seed(0)) * 2
    found = matching(target, entropies_at(logits, GRID) / 4)
    assert (entropies_at(logits, torch.tensor([found])) / 4).item() == pytest.approx(target, abs=5e-3)


def test_an_entropy_out_of_reach_takes_the_nearest_end(caplog):
    logits = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    assert matching(99.0, entropies_at(logits, GRID) / 4) == pytest.approx(8)
    assert "The nearest is 8" in caplog.text
