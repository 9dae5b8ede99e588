"""How a run's stored replies read: what gives no answer and why, and what today's reader would read otherwise."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from neuron_opsd.config import PromptSettings
from neuron_opsd.records import Question, Rollout
from neuron_opsd.report.blocks import Block, Paragraph, Table
from neuron_opsd.report.inputs import ReadReplies, ReportInputs
from neuron_opsd.text.replies import read_reply

SEVERAL = "several letters"  # the reader's kind for a reply that gives more than one answer
NUM_KINDS = 10
EXAMPLE_END = 60  # characters shown of a long reply's beginning, and of its end


def read_stored(
    where: str,
    rollouts: Iterable[Rollout],
    questions: Mapping[str, Question],
    prompts: PromptSettings,
    *,
    is_trained_on: bool = False,
    is_read_today: bool = False,
) -> ReadReplies:
    """Read stored replies with today's reader, and compare with the answers stored beside them.

    With `is_read_today` that reader made the answers, so only replies without one are read again, for their kind.
    """
    kinds: Counter[str] = Counter()
    examples: dict[str, str] = {}
    num_replies = num_changed = 0
    for rollout in rollouts:
        num_replies += 1
        if is_read_today and rollout.answer is not None:
            continue
        reading = read_reply(
            rollout.reply,
            choices=questions[rollout.question_id].choices,
            choice_order=rollout.choice_order,
            prompts=prompts,
            finish_reason=rollout.finish_reason,
        )
        num_changed += reading.answer != rollout.answer
        if reading.answer is None:
            kinds[reading.kind] += 1
            examples.setdefault(reading.kind, shorten(rollout.reply))
    return ReadReplies(where, num_replies, num_changed, kinds, examples, is_trained_on)


def shorten(reply: str) -> str:
    """A reply on one line, its middle left out where it is long, and how many characters that are."""
    line = " ".join(reply.split()) or "(nothing)"
    left_out = len(line) - 2 * EXAMPLE_END
    if left_out <= 0:
        return line
    return f"{line[:EXAMPLE_END]} [… {left_out:,} characters …] {line[-EXAMPLE_END:]}"


def readings_section(inputs: ReportInputs) -> list[Block]:
    """Shares that cannot be read, the commonest reasons, and what a newer reader reads otherwise."""
    stored = [replies for replies in inputs.replies if replies.num_replies]
    if not stored:
        return []
    kinds = sum((replies.kinds for replies in stored), Counter())
    num_replies = sum(replies.num_replies for replies in stored)
    shares = [
        f"{replies.kinds.total() / replies.num_replies:.1%} of {replies.num_replies:,} {replies.where}"
        for replies in stored
    ]
    blocks: list[Block] = [Paragraph(f"Replies that give no answer: {', '.join(shares)}.")]
    if kinds:
        blocks.append(_kinds_table(kinds, stored, num_replies))
    if kinds[SEVERAL]:
        blocks.append(
            Paragraph(
                f"{kinds[SEVERAL]:,} of {num_replies:,} replies give more than one answer. They count as unread: "
                "a question has one right answer here."
            )
        )
    return blocks + [_changed(replies) for replies in stored if replies.num_changed]


def _kinds_table(kinds: Counter[str], stored: Sequence[ReadReplies], num_replies: int) -> Table:
    examples = {kind: example for replies in reversed(stored) for kind, example in replies.examples.items()}
    rows = [
        [kind, examples[kind], f"{count:,}", f"{count / num_replies:.1%}"]
        for kind, count in kinds.most_common(NUM_KINDS)
    ]
    rest = len(kinds) - len(rows)
    return Table(
        "Replies without an answer, by kind",
        ["Kind", "Example", "Replies", "Share of all replies"],
        rows,
        note=f"{rest} rarer kinds are left out." if rest else "",
        num_text_columns=2,
    )


def _changed(replies: ReadReplies) -> Paragraph:
    would = (
        f"{replies.num_changed:,} of {replies.num_replies:,} {replies.where} would be read otherwise today."
    )
    then = (
        "The model was trained on what was read then, so they stay as they are."
        if replies.is_trained_on
        else "Run `neuron-opsd evaluate RUN` to read them again; nothing is sampled anew."
    )
    return Paragraph(f"{would} {then}", is_notice=True)
