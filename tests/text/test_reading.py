"""Replies in the styles that models write, read as a person would read them; and none takes long."""

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from neuron_opsd.text.fallbacks import FALLBACKS
from neuron_opsd.text.patterns import EXAMPLE_CHOICES, PATTERNS
from neuron_opsd.text.reading import Reading, read_answer
from neuron_opsd.text.thinking import MARKS

_LINES = Path(__file__).with_name("replies.jsonl").read_text(encoding="utf-8").splitlines()
CHOICES = json.loads(_LINES[0])["choices"]
REPLIES = [json.loads(line) for line in _LINES[1:]]
SETTLED = [row for row in REPLIES if not row.get("is_unsettled")]


def read(row: dict) -> Reading:
    how = {name: row[name] for name in ("answer_format", "is_finished") if name in row}
    return read_answer(row["reply"], choices=CHOICES[row["choices"]], **how)


def outcome(row: dict) -> str:
    answer = read(row).answer
    if answer == row["right"] or answer in row.get("also_ok", ()):
        return "as wanted"
    return "unread" if answer is None else "wrong"


@pytest.mark.parametrize("kind", sorted({row["kind"] for row in SETTLED}))
def test_a_reply_is_read_as_a_person_reads_it(kind):
    rows = [row for row in SETTLED if row["kind"] == kind]
    assert [(row, read(row)) for row in rows if outcome(row) != "as wanted"] == []


@pytest.mark.parametrize("source", ["given", "own", "held"])
def test_nearly_all_are_read_and_hardly_any_wrongly(source):
    counts = Counter(outcome(row) for row in REPLIES if row["from"] == source)
    assert counts["as wanted"] >= 0.97 * counts.total()
    assert counts["wrong"] <= 0.01 * counts.total()


@pytest.mark.parametrize("row", [*PATTERNS, *FALLBACKS], ids=lambda row: row.name)
def test_each_row_reads_its_example(row):
    assert read_answer(row.example, choices=EXAMPLE_CHOICES) == Reading("C", row.name)


def test_names_are_unique():
    names = [row.name for row in (*PATTERNS, *FALLBACKS)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("", "empty"),
        ("<think>The answer is A", "cut in its thinking"),
        ("Answer: A and C", "several letters"),
        ("Answer: E", "beyond the choices"),
        ("The answer is B. cortisol", "letter and text disagree"),
        ("The answer is A. Hmm, that is wrong.", "contradicts itself"),
        ("It is not insulin.", "only ruled out"),
        ("I cannot answer that.", "refusal"),
        ("Hormones are messengers.", "no answer"),
    ],
)
def test_why_a_reply_is_not_read(reply, kind):
    assert read_answer(reply, choices=EXAMPLE_CHOICES) == Reading(None, kind)


@pytest.mark.parametrize(
    ("reply", "answer_format", "answer"),
    [
        ("The answer is C. Cortisol", "reasoned", "C"),  # what was said before the cut stands
        ("The answer is C", "reasoned", None),  # may be the C of "Cortisol"
        ("C. Cortisol is a steroid", "reasoned", None),
        ("C. Cortisol is a steroid", "letter", "C"),
        ("Cortisol is made by the adrenal", "reasoned", None),
        ("Cortisol is made by the adrenal", "choice_text", "C"),
        (r"So \boxed{C", "reasoned", None),
        ("The steroid here is cortisol. It is made by", "free", "C"),
        ("The steroid here is cortisol, because it is made", "free", "C"),
        ("The steroid here is cortisol. It is made by", "reasoned", None),  # it may go on to weigh the others
        ("The steroid here is not cortisol. It is", "free", None),
        ("The steroid here is cortisol. Insulin is", "free", None),
        ("Cortisol levels are high. They", "free", None),
        ("The steroid here is cortisol, but it is also", "free", None),
        ("It may be insulin, and it is also cortisol. They", "free", None),
        ("If lipophilic, the steroid is cortisol. It", "free", None),
        ("I'm not sure if it is cortisol. It", "free", None),
        ("Is it cortisol? It", "free", None),
        ("The steroid here is aldosterone and cortisol. Both", "free", None),
    ],
)
def test_a_reply_that_was_cut(reply, answer_format, answer):
    read = read_answer(reply, choices=EXAMPLE_CHOICES, answer_format=answer_format, is_finished=False)
    assert read.answer == answer
    assert answer or read.kind == "cut"


