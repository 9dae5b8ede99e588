"""`neuron-opsd run auto`: the recipe that did least harm where it was measured, chosen without a label.

No recipe kept the whole promise (experiments/LOG.md). Two things decide here: whether each question is answered by the
letter of a choice, and if so, whether the frozen model answers by position.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from neuron_opsd.config import Config, load_config
from neuron_opsd.early_checks.questions import exact_problem
from neuron_opsd.errors import ModelError
from neuron_opsd.model.defaults import resolve, thinks
from neuron_opsd.model.load import load_tokenizer
from neuron_opsd.model.skeleton import NotBuiltError, build_skeleton
from neuron_opsd.model.unembedding import check_logits_divide
from neuron_opsd.preflight.positions import answers_by_position, position_bias
from neuron_opsd.questions.load import general_questions, load_questions
from neuron_opsd.records import Question
from neuron_opsd.run.session import Run
from neuron_opsd.text.fixed_order import has_fixed_order

logger = logging.getLogger(__name__)

AUTO = "auto"
BY_POSITION = "order_average"
NOT_BY_POSITION = "entropy_kept"
OTHERWISE = "entropy_matched"


def choose_by_questions(recipe: str, *, overrides: Iterable[str] = (), values: Mapping[str, Any]) -> str:
    """The recipe that is named. For `auto`: the one that goes with the questions, and the reason in the log.

    Args:
        recipe: A shipped recipe's name, a YAML file, or `auto`.
        overrides: `section.key=value` strings, as for `load_config`.
        values: Dotted key to value, as for `load_config`.

    Raises:
        ConfigError: a setting that no recipe takes.
        DataError: a file of questions that cannot be used.
    """
    if recipe != AUTO:
        return recipe
    config = load_config(OTHERWISE, overrides=overrides, values=values)
    questions = load_questions(config.questions)
    free = sum(len(question.choices) < 2 for question in questions)
    if "answer_format" in config.prompts.model_fields_set and config.prompts.answer_format != "letter":
        chosen, why = OTHERWISE, f"prompts.answer_format is {config.prompts.answer_format}"
    elif free:
        chosen, why = OTHERWISE, f"{free:,} of {len(questions):,} questions have no choices"
    elif thinks(config):
        chosen, why = OTHERWISE, "the replies of this model begin with thinking"
    elif all(has_fixed_order(question.choices) for question in questions):
        chosen, why = OTHERWISE, "the choices of every question have one order"
    elif problem := _problem_of_letters(questions, overrides, values):
        chosen, why = OTHERWISE, problem
    else:
        chosen, why = BY_POSITION, f"all {len(questions):,} questions have choices"
    logger.info("auto: %s, so recipe %s", why, chosen)
    if chosen == BY_POSITION:
        logger.info(
            "auto: after the rollouts it may become %s. `run auto` looks, the stages' own commands do not",
            NOT_BY_POSITION,
        )
    return chosen


def _problem_of_letters(
    questions: Sequence[Question], overrides: Iterable[str], values: Mapping[str, Any]
) -> str | None:
    """Why one of the two recipes for letters would be refused later. None where either may be chosen."""
    config = load_config(BY_POSITION, overrides=overrides, values=values)
    load_config(NOT_BY_POSITION, overrides=overrides, values=values)
    if config.evaluation.exact:
        general, tokenizer = general_questions(config, questions), load_tokenizer(config.model)
        if problem := exact_problem(config, questions, general, tokenizer):
            return problem.partition(". ")[0]
    with suppress(NotBuiltError):
        skeleton = build_skeleton(config.model)
        try:
            check_logits_divide(skeleton)
        except ModelError as error:
            return str(error).partition(". ")[0]
    return None


def choose_by_rollouts(run: Run, *, overrides: Iterable[str] = (), values: Mapping[str, Any]) -> Config:
    """The settings to go on with, once the frozen model has answered the pool.

    The mean over orders makes a model that does not answer by position less sure, and teaches it little. The settings
    of `run` are those of BY_POSITION. Its rollouts stay as they are: the other recipe asks for them in the same way.
    """
    bias = position_bias(run.records.complete_rollouts(), seed=run.config.seed)
    is_biased = bias is not None and answers_by_position(bias)
    chosen = BY_POSITION if is_biased else NOT_BY_POSITION
    said = bias.note.partition(". ")[0] if bias else "no answer of the pool can be read"
    does = "answers" if is_biased else "does not surely answer"
    logger.info("auto: the model %s by position (%s), so recipe %s", does, said, chosen)
    if is_biased:
        return run.config
    letters = load_config(BY_POSITION, overrides=overrides, values=values)
    kept = {
        "prompts.answer_format": letters.prompts.answer_format,
        "rollouts.max_new_tokens": letters.rollouts.max_new_tokens,
        "training.max_new_tokens": letters.training.max_new_tokens,
        "evaluation.exact": letters.evaluation.exact,
    }
    return resolve(load_config(NOT_BY_POSITION, overrides=overrides, values={**kept, **values}))
