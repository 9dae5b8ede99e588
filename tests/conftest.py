"""Every test: one torch thread, no hub, and the shapes written in signatures checked by jaxtyping + beartype."""

import os

os.environ.update(
    HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1"
)

from jaxtyping import install_import_hook

install_import_hook(
    ["neuron_opsd.model", "neuron_opsd.neurons", "neuron_opsd.statistics"], "beartype.beartype"
)

import torch  # noqa: E402

torch.set_num_threads(1)
