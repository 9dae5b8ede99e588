"""Settings of training."""

from typing import Any, Literal

from pydantic import Field, model_validator

from neuron_opsd.config.section import Count, Fraction, Section

USES_GOLD = "USES GOLD ANSWERS: upper bound"  # marks whatever gold answers have trained


class LoraSettings(Section):
    """Low-rank adapters on all linear layers."""

    rank: int = Field(default=64, ge=1, le=16384, description="Rank of the adapter. [2601.18734]")
    alpha: Count = Field(default=128, description="Its scale is alpha / rank. [2601.18734]")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout of its input. [ours]")


class GuardRailSettings(Section):
    """When training stops by itself: the last rows of metrics.jsonl against the first. Heuristics of ours."""

    enabled: bool = Field(
        default=True, description="Stop training at a limit. If false, only the report tells. [ours]"
    )
    baseline_steps: Count = Field(default=10, description="Number of first rows, the yardstick. [ours]")
    window_steps: Count = Field(default=10, description="Number of last rows that are compared. [ours]")
    max_length_ratio: float | None = Field(
        default=2.0, gt=1, description="Of mean completion length, longer or shorter. null: no limit. [ours]"
    )
    max_end_rate_drop: float | None = Field(
        default=0.2,
        gt=0,
        le=1,
        description="Largest drop in the share of completions that end by themselves. [ours]",
    )
    max_entropy_ratio: float | None = Field(
        default=3.0, gt=1, description="Largest ratio of the student's token entropy, higher or lower. [ours]"
    )
    max_parse_rate_drop: float | None = Field(
        default=0.2,
        gt=0,
        le=1,
        description="Largest drop in the share of completions with a readable answer. [ours]",
    )
    max_vote_share_drop: float | None = Field(
        default=0.2, gt=0, le=1, description="Largest drop in the vote share, with several rollouts. [ours]"
    )
    max_divergence_ratio: float | None = Field(
        default=3.0, gt=1, description="Largest ratio of the divergence between the roles. [ours]"
    )
    max_grad_norm_ratio: float | None = Field(
        default=10.0, gt=1, description="Largest ratio of the gradient norm before clipping. [ours]"
    )


Objective = Literal[
    "distillation",
    "majority_sft",
    "sample_sft",
    "verified_sft",
    "majority_reward",
    "self_certainty",
    "unlikely_tokens",
    "gold_sft",
    "none",
]


