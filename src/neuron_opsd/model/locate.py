"""Where a model's files are, and what they say without being loaded. No torch here: `status` answers at once."""

import re
from pathlib import Path
from typing import Any

from neuron_opsd.config import ModelSettings
from neuron_opsd.errors import ModelError
from neuron_opsd.hub import hub_problem, use_cache_alone
from neuron_opsd.model.gguf import converted_gguf, embedded_gguf
from neuron_opsd.store.files import read_json

ADAPTER_FOLDER = "adapter"  # in a merged model's folder: the adapter that was merged, as it was trained
ADAPTER_CONFIG = "adapter_config.json"
SUFFIXES = (".safetensors", ".json", ".model", ".txt", ".jinja", ".bin")  # of files that a model is made of
HUB_NAMES = {"embedded:smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct"}


def resolve_model(name: str) -> str:
    """What `from_pretrained` can load: a folder as given, a hub name as given, a GGUF file once converted.

    Raises:
        ModelError: a folder that holds no model, a file that is no GGUF, an embedded package that is not installed.
    """
    if name.startswith("embedded:"):
        return str(converted_gguf(embedded_gguf(name)))
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(
                f"{name} is a file, but not .gguf. Give a model folder, a hub name or a .gguf file."
            )
        return str(converted_gguf(path))
    if path.is_dir():
        if not any((path / file).is_file() for file in ("config.json", ADAPTER_CONFIG)):
            raise ModelError(
                f"{name} is not a model folder: it has no config.json, and no adapter_config.json."
            )
        _check_entries(path)
        return str(path)
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise ModelError(f"No folder or file {name}. Give a model folder, a hub name or a .gguf file.")
    return name


def _check_entries(folder: Path) -> None:
    """Refuse what has a file's name and cannot be read as one: a library would wait for a pipe, or pass over a link."""
    for path in folder.iterdir():
        if path.suffix in SUFFIXES and not path.is_file():
            raise ModelError(
                f"{path} is a folder, a pipe, a device or a broken link, not a file. Remove it, or copy the "
                "model again."
            )


def hub_name(name: str) -> str | None:
    """The model's name on the hub, or None for a local path (which the hub would refuse).

    A folder of the hub's own cache has the name in its path.
    """
    if name in HUB_NAMES:
        return HUB_NAMES[name]
    if cached := re.search(r"/models--([^/]+?)--([^/]+)/snapshots/[0-9a-f]+/?$", name):
        name = "/".join(cached.groups())
    is_plain = re.fullmatch(r"[A-Za-z0-9_-][\w.-]*/[A-Za-z0-9_-][\w.-]*", name, flags=re.ASCII)
    return name if is_plain and not name.endswith(".gguf") else None


def is_adapter_folder(name: str) -> bool:
    """Whether a model is an adapter alone, without the weights that it belongs to."""
    return (Path(name).expanduser() / ADAPTER_CONFIG).is_file()


def saved_dtype(settings: ModelSettings, name: str | None) -> str | None:
    """The dtype that a trained model was saved in, and is computed in. None for the base model and an adapter on it.

    A float32 model that is read in bfloat16 would lose again what saving it in float32 has kept.
    """
    if name is None or name == settings.name or is_adapter_folder(name):
        return None
    config = read_json(Path(name) / "config.json") or {}
    return config.get("dtype") or config.get("torch_dtype")


def context_of(settings: ModelSettings) -> int | None:
    """How many tokens a model that is not loaded can read, where its configuration says so."""
    config = config_json(settings.name)
    text = (config or {}).get("text_config", config) or {}
    limit = text.get("max_position_embeddings") or text.get("n_positions")
    if isinstance(limit, int):
        return limit
    from neuron_opsd.model.load import configured_context  # transformers knows the architecture's default

    return configured_context(settings)


def hub_commit(name: str) -> str:
    """The commit of a hub model in the local cache. `main` where it is not there."""
    file = cached_file(name, "config.json")
    return file.parent.name if file else "main"


def check_is_here(name: str) -> None:
    """Where the hub does not answer, take a model from its cache here, or refuse it.

    Raises:
        ModelError: why, and what to do.
    """
    if Path(name).exists() or not (problem := hub_problem()):
        return
    if cached_file(name, "config.json") is None:
        raise ModelError(
            f"{name} is neither a folder nor in the hub's cache here, and {problem}. Give a model's folder or a .gguf "
            "file, or set HF_ENDPOINT to a mirror."
        )
    use_cache_alone(problem)


def config_json(name: str) -> dict[str, Any] | None:
    """A model's config.json as it is written, where it is on this machine."""
    folder = Path(resolve_model(name))
    file = folder / "config.json" if folder.is_dir() else cached_file(name, "config.json")
    return read_json(file) if file else None


def cached_file(name: str, file: str) -> Path | None:
    """A file of a hub model in the local cache. None where it is not there."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(name, file)
    return Path(path) if isinstance(path, str) else None
