"""A small run as the report sees it, with a hostile text wherever a model or a data set can put one."""

import math
from collections import Counter

import numpy as np
from made_up_parts import comparison, preflight, training_summary

from neuron_opsd.config import EvaluationSettings, load_config
from neuron_opsd.evaluation.benchmark import compare
from neuron_opsd.records import (
    Demonstration,
    NeuronSets,
    Question,
    Rollout,
    SelectedQuestion,
    TeacherContext,
)
from neuron_opsd.report import ReportInputs
from neuron_opsd.report.inputs import ReadReplies
from neuron_opsd.report.readings import shorten

TRAP = "http://127.0.0.1:9"  # where hostile texts would fetch from; a browser test listens there
HOSTILE = (
    "<script>window.hacked=1;alert(1)</script>",
    '"><img src=x onerror="window.hacked=1">',
    "<svg onload=window.hacked=1><animate onbegin=window.hacked=1>",
    "</script><script>window.hacked=1</script><!--<script>",
    f"<style>@import url({TRAP}/import);body{{background:url({TRAP}/css)}}</style>",
    "[click](javascript:window.hacked=1) <a href='javascript:window.hacked=1'>x</a>",
    "{{7*7}} ${window.hacked=1} `x` ``` ]]> &lt;b&gt; \u2028 \x07 |",
    f"<meta http-equiv=refresh content='0;url={TRAP}/'><base href={TRAP}/>",
    f"</pre></td></table></main><img src={TRAP}/img><iframe src={TRAP}/frame></iframe>",
    f"![x]({TRAP}/markdown.png) <link rel=stylesheet href={TRAP}/link><object data={TRAP}/object></object>",
    f"</title></style></textarea><svg><use href={TRAP}/use.svg#a /><image href={TRAP}/svg /></svg>",
    f"<form action={TRAP}/form><input autofocus onfocus=window.hacked=1><button>go</button></form>",
    "\u202e\u2066 <details open ontoggle=window.hacked=1> javascript:window.hacked=1 ]]><![CDATA[",
)


def made_up_run(*, num_pool=40, num_test=30, hostile=False, with_answers=True, seconds=1.0) -> ReportInputs:
    """Everything a finished run has. `seconds` is all that differs between equal runs.

    `hostile` puts hostile texts everywhere; an address there takes the place of TRAP.
    """
    pool = [_question(f"pool-{i:04}", "physics", "train", i, hostile) for i in range(num_pool)]
    test = [
        _question(f"test-{d}-{i:03}", d, "test", i, hostile)
        for d in ("physics", "art")
        for i in range(num_test)
    ]
    rollouts = [_rollout(q.question_id, 0, i, hostile) for i, q in enumerate(pool)]
    sets = [_neurons(rollout, index) for index, rollout in enumerate(rollouts)]
    selection = [
        _selected(one, rank) for rank, one in enumerate(sorted(sets, key=lambda s: s.consensus_score))
    ]
    contexts = [_context(s.question_id, pool, rollouts) for s in selection if s.selected]
    return ReportInputs(
        config=_config(hostile),
        environment={"python": "3.12", "device": {"name": _hostile("cpu", 2, hostile)}},
        questions=[*pool, *test],
        rollouts=rollouts,
        neuron_sets=sets,
        selection=selection,
        contexts=contexts,
        training_metrics=[_metrics_row(step, seconds, hostile) for step in range(1, 21)],
        results=_results(test, hostile, with_answers),
        preflight=preflight(lambda text: _hostile(text, 4, hostile)),
        training_summary=training_summary(lambda text: _hostile(text, 1, hostile)),
        replies=[_read_replies(num_pool, hostile)],
        comparison=comparison(lambda text: _hostile(text, 3, hostile)),
        timings=[{"stage": _hostile("rollouts", 0, hostile), "seconds": seconds, "num_items": num_pool}],
        prompts_example={
            "question_id": contexts[0].question_id,
            "student_prompt": _hostile("<|im_start|>user\nWhat?", 0, hostile),
            "teacher_prompt": _hostile("<|im_start|>user\nOther?\n```\nWhat?", 3, hostile),
        },
    )


def _read_replies(count, hostile):
    kinds = Counter({f"kind {i}": 1 + i for i in range(12)})
    examples = {kind: shorten(_hostile("An unread reply", i, hostile)) for i, kind in enumerate(kinds)}
    return ReadReplies("zero-shot rollouts", count, 3, kinds, examples, is_trained_on=False)


