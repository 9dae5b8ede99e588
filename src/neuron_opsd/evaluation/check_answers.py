"""A process of its own that reads answer files before a run, and says how many there are: never which.

    python -m neuron_opsd.evaluation.check_answers < {"answers": [...], "questions": [...], ...}

`questions/answer_counts.py` starts it. On its standard output it writes counts as JSON, and where rows were left out.
An error that ends the run is written there too, and may quote the cells that it is about. Nothing imports this module.
"""

import json
import re
import sys
from collections import Counter
from typing import Any

from neuron_opsd.errors import NeuronOpsdError
from neuron_opsd.evaluation.answer_key import AnswerKey, read_answers
from neuron_opsd.records import Question


def main() -> None:
    """Read a request from standard input, and write counts, or the error that a run would end with."""
    asked = json.load(sys.stdin)
    questions = [_question(values) for values in asked["questions"]]
    try:
        key = read_answers(
            asked["answers"],
            questions,
            fields=asked["fields"],
            answer_base=asked["answer_base"],
            max_bad_fraction=asked["max_bad_fraction"],
        )
    except NeuronOpsdError as error:
        json.dump({"error": str(error)}, sys.stdout)
        return
    json.dump(_counts(key, questions, is_for_people=asked["is_for_people"]), sys.stdout)


def _question(values: dict[str, Any]) -> Question:
    values |= {name: tuple(values[name]) for name in ("choices", "letters")}
    return Question(**values)


def _counts(key: AnswerKey, questions: list[Question], *, is_for_people: bool) -> dict[str, Any]:
    """Counts of rows and questions. What people ask for with `questions --check` is never sent to a run."""
    tested = {question.question_id for question in questions if question.split == "test"}
    counts: dict[str, Any] = {
        "num_rows": key.num_rows,
        "num_questions": len(key.answers),
        "num_test_questions": len(tested & key.answers.keys()),
        "num_other": key.num_other,
        "num_blank": key.num_blank,
        "left_out": [row.where for row in key.left_out],
        **_free_form_counts(key, questions),
    }
    if is_for_people:
        closed = {question.question_id for question in questions if question.choices}
        balance = Counter(answer for question_id, answer in key.answers.items() if question_id in closed)
        counts |= {"balance": dict(sorted(balance.items())), "reasons": [row.reason for row in key.left_out]}
    return counts


def _free_form_counts(key: AnswerKey, questions: list[Question]) -> dict[str, int]:
    """How many free-form questions have an answer, and how many of these answers are one letter or one digit."""
    free = {question.question_id for question in questions if not question.choices}
    answers = [answer.strip() for question_id, answer in key.answers.items() if question_id in free]
    return {
        "num_free_form": len(answers),
        "num_letters": sum(bool(re.fullmatch(r"[A-Ha-h]", answer)) for answer in answers),
        "num_digits": sum(bool(re.fullmatch(r"[1-8]", answer)) for answer in answers),
    }


if __name__ == "__main__":
    main()
