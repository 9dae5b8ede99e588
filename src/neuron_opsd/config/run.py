"""One run: all sections together."""

from pydantic import Field, model_validator

from neuron_opsd.config.section import Count, Section
from neuron_opsd.config.stages import (
    ContextSettings,
    EngineSettings,
    EvaluationSettings,
    ModelSettings,
    NeuronSettings,
    PreflightSettings,
    PromptSettings,
    QuestionSettings,
    RolloutSettings,
    SelectionSettings,
)
from neuron_opsd.config.training import TrainingSettings


class Config(Section):
    """One run."""

    recipe: str = Field(default="neuron_opsd", description="Name of the recipe, for the report.")
    description: str = Field(
        default="", description="What this recipe is, in a sentence; shown in the report."
    )
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**32,
        description="Of everything random; a question's state is (seed, stage, question id).",
    )
    num_threads: Count | None = Field(
        default=None, description="CPU threads of torch; default: torch's own choice."
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

    @model_validator(mode="after")
    def _vote_share_needs_votes(self) -> "Config":
        if self.selection.score == "vote_share" and self.rollouts.num_rollouts < 2:
            raise ValueError(
                "selection.score is vote_share, but rollouts.num_rollouts is 1; a vote needs at least 2. "
                "Use rollouts.num_rollouts=8."
            )
        objective = self.training.objective
        if objective in ("majority_sft", "gold_sft") and self.rollouts.num_rollouts < 2:
            raise ValueError(
                f"training.objective is {objective}, but rollouts.num_rollouts is 1; it learns from some of several. "
                "Use rollouts.num_rollouts=8."
            )
        return self
