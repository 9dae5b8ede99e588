"""Settings of the questions, the prompts and every stage but training. Each class is a section of a recipe."""

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from neuron_opsd.config.section import Count, Fraction, Paths, Section

FIELDS = ("question", "passage", "choices", "question_id", "domain", "system", "answer")
MAX_BAD_FRACTION = 0.05
ALL_DOMAINS = "all"
MAX_EXACT_K = 128  # of an expected majority. Its factorials are floats, which end at 170!


class QuestionSettings(Section):
    """The unlabelled pool, and what is held out of it."""

    path: str = Field(
        description="JSONL, JSON, CSV, TSV, Parquet or Excel file, or the name of a `datasets` data set (docs/data.md)."
    )
    cross_paths: Paths = Field(default=(), description="Further files: other domains, evaluated only.")
    domain: str | None = Field(
        default=None,
        description="Train on this domain of the file. Its others become cross-domain sets. `all` trains on each "
        "domain, with questions selected within each.",
    )
    test_fraction: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="Share of each domain held out for evaluation, by a hash of the content. [ours]",
    )
    max_train: Count | None = Field(
        default=None, description="At most this many pool questions a domain, by hash order."
    )
    max_test: Count | None = Field(
        default=None, description="At most this many test questions a domain, by hash order."
    )
    seed: int = Field(default=0, description="Salt of the hash that splits train from test.")
    fields: dict[str, str | tuple[str, ...] | None] = Field(
        default_factory=dict,
        description="Columns whose names are not known, as {question: stem, choices: options}. A null column is not "
        "read. For question and answer files. [ours]",
    )
    answer_base: Literal[0, 1, "text"] | None = Field(
        default=None,
        description="What the numbers of an answer file are: places of choices, counted from 0 or from 1, or text, the "
        "choices' own texts. [ours]",
    )
    max_bad_fraction: float = Field(
        default=MAX_BAD_FRACTION,
        ge=0,
        lt=1,
        description="Largest share of a file's rows that may be left out because they cannot be read. [ours]",
    )

    @field_validator("fields")
    @classmethod
    def _known_fields(cls, value: dict[str, Any]) -> dict[str, Any]:
        if unknown := [name for name in value if name not in FIELDS]:
            raise ValueError(
                f"{unknown[0]!r} is not a field of a question or answer. Use {', '.join(FIELDS)}"
            )
        return value


