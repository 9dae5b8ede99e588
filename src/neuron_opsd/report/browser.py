"""The questions browser's data: each question with its prompts, replies, neighbours and outcome, packed.

A teacher's prompt is not stored but made of parts: most of it are other questions' prompts and replies, which
are there already. page.js puts the turns together. What differs from those parts is stored with the neighbour.
"""

import base64
import json
import math
import zlib
from collections.abc import Sequence
from typing import Any

from neuron_opsd.records import Demonstration, Question, Rollout, SelectedQuestion, TeacherContext
from neuron_opsd.report.blocks import Browser
from neuron_opsd.report.inputs import ReportInputs
from neuron_opsd.report.markup import Code
from neuron_opsd.results import QuestionResult
from neuron_opsd.text.prompts import question_text
from neuron_opsd.text.thinking import strip_thinking

Row = dict[str, Any]
MAX_PACKED = 8_000_000  # bytes, so that the page stays under 10 MB
REPLY_BUDGET = 8_000_000  # characters of all replies together, to begin with
REPLY_LIMITS = (160, 4000)  # characters of one reply, at least and at most


def questions_browser(inputs: ReportInputs) -> Browser:
    """All questions, selected ones first, then by id. Replies as long as the page can hold."""
    low, high = REPLY_LIMITS
    limit = max(low, min(high, REPLY_BUDGET // max(len(inputs.rollouts), 1)))
    while True:
        data = pack(_payload(inputs, limit))
        if len(data) <= MAX_PACKED or limit <= low:
            break
        limit = max(low, limit // 2)
    domains = sorted({question.domain for question in inputs.questions})
    note = (
        f"Replies are shown up to {limit:,} characters; the run folder has all of them. Prompts are shown as "
        "turns, choices as in the zero-shot rollout;",
        Code("neuron-opsd show RUN QUESTION_ID"),
        "prints one with its chat template.",
    )
    return Browser(len(inputs.questions), domains, data, note)


def pack(payload: Any) -> str:
    """JSON, deflated, in base64: a third of its size, and no character that means anything to HTML."""
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode("utf-8", "replace"), 9)).decode()


def _payload(inputs: ReportInputs, limit: int) -> dict[str, Any]:
    parts = _Parts(inputs, limit)
    chosen = {s.question_id: s for s in inputs.selection}
    ordered = sorted(
        inputs.questions,
        key=lambda q: (not (q.question_id in chosen and chosen[q.question_id].selected), q.question_id),
    )
    return {
        "system": inputs.setting("prompts.system"),
        "nearestFirst": inputs.setting("contexts.order") == "nearest_first",
        "questions": [parts.row(question, chosen.get(question.question_id)) for question in ordered],
    }


class _Parts:
    """What rows are made of, by question id."""

    def __init__(self, inputs: ReportInputs, limit: int) -> None:
        self.limit = limit
        self.answer_format = str(inputs.setting("prompts.answer_format", "reasoned"))
        self.keep_thinking = bool(inputs.setting("prompts.keep_thinking", False))
        self.questions = {question.question_id: question for question in inputs.questions}
        self.rollouts: dict[str, list[Rollout]] = {}
        for rollout in inputs.rollouts:
            self.rollouts.setdefault(rollout.question_id, []).append(rollout)
        self.contexts = {context.question_id: context for context in inputs.contexts}
        self.outcomes = {row.question_id: row for row in inputs.results.questions} if inputs.results else {}

    def row(self, question: Question, selected: SelectedQuestion | None) -> Row:
        """Everything about one question. What is not known is left out."""
        name = question.question_id
        row: Row = {"id": name, "domain": question.domain, "split": question.split, "text": question.question}
        if question.choices:
            row["choices"] = list(question.choices)
        if question.system:
            row["system"] = question.system
        replies = [[*self._cut(r.reply), r.answer] for r in self.rollouts.get(name, [])]
        shown = self._own_demonstration(name)
        if replies and shown != replies[0][:2]:
            row["shown"] = shown  # as a demonstration, without its thinking
        row |= {"prompt": self._prompt(name), "replies": replies}
        return row | _selection(selected) | self._context(name) | _outcome(self.outcomes.get(name))

    def _context(self, name: str) -> Row:
        context: TeacherContext | None = self.contexts.get(name)
        if context is None:
            return {}
        return {
            "neighbours": [self._neighbour(shown) for shown in context.demonstrations],
            "dropped": context.num_demonstrations_dropped,
            "promptTokens": [context.num_student_prompt_tokens, context.num_teacher_prompt_tokens],
        }

    def _neighbour(self, shown: Demonstration) -> list[Any]:
        """Id and distance. Its two turns as well where they are not those of its own row."""
        entry: list[Any] = [shown.question_id, _finite(shown.distance)]
        if shown.question_id not in self.questions:
            return entry
        reply = self._cut(shown.reply if self.keep_thinking else strip_thinking(shown.reply))
        asked = self._asked(self.questions[shown.question_id], shown.choice_order)
        own = [self._prompt(shown.question_id), self._own_demonstration(shown.question_id)]
        return entry if [asked, reply] == own else [*entry, asked, *reply]

    def _prompt(self, name: str) -> str:
        """The student's turn as the first rollout read it."""
        question, rollouts = self.questions[name], self.rollouts.get(name)
        order = rollouts[0].choice_order if rollouts else range(len(question.choices))
        return self._asked(question, order)

    def _asked(self, question: Question, choice_order: Sequence[int]) -> str:
        return question_text(question, choice_order=choice_order, answer_format=self.answer_format)

    def _own_demonstration(self, name: str) -> list[Any]:
        rollouts = self.rollouts.get(name)
        reply = rollouts[0].reply if rollouts else ""
        return self._cut(reply if self.keep_thinking else strip_thinking(reply))

    def _cut(self, text: str) -> list[Any]:
        """The text and how many of its characters are left out."""
        return [text[: self.limit], max(len(text) - self.limit, 0)]


def _selection(selected: SelectedQuestion | None) -> Row:
    if selected is None:
        return {}
    return {
        "score": _finite(selected.consensus_score),
        "rank": int(selected.rank),
        "tokens": int(selected.num_completion_tokens),
        "selected": bool(selected.selected),
    }


def _outcome(found: QuestionResult | None) -> Row:
    """Majority answer, vote share and share of right samples, before and after."""
    if found is None:
        return {}
    models = found.both.items()
    return {"outcome": [[own.answer, own.vote_share, own.correct_fraction] for _, own in models]}


def _finite(value: float) -> float | None:
    return round(float(value), 3) if math.isfinite(value) else None
