"""Which questions may demonstrate, where the nearest may not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from end_to_end.test_pipeline import run
from neuron_opsd.demonstrations import find_neighbours
from neuron_opsd.records import Rollout
from neuron_opsd.run.session import Workbench
from neuron_opsd.store.run_folder import RunFolder


def reply_to(question_id: str) -> Rollout:
    return Rollout(
        question_id=question_id,
        rollout_index=0,
        choice_order=(0, 1, 2, 3),
        prompt_ids=(1,),
        completion_ids=(2,),
        token_log_probs=(-0.5,),
        finish_reason="stop",
        reply="A",
        answer="A",
    )


def test_near_duplicates_and_questions_without_a_reply_never_demonstrate(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run([*command, "--output", str(tmp_path / "run"), "--until", "questions"], monkeypatch) == 0
    bench = Workbench(RunFolder.open(tmp_path / "run"))
    nearest, second, third, fourth, *others = bench.pool
    twin = replace(nearest, question_id="twin")
    sets = {
        question.question_id: np.array(ids)
        for question, ids in (
            (twin, [0, 1, 2, 3]),
            (nearest, [0, 1, 2, 3]),
            (second, [0, 1, 2, 3, 4]),
            (third, [0, 1, 2]),
            (fourth, [0, 1]),
            *((question, [9]) for question in others),
        )
    }
    replies = {question.question_id: reply_to(question.question_id) for question in bench.pool}
    del replies[second.question_id]
    found = find_neighbours(bench, [twin], replies, sets)
    assert found == {"twin": [(third.question_id, 0.25), (fourth.question_id, 0.5)]}
