from neuron_opsd.evaluation.pool import score_pool
from neuron_opsd.records import Question, Rollout
from neuron_opsd.results import PoolQuestion


def rollout(question_id, index, answer):
    return Rollout(
        question_id=question_id,
        rollout_index=index,
        choice_order=(0, 1),
        prompt_ids=(1,),
        completion_ids=(2,),
        token_log_probs=(0.0,),
        finish_reason="stop",
        reply="",
        answer=answer,
    )


def test_pool_questions_with_an_answer_by_hand():
    questions = [
        Question(question_id=i, domain="d", question=i, choices=("x", "y")) for i in ("b", "a", "c", "d")
    ]
    rollouts = [
        *(rollout("b", k, answer) for k, answer in enumerate(("A", "B", None, "A"))),
        rollout("a", 0, "B"),
        rollout("c", 0, "A"),  # no gold answer
    ]
    rows = score_pool(questions, rollouts, {"a": "B", "b": "A", "d": "A", "other": "A"})  # d has no rollout
    assert rows == (PoolQuestion("a", 1.0), PoolQuestion("b", 0.5))
    assert score_pool(questions, rollouts, {}) == ()
