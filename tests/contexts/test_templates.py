"""Whether demonstrations are of their question's own template."""

from neuron_opsd.contexts.templates import same_template_share
from neuron_opsd.questions.duplicates import template_key
from neuron_opsd.records import Demonstration, TeacherContext


def test_same_template_share() -> None:
    texts = {"a": "What is the mass of 3 kg?", "b": "What is the mass of 7 kg?", "c": "Who wrote Hamlet?"}
    keys = {key: template_key(text) for key, text in texts.items()}
    shown = tuple(
        Demonstration(question_id=key, choice_order=(), reply="x", distance=0.5) for key in ("b", "c")
    )
    context = TeacherContext(
        question_id="a",
        demonstrations=shown,
        num_demonstrations_dropped=0,
        num_student_prompt_tokens=1,
        num_teacher_prompt_tokens=2,
    )
    assert same_template_share([context], keys) == 0.5
    assert same_template_share([], keys) is None
