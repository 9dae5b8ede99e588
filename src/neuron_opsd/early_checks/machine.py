"""The run folder and the disk that it is to stand on."""

import shutil
import tempfile
from pathlib import Path

import torch
from transformers import PreTrainedModel

from neuron_opsd.config import Config
from neuron_opsd.errors import RunFolderError
from neuron_opsd.model.trainable import trainable
from neuron_opsd.store.files import explain_disk_errors
from neuron_opsd.store.own_folder import check_claimable
from neuron_opsd.training.checkpoints import num_kept_checkpoints

ADAM_AND_WEIGHTS = (
    3 * 4
)  # bytes for each trained parameter in a checkpoint: itself and two moments, in float32
TEACHER = 4  # bytes for each: the EMA's copy
LITTLE = 1e9  # bytes: a disk that lacks no more than this says so when it is full, and the run resumes


def check_output(output: Path) -> None:
    """Refuse a run folder that cannot be made or written to. Nothing is left behind.

    Raises:
        RunFolderError: what stands in the way.
    """
    place = _existing(output)
    if not place.is_dir():
        raise RunFolderError(f"--output is {output}, but {place} is a file. Give another --output.")
    check_claimable(output, "run")
    with explain_disk_errors(place), tempfile.TemporaryFile(dir=place):
        pass


def check_room(output: Path, config: Config, skeleton: PreTrainedModel) -> None:
    """Refuse a disk without room for checkpoints and the trained model, where these are large.

    Raises:
        RunFolderError: how much there is, and how much is needed for what.
    """
    needed = bytes_written(config, skeleton)
    if needed < LITTLE:
        return
    free = shutil.disk_usage(_existing(output)).free + _can_go(output)
    if free < needed:
        raise RunFolderError(
            f"The disk of --output {output} has {free / 1e9:.1f} GB free, and training writes about "
            f"{needed / 1e9:.1f} GB (checkpoints and the trained model). Free some, "
            "give another --output, or use training.save=adapter."
        )


def bytes_written(config: Config, skeleton: PreTrainedModel) -> int:
    """The trained model, and as many checkpoints as are kept and one that is being written. The skeleton is changed."""
    training = config.training
    if not training.trains:
        return 0
    whole = sum(4 * weight.numel() for weight in skeleton.parameters())  # saved in float32, at first at least
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        student = trainable(skeleton.float() if training.method == "full" else skeleton, training, seed=0)
    trained = sum(weight.numel() for weight in student.parameters() if weight.requires_grad)
    a_checkpoint = trained * (ADAM_AND_WEIGHTS + (TEACHER if training.teacher == "ema" else 0))
    adapter = 4 * trained if training.method == "lora" else 0
    merged = 0 if adapter and training.save == "adapter" else whole
    return adapter + merged + a_checkpoint * (num_kept_checkpoints(training) + 1)


def _can_go(output: Path) -> int:
    """Bytes of a run that training replaces: not the trained model, which is kept as `model.previous`."""
    files = [
        file
        for place in (output.iterdir() if output.is_dir() else ())
        if not place.name.startswith("model")
        for file in (place, *place.rglob("*"))
    ]
    return sum(file.stat().st_size for file in files if file.is_file())


def _existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
