"""The trained model for other programs: PEFT's adapter, a whole Hugging Face folder, or GGUF with a Modelfile."""

import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer

from neuron_opsd.commands.export import check_outside
from neuron_opsd.commands.modelfile import FIRST_LINE, modelfile
from neuron_opsd.errors import ConfigError
from neuron_opsd.model.gguf_tokenizer import split_rule
from neuron_opsd.model.gguf_write import WEIGHTS, check_family, write_gguf
from neuron_opsd.model.licence import licence_of
from neuron_opsd.model.locate import ADAPTER_CONFIG, ADAPTER_FOLDER
from neuron_opsd.report.stage import card_of
from neuron_opsd.run.session import Run
from neuron_opsd.store.files import explain_disk_errors, sync_tree, write_atomically, write_text
from neuron_opsd.training.stage import publish_merged

MODEL_FORMATS = ("adapter", "merged", "gguf")


def export_model(run: Run, *, format_name: str, output: Path, weights: str | None = None) -> list[str]:
    """Write the trained model in one of `MODEL_FORMATS`. Returns what to tell the user.

    Args:
        run: A run whose training is finished.
        format_name: One of `MODEL_FORMATS`.
        output: A new folder, or for gguf a file.
        weights: For gguf: one of `WEIGHTS`. None: as the model is saved.

    Raises:
        RunFolderError: no trained model, or one whose files are corrupted.
        ConfigError: an output or weights that cannot be, or an adapter of a model without one.
        ModelError: a model that cannot be written as GGUF.
    """
    run.folder.require_model()
    if weights is not None and format_name != "gguf":
        raise ConfigError(
            f"--weights is {weights}, but --format is {format_name}. It is for --format gguf alone."
        )
    if weights not in (None, *WEIGHTS):
        raise ConfigError(f"--weights is {weights!r}. It must be one of {', '.join(WEIGHTS)}.")
    check_outside(run, output)
    if format_name == "gguf":
        return _export_gguf(run, output, weights)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"--output is {output}, which exists. Name a new folder, or an empty one.")
    with explain_disk_errors(output), _new_folder(output) as folder:
        if format_name == "adapter":
            _copy_adapter(run, folder)
        else:
            _make_whole(run, folder)
    return [f"{format_name}: {output}"]


def _export_gguf(run: Run, output: Path, weights: str | None) -> list[str]:
    if output.suffix != ".gguf":
        raise ConfigError(f"--output is {output}, but --format gguf writes one file. End its name in .gguf.")
    if output.exists() and not output.is_file():
        raise ConfigError(
            f"--output is {output}, which is not a regular file. Name a new file, or one to replace."
        )
    beside = output.with_name("Modelfile")
    if beside.exists() and not (
        beside.is_file() and beside.read_text("utf-8", "replace").startswith(FIRST_LINE)
    ):
        raise ConfigError(
            f"{beside} exists, and was not written by this command. Name a file in another folder."
        )
    model, licence = run.folder.model_folder, licence_of(run.config.model.name).get("license")
    is_whole = not (model / ADAPTER_CONFIG).is_file()
    check_family(AutoConfig.from_pretrained(model) if is_whole else run.models.base_config())
    split_rule(AutoTokenizer.from_pretrained(model))
    with explain_disk_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".merging-", dir=output.parent) as temporary:
            if not is_whole:
                model = Path(temporary) / "model"
                _make_whole(run, model)
            written = []
            write_atomically(
                output,
                lambda file: written.append(
                    write_gguf(model, file, weights=weights, name=output.stem, licence=licence)
                ),
            )
            write_text(beside, modelfile(run.config, model, output.name))
    name = re.sub(r"[^a-z0-9._-]+", "-", output.stem.lower())  # what Ollama takes as a name
    return [
        f"gguf ({written[0]}): {output}",
        f"Ollama: {shlex.join(['ollama', 'create', name, '-f', str(beside)])}",
        f"llama.cpp: {shlex.join(['llama-server', '-m', str(output), '--jinja'])}",
        f"LM Studio: {shlex.join(['lms', 'import', str(output)])}",
    ]


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield temporary / "model"
        sync_tree(temporary / "model")
        if path.exists():
            path.rmdir()
        os.replace(temporary / "model", path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _copy_adapter(run: Run, folder: Path) -> None:
    model = run.folder.model_folder
    if (model / ADAPTER_CONFIG).is_file():
        shutil.copytree(model, folder)
        return
    if run.config.training.student_entropy == "matched":
        raise ConfigError(
            f"{run.folder.path} published a model whose last normalisation was changed, too "
            "(training.student_entropy is matched), so an adapter would be another model. Use --format merged."
        )
    if not (model / ADAPTER_FOLDER).is_dir():
        raise ConfigError(
            f"{run.folder.path} trained every weight (training.method is {run.config.training.method}), so there is no "
            "adapter. Use --format merged."
        )
    shutil.copytree(
        model, folder, ignore=shutil.ignore_patterns("*.safetensors*", "config.json", ADAPTER_FOLDER)
    )
    shutil.copytree(model / ADAPTER_FOLDER, folder, dirs_exist_ok=True)
    write_text(folder / "README.md", card_of(run, save="adapter"))


def _make_whole(run: Run, folder: Path) -> None:
    """The model with all of its weights: as it is published, or its adapter merged into the base."""
    model = run.folder.model_folder
    if not (model / ADAPTER_CONFIG).is_file():
        shutil.copytree(model, folder)
        return
    publish_merged(run, folder)
    write_text(folder / "README.md", card_of(run, save="merged"))
