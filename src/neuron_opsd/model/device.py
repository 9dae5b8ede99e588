"""Where a model runs, and in which dtype."""

import torch
from transformers import TrainingArguments
from transformers.training_args import ParallelMode

from neuron_opsd import processes
from neuron_opsd.config import ModelSettings
from neuron_opsd.errors import ModelError

BFLOAT16_UNITS = (
    "avx512_bf16",
    "amx_bf16",
)  # without them a processor emulates bfloat16, several times slower
USABLE = ("cpu", "cuda")


def device_of(settings: ModelSettings) -> torch.device:
    """The device of `model.device`.

    Raises:
        ModelError: there is no such device here.
    """
    if settings.device == "auto":
        # Each process of `accelerate launch` has a GPU of its own.
        local_rank = processes.environment_number("LOCAL_RANK", default=0)
        return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(settings.device)
        if device.type not in USABLE:
            raise ModelError(
                f"model.device is {settings.device!r}. It must be auto, cpu or a GPU of CUDA such as cuda:0, because "
                "sampling computes in float64 and nothing else is tested. Use model.device=cpu."
            )
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"model.device is {settings.device!r}, which is not usable here: {reason}. Use auto or cpu."
        ) from None
    return device


def dtype_of(settings: ModelSettings) -> torch.dtype:
    """The dtype of `model.dtype` on the device of the settings."""
    if settings.dtype != "auto":
        return getattr(torch, settings.dtype)
    return torch.bfloat16 if computes_bfloat16(device_of(settings)) else torch.float32


def computes_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is the fast dtype of a device."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(has.get(unit) for unit in BFLOAT16_UNITS)


def name_of(dtype: torch.dtype) -> str:
    """A dtype's name, as settings spell it."""
    return str(dtype).removeprefix("torch.")


def stay_on(arguments: TrainingArguments, device: torch.device) -> None:
    """Keep a single process on its model's device.

    The Trainer would move the model to cuda:0, and wrap it in DataParallel where it sees several GPUs.
    """
    if arguments.parallel_mode is ParallelMode.DISTRIBUTED or processes.num_processes() > 1:
        return
    arguments._n_gpu = min(arguments.n_gpu, 1)
    if device.type == "cuda":
        vars(arguments)["_setup_devices"] = device  # the cached property behind arguments.device
        torch.cuda.set_device(device)
