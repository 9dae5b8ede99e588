"""One run: all sections together."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from neuron_opsd.config.engine import EngineSettings
from neuron_opsd.config.model import ModelSettings
from neuron_opsd.config.section import Section
from neuron_opsd.config.stages import (
    ContextSettings,
    EvaluationSettings,
    NeuronSettings,
    PreflightSettings,
    PromptSettings,
    QuestionSettings,
    RolloutSettings,
    SelectionSettings,
)
from neuron_opsd.config.training import TrainingSettings

LIMITED = ("rollouts", "training", "evaluation")  # sections whose max_new_tokens depends on the model


class Config(Section):
    """One run."""

    recipe: str = Field(default="neuron_opsd", description="Name of the recipe, for the report.")
    description: str = Field(
        default="", description="What this recipe is, in a sentence. The report shows it."
    )
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**32,
        description="Seed of everything random. A question's random state is (seed, stage, question id).",
    )
    num_threads: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        default=None, description="CPU threads of torch. Default: torch's own choice."
    )
    model: ModelSettings
    questions: QuestionSettings
    prompts: PromptSettings = PromptSettings()
    rollouts: RolloutSettings = RolloutSettings()
    engine: EngineSettings = EngineSettings()
    neurons: NeuronSettings = NeuronSettings()
    selection: SelectionSettings = SelectionSettings()
    contexts: ContextSettings = ContextSettings()
    preflight: PreflightSettings = PreflightSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    def as_tree(self) -> dict[str, Any]:
        """Every setting, for a file, without the limits that the model's template has yet to decide."""
        tree = self.model_dump(mode="json")
        for name in LIMITED:
            if "max_new_tokens" not in getattr(self, name).model_fields_set:
                del tree[name]["max_new_tokens"]
        return tree

    @model_validator(mode="after")
    def _a_vote_needs_several(self) -> "Config":
        retrieval, training = self.contexts.retrieval, self.training
        voters = {
            "selection.score is vote_share": ("rollouts", self.selection.score == "vote_share"),
            f"training.objective is {training.objective}": (
                "rollouts",
                training.fine_tunes and not (training.learns_everything or training.verifies),
            ),
            "training.distil is agreeing": ("rollouts", training.reads_pseudo_labels),
            "contexts.retrieval is own_majority": ("rollouts", retrieval == "own_majority"),
            "contexts.retrieval is own_group": ("training", retrieval == "own_group"),
        }
        for what, (section, is_asked) in voters.items():
            if is_asked and getattr(self, section).num_rollouts < 2:
                raise ValueError(
                    f"{what}, but {section}.num_rollouts is 1. At least 2 are needed. Use {section}.num_rollouts=8."
                )
        return self

    @model_validator(mode="after")
    def _a_stopped_vote_gives_no_share(self) -> "Config":
        readers = {
            "selection.score is vote_share": self.selection.score == "vote_share",
            f"training.objective is {self.training.objective}": self.training.fine_tunes,
            f"training.min_vote_share is {self.training.min_vote_share:g} with training.distil=agreeing": (
                self.training.reads_pseudo_labels and self.training.min_vote_share > 0
            ),
        }
        for what, is_asked in readers.items():
            if self.rollouts.stop_votes and is_asked:
                raise ValueError(
                    f"rollouts.stop_votes draws no more rollouts than a vote needs, but {what}, which reads all. Use "
                    "rollouts.stop_votes=false."
                )
        return self

    @model_validator(mode="after")
    def _own_answers_are_of_the_pool(self) -> "Config":
        retrieval = self.contexts.retrieval
        if self.contexts.is_own and self.evaluation.context:
            raise ValueError(
                f"evaluation.context shows test questions others of the pool, but contexts.retrieval is {retrieval}: a "
                "question's own answer. Use another retrieval, or evaluation.context=false."
            )
        if retrieval == "own_group" and self.training.reads_pseudo_labels:
            raise ValueError(
                "training.distil is agreeing, but contexts.retrieval is own_group, which votes within each step, not "
                "by the rollouts. Use contexts.retrieval=own_majority, or training.distil=disagreeing."
            )
        if retrieval == "own_group" and self.contexts.replies != "own":
            raise ValueError(
                f"contexts.replies is {self.contexts.replies}, but contexts.retrieval=own_group shows what training "
                "samples. Use contexts.replies=own, or contexts.retrieval=own_majority."
            )
        return self

    @model_validator(mode="after")
    def _orders_move_whole_answers(self) -> "Config":
        """A letter within reasons cannot be renamed, and a choice that no prompt shows has no place."""
        training, answer_format = self.training, self.prompts.answer_format
        if training.teacher_orders > 1 and answer_format not in ("letter", "choice_text"):
            raise ValueError(
                f"training.teacher_orders is {training.teacher_orders}, but prompts.answer_format is {answer_format}: "
                "replies must be a letter or a choice's text alone. Use prompts.answer_format=letter, or "
                "training.teacher_orders=1."
            )
        for name, value, default in (
            ("teacher_orders", training.teacher_orders, 1),
            ("teacher_entropy", training.teacher_entropy, "own"),
        ):
            if value != default and self.contexts.retrieval == "own_group":
                raise ValueError(
                    f"training.{name} is {value}, but contexts.retrieval is own_group: that context is known only "
                    f"within its step. Use another retrieval, or training.{name}={default}."
                )
        return self

    @model_validator(mode="after")
    def _server_takes_adapters(self) -> "Config":
        """All of a server's weights could only be replaced for everyone it serves, and past the end of a run."""
        training = self.training
        if self.engine.name == "server" and training.method == "full" and training.is_distillation:
            raise ValueError(
                "engine.name is server, which follows the student by its LoRA adapter, and training.method=full has "
                "none. Use training.method=lora, or engine.name=vllm or hf."
            )
        return self
