"""The ids of a run's pool, for `show` and `explain`, with the first words of each question."""

from collections.abc import Iterator
from textwrap import shorten

from neuron_opsd.records import Question, SelectedQuestion
from neuron_opsd.store.run_folder import RunFolder

WIDTH = 60  # of a question's first words


def list_questions(folder: RunFolder) -> Iterator[str]:
    """A line for each question of the pool. A star marks those that selection kept, which alone have prompts to show.

    Raises:
        RunFolderError: the questions are not read yet.
    """
    pool = [question for question in folder.stage("questions").read(Question) if question.split == "train"]
    selection = folder.stage("selection").read(SelectedQuestion) if folder.is_current("selection") else []
    selected = {row.question_id for row in selection if row.selected}
    widest = max(len(question.question_id) for question in pool)
    for question in pool:
        mark = "*" if question.question_id in selected else " "
        yield f"{mark} {question.question_id:<{widest}}  {shorten(question.question, WIDTH, placeholder=' …')}"
