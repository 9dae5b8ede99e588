"""The stages in order: the method in one file. Read it after records.py.

    questions -> rollouts -> neurons -> select -> contexts -> preflight -> train -> evaluate -> report

A stage reads the records of those before it, calls its pure functions and saves. One that is finished and was made from
the same inputs is skipped. An interrupted one resumes. All but the questions have a `stage.py` in their folder.

GOLD ANSWERS: of the stages, only the calls that are marked so below open them. Before a run a process of its own counts
them (`evaluation/check_answers.py`). After it `neuron-opsd harness` makes tasks of them.
"""

import logging
from collections.abc import Callable

from neuron_opsd import processes
from neuron_opsd.config.graph import commands_of
from neuron_opsd.contexts.stage import make_contexts
from neuron_opsd.evaluation.samples import stages_of_evaluation
from neuron_opsd.evaluation.stage import make_evaluation, make_gold_labels, make_teacher_gap
from neuron_opsd.neurons.stage import NeuronStage, make_neurons
from neuron_opsd.preflight.stage import make_preflight, stop_where_unlikely
from neuron_opsd.records import Question
from neuron_opsd.report.stage import card_of, make_report
from neuron_opsd.rollouts.stage import ZeroShotStage, make_rollouts
from neuron_opsd.run.session import Run
from neuron_opsd.run.shards import make_share
from neuron_opsd.selection.stage import make_selection
from neuron_opsd.store.files import JsonDict, write_text
from neuron_opsd.store.run_folder import MODEL_CARD
from neuron_opsd.training.stage import make_training

logger = logging.getLogger(__name__)


def make_questions(run: Run) -> None:
    """Unlabelled questions: read, stripped of answers, de-duplicated, split."""

    def make() -> tuple[list[Question], JsonDict]:
        questions = run.inputs.questions
        num_train = sum(question.split == "train" for question in questions)
        return questions, {"num_train": num_train, "num_test": len(questions) - num_train}

    run.make_stage("questions", Question, make)
    domains = ", ".join(run.records.train_domains)
    logger.info("questions: %d in the pool of domain %s", len(run.records.pool), domains)


def make_trained_model(run: Run) -> None:
    """The student, pulled towards the teacher on its own samples, with its card."""
    if not run.config.training.trains:
        logger.info("training: nothing to do, because training.objective is none")
        return
    if run.config.training.uses_gold:
        make_gold_labels(run)  # GOLD ANSWERS of the pool: the upper bound alone
    make_training(run)
    # A new model has no card yet. A kill can leave one without its checksum. A card with results stays as it is.
    if processes.is_main() and not run.folder.is_sealed(MODEL_CARD):
        write_model_card(run)


def make_results(run: Run) -> None:
    """Both models on the test questions, and the card again, now with results."""
    make_evaluation(run)  # GOLD ANSWERS, where there are any: all training is over
    make_teacher_gap(run)  # GOLD ANSWERS, where the pool has any: for people to read, it decides nothing
    if run.config.training.trains:
        write_model_card(run)


def write_model_card(run: Run) -> None:
    """README.md of the published model."""
    write_text(run.folder.path / MODEL_CARD, card_of(run))
    run.folder.seal(MODEL_CARD)


STAGES: dict[str, Callable[[Run], None]] = {
    "questions": make_questions,
    "rollouts": make_rollouts,
    "neurons": make_neurons,
    "select": make_selection,
    "contexts": make_contexts,
    "preflight": make_preflight,
    "train": make_trained_model,
    "evaluate": make_results,
    "report": make_report,
}


def run_stages(run: Run, *, until: str = "report", stop_if_unlikely: bool = False) -> None:
    """Run every stage in order, up to and including `until`.

    Raises:
        UnlikelyToHelpError: the preflight says so, and `stop_if_unlikely` asks to stop then.
    """
    needed = commands_of(run.config)
    try:
        for name, make in STAGES.items():
            if name in needed:
                make(run)
                if run.tracking:
                    run.tracking.catch_up()
            if name == "preflight" and name in needed and stop_if_unlikely:
                stop_where_unlikely(run)
            if name == until:
                return
    finally:
        run.runner.release()  # a Python program that goes on has no use for idle workers


def make_shares(run: Run, name: str, part: int, num_parts: int) -> None:
    """One array task's share of rollouts, neurons or evaluation, for the command without --shards to gather."""
    kinds = {"rollouts": ZeroShotStage, "neurons": NeuronStage}
    stages = [kinds[name](run, name)] if name in kinds else stages_of_evaluation(run)
    for stage in stages:
        if stage.is_ready():
            make_share(stage, part, num_parts)
        else:
            logger.info(
                "%s: not yet. It needs the records that this command gathers without --shards", stage.name
            )
