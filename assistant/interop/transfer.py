"""One file from the Hugging Face Hub: its bytes over as many connections as it takes, and its hash.

`huggingface_hub` drops what it has of a file when a program ends before the file is complete, and it checks sizes but
not hashes. This module keeps the bytes in `blobs/ETAG.incomplete` and goes on from there.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from assistant.errors import CheckpointError, PrerequisiteError

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

MAX_ATTEMPTS = 5
"""Attempts in a row that bring no new bytes before a download gives up."""
RETRY_SECONDS = 1.0
SHOWN_HASH = 12
COMMIT, ETAG = re.compile(r"[0-9a-f]{40}"), re.compile(r"\w[\w.-]{0,200}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class HubFile:
    """A file of a repository. `size` is in bytes; `etag` is its SHA-256, or git's hash of a small file."""

    name: str
    size: int
    etag: str


class PullObserver(Protocol):
    """Hears how a pull goes on."""

    def on_plan(self, repository: str, commit: str, files: tuple[HubFile, ...], missing: int) -> None:
        """The files of the model are known. `missing` bytes must be downloaded."""

    def on_bytes(self, file: HubFile, done: int) -> None:
        """`done` bytes of a file are on the disk."""

    def on_note(self, text: str) -> None:
        """Something happened that a person may want to know."""


def fetch(
    found: HfFileMetadata, file: HubFile, blob: Path, where: str, observer: PullObserver, *, endpoint: str
) -> int:
    """Download a file to `blob` and check it. Returns the number of bytes that came over the network.

    `found` is the hub's answer to a HEAD request. `where` names the file in messages. `endpoint` is the hub's address.

    Raises:
        CheckpointError: the bytes are not those that the hub announced. They were discarded.
        PrerequisiteError: another program downloads the same file, or the connection was cut too often. The bytes stay.
        huggingface_hub.errors.HfHubHTTPError, OSError: the server refuses the file, or the disk is full.
    """
    blob.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_file(blob)
    with _only_writer(partial, where) as target:
        before = _download(found, file, target, where, observer, endpoint=endpoint)
        _check_hash(partial, file.etag, where)
        partial.replace(blob)
    return file.size - before


def partial_file(blob: Path) -> Path:
    """Where the bytes of an unfinished download are kept."""
    return blob.with_name(f"{blob.name}.incomplete")


@contextmanager
def _only_writer(path: Path, where: str) -> Iterator[IO[bytes]]:
    """Open a file to append to. Raises PrerequisiteError if another pull is writing it."""
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PrerequisiteError(
                f"{where}: expected to be the only download of this file, got another one at work. Wait until it ends."
            ) from error
        except OSError:
            pass  # this file system cannot lock
        yield file


def _download(
    found: HfFileMetadata, file: HubFile, target: IO[bytes], where: str, observer: PullObserver, *, endpoint: str
) -> int:
    """Append what is missing of a file, over as many connections as it takes. Returns the bytes that were there."""
    import httpx2  # what huggingface_hub sends requests with
    from huggingface_hub.errors import HfHubHTTPError

    before = have = target.seek(0, os.SEEK_END)
    if have > file.size:
        target.truncate(0)
        before = have = 0
    if have:
        observer.on_note(f"{file.name}: going on at {have / 1e6:,.1f} of {file.size / 1e6:,.1f} MB.")
    attempts = 0
    while have < file.size:
        try:
            for received in _stream(found, file, target, have, where, endpoint):
                attempts = 0
                observer.on_bytes(file, received)
            trouble: Exception | str = "the connection was closed"
        except HfHubHTTPError as error:
            if error.response.status_code < 500 and error.response.status_code not in (408, 429):
                raise
            trouble = f"status {error.response.status_code}"
        except httpx2.TransportError as error:
            trouble = str(error) or type(error).__name__
        target.flush()
        have = target.seek(0, os.SEEK_END)
        if have >= file.size:
            break
        attempts += 1
        if attempts >= MAX_ATTEMPTS:
            raise PrerequisiteError(
                f"{where}: expected {file.size:,} bytes, got {have:,} before the download was cut ({trouble}). "
                f"Run the command again: it resumes here."
            )
        observer.on_note(f"{file.name}: cut at {have / 1e6:,.1f} MB ({trouble}); going on.")
        time.sleep(RETRY_SECONDS)
    target.flush()
    os.fsync(target.fileno())
    return min(before, have)


def _stream(
    found: HfFileMetadata, file: HubFile, target: IO[bytes], have: int, where: str, endpoint: str
) -> Iterator[int]:
    """Append the answer to one request. Yields the length of the file after each chunk."""
    from huggingface_hub import constants, get_session, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if urlsplit(found.location).netloc != urlsplit(endpoint).netloc:
        headers.pop("authorization", None)  # the token is for the hub, not for its storage servers
    if have:
        headers["Range"] = f"bytes={have}-"
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", found.location, headers=headers, timeout=timeout) as response:
        hf_raise_for_status(response)
        if have and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            target.truncate(0)  # the server sends the file from its start
            have = 0
        for chunk in response.iter_bytes():  # as they arrive: pieces of a fixed size are lost by a cut
            have += len(chunk)
            if have > file.size:
                target.truncate(0)
                raise CheckpointError(
                    f"{where}: expected {file.size:,} bytes, got more. The file was discarded; run the command again."
                )
            target.write(chunk)
            yield have


def _check_hash(path: Path, etag: str, where: str) -> None:
    """Raise CheckpointError, and remove the file, if its bytes do not have the hash that its ETag is."""
    if _SHA256.fullmatch(etag):
        digest = hashlib.sha256()
    elif COMMIT.fullmatch(etag):
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    else:
        return  # a server of another make, without hashes
    with path.open("rb") as file:
        hashlib.file_digest(file, lambda: digest)
    if digest.hexdigest() != etag:
        path.unlink()
        raise CheckpointError(
            f"{where}: expected bytes with the hash {etag[:SHOWN_HASH]}..., got {digest.hexdigest()[:SHOWN_HASH]}... "
            f"The file was discarded; run the command again."
        )
