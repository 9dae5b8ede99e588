"""What is refused before any work, in seconds: before a folder is made, and without the model's weights.

    questions.py   questions against settings
    settings.py    settings against one another, and the packages that they need

Each check is a function that raises a NeuronOpsdError, or returns. `check_early` lists them in the order in which a
user would want to hear of them: what was typed first, then what was read.
"""

from neuron_opsd.config import Config
from neuron_opsd.early_checks.questions import check_lengths, check_votes, single_domain
from neuron_opsd.early_checks.settings import check_files, check_packages
from neuron_opsd.model.chat import ChatEncoder
from neuron_opsd.model.ffn import check_architecture
from neuron_opsd.model.load import check_quantization, load_model_config, load_tokenizer
from neuron_opsd.questions.answer_counts import check_answers
from neuron_opsd.questions.load import load_questions
from neuron_opsd.records import Question
from neuron_opsd.stage_inputs import general_questions, other_questions
from neuron_opsd.text.answer_pattern import check_pattern

__all__ = ["check_early", "single_domain"]


def check_early(config: Config) -> list[Question]:
    """Everything that can be refused before any work.

    Returns:
        The questions, read.

    Raises:
        NeuronOpsdError: what is wrong, and the next step.
    """
    check_files(config)
    check_packages(config)
    if config.prompts.answer_pattern:
        check_pattern(config.prompts.answer_pattern)
    questions = load_questions(config.questions)
    single_domain(questions)
    other_questions(config, questions)
    general = general_questions(config, questions)
    check_answers(config.evaluation.answers, questions, config.questions, name="evaluation.answers")
    check_answers(
        config.evaluation.general_answers, general, config.questions, name="evaluation.general_answers"
    )
    check_architecture(load_model_config(config.model))
    if config.training.quantization != "none":
        check_quantization(config.model)
    tokenizer = load_tokenizer(config.model)
    encoder = ChatEncoder(tokenizer, template_args=config.model.template_args)
    check_votes(config, questions)
    check_lengths([*questions, *general], encoder, config)
    return questions
