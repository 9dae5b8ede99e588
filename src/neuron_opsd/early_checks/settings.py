"""Settings against one another, and against the packages that are installed."""

import importlib.util
from pathlib import Path

from neuron_opsd.config import USES_GOLD, Config
from neuron_opsd.config.training import BY_TRL
from neuron_opsd.environment import PACKAGES, installed_versions, vllm_problem
from neuron_opsd.errors import ConfigError, DataError
from neuron_opsd.tables.read import is_file_name
from neuron_opsd.text.expressions import INSTALL, is_installed


def check_files(config: Config) -> None:
    """Refuse answer files that are not there.

    Raises:
        DataError: names the setting and the file.
        ConfigError: the upper bound without answers.
    """
    for name in ("answers", "general_answers"):
        for path in getattr(config.evaluation, name):
            if is_file_name(path) and not Path(path).is_file():
                raise DataError(f"evaluation.{name}: {path} does not exist. Leave it out if you have none.")
    if config.training.uses_gold() and not config.evaluation.answers:
        raise ConfigError(
            f"training.objective is gold_sft ({USES_GOLD}), which needs the pool's gold answers. Give --answers FILE."
        )


def check_packages(config: Config) -> None:
    """Refuse a setting whose optional package is not installed.

    Raises:
        ConfigError: names the setting, the package and how to install it; or a vLLM that does not fit torch.
    """
    needed = {
        f"training.objective={config.training.objective}": (
            "trl",
            "baselines",
            config.training.objective in BY_TRL,
        ),
        "contexts.retrieval=tfidf": ("sklearn", "baselines", config.contexts.retrieval == "tfidf"),
    }
    for setting, (module, extra, is_asked) in needed.items():
        if is_asked and importlib.util.find_spec(module) is None:
            raise ConfigError(
                f"{setting} needs the package {module}, which is not installed. Run pip install 'neuron-opsd[{extra}]'."
            )
    problem = vllm_problem(installed_versions(PACKAGES)) if config.engine.name == "vllm" else None
    if problem:
        raise ConfigError(f"engine.name is vllm. {problem}")
    if config.prompts.answer_format == "math" and not is_installed():
        raise ConfigError(f"prompts.answer_format is math, which needs math-verify. {INSTALL}")
