"""Settings against one another, and the files and packages that they need."""

import importlib.util
import os
from collections.abc import Iterator

from neuron_opsd.config import USES_GOLD, Config
from neuron_opsd.config.graph import stages_made
from neuron_opsd.errors import ConfigError, DataError
from neuron_opsd.model.environment import PACKAGES, installed_versions, vllm_problem
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
            if is_file_name(path) and not os.path.isfile(path):
                what = "is not a file" if os.path.exists(path) else "does not exist"
                raise DataError(f"evaluation.{name}: {path} {what}. Leave it out if you have none.")
    if config.training.uses_gold and not config.evaluation.answers:
        raise ConfigError(
            f"training.objective is gold_sft ({USES_GOLD}), which needs the pool's gold answers. Give --answers FILE."
        )


def check_packages(config: Config) -> None:
    """Refuse a setting whose optional package is not installed.

    Raises:
        ConfigError: names the setting, the package and how to install it, or a vLLM that does not fit torch.
    """
    contexts, training, engine = config.contexts, config.training, config.engine
    # module, extra of ours that brings it, the setting that needs it
    needed = [
        ("trl", "baselines", f"training.objective={training.objective}", training.by_trl),
        ("datasets", "baselines", f"training.objective={training.objective}", training.by_trl),
        ("sklearn", "baselines", "contexts.retrieval=tfidf", contexts.retrieval == "tfidf"),
        ("faiss", "large-pools", "contexts.search_candidates", contexts.search_candidates is not None),
        ("vllm", "vllm", "engine.name=vllm", engine.name == "vllm"),
        ("httpx", "server", "engine.name=server", engine.name == "server"),
        ("tenacity", "server", "engine.name=server", engine.name == "server"),
    ]
    for module, extra, setting, is_asked in needed:
        if is_asked and importlib.util.find_spec(module) is None:
            raise ConfigError(
                f"{setting} needs the package {module}, which is not installed. Run pip install 'neuron-opsd[{extra}]'."
            )
    problem = vllm_problem(installed_versions(PACKAGES)) if config.engine.name == "vllm" else None
    if problem:
        raise ConfigError(f"engine.name is vllm. {problem}")
    if config.prompts.answer_format == "math" and not is_installed():
        raise ConfigError(f"prompts.answer_format is math, which needs math-verify. {INSTALL}")


def check_contradictions(config: Config) -> None:
    """Refuse settings that cannot hold together, or of which one is never read.

    Raises:
        ConfigError: all of them, a line each.
    """
    found = [*_training_contradictions(config), *_unread_settings(config)]
    if found:
        raise ConfigError("\n".join(found))


def _training_contradictions(config: Config) -> Iterator[str]:
    training = config.training
    if not training.trains:
        return
    rows = training.completions_per_step()
    if rows % training.micro_batch_size:
        times = f" times training.num_rollouts={training.num_rollouts}" if rows > training.batch_size else ""
        yield (
            f"training.batch_size is {training.batch_size}{times}: {rows} rows a step, which must be a multiple of "
            f"training.micro_batch_size={training.micro_batch_size}. Use training.micro_batch_size="
            f"{_largest_divisor(rows, training.micro_batch_size)}."
        )
    if training.method == "full" and training.dtype not in ("auto", "float32"):
        yield (
            f"training.method is full, but training.dtype is {training.dtype}: small steps round to nothing there. "
            "Use training.dtype=float32 and training.trainer={bf16: true}."
        )
    for name, value, only in (
        ("teacher_orders", training.teacher_orders, 1),
        ("teacher_entropy", training.teacher_entropy, "own"),
    ):
        if value != only and not training.is_distillation:
            yield (
                f"training.{name} is {value}, but training.objective is {training.objective}, which has no teacher. "
                "Leave it out, or use training.objective=distillation."
            )
    if training.skip_first_tokens >= training.max_new_tokens:
        yield (
            f"training.skip_first_tokens is {training.skip_first_tokens}, but completions have at most "
            f"training.max_new_tokens={training.max_new_tokens} tokens: none would carry loss. Lower "
            "training.skip_first_tokens."
        )


def _unread_settings(config: Config) -> Iterator[str]:
    """A setting that the user gave and that nothing reads: what was meant does not happen."""
    contexts, engine, evaluation = config.contexts, config.engine, config.evaluation
    if contexts.other_path and contexts.retrieval != "other_domain":
        yield (
            f"contexts.other_path is {contexts.other_path}, but contexts.retrieval is {contexts.retrieval}, which does "
            "not read it. Use contexts.retrieval=other_domain, or leave contexts.other_path out."
        )
    if contexts.search_candidates and contexts.search_candidates < contexts.num_demonstrations:
        yield (
            f"contexts.search_candidates is {contexts.search_candidates}, fewer than "
            f"contexts.num_demonstrations={contexts.num_demonstrations}. Use several times as many."
        )
    for name in ("url", "served_model", "adapter_root"):
        if engine.name != "server" and getattr(engine, name) is not None:
            yield (
                f"engine.{name} is {getattr(engine, name)}, but engine.name is {engine.name}, which does not read it. "
                f"Use engine.name=server, or leave engine.{name} out."
            )
    if evaluation.general_answers and not evaluation.general_paths:
        yield (
            f"evaluation.general_answers is {evaluation.general_answers[0]}, but evaluation.general_paths names no "
            "questions. Give both, or neither."
        )
    is_retrieved = "contexts" in stages_made(config) and not contexts.is_own
    if config.prompts.keep_thinking and is_retrieved and contexts.num_demonstrations == 0:
        yield (
            "prompts.keep_thinking is true, but contexts.num_demonstrations is 0: no demonstration is shown. Leave "
            "one of them out."
        )


def _largest_divisor(number: int, limit: int) -> int:
    return max(part for part in range(1, limit + 1) if number % part == 0)
