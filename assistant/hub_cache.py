"""Models that were pulled: Hugging Face's cache folder, read without its library and without a network.

    models--OWNER--NAME/snapshots/COMMIT/    a model folder, often of links into models--OWNER--NAME/blobs/
    models--OWNER--NAME/refs/main            the commit that `main` had when it was last pulled

`assistant/interop/hub.py` fills it. Other programs that use `huggingface_hub` read and write the same folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KNOWN_MODELS = {name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")} | {
    "smollm2-135m": "HuggingFaceTB/SmolLM2-135M",
    "smollm2-360m": "HuggingFaceTB/SmolLM2-360M",
    "smollm2-1.7b": "HuggingFaceTB/SmolLM2-1.7B",
    "qwen2.5-0.5b": "Qwen/Qwen2.5-0.5B",
    "qwen3-0.6b": "Qwen/Qwen3-0.6B",
    "llama-3.2-1b": "meta-llama/Llama-3.2-1B",
}
"""Short names of small base models, and their repositories."""
DEFAULT_REVISION = "main"
SHOWN_COMMIT = 12
"""Digits of a commit that a name shows."""

_REPOSITORY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)?")
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_FOLDER = re.compile(r"models--([A-Za-z0-9._-]+)")
_CONFIG = "config.json"
_SINGLE_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_SHARD = re.compile(r"(model|pytorch_model)-(\d{5})-of-(\d{5})\.(safetensors|bin)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """One revision of a repository in the cache."""

    repository: str
    commit: str
    folder: Path

    @property
    def is_complete(self) -> bool:
        """Whether the configuration and all weights are there. A download that was cut is not a model."""
        return (self.folder / _CONFIG).is_file() and _has_weights(self.folder)


def cache_folder() -> Path:
    """Return Hugging Face's cache folder, from the same environment variables as `huggingface_hub`."""
    cache = os.environ.get("XDG_CACHE_HOME", str(Path("~") / ".cache"))
    home = os.environ.get("HF_HOME", str(Path(cache) / "huggingface"))
    home = os.path.expandvars(os.path.expanduser(home))  # noqa: PTH111 - pathlib raises where there is no home
    default = os.environ.get("HUGGINGFACE_HUB_CACHE", str(Path(home) / "hub"))
    folder = os.environ.get("HF_HUB_CACHE", default)
    return Path(os.path.expandvars(os.path.expanduser(folder)))  # noqa: PTH111


def split_name(name: str) -> tuple[str, str | None] | None:
    """Split `NAME`, `OWNER/NAME` or either with `@REVISION` into the repository and the revision.

    A known name becomes its repository. Returns None if the text is not the name of a repository.
    """
    repository, at, revision = name.partition("@")
    parts = revision.split("/")
    if repository.endswith((".git", "-", ".")) or "/-" in repository or len(repository) > 96:
        return None
    if _REPOSITORY.fullmatch(repository) is None or "--" in repository or ".." in repository:
        return None
    if at and (not all(parts) or ".." in parts or "." in parts or not revision.isprintable()):
        return None
    return KNOWN_MODELS.get(repository, repository), revision if at else None


def short_name(repository: str) -> str:
    """Return the known name of a repository, or else the repository itself."""
    return next((name for name, known in KNOWN_MODELS.items() if known == repository), repository)


def repository_folder(repository: str) -> Path:
    """Return the folder of a repository in the cache. It may not exist."""
    return cache_folder() / f"models--{repository.replace('/', '--')}"


def snapshots(repository: str) -> list[Snapshot]:
    """Return what the cache holds of a repository: the commit of `main` first, then the newest first."""
    folder = repository_folder(repository)
    main = _read_ref(folder, DEFAULT_REVISION)
    found = [Snapshot(repository=repository, commit=path.name, folder=path) for path in _folders(folder / "snapshots")]
    return sorted(found, key=lambda one: (one.commit != main, -one.folder.stat().st_mtime, one.commit))


def all_snapshots() -> list[Snapshot]:
    """Return the snapshots of all repositories in the cache, in the order of their names."""
    names = [_FOLDER.fullmatch(path.name) for path in _folders(cache_folder())]
    repositories = sorted(match[1].replace("--", "/", 1) for match in names if match is not None)
    return [snapshot for repository in repositories for snapshot in snapshots(repository)]


def find_pulled(name: str) -> Path | None:
    """Return the folder of a pulled model, or None if the name is not one or the download is not complete.

    Without a revision, this is the commit of `main`, or else the newest. A commit may be shortened to seven digits.
    """
    parts = split_name(name)
    if parts is None:
        return None
    repository, revision = parts
    # transformers stores `gpt2` under this old name.
    for candidate in dict.fromkeys((repository, short_name(repository))):
        found = [snapshot for snapshot in snapshots(candidate) if snapshot.is_complete]
        if revision is not None:
            ref = _read_ref(repository_folder(candidate), revision)
            short = revision if _COMMIT.fullmatch(revision) else None
            found = [one for one in found if one.commit in (ref, revision) or (short and one.commit.startswith(short))]
        if found:
            return found[0].folder
    return None


def recorded_name(folder: Path) -> str:
    """Return the name that records give to a model folder: `REPOSITORY@COMMIT` for a pulled one, else the folder's."""
    pulled = _repository_of(folder)
    return folder.resolve().name if pulled is None else f"{pulled}@{folder.resolve().name[:SHOWN_COMMIT]}"


def file_name(folder: Path) -> str:
    """Return a name for files made from a model folder: `gpt2` for a pulled one, else the folder's."""
    return (_repository_of(folder) or folder.resolve().name).rpartition("/")[2]


def _repository_of(folder: Path) -> str | None:
    """The repository of a snapshot's folder, or None for any other folder."""
    snapshots_folder = folder.resolve().parent
    match = _FOLDER.fullmatch(snapshots_folder.parent.name) if snapshots_folder.name == "snapshots" else None
    return None if match is None else match[1].replace("--", "/", 1)


def _has_weights(folder: Path) -> bool:
    if any((folder / name).is_file() for name in _SINGLE_WEIGHTS):
        return True
    shards = [match for match in (_SHARD.fullmatch(name) for name in _names(folder)) if match is not None]
    counts = {(match[1], int(match[3]), match[4]) for match in shards if (folder / match[0]).is_file()}
    return any(
        all((folder / f"{stem}-{n:05}-of-{count:05}.{end}").is_file() for n in range(1, count + 1))
        for stem, count, end in counts
        if (folder / f"{stem}.{end}.index.json").is_file()
    )


def _read_ref(folder: Path, revision: str) -> str | None:
    try:
        return (folder / "refs" / revision).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None


def _folders(path: Path) -> Iterator[Path]:
    return (path / name for name in _names(path) if (path / name).is_dir())


def _names(path: Path) -> list[str]:
    try:
        return os.listdir(path)  # noqa: PTH208 - names, not paths
    except OSError:
        return []
