"""What can be refused before any work: settings, questions and model against one another."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from neuron_opsd.config import USES_GOLD, Config
from neuron_opsd.config.training import BY_TRL
from neuron_opsd.errors import ConfigError, DataError
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.ffn import check_architecture
from neuron_opsd.model.load import check_quantization, configured_context, load_model_config, load_tokenizer
from neuron_opsd.questions.load import load_questions
from neuron_opsd.records import Question
from neuron_opsd.rollouts.sample import check_fits
from neuron_opsd.stage_graph import stages_made
from neuron_opsd.stage_inputs import general_questions, other_questions
from neuron_opsd.text.expressions import INSTALL, is_installed
from neuron_opsd.text.prompts import student_messages


def check_early(config: Config) -> list[Question]:
    """Everything that can be refused before any work: questions, one domain, tokenizer, question lengths, answers.

    Returns:
        The questions, read.

    Raises:
        NeuronOpsdError: what is wrong, and the next step.
    """
    questions = load_questions(config.questions)
    single_domain(questions)
    for name in ("answers", "general_answers"):
        for path in getattr(config.evaluation, name):
            if not Path(path).is_file():
                raise DataError(
                    f"evaluation.{name} names {path}, which is no file. Leave it out if you have none."
                )
    check_architecture(load_model_config(config.model))
    if config.training.quantization != "none":
        check_quantization(config.model)
    tokenizer = load_tokenizer(config.model)
    encoder = ChatEncoder(tokenizer, template_args=config.model.template_args)
    check_retrieval(config, questions)
    if config.training.objective in BY_TRL and importlib.util.find_spec("trl") is None:
        raise ConfigError(
            f"training.objective is {config.training.objective}, which needs TRL. Install it with "
            "pip install neuron-opsd[baselines]."
        )
    if config.training.uses_gold() and not config.evaluation.answers:
        raise ConfigError(
            f"training.objective is gold_sft ({USES_GOLD}), which needs the pool's gold answers. Give --answers FILE."
        )
    if config.prompts.answer_format == "math" and not is_installed():
        raise ConfigError(f"prompts.answer_format is math, which needs math-verify. {INSTALL}")
    check_votes(config, questions)
    check_lengths([*questions, *general_questions(config, questions)], encoder, config)
    return questions


def check_retrieval(config: Config, questions: Sequence[Question]) -> None:
    """Refuse a retrieval whose package or file is missing.

    Raises:
        ConfigError: names what is missing.
        DataError: the file of the other domain adds no question.
    """
    other_questions(config, questions)
    if config.contexts.retrieval == "tfidf" and importlib.util.find_spec("sklearn") is None:
        raise ConfigError(
            "contexts.retrieval is tfidf, which needs scikit-learn. Install it with pip install neuron-opsd[baselines]."
        )


def check_votes(config: Config, questions: Sequence[Question]) -> None:
    """Where a vote is taken, refuse questions that nothing asks for an answer that could be read out and compared.

    Raises:
        ConfigError: names what votes, and such a question.
    """
    training = config.training
    is_taught = training.objective == "distillation"
    voters = {
        f"training.objective={training.objective}": training.objective in ("majority_sft", "majority_reward"),
        f"contexts.retrieval={config.contexts.retrieval}": is_taught and config.contexts.is_own,
        "training.distil=disagreeing": is_taught and training.distil == "disagreeing",
        "selection.score=vote_share": "selection" in stages_made(config)
        and config.selection.score == "vote_share",
    }
    what = next((name for name, votes in voters.items() if votes), None)
    free = [question for question in questions if question.split == "train" and not question.choices]
    if what and free and config.prompts.answer_format not in ("reasoned", "math"):
        raise ConfigError(
            f"{what} takes a vote, but prompts.answer_format is {config.prompts.answer_format} and {len(free)} "
            f"questions of the pool are free-form ({free[0].question_id}): nothing asks for an answer that can be "
            "read out and compared. Use prompts.answer_format=reasoned (or math), or give the questions their choices."
        )


def check_lengths(questions: Sequence[Question], encoder: ChatEncoder, config: Config) -> None:
    """Refuse a question that leaves no room for its answer in the model's context.

    Raises:
        DataError: names the question and the numbers.
    """
    limit = configured_context(config.model)
    if limit is None:
        return
    prompts = config.prompts
    for question in questions:
        new = (
            max(config.rollouts.max_new_tokens, config.training.max_new_tokens)
            if question.split == "train"
            else config.evaluation.max_new_tokens
        )
        order = tuple(range(len(question.choices)))
        messages = student_messages(
            question, choice_order=order, answer_format=prompts.answer_format, system=prompts.system
        )
        check_fits(question, len(encoder.encode(messages)), new, limit)


def single_domain(questions: Sequence[Question]) -> str:
    """The one domain of the pool.

    Raises:
        ConfigError: the pool spans several, so "in-domain" would have no meaning.
    """
    domains = sorted({question.domain for question in questions if question.split == "train"})
    if len(domains) != 1:
        raise ConfigError(
            f"The pool holds {len(domains)} domains ({', '.join(domains[:6])}). Train on one at a time: set "
            f"questions.domain={domains[0] if domains else '...'}; the others become cross-domain sets."
        )
    return domains[0]
