"""The Hugging Face hub, where nothing answers: its client asks for each file again and again, half a minute each."""

import functools
import logging
import os
import sys

logger = logging.getLogger(__name__)

HUB_SECONDS = 5.0  # that the hub may take to answer at all


@functools.cache
def hub_problem(endpoint: str) -> str | None:
    """Why the hub does not answer, asked once. None where it does."""
    from huggingface_hub import get_session
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    try:
        get_session().head(endpoint, timeout=HUB_SECONDS)
    except (HTTPError, OSError) as error:
        return f"{endpoint} cannot be reached ({error})"
    return None


def look_for_hub() -> str | None:
    """Why the hub does not answer. Then this process and those that it starts take what is cached, and ask no more.

    None where it answers, and where HF_HUB_OFFLINE is set.
    """
    from huggingface_hub import constants

    if constants.is_offline_mode() or not (problem := hub_problem(constants.ENDPOINT)):
        return None
    logger.warning("%s: only what is cached here is used", problem)
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True
    if datasets := sys.modules.get("datasets"):
        datasets.config.HF_HUB_OFFLINE = True  # a copy, made when it was imported
    return problem
