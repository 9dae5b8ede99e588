"""The door to gold answers: what the stage, the upper bound and `neuron-opsd harness` get of them.

The stage opens them after all training is done. The upper bound alone is trained on them, as `gold_labels`, and says so
wherever it is shown.
"""

from collections.abc import Sequence

from neuron_opsd.config import USES_GOLD, EvaluationSettings, QuestionSettings
from neuron_opsd.errors import DataError
from neuron_opsd.evaluation.answer_key import load_answer_key
from neuron_opsd.evaluation.benchmark import compare
from neuron_opsd.evaluation.general import GeneralSamples, compare_general
from neuron_opsd.evaluation.pool import score_pool
from neuron_opsd.evaluation.teacher_gap import measure_gap
from neuron_opsd.records import GoldLabel, OptionScores, PreflightItem, Question, Rollout, TruthScore
from neuron_opsd.results import Results, TeacherGap


def evaluate(
    questions: Sequence[Question],
    base: Sequence[Rollout],
    trained: Sequence[Rollout],
    settings: EvaluationSettings,
    *,
    reading: QuestionSettings,
    train_domains: Sequence[str],
    seed: int,
    options: tuple[Sequence[OptionScores], Sequence[OptionScores]] = ((), ()),
    truth: tuple[Sequence[TruthScore], Sequence[TruthScore]] = ((), ()),
    general: GeneralSamples | None = None,
    pool: Sequence[Question] = (),
    pool_rollouts: Sequence[Rollout] = (),
) -> Results:
    """Compare the trained model with the base on the test questions.

    Gold answers come from `settings.answers`. Without any, the comparison holds what can be said without labels. Where
    they cover questions of the `pool`, whose training is over, `pool_questions` scores its zero-shot rollouts.
    """
    key = _load(settings.answers, [*questions, *pool], reading)
    general_result = None
    if general is not None:
        general_key = _load(settings.general_answers, general.questions, reading)
        general_result = compare_general(general, general_key, settings, seed=seed)
    return compare(
        questions,
        base,
        trained,
        key,
        settings,
        train_domains=train_domains,
        seed=seed,
        options=options,
        truth=truth,
        pool_questions=score_pool(pool, pool_rollouts, key),
        general=general_result,
    )


def teacher_gap(
    questions: Sequence[Question],
    items: Sequence[PreflightItem],
    settings: EvaluationSettings,
    *,
    reading: QuestionSettings,
    seed: int,
) -> TeacherGap | None:
    """What the context does to accuracy, for people to read. It decides nothing. None without an answer to any item."""
    asked = {item.question_id for item in items}
    about = [question for question in questions if question.question_id in asked]
    key = _load(settings.answers, about, reading) if about else {}
    return measure_gap(items, key, settings, seed=seed)


def gold_labels(
    pool: Sequence[Question], settings: EvaluationSettings, reading: QuestionSettings
) -> list[GoldLabel]:
    """USES GOLD ANSWERS: the pool's own, as pseudo-labels of the upper bound. Held-out questions have none here.

    Raises:
        DataError: no question of the pool has an answer.
    """
    key = _load(settings.answers, pool, reading)
    if not key:
        raise DataError(
            f"{USES_GOLD}: none of the {len(pool)} questions of the pool has a gold answer in evaluation.answers "
            f"({', '.join(settings.answers) or 'no file'}). Give an answer file that covers the pool, or leave this "
            "recipe out."
        )
    return [
        GoldLabel(question_id=q.question_id, answer=key[q.question_id]) for q in pool if q.question_id in key
    ]


def gold_answers(
    questions: Sequence[Question], settings: EvaluationSettings, reading: QuestionSettings
) -> list[tuple[Question, str]]:
    """The questions that have a gold answer, with it: for another evaluation of what is trained already."""
    key = _load(settings.answers, questions, reading)
    return [(question, key[question.question_id]) for question in questions if question.question_id in key]


def _load(paths: Sequence[str], questions: Sequence[Question], reading: QuestionSettings) -> dict[str, str]:
    """The gold answers in these files, read as the settings say. None where there is no file."""
    if not paths:
        return {}
    return load_answer_key(
        paths,
        questions,
        fields=reading.fields,
        answer_base=reading.answer_base,
        max_bad_fraction=reading.max_bad_fraction,
    )
