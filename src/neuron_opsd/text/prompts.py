"""All wording. A question becomes chat messages here, and nowhere else, for the student and for the teacher.

The teacher's prompt is the student's with earlier turns before it: system, demonstrations (question, own reply), the
question. Nothing here formats with templates of braces, so no question text can break it.
"""

from collections.abc import Iterable, Sequence

from neuron_opsd.records import Demonstration, Question
from neuron_opsd.text.answers import LETTERS
from neuron_opsd.text.thinking import strip_thinking

Message = dict[str, str]

INSTRUCTIONS = {
    "reasoned": 'Think briefly, then end with "The answer is X", where X is the letter of the correct choice.',
    "letter": "Answer with the letter of the correct choice only.",
    "choice_text": "Answer with the text of the correct choice only.",
}
INSTRUCTIONS["math"] = INSTRUCTIONS["reasoned"]
FREE_FORM_INSTRUCTIONS = {
    "reasoned": 'Think briefly, then end with "The answer is ...".',
    "math": r'Think briefly, then end with "The answer is \boxed{...}".',
}


def question_text(question: Question, *, choice_order: Sequence[int], answer_format: str) -> str:
    """What the user turn says: the question, its choices in the order given, and how to answer.

    With `free` it is the question alone, which then says itself how to answer. Choices only serve to read the reply.
    """
    if not question.choices or answer_format == "free":
        return _join(question.question, "", FREE_FORM_INSTRUCTIONS.get(answer_format, ""))
    marks = (
        ["-"] * len(choice_order) if answer_format == "choice_text" else [f"{letter}." for letter in LETTERS]
    )
    shown = "\n".join(f"{mark} {question.choices[i]}" for mark, i in zip(marks, choice_order, strict=False))
    return _join(question.question, shown, INSTRUCTIONS[answer_format])


def student_messages(
    question: Question, *, choice_order: Sequence[int], answer_format: str, system: str | None = None
) -> list[Message]:
    """What the student reads, and every rollout: the bare question."""
    return teacher_messages(
        question,
        (),
        choice_order=choice_order,
        answer_format=answer_format,
        system=system,
        keep_thinking=False,
    )


def teacher_messages(
    question: Question,
    demonstrations: Iterable[tuple[Question, Demonstration]],
    *,
    choice_order: Sequence[int],
    answer_format: str,
    system: str | None = None,
    keep_thinking: bool = False,
) -> list[Message]:
    """What the teacher reads: each demonstration as an earlier turn, then the student's own messages."""
    system = question.system or system
    messages = [{"role": "system", "content": system}] if system else []
    for other, shown in demonstrations:
        asked = question_text(other, choice_order=shown.choice_order, answer_format=answer_format)
        reply = shown.reply if keep_thinking else strip_thinking(shown.reply)
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]
    asked = question_text(question, choice_order=choice_order, answer_format=answer_format)
    return [*messages, {"role": "user", "content": asked}]


def truth_messages(
    question: Question, answer: str, answer_format: str, system: str | None = None
) -> list[Message]:
    """What a model reads that is asked whether an answer is right: the question, its choices, the answer.

    `answer` is a letter of the original order of the choices, or free text.
    """
    asked = question.question
    if question.choices:
        place = LETTERS.index(answer)
        has_letters = answer_format not in ("choice_text", "free")
        marks = [f"{letter}." for letter in LETTERS] if has_letters else ["-"] * len(question.choices)
        asked = _join(asked, "\n".join(f"{m} {c}" for m, c in zip(marks, question.choices, strict=False)))
        answer = f"{answer}. {question.choices[place]}" if has_letters else question.choices[place]
    content = _join(
        asked, f"Proposed answer: {answer}", "Is the proposed answer right? Answer with yes or no only."
    )
    system = question.system or system
    return [
        *([{"role": "system", "content": system}] if system else []),
        {"role": "user", "content": content},
    ]


def _join(*parts: str) -> str:
    return "\n".join(part for part in parts if part)
