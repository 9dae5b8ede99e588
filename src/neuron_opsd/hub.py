"""The Hugging Face hub, where nothing answers: its client asks for each file again and again, half a minute each."""

import functools
import logging
import os
import sys

logger = logging.getLogger(__name__)

HUB_SECONDS = 5.0  # that the hub may take to answer at all


def hub_problem() -> str | None:
    """Why the hub does not answer. None where it does, and where HF_HUB_OFFLINE is set."""
    from huggingface_hub import constants  # slow to import, and `status` does without
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    try:
        if not constants.is_offline_mode():
            _ask(constants.ENDPOINT)
    except (HTTPError, OSError) as error:
        return f"{constants.ENDPOINT} cannot be reached ({error})"
    return None


@functools.cache  # an error is not kept: the network may come back
def _ask(endpoint: str) -> None:
    from huggingface_hub import get_session

    get_session().head(endpoint, timeout=HUB_SECONDS)


def use_cache_alone(problem: str) -> None:
    """Take what is cached, and ask the hub no more: this process and those that it starts."""
    from huggingface_hub import constants

    logger.warning("%s: only what is cached here is used", problem)
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True
    if datasets := sys.modules.get("datasets"):
        datasets.config.HF_HUB_OFFLINE = True  # a copy, made when it was imported
