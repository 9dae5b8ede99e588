"""The model's own replies that demonstrate, and how the control `contexts.replies=permuted` exchanges them."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from neuron_opsd.random_state import derive_seed
from neuron_opsd.records import Rollout
from neuron_opsd.rollouts.pseudo_label import likeliest_agreeing
from neuron_opsd.run.session import Run


def demonstrating_replies(run: Run) -> dict[str, Rollout]:
    """The reply that each question would demonstrate with, by id."""
    settings = run.config.contexts
    if settings.retrieval == "other_domain":
        rollouts = {r.question_id: r for r in run.folder.stage("demonstrations").read(Rollout)}
    elif settings.retrieval == "own_majority":
        rollouts = likeliest_agreeing(run.folder.stage("rollouts").iterate(Rollout))
    else:
        # Without tokens, which would not fit in memory for a long pool. A demonstration is shown as text.
        rollouts = {
            rollout.question_id: replace(rollout, prompt_ids=(), completion_ids=(), token_log_probs=())
            for rollout in run.records.first_rollouts()
        }
    if settings.usable_only:
        rollouts = {question_id: rollout for question_id, rollout in rollouts.items() if rollout.is_usable}
    if settings.replies == "permuted":
        return permuted_replies(rollouts, seed=run.config.seed)
    return rollouts


def permuted_replies(rollouts: Mapping[str, Rollout], *, seed: int) -> dict[str, Rollout]:
    """The control: each question with the reply to another one, along one random ring through all of them.

    How replies look and how often each answer is given stay as they are. What answers what is lost.
    """
    givers = reply_givers(rollouts, seed=seed)
    return {i: replace(rollouts[i], reply=rollouts[giver].reply) for i, giver in givers.items()}


def reply_givers(question_ids: Iterable[str], *, seed: int) -> dict[str, str]:
    """For each question the one whose reply it shows: the next on one random ring through all."""
    ring = sorted(question_ids, key=lambda question_id: derive_seed(seed, "replies", question_id))
    return dict(zip(ring, [*ring[1:], *ring[:1]], strict=True))
