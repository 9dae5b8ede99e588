"""The questions browser's data: each question, the model's replies, its neurons, neighbours and outcome."""

import json
import math
from typing import Any

from neuron_opsd.records import Question, Rollout, SelectedQuestion, TeacherContext
from neuron_opsd.report.blocks import Browser
from neuron_opsd.report.inputs import ReportInputs
from neuron_opsd.report.markup import Html, trusted

REPLY_BUDGET = (
    5_000_000  # characters of all replies together, so that the page stays under 10 MB at 5,000 questions
)
REPLY_LIMITS = (160, 4000)  # characters of one reply, at least and at most


def questions_browser(inputs: ReportInputs) -> Browser:
    """A row for each question, selected ones first, then by id."""
    replies: dict[str, list[Rollout]] = {}
    for rollout in inputs.rollouts:
        replies.setdefault(rollout.question_id, []).append(rollout)
    limit = _reply_limit(len(inputs.rollouts))
    chosen = {s.question_id: s for s in inputs.selection}
    contexts = {c.question_id: c for c in inputs.contexts}
    outcomes = {row["question_id"]: row for row in (inputs.results or {}).get("questions", [])}
    ordered = sorted(
        inputs.questions,
        key=lambda q: (not (q.question_id in chosen and chosen[q.question_id].selected), q.question_id),
    )
    rows = [
        {
            **_question(question),
            "replies": [_reply(r, limit) for r in replies.get(question.question_id, [])],
            **_selection(chosen.get(question.question_id)),
            **_neighbours(contexts.get(question.question_id)),
            **_outcome(outcomes.get(question.question_id)),
        }
        for question in ordered
    ]
    note = f"Replies are shown up to {limit:,} characters; the run folder has all of them."
    return Browser(rows, note)


def as_json(rows: Any) -> Html:
    """JSON that can stand inside a script element: nothing in it can close the element or start a comment."""
    text = json.dumps(rows, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return trusted(text.encode("utf-8", "replace").decode("utf-8"))


def _reply_limit(num_rollouts: int) -> int:
    low, high = REPLY_LIMITS
    return max(low, min(high, REPLY_BUDGET // max(num_rollouts, 1)))


def _question(question: Question) -> dict[str, Any]:
    row: dict[str, Any] = {"id": question.question_id, "domain": question.domain, "text": question.question}
    if question.choices:
        row["choices"] = list(question.choices)
    return {**row, "split": question.split}


def _reply(rollout: Rollout, limit: int) -> list[Any]:
    cut = len(rollout.reply) - limit
    return [rollout.reply if cut <= 0 else rollout.reply[:limit], max(cut, 0), rollout.answer]


def _selection(selected: SelectedQuestion | None) -> dict[str, Any]:
    if selected is None:
        return {}
    return {
        "score": _finite(selected.consensus_score),
        "rank": int(selected.rank),
        "tokens": int(selected.num_completion_tokens),
        "selected": bool(selected.selected),
    }


def _neighbours(context: TeacherContext | None) -> dict[str, Any]:
    if context is None:
        return {}
    return {"neighbours": [[d.question_id, _finite(d.distance)] for d in context.demonstrations]}


def _outcome(row: dict[str, Any] | None) -> dict[str, Any]:
    if row is None:
        return {}
    roles = ("base", "trained")
    fields = ("answer", "vote_share", "correct_fraction")
    return {"outcome": [[row[f"{role}_{name}"] for name in fields] for role in roles]}


def _finite(value: float) -> float | None:
    return round(float(value), 3) if math.isfinite(value) else None
