"""Questions against settings: one domain, answers that a vote can compare, room in the model's context."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from neuron_opsd.config import Config
from neuron_opsd.config.graph import stages_made
from neuron_opsd.errors import ConfigError, DataError
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.load import configured_context
from neuron_opsd.questions.load import test_questions
from neuron_opsd.questions.read import place_of
from neuron_opsd.records import Question
from neuron_opsd.text.answers import LETTERS
from neuron_opsd.text.prompts import student_messages


def check_votes(config: Config, questions: Sequence[Question]) -> None:
    """Where a vote is taken, refuse questions that nothing asks for an answer that could be read out and compared.

    Raises:
        ConfigError: names what votes, and such a question.
    """
    training = config.training
    voters = {
        f"training.objective={training.objective}": training.verifies
        or training.objective in ("majority_sft", "majority_reward"),
        f"contexts.retrieval={config.contexts.retrieval}": training.is_distillation
        and config.contexts.is_own,
        f"training.distil={training.distil}": training.is_distillation and training.distil != "all",
        "selection.score=vote_share": "selection" in stages_made(config)
        and config.selection.score == "vote_share",
    }
    what = next((name for name, votes in voters.items() if votes), None)
    free = [question for question in questions if question.split == "train" and not question.choices]
    if what and free and config.prompts.answer_format not in ("reasoned", "math"):
        does = "asks about answers" if training.verifies else "takes a vote"
        raise ConfigError(
            f"{what} {does}, but prompts.answer_format is {config.prompts.answer_format} and {len(free)} "
            f"questions of the pool are free-form ({free[0].question_id}): nothing asks for an answer that can be "
            "read out and compared. Use prompts.answer_format=reasoned (or math), or give the questions their choices."
        )


def check_orders(config: Config, questions: Sequence[Question]) -> None:
    """Where the teacher reads several orders of the choices, refuse a pool that has none to move.

    Raises:
        ConfigError: names the setting.
    """
    training, pool = config.training, [question for question in questions if question.split == "train"]
    if training.is_distillation and training.teacher_orders > 1 and not any(q.choices for q in pool):
        raise ConfigError(
            f"training.teacher_orders is {training.teacher_orders}, but none of the {len(pool)} questions of the pool "
            "has choices. Give the questions their choices, or use training.teacher_orders=1."
        )


def check_exact(
    config: Config,
    questions: Sequence[Question],
    general: Sequence[Question],
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """With `evaluation.exact`, refuse what makes a reply more than one token, or its probabilities unknown.

    Raises:
        ConfigError: names the setting or the question, and what to do.
    """
    problem = exact_problem(config, questions, general, tokenizer) if config.evaluation.exact else None
    if problem:
        raise ConfigError(
            f"evaluation.exact reads answers of one token, but {problem} Or use evaluation.exact=false."
        )


def exact_problem(
    config: Config,
    questions: Sequence[Question],
    general: Sequence[Question],
    tokenizer: PreTrainedTokenizerBase,
) -> str | None:
    """Why answers cannot be read exactly, and what to do, in sentences. None where they can."""
    prompts, encoder = config.prompts, ChatEncoder.of(config.model, tokenizer)
    asked = [*test_questions(questions), *general]
    free = [question for question in asked if not question.choices]
    num_letters = max((len(question.choices) for question in asked), default=0)
    long = [letter for letter in LETTERS[:num_letters] if len(encoder.encode_text(letter)) != 1]
    problems = {
        f"prompts.answer_format is {prompts.answer_format}. Use prompts.answer_format=letter.": (
            prompts.answer_format != "letter"
        ),
        "prompts.answer_pattern reads longer replies. Leave it out.": prompts.answer_pattern is not None,
        f"engine.name is {config.engine.name}, which does not give probabilities of all tokens. "
        "Use engine.name=hf.": config.engine.name != "hf",
        f"{len(free)} of the questions that evaluation asks have no choices"
        f"{f' ({free[0].question_id})' if free else ''}. Give them choices, or remove them.": bool(free),
        f"{encoder.name} writes the letters {', '.join(long)} as several tokens. Use another model.": bool(
            long
        ),
        "the replies of this model begin with thinking. Use a model or a template without it, or switch it "
        "off with model.template_args.": encoder.thinks(system=prompts.system),
    }
    return next((text for text, holds in problems.items() if holds), None)


def check_lengths(questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase, config: Config) -> None:
    """Refuse questions that leave no room for their answer in the model's context, or in the teacher's prompt.

    Raises:
        DataError: names the longest such question, the numbers, and the setting to lower.
    """
    encoder, prompts = ChatEncoder.of(config.model, tokenizer), config.prompts
    budget = config.contexts.max_prompt_tokens if "contexts" in stages_made(config) else None
    context = configured_context(config.model)
    too_long: list[tuple[int, Question, str]] = []
    for question in questions:
        order = tuple(range(len(question.choices)))
        messages = student_messages(
            question, choice_order=order, answer_format=prompts.answer_format, system=prompts.system
        )
        used, (setting, new) = len(encoder.encode(messages)), _longest_completion(config, question)
        if context is not None and used + new > context:
            room = f"Use {setting}={context - used}, or shorten" if used < context else "Shorten"
            needs = (
                f"needs {used} prompt tokens, and {setting}={new} for its answer. The model reads {context}"
            )
            too_long.append((used + new - context, question, f"{needs}. {room} or remove the question."))
        elif budget is not None and question.split == "train" and used > budget:
            needs = f"needs {used} prompt tokens, more than contexts.max_prompt_tokens={budget}"
            too_long.append(
                (used - budget, question, f"{needs}. Use {used} or more, or remove the question.")
            )
    if too_long:
        _, question, reason = max(too_long, key=lambda found: found[0])
        others = f" ({len(too_long) - 1} others are too long as well.)" if len(too_long) > 1 else ""
        where = f"{place}: " if (place := _place(question, config)) else ""
        raise DataError(f"{where}Question {question.question_id} {reason}{others}")


def _longest_completion(config: Config, question: Question) -> tuple[str, int]:
    """The setting that limits the longest completion to a question, and its value."""
    sections = ("rollouts", "training") if question.split == "train" else ("evaluation",)
    limits = {f"{name}.max_new_tokens": getattr(config, name).max_new_tokens for name in sections}
    return max(limits.items(), key=lambda limit: limit[1])


def _place(question: Question, config: Config) -> str:
    """The file and line of a question."""
    paths = [config.questions.path, *config.questions.cross_paths, *config.evaluation.general_paths]
    return place_of(question, paths, config.questions.fields)