def _hostile(text, index, hostile):
    if not hostile:
        return text
    bad = HOSTILE[index % len(HOSTILE)]
    return f"{text} {bad.replace(TRAP, hostile) if isinstance(hostile, str) else bad}"


def _config(hostile):
    config = load_config("neuron_opsd", values={"model.name": "owner/model", "questions.path": "q.jsonl"})
    values = config.model_dump(mode="json")
    if hostile:
        values["model"]["name"] = _hostile("owner/model", 0, hostile)
        values["description"] = _hostile("A recipe.", 8, hostile)
        values["prompts"]["system"] = _hostile("You answer.", 10, hostile)
        values["questions"]["path"] = _hostile("q.jsonl", 3, hostile)
        values[_hostile("key", 2, hostile)] = [_hostile("value", 11, hostile)]
    return values


def _question(question_id, domain, split, index, hostile):
    return Question(
        question_id=_hostile(question_id, index, hostile),
        domain=_hostile(domain, 1, hostile),
        question=_hostile(f"What is {index} + $x^{{{index}}}$ in zebra{index}?", index + 1, hostile),
        choices=tuple(_hostile(f"choice {c}", index + c, hostile) for c in range(4)),
        system=_hostile("Be brief.", index + 3, hostile) if index % 2 else None,
        split=split,
    )


def _rollout(question_id, rollout_index, index, hostile, answer="A"):
    tokens = 5 + (index * 7) % 90
    return Rollout(
        question_id=question_id,
        rollout_index=rollout_index,
        choice_order=(0, 1, 2, 3),
        prompt_ids=(1, 2),
        completion_ids=(3,) * tokens,
        token_log_probs=(-0.1,) * tokens,
        finish_reason="stop",
        reply=_hostile(f"Since {index} is small, the answer is A.", index + 2, hostile),
        answer=answer,
    )


def _neurons(rollout, index):
    tokens = len(rollout.completion_ids)
    total = int(3000 - 400 * math.log(tokens)) + (index * 37) % 200
    layers = [total // 6] * 5
    return NeuronSets(
        question_id=rollout.question_id,
        rollout_index=0,
        num_completion_tokens=tokens,
        num_chunks=1,
        consensus_score=total,
        consensus_score_per_chunk=float(total),
        neurons_per_layer=(*layers, total - sum(layers)),
        overlap_set=np.arange(4, dtype=np.int32),
    )


def _selected(sets, rank):
    return SelectedQuestion(
        question_id=sets.question_id,
        domain="physics",
        num_completion_tokens=sets.num_completion_tokens,
        consensus_score=float(sets.consensus_score),
        consensus_score_length_residualised=0.01 * ((rank * 13) % 7),
        vote_share=1 - 0.05 * (rank % 9),
        score=float(sets.consensus_score),
        rank=rank,
        selected=rank < 8,
    )


def _context(question_id, pool, rollouts):
    others = [(q, r) for q, r in zip(pool, rollouts, strict=True) if q.question_id != question_id][:3]
    shown = tuple(
        Demonstration(
            question_id=q.question_id, choice_order=(0, 1, 2, 3), reply=r.reply, distance=0.4 + 0.1 * i
        )
        for i, (q, r) in enumerate(others)
    )
    return TeacherContext(
        question_id=question_id,
        demonstrations=shown,
        num_demonstrations_dropped=1,
        num_student_prompt_tokens=80,
        num_teacher_prompt_tokens=420,
    )


def _metrics_row(step, seconds, hostile):
    return {
        "step": step,
        "loss": 0.5 / step,
        "learning_rate": 1e-5,
        "grad_norm": 1.0 + step % 3,
        "completion_tokens_mean": 40.0 + step % 5,
        "truncated_fraction": 0.0,
        _hostile("measured", 1, hostile): 0.1 * step,
        "seconds": seconds,
    }


def _results(test, hostile, with_answers):
    generator = np.random.default_rng(0)
    rollouts = {
        role: [
            _rollout(q.question_id, k, k, hostile, answer=str(generator.choice(["A", "A", right, "C"])))
            for q in test
            for k in range(8)
        ]
        for role, right in (("base", "B"), ("trained", "A"))
    }
    key = {q.question_id: "AB"[i % 2] for i, q in enumerate(test)} if with_answers else {}
    settings = EvaluationSettings(num_bootstrap=200)
    return compare(
        test, rollouts["base"], rollouts["trained"], key, settings, train_domains=[test[0].domain], seed=0
    )
