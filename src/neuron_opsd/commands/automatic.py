"""`neuron-opsd run auto`: the recipe that did least harm where it was measured, for the questions given.

No recipe kept the whole promise (experiments/LOG.md). So this one is chosen by what its questions allow, label-free.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from neuron_opsd.config import load_config
from neuron_opsd.model.defaults import thinks
from neuron_opsd.questions.load import load_questions

logger = logging.getLogger(__name__)

AUTO = "auto"
FOR_LETTERS = "order_average"  # every question is answered by the letter of a choice
FOR_OTHERS = "entropy_matched"


def choose_recipe(recipe: str, *, overrides: Iterable[str] = (), values: Mapping[str, Any]) -> str:
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
    config = load_config(FOR_OTHERS, overrides=overrides, values=values)
    questions = load_questions(config.questions)
    free = sum(len(question.choices) < 2 for question in questions)
    if "answer_format" in config.prompts.model_fields_set and config.prompts.answer_format != "letter":
        chosen, why = FOR_OTHERS, f"prompts.answer_format is {config.prompts.answer_format}"
    elif free:
        chosen, why = FOR_OTHERS, f"{free:,} of {len(questions):,} questions have no choices"
    elif thinks(config):
        chosen, why = FOR_OTHERS, "the replies of this model begin with thinking"
    else:
        chosen, why = FOR_LETTERS, f"all {len(questions):,} questions have choices"
    logger.info("auto: %s, so recipe %s", why, chosen)
    return chosen