class PromptSettings(Section):
    """Wording that student, teacher, rollouts and evaluation share."""

    system: str | None = Field(
        default=None, description="System message. A question's own `system` wins over it."
    )
    answer_format: Literal["reasoned", "letter", "choice_text", "free", "math"] = Field(
        default="reasoned",
        description="How a question asks for its answer: reasons then the answer, the letter alone, the choice's text "
        "alone, or nothing added, not even the choices (the question says how to answer). Free-form questions ignore "
        "letter and choice_text. math: as reasoned, but free-form answers are expressions (math-verify). [ours]",
    )
    answer_pattern: str | None = Field(
        default=None,
        description="Your own regular expression for the answer, with one group. Its last match in a reply is read as "
        "the answer, and nothing else is (docs/answers.md). [ours]",
    )
    keep_thinking: bool = Field(
        default=False,
        description="Keep <think> blocks in demonstrations, as the first author's prototype does.",
    )

    @field_validator("answer_pattern")
    @classmethod
    def _has_one_group(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            num_groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(
                f"It is not a regular expression: {error}. Try one with `neuron-opsd read-answer --pattern`"
            ) from None
        if num_groups != 1:
            raise ValueError(
                f"It has {num_groups} groups. Give it exactly one, around the answer, such as 'Final: ([A-D])'. Write "
                "(?:...) for a group that is not the answer"
            )
        return pattern


def num_complete(num_samples: int, *, stop_votes: bool) -> int:
    """Samples that each question has, whatever its answers are: no vote is decided before half of them is drawn."""
    return -(-num_samples // 2) if stop_votes else num_samples


class RolloutSettings(Section):
    """Zero-shot answers of the frozen model."""

    num_rollouts: Count = Field(default=1, description="Rollouts per question. Voting needs several. [ours]")
    temperature: float = Field(default=0.6, ge=0, description="0 is greedy. [N]")
    top_p: Fraction = Field(default=1.0, description="Nucleus sampling. [ours]")
    max_new_tokens: Count = Field(
        default=2048,
        description="Longer completions are cut and counted as `length`. Default: 2,048, or 8,192 if the chat "
        "template thinks. [ours]",
    )
    shuffle_choices: bool = Field(
        default=False,
        description="A new order of the choices for each rollout, mapped back before voting. [ours]",
    )
    stop_votes: bool = Field(
        default=False,
        description="Draw no more rollouts of a question once its majority answer cannot change. [ours]",
    )
    batch_size: Count = Field(default=32, description="Completions decoded together.")
    shard_size: Count = Field(
        default=256, description="Questions per file written. A kill loses at most one file's."
    )

    @property
    def num_complete(self) -> int:
        """Rollouts that each question has."""
        return num_complete(self.num_rollouts, stop_votes=self.stop_votes)


class NeuronSettings(Section):
    """Which neurons count, and how many (docs/method.md, sections 2 and 3)."""

    activation: Literal["gate", "gate_up"] = Field(
        default="gate",
        description="k = act(gate) [N], or the true input of the down projection, act(gate) * up.",
    )
    score: Literal["unembed", "magnitude"] = Field(
        default="unembed", description="k * (w_down . e[y]) [N], or |k| * norm."
    )
    final_norm_scale: bool = Field(
        default=False, description="Multiply e[y] by the final norm's weight. [ours]"
    )
    alignment: Literal["predicting", "same"] = Field(
        default="predicting",
        description="State at t-1 with token t [F], or state at t with token t (2504.07440).",
    )
    tokens: Literal["all", "answer", "first"] = Field(
        default="all",
        description="Completion tokens read: all [N], those after the thinking, or the first `first_tokens`.",
    )
    first_tokens: Count = Field(default=32, description="For tokens=first (NAD, 2510.26277).")
    chunk_tokens: Count = Field(default=512, description="Tokens per chunk. [ours]")
    entries_fraction: Fraction = Field(
        default=0.206,
        description="Top (token, neuron) entries per chunk and layer, as a share of d_ff: 2,000 in Qwen3-4B. [N]",
    )
    num_entries: Count | None = Field(
        default=None, description="The same as an absolute number, which wins over the share."
    )
    overlap_fraction: Fraction = Field(
        default=0.0143, description="Overlap-set size as a share of layers * d_ff: 5,000 in Qwen3-4B. [N]"
    )
    overlap_size: Count | None = Field(
        default=None, description="The same as an absolute number, which wins over the share."
    )
    count_set: Literal["union", "union_of_top"] = Field(
        default="union",
        description="Union over chunks uncut (default reading), or of each chunk's own top overlap-set size.",
    )
    per_token_entries: Count | None = Field(
        default=None, description="Instead of a chunk budget: the top m neurons per token and layer (NAD)."
    )
    batch_size: Count = Field(default=16, description="Completions per forward pass.")


class SelectionSettings(Section):
    """Which questions training keeps."""

    score: Literal[
        "consensus",
        "consensus_length_residualised",
        "consensus_per_chunk",
        "vote_share",
        "log_prob",
        "random",
    ] = Field(
        default="consensus",
        description="s(x), the count-set size [N], its residual on log length, its mean per chunk, the vote share, the "
        "mean log-probability of the reply's tokens, or random.",
    )
    keep: Literal["lowest", "highest", "middle"] = Field(
        default="lowest",
        description="Which end of the ranking. The lowest s(x) is the highest consensus. [N]",
    )
    fraction: Fraction = Field(
        default=0.2, description="Share of each domain kept. Use 1.0 to keep every question. [N]"
    )
    usable_only: bool = Field(
        default=False,
        description="Keep no question whose reply was cut or gives no readable answer. Raw s(x) prefers those. [ours]",
    )


Retrieval = Literal[
    "neuron_overlap",
    "random",
    "tfidf",
    "embedding",
    "other_domain",
    "medoids",
    "fixed_random",
    "own_majority",
    "own_group",
]


class ContextSettings(Section):
    """What only the teacher reads."""

    retrieval: Retrieval = Field(
        default="neuron_overlap",
        description="Nearest by Jaccard distance of overlap sets [N]. Controls: random in-domain, nearest by words "
        "(needs neuron-opsd[baselines]) or by the base model's mean hidden state, or random questions of `other_path`. "
        "Or the same questions for all: the k-medoids of the pool's overlap sets, or random ones (2605.11182). "
        "Or the model's own answer to the question: the likeliest rollout with the majority answer [2607.13643], or "
        "an agreeing one of the step's group [2608.06296].",
    )
    other_path: str | None = Field(
        default=None,
        description="For retrieval=other_domain: the question file that demonstrates. Nothing is trained on it. [ours]",
    )
    replies: Literal["own", "permuted"] = Field(
        default="own",
        description="Each demonstration ends with the reply to its question [N], or with that to another one (control: "
        "format and distribution of the answers stay, what answers what is lost, 2202.12837).",
    )
    usable_only: bool = Field(
        default=False,
        description="Show no reply that was cut or gives no readable answer. [ours]",
    )
    search_candidates: Count | None = Field(
        default=None,
        description="Approximate search for large pools: measure so many candidates of a binary index "
        "(needs neuron-opsd[large-pools]). Default: search exactly. [ours]",
    )
    num_demonstrations: int = Field(
        default=10,
        ge=0,
        description="Neighbours shown. To fit the prompt, the farthest are dropped first. [N]",
    )
    order: Literal["nearest_last", "nearest_first"] = Field(
        default="nearest_first", description="Order in which the teacher reads them. [ours]"
    )
    max_prompt_tokens: Count = Field(
        default=10_240,
        description="Longest teacher prompt. The farthest demonstrations are dropped to fit. [P]",
    )
    near_duplicate_threshold: Fraction = Field(
        default=0.95,
        description="Neighbours this alike (character 5-grams, question and choices) are left out. [ours]",
    )

    @property
    def is_own(self) -> bool:
        """Whether a question demonstrates to itself, with an answer that its own majority gives."""
        return self.retrieval in ("own_majority", "own_group")


class PreflightSettings(Section):
    """The look ahead before training: is the teacher worth learning from? (docs/preflight.md)."""

    num_questions: int = Field(
        default=32, ge=0, description="Selected questions looked at. 0 leaves the preflight out. [ours]"
    )
    num_samples: Count = Field(
        default=4, description="Answers a question with the context, and as many without. [ours]"
    )


class EvaluationSettings(Section):
    """Base against trained, in-domain and cross-domain (docs/method.md, section 7)."""

    answers: Paths = Field(
        default=(), description="Gold answers for all, some or none of the test questions."
    )
    context: bool = Field(
        default=False,
        description="The second model reads a teacher context, from the pool, before each test question. [ours]",
    )
    exact: bool = Field(
        default=False,
        description="Read each answer's probability from the first token instead of sampling. It needs "
        "prompts.answer_format=letter. num_samples counts the orders of shuffled choices. max_new_tokens is 1. [ours]",
    )
    order_average: bool = Field(
        default=False,
        description="The second model answers in every cyclic order of the choices, mapped back, and its probabilities "
        "are the mean: one pass for each choice. Needs evaluation.exact. [2309.03882]",
    )
    num_samples: Count = Field(default=8, description="k of Avg@k and Maj@k. [N]")
    stop_votes: bool = Field(
        default=False,
        description="Draw no more samples of a question once its majority answer cannot change. Maj@k stays as it is. "
        "All other figures are of the first half of the samples, which each question has. [ours]",
    )
    pass_k: Count | None = Field(
        default=None,
        description="k of pass@k, and of the expected Maj@k of exact answers. At most num_samples (half of it with "
        "stop_votes) where answers are sampled, 128 with exact. Default: that, or 8 with exact. [ours]",
    )
    temperature: float = Field(default=0.6, ge=0, description="0 is greedy. [N]")
    top_p: Fraction = Field(default=1.0, description="Nucleus sampling. [ours]")
    max_new_tokens: Count = Field(
        default=2048, description="Default: 2,048, or 8,192 if the chat template thinks. [ours]"
    )
    shuffle_choices: bool = Field(default=False, description="As in rollouts. [ours]")
    general_paths: Paths = Field(
        default=(),
        description="Question files of general knowledge, on which both models are compared too, and their KL. [ours]",
    )
    general_answers: Paths = Field(
        default=(), description="Gold answers for all, some or none of the general questions."
    )
    max_general: Count = Field(
        default=200, description="At most this many general questions a file, by hash order. [ours]"
    )
    general_samples: Count | None = Field(
        default=None, description="Samples of each general question. Default: num_samples. [ours]"
    )
    option_probability: bool = Field(
        default=True,
        description="Also measure confidence as the probability of each choice, for multiple-choice questions. [ours]",
    )
    p_true: bool = Field(
        default=False,
        description="Also measure confidence as P(True): each model is asked whether its own majority answer is "
        "right, one pass a question. [2207.05221]",
    )
    num_bins: Count = Field(default=15, description="Equal-width bins of the ECE. [N]")
    num_bootstrap: Count = Field(default=2000, description="Resamples of the intervals. [ours]")
    batch_size: Count = Field(default=32, description="Completions decoded together.")

    @model_validator(mode="after")
    def _pass_needs_samples(self) -> "EvaluationSettings":
        if self.exact and self.stop_votes:
            raise ValueError(
                "evaluation.exact reads probabilities and draws no samples, so there is no vote to stop. Use "
                "evaluation.stop_votes=false."
            )
        if self.exact and self.k_of_pass > MAX_EXACT_K:
            raise ValueError(
                f"evaluation.pass_k is {self.pass_k}. With evaluation.exact it must be at most {MAX_EXACT_K}."
            )
        fewest = min(self.num_complete, self.for_general().num_complete)
        if not self.exact and self.pass_k is not None and self.pass_k > fewest:
            raise ValueError(
                f"evaluation.pass_k is {self.pass_k}, but a question has {fewest} samples. Use evaluation.pass_k="
                f"{fewest}, or more samples (evaluation.num_samples, evaluation.general_samples)."
            )
        return self

    @model_validator(mode="after")
    def _an_average_needs_probabilities(self) -> "EvaluationSettings":
        if self.order_average and not self.exact:
            raise ValueError(
                "evaluation.order_average averages the probabilities of exact answers, but evaluation.exact is false. "
                "Use evaluation.exact=true with prompts.answer_format=letter, or evaluation.order_average=false."
            )
        return self

    @property
    def has_second_reading(self) -> bool:
        """Whether the second model is asked otherwise than the base model, so that it need not be trained to differ."""
        return self.context or self.order_average

    @property
    def k_of_pass(self) -> int:
        """The k of pass@k, with its default filled in."""
        return self.pass_k or (8 if self.exact else self.num_complete)

    @property
    def num_complete(self) -> int:
        """Samples that each question has."""
        return num_complete(self.num_samples, stop_votes=self.stop_votes)

    def for_general(self) -> "EvaluationSettings":
        """These settings as they hold for the general questions."""
        return self.model_copy(update={"num_samples": self.general_samples or self.num_samples})
