"""Three questions whose answer changed: one that turned right, one that turned wrong, one more."""

from neuron_opsd.records import Question
from neuron_opsd.report.blocks import Block, Example, Examples
from neuron_opsd.report.inputs import ReportInputs
from neuron_opsd.report.parts import clip
from neuron_opsd.results import Outcome, QuestionResult

NUM_EXAMPLES = 3
MAX_QUESTION, MAX_ANSWER = 260, 80  # characters
RIGHT, WRONG, OTHER = "Wrong before, right after", "Right before, wrong after", "Another answer after"
JUDGEMENTS = {RIGHT: "better", WRONG: "worse", OTHER: ""}


def changed_questions(inputs: ReportInputs) -> list[Block]:
    """Up to three, of each kind first the one whose samples changed most. Nothing where no answer changed."""
    if not inputs.results:
        return []
    texts = {question.question_id: question for question in inputs.questions}
    changed = [
        row
        for row in inputs.results.questions
        if row.base_answer != row.trained_answer and row.question_id in texts
    ]
    if not changed:
        return []
    own = inputs.results.trained_domains
    ordered = sorted(changed, key=lambda row: (row.domain not in own, -_size(row), row.question_id))
    groups = {kind: [row for row in ordered if _kind(row) == kind] for kind in JUDGEMENTS}
    # One of each kind, then a second of each, until there are three.
    taken = [
        (kind, groups[kind][turn])
        for turn in range(NUM_EXAMPLES)
        for kind in groups
        if turn < len(groups[kind])
    ][:NUM_EXAMPLES]
    taken.sort(key=lambda pair: list(JUDGEMENTS).index(pair[0]))
    return [
        Examples(
            "Questions whose answer changed",
            [_example(kind, row, texts[row.question_id]) for kind, row in taken],
            _note(inputs, {kind: len(rows) for kind, rows in groups.items()}),
        )
    ]


def _kind(row: QuestionResult) -> str:
    before, after = row.base_majority_correct, row.trained_majority_correct
    if before is None or after is None or (before > 0.5) == (after > 0.5):
        return OTHER
    return RIGHT if after > before else WRONG


def _size(row: QuestionResult) -> float:
    """How much the samples changed."""
    before, after = row.base_correct_fraction, row.trained_correct_fraction
    return abs(after - before) if before is not None and after is not None else row.trained_vote_share


def _example(kind: str, row: QuestionResult, question: Question) -> Example:
    before, after = (_answer(outcome, question) for _, outcome in row.both.items())
    return Example(
        label=kind,
        judgement=JUDGEMENTS[kind],
        where=f"{row.domain}, {row.question_id}",
        question=clip(question.question, MAX_QUESTION),
        before=before,
        after=after,
    )


def _answer(outcome: Outcome, question: Question) -> str:
    """The majority answer, with the choice that it names, and its share of the votes."""
    if outcome.answer is None:
        return "no readable answer"
    letters = [chr(ord("A") + index) for index in range(len(question.choices))]
    choice = question.choices[letters.index(outcome.answer)] if outcome.answer in letters else ""
    named = f"{outcome.answer}. {choice}" if choice else outcome.answer
    return f"{clip(named, MAX_ANSWER)} ({outcome.vote_share:.0%})"


def _note(inputs: ReportInputs, counts: dict[str, int]) -> str:
    assert inputs.results is not None
    total = len(inputs.results.questions)
    named = {RIGHT: "turned right", WRONG: "turned wrong", OTHER: "changed otherwise"}
    told = ", ".join(f"{counts[kind]:,} {words}" for kind, words in named.items() if counts[kind])
    return (
        f"Of {total:,} test questions {told}. Shown: of each kind, trained domain first, the ones whose samples "
        "changed most. In brackets: the answer's share of the votes. All are in the section on questions."
    )
