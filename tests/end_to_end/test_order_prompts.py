"""What the teacher reads in each order of the choices, and what it calls the student's letters there."""

import re
from itertools import permutations
from pathlib import Path

import pytest

from end_to_end.conftest import command_for
from end_to_end.test_pipeline import run
from neuron_opsd.contexts.orders import TeacherOrders
from neuron_opsd.run.session import Run
from neuron_opsd.store.run_folder import RunFolder


def test_a_letter_is_renamed_to_the_one_that_the_same_choice_has(
    lettered_model_folder: Path, question_files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The choices may be shuffled for the student, too, and the teacher may read fewer orders than there are."""
    command = [*command_for(lettered_model_folder, *question_files), "--output", str(tmp_path / "run")]
    command += ["training.teacher_orders=3", "prompts.answer_format=letter", "--until", "rollouts"]
    assert run(command, monkeypatch) == 0
    session = Run(RunFolder.open(tmp_path / "run"))
    encoder, question = session.models.encoder(), session.records.pool[0]
    letter_of = {encoder.encode_text(letter)[0]: letter for letter in "ABCD"}

    def choices(prompt_ids: tuple[int, ...]) -> dict[str, str]:
        return dict(re.findall(r"^([A-D])\. (.+)$", encoder.decode(prompt_ids), flags=re.MULTILINE))

    for choice_order in permutations(range(4)):
        views = TeacherOrders(session).views(question.question_id, choice_order, ())
        shown, *others = (choices(view.prompt_ids) for view in views)
        assert shown == {"ABCD"[i]: question.choices[place] for i, place in enumerate(choice_order)}
        assert len({tuple(other.values()) for other in (shown, *others)}) == 3
        for view, there in zip(views, (shown, *others), strict=True):
            renamed = {letter_of[a]: letter_of[b] for a, b in view.renamed.items() if a in letter_of}
            assert {there[renamed[letter]] == shown[letter] for letter in "ABCD"} == {True}
