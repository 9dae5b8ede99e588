"""Every setting of every stage: typed, range-checked, with its source. No torch here, so `--help` starts at once.

A recipe is a YAML file of these sections, `section.key=value` on the command line overrides it, and one validator
reads both. The model and the questions have no default. Everything else has the paper's, or says "ours". Sources: [N]
Neuron-OPSD (arXiv 2607.02460), [F] NeuFS (2607.02423), [P] the first author's prototype, [ours] measured or chosen
here.
"""

from neuron_opsd.config.engine import EngineSettings
from neuron_opsd.config.load import (
    check_config,
    check_prompts,
    describe_setting,
    list_recipes,
    load_config,
    read_config,
)
from neuron_opsd.config.model import ModelSettings
from neuron_opsd.config.paths import with_absolute_paths
from neuron_opsd.config.run import Config
from neuron_opsd.config.section import Section
from neuron_opsd.config.stages import (
    ALL_DOMAINS,
    FIELDS,
    MAX_BAD_FRACTION,
    ContextSettings,
    EvaluationSettings,
    NeuronSettings,
    PreflightSettings,
    PromptSettings,
    QuestionSettings,
    RolloutSettings,
    SelectionSettings,
)
from neuron_opsd.config.training import USES_GOLD, GuardRailSettings, LoraSettings, TrainingSettings

__all__ = [
    "ALL_DOMAINS",
    "FIELDS",
    "MAX_BAD_FRACTION",
    "USES_GOLD",
    "Config",
    "ContextSettings",
    "EngineSettings",
    "EvaluationSettings",
    "GuardRailSettings",
    "LoraSettings",
    "ModelSettings",
    "NeuronSettings",
    "PreflightSettings",
    "PromptSettings",
    "QuestionSettings",
    "RolloutSettings",
    "Section",
    "SelectionSettings",
    "TrainingSettings",
    "check_config",
    "check_prompts",
    "describe_setting",
    "list_recipes",
    "load_config",
    "read_config",
    "with_absolute_paths",
]