@pytest.mark.parametrize(
    ("reply", "choices", "answer"),
    [
        ("RESULT=a; RESULT=c", EXAMPLE_CHOICES, "C"),  # the last one
        ("RESULT=Cortisol;", EXAMPLE_CHOICES, "C"),
        ("RESULT=E;", EXAMPLE_CHOICES, None),
        ("The answer is C", EXAMPLE_CHOICES, None),  # it takes the place of the table
        ("RESULT=1,200;", (), "1200"),
        ("<think>RESULT=3;</think>", (), None),
    ],
)
def test_a_users_own_pattern(reply, choices, answer):
    read = read_answer(reply, choices=choices, pattern=r"RESULT=([^;]+)")
    assert read.answer == answer
    assert answer is None or read.kind == "prompts.answer_pattern"


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("The answer is 42. I hope it helps.", "42"),
        ("**Answer:** Paris", "paris"),
        ('{"answer": "Paris"}', "paris"),
        (r"The side is \boxed{3}. **Answer: 12**", "12"),
        ("It is not clear. The answer is not 5.", None),
        ("Die Antwort ist 42.", "42"),
        ("<answer>42</answer>", "42"),
        ("9 - 2 = 7\n#### 7", "7"),
        ("Answer: I don't know", None),
        ("Half of what a 150-degree oven needs.", None),
        ("The answer is 42.\nQuestion: what is 1 + 1?\nThe answer is 2.", "42"),
        ("The answer is S. aureus. It is a coccus.", "s aureus"),
    ],
)
def test_free_form_answers_share_the_table(reply, answer):
    assert read_answer(reply, choices=()).answer == answer


def test_a_free_form_reply_that_was_cut_has_no_last_number():
    assert read_answer("First 6, then 7", choices=(), is_finished=False) == Reading(None, "cut")


ODD = (
    *" ([{}*_`$#<>|?!.,:;-'\"✓1aA选",
    *(
        "A ",
        "A, ",
        "A or ",
        "(A) (B) ",
        "A. insulin\n",
        "- A\n",
        "\n#### ",
        "\n\n# ",
        "\nQuestion",
        "\nHuman:",
    ),
    *(r"\boxed{", r"\text{", r"\boxed{A} or ", "the answer is ", "answer ", "answer: ", "if the answer is "),
    *(
        "not ",
        "wait, ",
        "so it is ",
        "insulin ",
        "not insulin, ",
        "C is correct. ",
        '"answer": ',
        "<answer>",
        "ﷺ",
    ),
)


@pytest.mark.parametrize("choices", [EXAMPLE_CHOICES, ()], ids=["choices", "free form"])
def test_no_reply_takes_long(choices):
    """Each repeats something that a pattern begins with, to 100,000 characters. The bound is 5 times 50 ms."""

    def is_slow(unit: str) -> bool:
        reply = (unit * (100_000 // len(unit) + 1))[:100_000]
        start = time.process_time()
        read_answer(reply, choices=choices)
        return time.process_time() - start >= 5 * 0.05

    marks = [text for pair in MARKS for text in (*pair, "x".join(pair))]
    units = (*ODD, *marks, *(f"{row.example}\n" for row in (*PATTERNS, *FALLBACKS)))
    # A busy machine may slow one reading. What is slow by itself is slow three times.
    assert [unit for unit in units if all(is_slow(unit) for _ in range(3))] == []
