"""What is refused before any work, in seconds: before a folder is made.

    settings.py    settings against one another, and the files and packages that they need
    trainer.py     what is passed through to transformers
    machine.py     the run folder and its disk
    model.py       the model without its weights
    prompts.py     one prompt of each role, rendered
    questions.py   questions against settings and the model's context
    memory.py      what a run takes against what is free

Each check is a function that raises a NeuronOpsdError, or returns. `check_early` lists them in the order in which a
user would want to hear of them: what was typed first, then what was read. Of weights, headers alone are read.
"""

from pathlib import Path

from neuron_opsd.config import Config
from neuron_opsd.config.graph import reaches
from neuron_opsd.early_checks.machine import check_output, check_room
from neuron_opsd.early_checks.memory import check_memory
from neuron_opsd.early_checks.model import check_model
from neuron_opsd.early_checks.prompts import check_prompts
from neuron_opsd.early_checks.questions import check_exact, check_lengths, check_orders, check_votes
from neuron_opsd.early_checks.settings import check_contradictions, check_files, check_packages
from neuron_opsd.early_checks.trainer import check_trainer
from neuron_opsd.model.load import check_weights, load_tokenizer
from neuron_opsd.questions.answer_counts import check_answers
from neuron_opsd.questions.load import general_questions, load_questions, other_questions
from neuron_opsd.records import Question
from neuron_opsd.text.answer_pattern import check_pattern


def check_early(config: Config, output: Path | None = None, *, until: str = "report") -> list[Question]:
    """Everything that can be refused before any work.

    Args:
        config: The run's settings, resolved.
        output: The run folder, where it is known. It is not made here.
        until: The command after whose stage the run stops. What only later ones need is not checked.

    Returns:
        The questions, read.

    Raises:
        NeuronOpsdError: what is wrong, and the next step.
    """
    if output is not None:
        check_output(output)
    check_files(config)
    check_packages(config)
    if config.prompts.answer_pattern:
        check_pattern(config.prompts.answer_pattern)
    check_contradictions(config)
    check_trainer(config)
    questions = load_questions(config.questions)
    other_questions(config, questions)
    general = general_questions(config, questions)
    check_answers(config.evaluation.answers, questions, config.questions, name="evaluation.answers")
    check_answers(
        config.evaluation.general_answers, general, config.questions, name="evaluation.general_answers"
    )
    skeleton = check_model(config, until=until)
    check_weights(config.model)
    if output is not None and skeleton is not None and reaches(until, "train"):
        check_room(output, config, skeleton)
    tokenizer = load_tokenizer(config.model)
    check_prompts(config, questions, tokenizer)
    check_votes(config, questions)
    check_orders(config, questions)
    check_exact(config, questions, general, tokenizer)
    check_lengths([*questions, *general], tokenizer, config)
    check_memory(config, questions, until)
    return questions
