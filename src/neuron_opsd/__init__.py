"""Neuron-OPSD (arXiv 2607.02460): better at a field from its unlabelled questions alone.

The public API, by name. A name is imported when it is first used, so `import neuron_opsd` costs nothing and loads no
torch. `examples/python_api.py` uses most of it. The command line is `neuron-opsd`.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

# Threads that wait should sleep: on cores shared with another job, spinning made a forward pass 10 times slower. torch
# reads it when it loads, so it counts where this package is imported first (docs/parallel.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from neuron_opsd.commands.improve import Result, improve
    from neuron_opsd.config import Config, load_config
    from neuron_opsd.contexts.build import build_contexts
    from neuron_opsd.engines.base import sampling_of
    from neuron_opsd.engines.hf import HFEngine
    from neuron_opsd.errors import (
        ConfigError,
        DataError,
        EngineError,
        ModelError,
        NeuronOpsdError,
        RunFolderError,
    )
    from neuron_opsd.model.chat import ChatEncoder
    from neuron_opsd.model.load import load_model
    from neuron_opsd.neurons.capture import capture_neurons
    from neuron_opsd.neurons.overlap import nearest_neighbours
    from neuron_opsd.pipeline import run_stages
    from neuron_opsd.questions.load import load_questions
    from neuron_opsd.records import NeuronSets, Question, Rollout, SelectedQuestion, TeacherContext
    from neuron_opsd.rollouts.pseudo_label import vote
    from neuron_opsd.rollouts.sample import sample_rollouts
    from neuron_opsd.run.session import Run
    from neuron_opsd.selection.select import select_questions
    from neuron_opsd.store.run_folder import RunFolder

__all__ = [
    "ChatEncoder",
    "Config",
    "ConfigError",
    "DataError",
    "EngineError",
    "HFEngine",
    "ModelError",
    "NeuronOpsdError",
    "NeuronSets",
    "Question",
    "Result",
    "Rollout",
    "Run",
    "RunFolder",
    "RunFolderError",
    "SelectedQuestion",
    "TeacherContext",
    "build_contexts",
    "capture_neurons",
    "improve",
    "load_config",
    "load_model",
    "load_questions",
    "nearest_neighbours",
    "run_stages",
    "sample_rollouts",
    "sampling_of",
    "select_questions",
    "vote",
]

_MODULES = {
    "commands.improve": ("Result", "improve"),
    "config": ("Config", "load_config"),
    "engines.base": ("sampling_of",),
    "engines.hf": ("HFEngine",),
    "errors": ("ConfigError", "DataError", "EngineError", "ModelError", "NeuronOpsdError", "RunFolderError"),
    "model.chat": ("ChatEncoder",),
    "model.load": ("load_model",),
    "neurons.capture": ("capture_neurons",),
    "neurons.overlap": ("nearest_neighbours",),
    "pipeline": ("run_stages",),
    "questions.load": ("load_questions",),
    "records": ("NeuronSets", "Question", "Rollout", "SelectedQuestion", "TeacherContext"),
    "rollouts.pseudo_label": ("vote",),
    "rollouts.sample": ("sample_rollouts",),
    "store.run_folder": ("RunFolder",),
    "selection.select": ("select_questions",),
    "contexts.build": ("build_contexts",),
    "run.session": ("Run",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'neuron_opsd' has no attribute {name!r}")
    return getattr(importlib.import_module(f"neuron_opsd.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
