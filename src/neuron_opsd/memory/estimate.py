"""The peak of each stage, from the shapes of a model and the longest prompts and completions that there can be."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from neuron_opsd import processes
from neuron_opsd.config import Config
from neuron_opsd.config.graph import reaches, stages_made
from neuron_opsd.engines.shared_prompts import may_share_prompts
from neuron_opsd.memory.count import (
    cache_bytes,
    count_reading,
    count_sampling,
    count_weights,
    estimate_memory,
    in_words,
)
from neuron_opsd.memory.passes import Lengths
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.load import load_model_config
from neuron_opsd.neurons.capture import MAX_BATCH_TOKENS, MAX_PIECE_CHUNKS, PIECE_TOKENS
from neuron_opsd.records import Question
from neuron_opsd.text.answers import LETTERS
from neuron_opsd.text.prompts import student_messages, truth_messages

NOT_COUNTED = (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError)
SMALL_MODEL = 20_000_000  # parameters. Below, the estimate would take longer than it is worth
NUM_ENCODED = 8  # of the questions with the most characters. The longest prompt is one of theirs


@dataclass(frozen=True, slots=True)
class RunLengths:
    """What decides the size of a run, at its worst. Prompts are in tokens."""

    pool_prompt: int
    test_prompt: int
    teacher_prompt: int
    num_pool: int
    num_test: int
    truth_prompt: int = 0  # of P(True), where it is asked


@dataclass(frozen=True, slots=True)
class StageMemory:
    """Bytes of one stage: the weights, and the most that there is beside them."""

    stage: str
    weights: int
    working: int
    detail: str  # what decides `working`
    is_sampling: bool = False  # the most is while completions are written

    @property
    def peak(self) -> int:
        """All together."""
        return self.weights + self.working

    def describe(self) -> str:
        """One line."""
        return f"{self.stage} {in_words(self.peak)} (weights {in_words(self.weights)}; {self.detail})"


def run_lengths(config: Config, questions: Sequence[Question], encoder: ChatEncoder) -> RunLengths:
    """The longest there can be: a teacher's prompt as if every demonstration's reply ran to its limit."""
    pool, test = ([q for q in questions if q.split == split] for split in ("train", "test"))
    longest = _longest_prompt(config, pool, encoder)
    contexts, shown = config.contexts, config.contexts.num_demonstrations
    whole = (shown + 1) * longest + shown * config.rollouts.max_new_tokens
    return RunLengths(
        pool_prompt=longest,
        test_prompt=_longest_prompt(config, test, encoder),
        teacher_prompt=max(longest, min(whole, contexts.max_prompt_tokens)),
        num_pool=len(pool),
        num_test=len(test),
        truth_prompt=_longest_truth_prompt(config, test, encoder) if config.evaluation.p_true else 0,
    )


def _longest_prompt(config: Config, questions: Sequence[Question], encoder: ChatEncoder) -> int:
    prompts = config.prompts
    lengths = [
        len(
            encoder.encode(
                student_messages(
                    question,
                    choice_order=tuple(range(len(question.choices))),
                    answer_format=prompts.answer_format,
                    system=prompts.system,
                )
            )
        )
        for question in _longest(questions)
    ]
    return max(lengths, default=0)


def _longest_truth_prompt(config: Config, questions: Sequence[Question], encoder: ChatEncoder) -> int:
    """As if each question were answered by its longest choice, or by text up to the limit."""
    prompts = config.prompts
    lengths: list[int] = []
    for question in _longest(questions):
        choices = question.choices
        answer = LETTERS[max(range(len(choices)), key=lambda i: len(choices[i]))] if choices else ""
        messages = truth_messages(question, answer, prompts.answer_format, prompts.system)
        text = 0 if choices else config.evaluation.max_new_tokens
        lengths.append(len(encoder.encode(messages, closes_thinking=True)) + text)
    return max(lengths, default=0)


def _longest(questions: Sequence[Question]) -> list[Question]:
    """The questions with the most characters."""
    size = lambda question: len(question.question) + sum(map(len, question.choices))  # noqa: E731
    return sorted(questions, key=size, reverse=True)[:NUM_ENCODED]


def estimate_run(
    config: Config, model: PretrainedConfig, lengths: RunLengths, until: str = "report"
) -> list[StageMemory]:
    """The stages of the recipe that hold a model, in the order in which they run.

    Args:
        config: Resolved settings: no dtype is auto.
        model: The architecture.
        lengths: Of this run.
        until: The command after whose stage the run stops.
    """
    made, is_sampled_here = stages_made(config), config.engine.name == "hf"
    # stage, the command that runs it, whether it holds a model here
    stages = [
        (_rollouts, "rollouts", "rollouts" in made and is_sampled_here),
        (_neurons, "neurons", "neurons" in made),
        (_training, "train", "training" in made),
        (
            _evaluation,
            "evaluate",
            (is_sampled_here or config.evaluation.p_true) and lengths.num_test > 0,
        ),
    ]
    return [
        estimate(config, model, lengths)
        for estimate, command, is_here in stages
        if is_here and reaches(until, command)
    ]


def _rollouts(config: Config, model: PretrainedConfig, lengths: RunLengths) -> StageMemory:
    settings = config.rollouts
    rows = max(1, min(settings.batch_size, lengths.num_pool * settings.num_rollouts))
    return _sampled(
        "rollouts",
        config,
        model,
        rows,
        settings.num_rollouts,
        lengths.pool_prompt,
        settings.max_new_tokens,
        config.model.dtype,
    )


def _evaluation(config: Config, model: PretrainedConfig, lengths: RunLengths) -> StageMemory:
    settings = config.evaluation
    rows = max(1, min(settings.batch_size, lengths.num_test * settings.num_samples))
    prompt = max(lengths.test_prompt, lengths.teacher_prompt) if settings.context else lengths.test_prompt
    # At the worst: a merged model is saved in float32 where a narrower dtype would lose what was learned.
    is_merged = config.training.trains and config.training.save == "merged"
    dtype = "float32" if is_merged else config.model.dtype
    # Prompts that are read for their first token alone. After a context, P(True) stands in the question's place.
    read = {"exact answers": prompt} if settings.exact else {}
    read |= {"P(True)": prompt - lengths.test_prompt + lengths.truth_prompt} if settings.p_true else {}
    found = [_read(what, config, model, lengths.num_test, longest, dtype) for what, longest in read.items()]
    if config.engine.name == "hf" and not settings.exact:
        found.append(
            _sampled(
                "evaluation",
                config,
                model,
                rows,
                settings.num_samples,
                prompt,
                settings.max_new_tokens,
                dtype,
            )
        )
    return max(found, key=lambda stage: stage.peak)


def _read(
    what: str, config: Config, model: PretrainedConfig, num_asked: int, prompt: int, dtype: str
) -> StageMemory:
    """Prompts of evaluation that are read, and nothing written."""
    rows = min(config.evaluation.batch_size, num_asked)
    weights, working = count_reading(model, getattr(torch, dtype), rows=rows, prompt=max(prompt, 2))
    detail = f"{what}: {rows} prompts at once of up to {prompt} tokens, {dtype} {in_words(working)}"
    return StageMemory("evaluation", weights, working, detail)


def _sampled(
    stage: str,
    config: Config,
    model: PretrainedConfig,
    rows: int,
    rows_of_a_prompt: int,
    prompt: int,
    new: int,
    dtype: str,
) -> StageMemory:
    prompt = max(prompt, 2)
    if config.engine.cache_tokens:
        shared = rows_of_a_prompt if may_share_prompts(model) else 1
        rows = max(1, min(rows, shared * config.engine.cache_tokens // (prompt + shared * new)))
    weights, working = count_sampling(
        model,
        getattr(torch, dtype),
        rows=rows,
        num_prompts=-(-rows // rows_of_a_prompt),
        prompt=prompt,
        new=new,
    )
    detail = f"{rows} completions at once of up to {prompt} + {new} tokens, {dtype} {in_words(working)}"
    return StageMemory(stage, weights, working, detail, is_sampling=True)


def _neurons(config: Config, model: PretrainedConfig, lengths: RunLengths) -> StageMemory:
    """By hand: a forward pass in pieces over a cache, and float32 products of one layer at a time."""
    settings, text = config.neurons, model.get_text_config()
    size = torch.empty(0, dtype=getattr(torch, config.model.dtype)).element_size()
    layers, hidden, vocab = text.num_hidden_layers, text.hidden_size, text.vocab_size
    heads = text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or hidden // heads
    d_ff = getattr(text, "intermediate_size", None) or 4 * hidden
    whole = lengths.pool_prompt + config.rollouts.max_new_tokens
    rows = max(1, min(settings.batch_size, lengths.num_pool or 1, MAX_BATCH_TOKENS // whole))
    chunk = settings.chunk_tokens
    piece = min(chunk * max(1, min(MAX_PIECE_CHUNKS, PIECE_TOKENS // chunk)), config.rollouts.max_new_tokens)
    tokens, distinct = rows * (lengths.pool_prompt + piece), min(rows * piece, vocab)
    segments = rows * -(-piece // chunk)
    is_in_pieces = config.rollouts.max_new_tokens > piece
    working = (
        rows * whole * cache_bytes(model, getattr(torch, config.model.dtype)) * is_in_pieces
        + tokens * (3 * hidden + 3 * d_ff + 2 * heads * head_size) * size  # one layer
        + 4 * (distinct * (d_ff + hidden) + hidden * d_ff)  # how strongly each neuron speaks for each token
        + 4 * 3 * min(chunk, piece) * d_ff  # contributions of a chunk, and their selection
        + (4 * segments + 5 * rows) * layers * d_ff  # the best entries of each chunk and completion
    )
    weights = count_weights(model, getattr(torch, config.model.dtype))
    return StageMemory("neurons", weights, working, f"{rows} completions at once {in_words(working)}")


def _training(config: Config, model: PretrainedConfig, lengths: RunLengths) -> StageMemory:
    settings = config.training
    drawn = settings.completions_per_step() * settings.rollout_steps // processes.num_processes()
    rows = drawn if settings.by_trl else min(config.rollouts.batch_size, drawn)
    if config.engine.name != "hf":
        rows = 1  # another engine has its own memory
    found = estimate_memory(
        model,
        getattr(torch, settings.dtype),
        settings,
        Lengths(
            max(lengths.pool_prompt, 2),
            max(lengths.teacher_prompt, 2),
            max(rows, 1),
            num_kept_contexts(config, lengths),
        ),
    )
    detail = (
        f"{settings.micro_batch_size} completions a pass of up to {lengths.pool_prompt} (student), "
        f"{lengths.teacher_prompt} (teacher) + {settings.max_new_tokens} tokens: {found.describe()}"
    )
    is_sampling = found.sampling > found.learning
    return StageMemory("training", found.weights, found.peak - found.weights, detail, is_sampling)


def num_kept_contexts(config: Config, lengths: RunLengths) -> int:
    """Contexts of which the teacher keeps what it has read, at most and at once, while there is room."""
    training = config.training
    if not training.is_distillation or not training.keep_prefixes or "contexts" not in stages_made(config):
        return 0
    if config.contexts.retrieval in ("medoids", "fixed_random"):
        return 1
    if training.teacher == "frozen":
        return lengths.num_pool
    return training.batch_size if training.num_rollouts > 1 else 0  # of one step, whose rows may lie apart


def describe_training(config: Config, student_prompt: int, teacher_prompt: int, num_questions: int) -> str:
    """The training of a run whose prompts are known, as a line for the log, or why it is not estimated."""
    lengths = RunLengths(student_prompt, 0, teacher_prompt, num_pool=num_questions, num_test=0)
    model = load_model_config(config.model)
    if is_small(model):
        return f"memory is not estimated: the model has less than {SMALL_MODEL / 1e6:.0f} million parameters"
    try:
        return _training(config, model, lengths).describe()
    except NOT_COUNTED as error:
        return not_estimated(error)


def is_small(model: PretrainedConfig) -> bool:
    """Whether a model has so few parameters that its memory is not worth an estimate. They are counted roughly."""
    text = model.get_text_config()
    return text.hidden_size * (text.vocab_size + 12 * text.hidden_size * text.num_hidden_layers) < SMALL_MODEL


def not_estimated(error: Exception) -> str:
    """The estimate is a courtesy: an architecture that cannot run without contents still trains."""
    return f"memory is not estimated: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]}"
