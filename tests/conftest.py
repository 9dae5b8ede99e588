"""Every test: one torch thread, no hub, and the shapes written in signatures checked by jaxtyping + beartype."""

import os

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
    OMP_WAIT_POLICY="PASSIVE",
    NEURON_OPSD_STAGES="off",  # a test computes; those of the cache name one
)

from jaxtyping import install_import_hook

install_import_hook(
    ["neuron_opsd.model", "neuron_opsd.neurons", "neuron_opsd.statistics"], "beartype.beartype"
)

import torch  # noqa: E402

torch.set_num_threads(1)

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

from helpers import build_tiny_model, build_tiny_tokenizer  # noqa: E402

# Each run of the tests draws the same examples; HYPOTHESIS_PROFILE=search draws new ones.
settings.register_profile(
    "fixed",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.register_profile("search", settings.get_profile("fixed"), derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@pytest.fixture(scope="session")
def tiny_model():
    """A tiny random llama; read only: a test that trains builds its own."""
    return build_tiny_model()


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """Byte-level, with a ChatML template."""
    return build_tiny_tokenizer()
