"""Stage: neuron sets, votes -> `SelectedQuestion`: each question with its scores, its rank, and whether it is kept."""

from neuron_opsd.records import NeuronSets, Rollout, SelectedQuestion
from neuron_opsd.rollouts.pseudo_label import votes_of_groups
from neuron_opsd.run.session import Run
from neuron_opsd.selection.select import count_unusable, select_questions, unread_ids, warn_of_unusable
from neuron_opsd.store.files import JsonDict


def make_selection(run: Run) -> None:
    """Score, rank and select the questions of the pool."""

    def make() -> tuple[list[SelectedQuestion], JsonDict]:
        settings = run.config.selection
        answers: list[tuple[str, int, str | None]] = []  # without the rollouts, which may not fit in memory
        mean_log_probs: dict[str, float | None] = {}
        unusable: set[str] = set()
        for rollout in run.folder.stage("rollouts").iterate(Rollout):
            answers.append((rollout.question_id, rollout.rollout_index, rollout.answer))
            if rollout.rollout_index == 0:
                mean_log_probs[rollout.question_id] = rollout.mean_log_prob
                if not rollout.is_usable:
                    unusable.add(rollout.question_id)
        sets = run.folder.stage("neurons").read(NeuronSets)
        records = select_questions(
            run.records.pool,
            sets,
            {} if run.config.rollouts.stop_votes else votes_of_groups(answers),  # no shares of all rollouts
            settings,
            seed=run.config.seed,
            mean_log_probs=mean_log_probs,
            left_out=unusable if settings.usable_only else (),
        )
        return records, count_unusable(records, unusable, unread_ids(sets))

    # Also of a stage that was finished before or taken from the cache.
    warn_of_unusable(run.make_stage("selection", SelectedQuestion, make))
