"""Settings that make a run small enough for a test."""

SMALL = [
    "model.dtype=float32",  # the same figures on every processor
    "questions.test_fraction=0.4",
    "prompts.answer_format=letter",
    "rollouts.max_new_tokens=4",
    "rollouts.shard_size=8",
    "rollouts.shuffle_choices=true",
    "contexts.num_demonstrations=2",
    "selection.fraction=0.4",
    "training.max_new_tokens=4",
    "training.batch_size=4",
    "training.micro_batch_size=2",
    "training.num_steps=3",
    "training.save_steps=2",
    "training.max_epochs=null",
    "training.learning_rate=0.01",
    "training.lora.rank=4",
    "evaluation.num_samples=3",
    "evaluation.max_new_tokens=4",
    "evaluation.num_bootstrap=50",
]
