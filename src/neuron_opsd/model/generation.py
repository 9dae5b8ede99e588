"""The generation configuration that a model is loaded and published with: the base's, without what cannot be saved.

Bases of the hub have a temperature without do_sample, beams that are not searched, and more of the kind. Loading them
warns. Saving them, after training, is refused.
"""

from pathlib import Path

from transformers import GenerationConfig, PreTrainedTokenizerBase

from neuron_opsd.config import ModelSettings
from neuron_opsd.errors import ModelError
from neuron_opsd.model.locate import resolve_model

FILE = "generation_config.json"
_NEXT = "Correct it, or download the model again."


def unset_invalid(config: GenerationConfig) -> dict[str, object]:
    """Put every value that transformers would not save back to its default, in place. Returns what was unset."""
    unset: dict[str, object] = {}
    for name, value in sorted(config.to_diff_dict().items()):
        problem = _problem(config)
        if problem is None:
            break
        setattr(config, name, getattr(GenerationConfig(), name, None))
        # Others may still be wrong, but a value that was wrong is no longer complained of.
        if _problem(config) == problem:
            setattr(config, name, value)
        else:
            unset[name] = value
    return unset


def load_generation_config(settings: ModelSettings) -> GenerationConfig | None:
    """The generation configuration of a model that is not loaded. None where it has no such file.

    Raises:
        ModelError: the file holds something else.
    """
    location = resolve_model(settings.name)
    if Path(location).is_dir() and not (Path(location) / FILE).exists():
        return None
    try:
        config = GenerationConfig.from_pretrained(location)
    except Exception as error:  # its JSON can be anything
        if isinstance(error, OSError) and not Path(location).is_dir():
            return None  # the hub has none, or cannot be reached
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(f"{FILE} of {settings.name} cannot be loaded: {reason}. {_NEXT}") from None
    ids = config.eos_token_id
    for token in ids if isinstance(ids, list) else [ids]:
        if token is not None and (not isinstance(token, int) or token < 0):
            raise ModelError(
                f"{FILE} of {settings.name}: eos_token_id is {ids!r}. It must be one token's id, or a list of them. "
                f"{_NEXT}"
            )
    return config


def published_end_ids(folder: Path, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a reply of a published model: of its generation configuration, else the tokenizer's."""
    has_file = (folder / FILE).is_file()
    ids = GenerationConfig.from_pretrained(folder).eos_token_id if has_file else tokenizer.eos_token_id
    return [i for i in (ids if isinstance(ids, list) else [ids]) if isinstance(i, int)]


def unset_in_published(settings: ModelSettings) -> dict[str, object]:
    """What the published model's generation configuration lacks of the base's.

    Raises:
        ModelError: transformers does not even load it.
    """
    config = load_generation_config(settings)
    return unset_invalid(config) if config else {}


def _problem(config: GenerationConfig) -> str | None:
    try:
        config.validate(strict=True)
    except ValueError as error:
        return str(error)
    return None
