"""What flows between the stages. Read this file first.

    Question -> Rollout -> NeuronSets -> SelectedQuestion -> TeacherContext -> PreflightItem -> (training) -> Rollout
    -> metrics

No record before `evaluation` has a place for a gold answer: that is how training stays label-free. (`GoldLabel` is the
upper bound's alone.) Records are plain frozen dataclasses (no torch). `stage_folder.py` writes them as Parquet and JSON
lines, a column for each field.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One unlabelled item. `choices` is empty for a free-form question.

    `letters` is what its file calls the choices, where that is not A, B, C, ... in order: because a blank choice
    between them was dropped, or because they have numbers. Prompts never show it. Evaluation reads answers with it.
    """

    question_id: str
    domain: str
    question: str
    choices: tuple[str, ...] = ()
    system: str | None = None
    split: str = "train"  # "train" (the pool) or "test" (evaluation only)
    letters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One completion of one question, with its prompt exactly as the model read it.

    `choice_order[i]` is the index in `Question.choices` of the i-th choice shown, so shuffled choices can be mapped
    back. `answer` already is (a letter of the ORIGINAL order, or normalised free text, or None if unparsable).
    `token_log_probs` are natural logs under the model at temperature 1, one for each completion token.
    """

    question_id: str
    rollout_index: int
    choice_order: tuple[int, ...]
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    token_log_probs: tuple[float, ...]
    finish_reason: str  # "stop" (the model ended it) or "length" (cut at max_new_tokens)
    reply: str  # the decoded completion without special tokens
    answer: str | None

    @property
    def is_usable(self) -> bool:
        """Whether the model ended it, and its answer can be read."""
        return self.finish_reason == "stop" and self.answer is not None

    @property
    def mean_log_prob(self) -> float | None:
        """Mean log-probability per completion token, in nats. None if the completion is empty."""
        return sum(self.token_log_probs) / len(self.token_log_probs) if self.token_log_probs else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactRollout(Rollout):
    """The likeliest reply of one token, and how likely each choice is as the answer (`evaluation/exact.py`).

    Both lists have a value for each choice, in the original order. What is left of the answers' sum to 1 is the
    probability of a token that gives no answer.
    """

    answer_probabilities: tuple[float, ...]  # at the temperature and top-p of evaluation
    option_log_probs: tuple[
        float, ...
    ]  # natural logs, at temperature 1, of the choice's letter as the first token


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactGeneralRollout(ExactRollout):
    """The same of a general question, with what the KL of two models is computed from."""

    state: tuple[float, ...]  # the last hidden state, which predicts the reply. Empty but for rollout 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NeuronSets:
    """The neurons behind one completion (`neurons/sets.py`). A neuron id is layer * d_ff + index."""

    question_id: str
    rollout_index: int
    num_completion_tokens: int
    num_chunks: int
    consensus_score: int  # size of the count set: small means high consensus
    consensus_score_per_chunk: float  # mean over chunks of each chunk's own count-set size
    neurons_per_layer: tuple[int, ...]  # the count set, by layer. Sums to consensus_score
    overlap_set: NDArray[np.int32]  # neuron ids, ascending


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedQuestion:
    """A question with every selection score it has, its rank in its domain, and whether training keeps it."""

    question_id: str
    domain: str
    num_completion_tokens: int
    consensus_score: float
    consensus_score_length_residualised: float
    vote_share: float | None  # None when fewer than two rollouts, or nothing parsable
    score: float  # the one that ranked it (selection.score). Lower is kept first
    rank: int  # 0 is best, within the domain
    selected: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """Another question, as its rollout saw it, with the model's own reply."""

    question_id: str
    choice_order: tuple[int, ...]
    reply: str
    distance: float  # Jaccard distance of the overlap sets to the question that reads it


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherContext:
    """What only the teacher reads before one selected question. Demonstrations are nearest first."""

    question_id: str
    demonstrations: tuple[Demonstration, ...]
    num_demonstrations_dropped: int  # dropped, farthest first, to fit contexts.max_prompt_tokens
    num_student_prompt_tokens: int
    num_teacher_prompt_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PreflightItem:
    """One selected question, answered with and without its context before any training (`preflight/probe.py`).

    Entropies and the divergence are sums over the tokens of the student's first completion, in nats.
    """

    question_id: str
    student_answers: tuple[str | None, ...]  # one for each sample, in the original order of the choices
    teacher_answers: tuple[str | None, ...]
    student_reply: str  # of the first sample
    teacher_reply: str
    student_lengths: tuple[int, ...]  # tokens of each sample
    teacher_lengths: tuple[int, ...]
    student_finished: tuple[bool, ...]  # whether it ended by itself. If not, it was cut
    teacher_finished: tuple[bool, ...]
    num_completion_tokens: int  # of the student's first sample
    student_entropy: float
    teacher_entropy: float
    reverse_kl: float  # KL(student || teacher)
    # The likeliest letter, of the original order of the choices (`preflight/position_free.py`). None where none is read
    averaged_letter: str | None = None  # by the mean of the bare question over the orders of its choices
    student_letter: str | None = None
    teacher_letter: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionScores:
    """The probability one model gives to each choice of one test question (`evaluation/options.py`)."""

    question_id: str
    probabilities: tuple[float, ...]  # of the choices in their original order. They sum to 1
    option_mass: (
        float  # what the choices had together before that: small where the model would say something else
    )
    num_orders: int  # orders of the choices averaged over


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthScore:
    """How likely one model calls its own majority answer to a test question right (`evaluation/truth.py`)."""

    question_id: str
    answer: str  # the one that it was asked about
    probability: float  # of yes, as a share of yes and no
    yes_no_mass: float  # what yes and no had together before that


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseDivergence:
    """KL(trained || base) on the base model's completion of one general question, summed over its tokens (nats)."""

    question_id: str
    num_tokens: int
    kl: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldLabel:
    """The gold answer of one question of the pool. USES GOLD ANSWERS: for the upper bound `gold_sft` alone."""

    question_id: str
    answer: str  # a letter of the original order of the choices, or normalised free text
