"""The generation configuration that a model is loaded and published with: the base's, without what cannot be saved.

Bases of the hub have a temperature without do_sample, beams that are not searched, and more of the kind. Loading them
warns; saving them, after training, is refused.
"""

from transformers import GenerationConfig

from neuron_opsd.config import ModelSettings
from neuron_opsd.errors import ModelError
from neuron_opsd.model.locate import resolve_model


def unset_invalid(config: GenerationConfig) -> dict[str, object]:
    """Put every value that transformers would not save back to its default, in place; returns what was unset."""
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


def unset_in_published(settings: ModelSettings) -> dict[str, object]:
    """What the published model's generation configuration lacks of the base's.

    Raises:
        ModelError: transformers does not even load it.
    """
    try:
        return unset_invalid(GenerationConfig.from_pretrained(resolve_model(settings.name)))
    except OSError:  # a model need not have the file
        return {}
    except (ValueError, TypeError) as error:
        raise ModelError(f"generation_config.json of {settings.name} cannot be loaded: {error}") from None


def _problem(config: GenerationConfig) -> str | None:
    try:
        config.validate(strict=True)
    except ValueError as error:
        return str(error)
    return None
