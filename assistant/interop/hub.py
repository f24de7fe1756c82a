"""Pulling a model from the Hugging Face Hub, or a server that speaks its protocol, into Hugging Face's own cache.

`huggingface_hub` finds the repository, the addresses, the token and the cache, and links the files into a snapshot.
`transfer` fetches the bytes. Nothing here prints.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant.errors import CheckpointError, PrerequisiteError, SettingsError
from assistant.files import write_atomic
from assistant.hub_cache import (
    DEFAULT_REVISION,
    KNOWN_MODELS,
    cache_folder,
    find_pulled,
    repository_folder,
    split_name,
)
from assistant.interop.repository import Hub, UnreachableError, sentences
from assistant.interop.transfer import COMMIT, ETAG, SHOWN_HASH, HubFile, PullObserver, fetch, partial_file
from assistant.model.config import FAMILIES

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

CONFIG_FILE = "config.json"
TOKENIZER_PAIR, TOKENIZER_FILE = ("vocab.json", "merges.txt"), "tokenizer.json"
OPTIONAL_FILES = (
    "generation_config.json",
    *TOKENIZER_PAIR,
    TOKENIZER_FILE,
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "assistant.json", "chat_template.jinja"),
)
API_TIMEOUT = 30.0
LARGEST_CONFIG = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class PulledModel:
    """A model in the cache. `downloaded` counts the bytes that this pull fetched."""

    name: str
    """What `--model` takes."""
    repository: str
    revision: str
    commit: str
    folder: Path
    files: tuple[HubFile, ...]
    downloaded: int

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            "name": self.name,
            "repository": self.repository,
            "revision": self.revision,
            "commit": self.commit,
            "folder": str(self.folder),
            "files": {file.name: file.size for file in self.files},
            "bytes": self.size,
            "downloaded_bytes": self.downloaded,
        }


def pull(name: str, observer: PullObserver, *, endpoint: str | None = None) -> PulledModel:
    """Download a model, or only the parts of it that are missing, and return where it is.

    `name` is a known name (`gpt2`) or a repository (`OWNER/NAME`), either with `@REVISION`. `endpoint` is the address
    of the hub; by default `HF_ENDPOINT`. Nothing is returned before all files have the right size and hash.

    Raises:
        SettingsError: the name cannot be that of a repository.
        PrerequisiteError: no network, no access, no such repository or revision, no room on the disk, or a download
            that was cut too often. The next pull resumes it.
        CheckpointError: the repository holds no model that can be opened, or a file arrived damaged. It was discarded.
    """
    parts = split_name(name)
    if parts is None:
        raise SettingsError(
            f"model: expected {', '.join(KNOWN_MODELS)} or OWNER/NAME, either with @REVISION, got {name!r}. "
            f"Look the name up at huggingface.co."
        )
    repository, revision = parts[0], parts[1] or DEFAULT_REVISION
    from huggingface_hub import HfApi, constants

    hub = Hub(HfApi(endpoint=endpoint), repository, revision, repository_folder(repository))
    try:
        if constants.is_offline_mode():
            raise UnreachableError(
                f"{repository}: expected to reach {hub.endpoint}, got offline mode. "
                f"Unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE.{hub.by_hand()}"
            )
        info = _describe(hub)
    except UnreachableError:
        folder = find_pulled(name)
        if folder is None:
            raise
        observer.on_note(f"{repository}: {hub.endpoint} cannot be reached. This is what was pulled before.")
        return _from_cache(hub, folder)
    with sentences(hub):
        return _pull(hub, info, observer)


def _describe(hub: Hub) -> ModelInfo:
    """Ask the hub for the commit and the files."""
    with sentences(hub):
        try:
            info: ModelInfo = hub.api.model_info(
                hub.repository, revision=hub.revision, files_metadata=True, timeout=API_TIMEOUT
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, OSError):  # a status
                raise
            raise UnreachableError(  # a login page, or a proxy's
                f"{hub.repository}: expected the Hugging Face Hub at {hub.endpoint}, got another kind of answer. "
                f"Check HF_ENDPOINT, and whether your network asks for a login.{hub.by_hand()}"
            ) from error
    return info


def _pull(hub: Hub, info: ModelInfo, observer: PullObserver) -> PulledModel:
    commit = info.sha or ""
    if COMMIT.fullmatch(commit) is None:
        raise PrerequisiteError(f"{hub.repository}: expected a commit from {hub.endpoint}, got {commit[:60]!r}.")
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    files = tuple(_file(hub, commit, siblings[name]) for name in _needed(hub, set(siblings)))
    config, snapshot = files[0], hub.folder / "snapshots" / commit
    absent = [file for file in files if _size(snapshot / file.name) != file.size]
    missing = sum(max(file.size - (_size(partial_file(hub.blob(file))) or 0), 0) for file in absent)

    observer.on_plan(hub.repository, commit, files, missing)
    downloaded = 0
    if config in absent:
        downloaded += _fetch(hub, commit, config, observer, check=_check_config)
    else:
        _check_config(hub, snapshot / CONFIG_FILE)
    _check_space(hub, missing)
    for file in absent:
        if file is not config:
            downloaded += _fetch(hub, commit, file, observer)
    if hub.revision != commit:
        write_atomic(hub.folder / "refs" / hub.revision, commit)
    return PulledModel(
        name=hub.name,
        repository=hub.repository,
        revision=hub.revision,
        commit=commit,
        folder=snapshot,
        files=files,
        downloaded=downloaded,
    )


def _from_cache(hub: Hub, folder: Path) -> PulledModel:
    """A model that was pulled before, as it is on the disk."""
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    return PulledModel(
        name=hub.name,
        repository=hub.repository,
        revision=hub.revision,
        commit=folder.name,
        folder=folder,
        files=tuple(HubFile(name=path.name, size=path.stat().st_size, etag=path.resolve().name) for path in paths),
        downloaded=0,
    )


# --- what to download ---------------------------------------------------------------------------------------------


def _needed(hub: Hub, names: set[str]) -> list[str]:
    """The files to download, `config.json` first. Raises CheckpointError if they do not make a model."""
    where = f"{hub.endpoint}/{hub.repository}"
    if CONFIG_FILE not in names:
        hint = "Name the repository of a model in transformers' layout."
        if "adapter_config.json" in names:
            hint = f"It holds an adapter only. Run: hf download {hub.repository} --local-dir FOLDER"
        raise CheckpointError(f"{where}: expected a model with {CONFIG_FILE}, got none. {hint}")
    weights = _weights(names)
    if not weights:
        raise CheckpointError(
            f"{where}: expected model.safetensors or pytorch_model.bin, or all their parts, got neither. "
            f"Name another repository or revision."
        )
    if not (names.issuperset(TOKENIZER_PAIR) or TOKENIZER_FILE in names):
        raise CheckpointError(
            f"{where}: expected a tokenizer ({' and '.join(TOKENIZER_PAIR)}, or {TOKENIZER_FILE}), got none. "
            f"Name another repository or revision."
        )
    return [CONFIG_FILE, *(name for name in OPTIONAL_FILES if name in names), *weights]


def _weights(names: set[str]) -> list[str]:
    """The files with the weights: safetensors if there are any, whole or in parts."""
    for stem, end in (("model", "safetensors"), ("pytorch_model", "bin")):
        if f"{stem}.{end}" in names:
            return [f"{stem}.{end}"]
        index = f"{stem}.{end}.index.json"
        shards = sorted(name for name in names if re.fullmatch(rf"{stem}-\d{{5}}-of-\d{{5}}\.{end}", name))
        if index in names and shards and len(shards) == int(shards[0].rpartition("-")[2].partition(".")[0]):
            return [index, *shards]
    return []


def _check_config(hub: Hub, path: Path) -> None:
    """Raise CheckpointError unless a `config.json` is that of a model that can be opened."""
    where = f"{hub.endpoint}/{hub.repository}/{CONFIG_FILE}"
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: expected JSON, got {error}. Name another repository.") from error
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if model_type not in FAMILIES:
        raise CheckpointError(
            f'{where}: expected one of {", ".join(FAMILIES)} as "model_type", got {str(model_type)[:60]!r}. '
            f"Models of other families cannot be opened; no weights were downloaded."
        )


def _check_space(hub: Hub, missing: int) -> None:
    cache = cache_folder()
    existing = next(path for path in (cache, *cache.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < missing:
        raise _no_room(hub, missing, free)


def _no_room(hub: Hub, missing: int, free: int) -> PrerequisiteError:
    return PrerequisiteError(
        f"{cache_folder()}: expected {missing / 1e6:,.1f} MB of free disk space for {hub.repository}, "
        f"got {free / 1e6:,.1f} MB. Free some space, or set HF_HUB_CACHE to a folder on a larger disk."
    )


# --- one file -----------------------------------------------------------------------------------------------------


def _file(hub: Hub, commit: str, sibling: RepoSibling) -> HubFile:
    """A file's size and hash: from the list of files, or where the server's list has none, by a question of its own."""
    name, etag = sibling.rfilename, sibling.blob_id if sibling.lfs is None else sibling.lfs.sha256
    size = sibling.size
    if size is None or etag is None:
        found = _ask(hub, commit, name)
        size, etag = found.size, found.etag
    if size is None or size < 0 or etag is None or ETAG.fullmatch(etag) is None:
        raise PrerequisiteError(
            f"{hub.repository}/{name}: expected a size and a hash from {hub.endpoint}, got {size} and {etag!r}. "
            f"Check HF_ENDPOINT."
        )
    if name == CONFIG_FILE and size > LARGEST_CONFIG:
        raise CheckpointError(
            f"{hub.repository}/{name}: expected at most {LARGEST_CONFIG:,} bytes, got {size:,}. "
            f"Name another repository."
        )
    return HubFile(name=name, size=size, etag=etag)


def _ask(hub: Hub, commit: str, name: str) -> HfFileMetadata:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(hub.repository, name, revision=commit, endpoint=hub.endpoint)
    return get_hf_file_metadata(url, timeout=API_TIMEOUT, endpoint=hub.endpoint)


def _fetch(
    hub: Hub, commit: str, file: HubFile, observer: PullObserver, *, check: Callable[[Hub, Path], None] | None = None
) -> int:
    """Download, check and link one file. Returns the number of bytes that came over the network."""
    from huggingface_hub import hf_hub_download

    where = f"{hub.repository}/{file.name}"
    found = _ask(hub, commit, file.name)
    if (found.etag, found.size, found.commit_hash) != (file.etag, file.size, commit):
        raise CheckpointError(
            f"{where}: expected {file.size:,} bytes with the hash {file.etag[:SHOWN_HASH]!r}, got {found.size} bytes "
            f"with {(found.etag or '')[:SHOWN_HASH]!r} from the server. Run the command again."
        )
    blob, fetched = hub.blob(file), 0
    is_new = _size(blob) != file.size
    if is_new:
        fetched = fetch(found, file, blob, where, observer, endpoint=hub.endpoint)
    if check is not None:
        try:
            check(hub, blob)
        except CheckpointError:
            if is_new:
                blob.unlink()
                _remove_empty(hub.folder)
            raise
    pointer = hub.folder / "snapshots" / commit / file.name
    if pointer.is_symlink() or pointer.exists():
        pointer.unlink()  # of another size, or without its blob
    hf_hub_download(hub.repository, file.name, revision=commit, cache_dir=cache_folder(), endpoint=hub.endpoint)
    observer.on_bytes(file, file.size)
    return fetched


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _remove_empty(folder: Path) -> None:
    """Remove a repository's folders if nothing is in them."""
    for path in (folder / "blobs", folder):
        try:
            path.rmdir()
        except OSError:
            return