class TrainingSettings(Section):
    """On-policy distillation (docs/method.md, section 6)."""

    objective: Objective = Field(
        default="distillation",
        description="What training does. distillation: the method's [N]. majority_sft: fine-tuning on rollouts that "
        "agree with the majority [2210.11610]. sample_sft: fine-tuning on all rollouts [2604.01193]. verified_sft: "
        "fine-tuning on rollouts whose answer the model itself calls right [2605.26132]. "
        "majority_reward, self_certainty: GRPO rewarded for the majority answer [2504.16084] or for self-certainty "
        "[2505.19590]. unlikely_tokens: making the least likely tokens less likely [2608.31046]. gold_sft: an upper "
        "bound that USES GOLD ANSWERS, fine-tuning on rollouts that agree with them. none: the second model is the "
        "base. Fine-tuning and GRPO need neuron-opsd[baselines].",
    )
    unlikely_fraction: Fraction = Field(
        default=0.2,
        description="For objective=unlikely_tokens: share of each completion's tokens that carry loss. [2608.31046]",
    )
    min_truth: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="For objective=verified_sft: least P(True) of the answers of rollouts that are learnt. [ours]",
    )
    kl_weight: float = Field(
        default=0.0,
        ge=0,
        description="Weight of the KL from the initial model, in GRPO. 0.005 in 2505.19590.",
    )
    method: Literal["lora", "full"] = Field(default="lora", description="What is trained. [ours]")
    lora: LoraSettings = LoraSettings()
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="Of the weights in training. auto: the model's, or float32 (method=full, float16). [ours]",
    )
    quantization: Literal["none", "4bit"] = Field(
        default="none",
        description="Hold the base's linear layers in 4 bits under the adapter (QLoRA, 2305.14314). GPU only.",
    )
    divergence: Literal["reverse_kl", "forward_kl", "jsd", "sampled_token"] = Field(
        default="reverse_kl",
        description="KL(student || teacher) [N], KL(teacher || student), JSD(jsd_beta), or the reverse KL estimated on "
        "the sampled token alone.",
    )
    jsd_beta: float = Field(
        default=0.5, ge=0, le=1, description="Weight of the teacher in the mixture. 0 and 1 are the KLs."
    )
    support: Literal["full", "teacher_top_k", "student_top_k"] = Field(
        default="full",
        description="Vocabulary entries compared: all [N], or the top_k of one side and a bucket with the rest.",
    )
    top_k: Count = Field(default=100, description="For support=..._top_k. [ours]")
    pointwise_clip: float | None = Field(
        default=None,
        gt=0,
        description="Upper bound of each vocabulary entry's term of the divergence. 0.05 in 2601.18734. Off. [N]",
    )
    skip_first_tokens: int = Field(
        default=0, ge=0, description="Completion tokens at the start that carry no loss. [ours]"
    )
    loss_temperature: float = Field(
        default=1.0, gt=0, description="Divides both roles' logits in the loss. Sampling has its own. [ours]"
    )
    teacher: Literal["ema", "frozen", "live"] = Field(default="ema", description="The teacher's weights. [N]")
    ema_rate: Fraction = Field(
        default=0.01, description="teacher <- (1 - rate) teacher + rate student, per step. [N]"
    )
    teacher_orders: Count = Field(
        default=1,
        description="Orders of the choices that the teacher reads: its distribution is the mean over them, which takes "
        "out what it prefers for its place alone. At most as many as there are choices. It needs "
        "prompts.answer_format=letter or choice_text. [ours]",
    )
    teacher_entropy: Literal["own", "matched"] = Field(
        default="own",
        description="own: the teacher is as sure as it is [N]. matched: its logits are divided by the one temperature "
        "at which its mean token entropy is the base student's, so that what it prefers is learnt and its sureness is "
        "not. [ours]",
    )
    student_entropy: Literal["own", "matched"] = Field(
        default="own",
        description="own: the published student is as sure as training left it [N]. matched: its logits are divided by "
        "the one temperature at which its samples (at rollouts.temperature) have the base model's mean token entropy, "
        "on questions of the pool. The last normalisation takes it in. It needs method=lora and save=merged. [ours]",
    )
    keep_prefixes: int = Field(
        default=1000,
        ge=0,
        description="Megabytes of keys and values of contexts that the teacher has read and need not read again while "
        "its weights are the same: all through training where it is frozen, else within a step. Changes memory, not "
        "the result. 0: none are kept. [ours]",
    )
    num_steps: Count = Field(default=150, description="Optimiser steps, at most. [N]")
    max_epochs: float | None = Field(
        default=3.4,
        gt=0,
        description="Steps are also at most this many passes over the selection, as in the paper. [ours]",
    )
    max_tokens: Count | None = Field(
        default=None,
        description="Training ends with the step at which the completion tokens generated for it, in earlier stages "
        "too, and the tokens that carried loss reach this. num_steps and max_epochs hold as well. [ours]",
    )
    batch_size: Count = Field(default=16, description="Questions per optimiser step, over all processes. [N]")
    micro_batch_size: Count = Field(
        default=4, description="Completions per forward pass. Changes memory, not the result."
    )
    num_rollouts: Count = Field(default=1, description="Completions of each question in a step. [N]")
    distil: Literal["all", "disagreeing", "agreeing"] = Field(
        default="all",
        description="Completions that carry loss: all [N], those that disagree with their group's majority answer "
        "(2608.06296), or those that agree with their question's pseudo-label, the majority answer of the frozen "
        "model's rollouts (2608.27448).",
    )
    unlikelihood_weight: float = Field(
        default=0.0,
        ge=0,
        description="For distil=agreeing: the other completions are made less likely, with this weight beside the "
        "distillation. 0: they carry no loss. [ours, after 2608.27448]",
    )
    min_vote_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="For distil=disagreeing or agreeing, and contexts.retrieval=own_group: questions whose majority is "
        "smaller carry no loss. 0.5 in 2608.06296.",
    )
    max_distilled: Count | None = Field(
        default=None,
        description="For distil=disagreeing: completions of a group that carry loss, at most, the first sampled. 3 in "
        "2608.06296. No limit. [ours]",
    )
    rollout_steps: Count = Field(
        default=1, description="Steps sampled for at once. Above 1 the later ones are stale. Fresh is [N]."
    )
    max_importance_ratio: float = Field(
        default=2.0, ge=1, description="Cap of p_now / p_sampled, the weight of a stale token. As TRL's SDPO."
    )
    truncated: Literal["keep", "mask"] = Field(
        default="keep", description="Completions cut at max_new_tokens: keep their loss, or none. [ours]"
    )
    temperature: float = Field(default=1.0, gt=0, description="Temperature of the student's samples. [ours]")
    top_p: Fraction = Field(default=1.0, description="Nucleus of the student's samples. [ours]")
    sample_top_k: Count | None = Field(
        default=None, description="Sample from the k likeliest tokens alone. 20 in 2608.06296. Off. [ours]"
    )
    max_new_tokens: Count = Field(
        default=2048,
        description="Length limit of the student's samples. Default: 2,048, or 8,192 if the chat template thinks. "
        "[ours]",
    )
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="Default 5e-6 for LoRA, 1e-5 full. Small models need more. [2601.18734, 2608.06296]",
    )
    warmup_steps: int = Field(
        default=10, ge=0, description="Steps in which the learning rate rises. [2601.18734]"
    )
    max_grad_norm: float = Field(
        default=1.0, gt=0, description="Gradients are clipped to this norm. [2601.18734]"
    )
    loss_chunk_tokens: Count = Field(
        default=256, description="Tokens whose vocabulary logits are held at once."
    )
    save_steps: Count = Field(default=10, description="A resumable checkpoint every this many steps.")
    save: Literal["merged", "adapter"] = Field(
        default="merged", description="The published model. With method=full it is always merged."
    )
    guard_rails: GuardRailSettings = GuardRailSettings()
    trainer: dict[str, Any] = Field(
        default_factory=dict,
        description="Passed to transformers.TrainingArguments and checked by it. On a GPU gradient_checkpointing is "
        "true unless it is set here, and bf16 where model.dtype is bfloat16. [ours]",
    )

    @model_validator(mode="after")
    def _sampled_token_has_no_support(self) -> "TrainingSettings":
        if self.divergence == "sampled_token":
            for name, value, only in (
                ("support", self.support, "full"),
                ("pointwise_clip", self.pointwise_clip, None),
            ):
                if value != only:
                    raise ValueError(
                        f"training.{name} is {value}, but divergence=sampled_token reads the sampled token alone. "
                        "Leave it out, or use divergence=reverse_kl."
                    )
        return self

    @model_validator(mode="after")
    def _four_bits_carry_an_adapter(self) -> "TrainingSettings":
        if self.quantization == "4bit":
            for name, value, needed in (("method", self.method, "lora"), ("save", self.save, "adapter")):
                if value != needed:
                    raise ValueError(
                        f"training.quantization is 4bit, but training.{name} is {value}. 4-bit weights are neither "
                        f"trained nor merged into. Use training.{name}={needed}."
                    )
        return self

    @model_validator(mode="after")
    def _disagreeing_needs_a_group(self) -> "TrainingSettings":
        if self.distil == "disagreeing" and self.num_rollouts < 2:
            raise ValueError(
                "training.distil is disagreeing, but training.num_rollouts is 1. A vote needs at least 2. "
                "Use training.num_rollouts=8."
            )
        return self

    @model_validator(mode="after")
    def _entropy_is_matched_as_an_adapter_is_merged(self) -> "TrainingSettings":
        if self.student_entropy == "matched":
            for name, value, needed in (("method", self.method, "lora"), ("save", self.save, "merged")):
                if value != needed:
                    raise ValueError(
                        f"training.student_entropy is matched, but training.{name} is {value}. The student is compared "
                        f"with its base as its adapter is merged. Use training.{name}={needed}."
                    )
        return self

    @model_validator(mode="after")
    def _only_samples_of_a_step_are_chosen(self) -> "TrainingSettings":
        if self.distil != "all" and self.objective not in ("distillation", "unlikely_tokens", "none"):
            raise ValueError(
                f"training.distil is {self.distil}, but training.objective is {self.objective}, which chooses its "
                "completions itself. Leave it out, or use training.objective=distillation."
            )
        return self

    @model_validator(mode="after")
    def _a_limit_needs_those_it_limits(self) -> "TrainingSettings":
        if self.max_distilled is not None and self.distil != "disagreeing":
            raise ValueError(
                f"training.max_distilled is {self.max_distilled}, but training.distil is {self.distil}: it limits the "
                "disagreeing completions of a group. Leave it out, or use training.distil=disagreeing."
            )
        return self

    @model_validator(mode="after")
    def _a_pseudo_label_needs_rollouts(self) -> "TrainingSettings":
        if self.unlikelihood_weight and self.distil != "agreeing":
            raise ValueError(
                f"training.unlikelihood_weight is {self.unlikelihood_weight:g}, but training.distil is {self.distil}: "
                "it weighs the completions that do not agree. Leave it out, or use training.distil=agreeing."
            )
        if self.distil == "agreeing" and self.objective == "unlikely_tokens":
            raise ValueError(
                "training.distil is agreeing, but training.objective is unlikely_tokens, which makes no rollouts that "
                "could vote. Use training.distil=disagreeing, or training.objective=distillation."
            )
        return self

    @model_validator(mode="after")
    def _rewards_compare_a_group(self) -> "TrainingSettings":
        if self.compares_groups:
            if self.num_rollouts < 2:
                raise ValueError(
                    f"training.objective is {self.objective}, but training.num_rollouts is 1. Completions are compared "
                    "within a group of at least 2. Use training.num_rollouts=8."
                )
            if self.kl_weight and self.method == "full":
                raise ValueError(
                    "training.kl_weight with training.method=full would need a second copy of the model. Use "
                    "training.method=lora, or training.kl_weight=0."
                )
        return self

    @property
    def trains(self) -> bool:
        """Whether anything is trained. If not, the second model is the base."""
        return self.objective != "none"

    @property
    def is_distillation(self) -> bool:
        """Whether this is the method: a student learns from a teacher that reads a context."""
        return self.objective == "distillation"

    @property
    def draws_while_learning(self) -> bool:
        """Whether each completion is one token that no loss depends on: the pass that learns from it draws it."""
        return (
            self.is_distillation
            and (self.max_new_tokens, self.num_rollouts, self.rollout_steps) == (1, 1, 1)
            and (self.distil, self.truncated) == ("all", "keep")
            and self.divergence != "sampled_token"
            and not (self.method == "lora" and self.lora.dropout)
        )

    @property
    def reads_pseudo_labels(self) -> bool:
        """Whether the frozen model's votes decide which completions are distilled."""
        return self.is_distillation and self.distil == "agreeing"

    @property
    def fine_tunes(self) -> bool:
        """Whether training learns from the stage's rollouts. If not, it samples completions of its own."""
        return self.objective in ("majority_sft", "sample_sft", "verified_sft", "gold_sft")

    @property
    def learns_everything(self) -> bool:
        """Whether fine-tuning learns from every rollout. If not, rollouts are chosen by their answers."""
        return self.objective == "sample_sft"

    @property
    def verifies(self) -> bool:
        """Whether fine-tuning learns from rollouts whose answer the model itself calls right."""
        return self.objective == "verified_sft"

    @property
    def compares_groups(self) -> bool:
        """Whether GRPO rewards the completions of a group against one another."""
        return self.objective in ("majority_reward", "self_certainty")

    @property
    def by_trl(self) -> bool:
        """Whether TRL trains, and not a trainer of ours."""
        return self.fine_tunes or self.compares_groups

    @property
    def uses_gold(self) -> bool:
        """Whether training reads gold answers: not label-free, an upper bound."""
        return self.objective == "gold_sft"

    def completions_per_step(self) -> int:
        """Completions of all questions of a step, over all processes. Fine-tuning takes one of each question."""
        return self.batch_size * (1 if self.fine_tunes else self.num_rollouts)

    def resolved_learning_rate(self) -> float:
        """The learning rate, with the method's default filled in."""
        return self.learning_rate or (5e-6 if self.method == "lora" else 1e-5)
