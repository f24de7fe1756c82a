"""A repository on the Hugging Face Hub: its folder in the cache, and a sentence for each thing that goes wrong."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from assistant.errors import PrerequisiteError
from assistant.hub_cache import DEFAULT_REVISION, cache_folder, short_name
from assistant.interop.transfer import HubFile

BY_HAND = ("config.json", "model.safetensors", "vocab.json", "merges.txt")
"""Files of a GPT-2 that you must copy where there is no network."""


class UnreachableError(PrerequisiteError):
    """The hub cannot be reached at all."""


class Hub:
    """A repository on a server, and its folder in the cache."""

    def __init__(self, api: Any, repository: str, revision: str, folder: Path) -> None:
        self.api, self.repository, self.revision, self.folder = api, repository, revision, folder
        self.endpoint: str = api.endpoint

    @property
    def name(self) -> str:
        """What a person types for this model."""
        name = short_name(self.repository)
        return name if self.revision == DEFAULT_REVISION else f"{name}@{self.revision}"

    def blob(self, file: HubFile) -> Path:
        """Where the cache keeps the bytes of a file."""
        return self.folder / "blobs" / file.etag

    def by_hand(self) -> str:
        """How to do without a network."""
        files = ", ".join(BY_HAND)
        return (
            f" Without a network: copy {files} from {self.endpoint}/{self.repository} into the folder "
            f"{self.folder / 'snapshots' / 'by-hand'}, and --model {short_name(self.repository)} finds them."
        )


@contextmanager
def sentences(hub: Hub) -> Iterator[None]:
    """Turn what `huggingface_hub` raises into errors with one sentence."""
    import httpx2
    from huggingface_hub import errors
    from huggingface_hub.utils import logging as hub_logging

    verbosity = hub_logging.get_verbosity()
    hub_logging.set_verbosity(logging.ERROR)  # its warnings repeat ours
    where = hub.repository
    try:
        yield
    except (errors.GatedRepoError, errors.DisabledRepoError) as error:
        raise PrerequisiteError(
            f"{where}: expected access, got a repository for which you must be allowed. Open "
            f"{hub.endpoint}/{hub.repository} in a browser, accept its conditions, and set HF_TOKEN to your token."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise PrerequisiteError(
            f"{where}: expected a branch, tag or commit, got no {hub.revision!r} there. "
            f"Look it up at {hub.endpoint}/{hub.repository}/commits/main"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise PrerequisiteError(
            f"{where}: expected a repository at {hub.endpoint}, got none of that name. "
            f"Check the spelling; a private repository needs HF_TOKEN."
        ) from error
    except errors.HfHubHTTPError as error:
        raise PrerequisiteError(f"{where}: expected an answer, got {_status(hub, error)}") from error
    except (httpx2.TransportError, errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        raise UnreachableError(
            f"{where}: expected to reach {hub.endpoint}, got no connection ({str(error) or type(error).__name__}). "
            f"Connect to the network and run the command again.{hub.by_hand()}"
        ) from error
    except httpx2.HTTPError as error:
        raise PrerequisiteError(f"{where}: expected an answer of {hub.endpoint}, got {error}. Try again.") from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise PrerequisiteError(
            f"{error.filename or cache_folder()}: expected room to write, got a full disk. Free some space and run the "
            f"command again: it resumes. Or set HF_HUB_CACHE to a folder on a larger disk."
        ) from error
    finally:
        hub_logging.set_verbosity(verbosity)


def _status(hub: Hub, error: Any) -> str:
    status = int(error.response.status_code)
    advice = {
        401: ". Set HF_TOKEN to a valid token, or unset it for a public repository.",
        403: ". Your token does not allow it: ask for access on the repository's page.",
        429: ": too many requests. Wait some minutes, or set HF_TOKEN.",
    }
    return f"status {status} from {hub.endpoint}{advice.get(status, '. Try again later.')}"
