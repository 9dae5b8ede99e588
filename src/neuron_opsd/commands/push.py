"""The published model on the Hugging Face hub: the files of RUN/model, and nothing else of the run."""

import os

from huggingface_hub import HfApi
from huggingface_hub.constants import is_offline_mode
from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]  (of httpx or httpx2, as the client has it)
    LocalTokenNotFoundError,
)

from neuron_opsd.errors import ConfigError, HubError
from neuron_opsd.store.run_folder import RunFolder


def push(folder: RunFolder, repository: str, *, public: bool = False) -> str:
    """Upload the trained model. A repository of that name is made where there is none.

    Args:
        folder: A run whose training is finished.
        repository: OWNER/NAME. The token is read from HF_TOKEN, or from `hf auth login`.
        public: Whether a new repository can be seen by everyone. One that is there stays as it is.

    Returns:
        The address of the commit.

    Raises:
        RunFolderError: no trained model, or files that are not as they were written.
        ConfigError: no such name can be.
        HubError: offline, no token, no right, no answer.
    """
    folder.require_model()
    if is_offline_mode():
        raise HubError("HF_HUB_OFFLINE is set, so nothing is sent. Unset it to push the model to the hub.")
    api = HfApi(library_name="neuron-opsd")
    try:
        api.create_repo(repository, private=not public, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder.model_folder, commit_message="Model of neuron-opsd"
        )
    except HFValidationError as error:
        raise ConfigError(f"The hub accepts no repository named {repository!r}: {error}") from None
    except LocalTokenNotFoundError:
        raise HubError("The hub asks for a token. Set HF_TOKEN, or run `hf auth login`.") from None
    except (HTTPError, OSError) as error:
        why = " ".join(str(error).split())
        token = "" if os.environ.get("HF_TOKEN") else " HF_TOKEN is not set."
        raise HubError(
            f"{repository} was not pushed to {api.endpoint}: {why}.{token} The run is unchanged. Push it again."
        ) from None
    return str(commit.commit_url)
