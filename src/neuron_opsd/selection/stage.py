"""Stage: neuron sets, votes -> `SelectedQuestion`: each question with its scores, its rank, and whether it is kept."""

from neuron_opsd.records import NeuronSets, Rollout, SelectedQuestion
from neuron_opsd.rollouts.pseudo_label import vote
from neuron_opsd.run.session import Run
from neuron_opsd.selection.select import count_unusable, select_questions, unread_ids, warn_of_unusable
from neuron_opsd.store.files import JsonDict


def make_selection(run: Run) -> None:
    """Score, rank and select the questions of the pool."""

    def make() -> tuple[list[SelectedQuestion], JsonDict]:
        settings = run.config.selection
        votes = vote(run.folder.stage("rollouts").iterate(Rollout))
        first = run.records.first_rollouts()
        unusable = frozenset(i for i, rollout in first.items() if not rollout.is_usable)
        sets = run.folder.stage("neurons").read(NeuronSets)
        records = select_questions(
            run.records.pool,
            sets,
            votes,
            settings,
            seed=run.config.seed,
            mean_log_probs={question_id: rollout.mean_log_prob for question_id, rollout in first.items()},
            left_out=unusable if settings.usable_only else frozenset(),
        )
        return records, count_unusable(records, unusable, unread_ids(sets))

    # Also of a stage that was finished before or taken from the cache.
    warn_of_unusable(run.make_stage("selection", SelectedQuestion, make))
