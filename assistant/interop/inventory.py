"""The models on this machine, read from the heads of their files: no torch, no weights.

A folder that is damaged is listed with what is wrong with it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from assistant.files import shown_path
from assistant.hub_cache import SHOWN_COMMIT, Snapshot, all_snapshots, find_pulled, short_name
from assistant.model.config import (
    FAMILIES,
    SCORES_FILE,
    ClassifierConfig,
    ModelConfig,
    ModelInfo,
    parse_config,
    parse_info,
)
from assistant.shipped import POCKET, shipped

CONFIG_FILE, INFO_FILE = "config.json", "assistant.json"
WEIGHTS_FILE, INDEX_FILE, PICKLE_FILE = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
PICKLE_INDEX_FILE, ADAPTER_FILE = "pytorch_model.bin.index.json", "adapter_config.json"
RUNS, DEMO = "runs", Path("demo") / "model"
LARGEST_JSON = 64 << 20
LARGEST_HEADER = 100_000_000
"""Bytes of a safetensors header; the library's own limit."""
SCORES_TAIL = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class LastScore:
    """The newest score of a model. `by` names the judge, or the metric."""

    mean: float
    by: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelEntry:
    """One model. What is unknown is None; `problem` says why the model cannot be used."""

    name: str
    """What `--model` takes."""
    path: Path
    kind: str
    """`folder`, `pulled` or `shipped`."""
    parameters: int | None = None
    size: int = 0
    """Bytes of the weights."""
    template: str | None = None
    origin: str | None = None
    score: LastScore | None = None
    modified: datetime | None = None
    problem: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            "name": self.name,
            "path": shown_path(self.path),
            "kind": self.kind,
            "parameters": self.parameters,
            "bytes": self.size,
            "template": self.template,
            "origin": self.origin,
            "score": None if self.score is None else {"mean": self.score.mean, "by": self.score.by},
            "modified": None if self.modified is None else self.modified.isoformat(timespec="seconds"),
            "problem": self.problem,
        }


def list_models(roots: Iterable[Path]) -> list[ModelEntry]:
    """List the models in some folders, those that were pulled, and `pocket`.

    Each root is looked at itself, then its folders, those in its `runs`, and its `demo/model`.
    """
    folders = dict.fromkeys(folder for root in roots for folder in _candidates(root) if _looks_like_a_model(folder))
    entries = [_read_folder(folder, name=shown_path(folder), kind="folder") for folder in folders]
    entries += [entry for entry in map(_read_snapshot, all_snapshots()) if entry is not None]
    return [*entries, _read_folder(shipped(POCKET), name=POCKET, kind="shipped", origin="shipped")]


def read_last_score(folder: Path) -> LastScore | None:
    """Return the newest score in a model folder's `scores.jsonl`, or None if there is none.

    A line is a JSON object with `mean`, and with `judge` or `metric`. Unknown fields, and lines that are torn or of
    another form, are skipped.
    """
    record = next(score_records(folder), None)
    if record is None:
        return None
    return LastScore(mean=float(record["mean"]), by=str(record.get("judge") or record.get("metric") or ""))


def score_records(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a model folder's `scores.jsonl` whose `mean` is from 0 to 100, newest first."""
    try:
        with (folder / SCORES_FILE).open("rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - SCORES_TAIL, 0))
            lines = file.read().splitlines()
    except OSError:
        return
    for line in reversed(lines):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        mean = record.get("mean") if isinstance(record, dict) else None
        if isinstance(mean, int | float) and not isinstance(mean, bool) and 0 <= mean <= 100:
            yield record


# --- where models are ---------------------------------------------------------------------------------------------


def _candidates(root: Path) -> list[Path]:
    runs = root / RUNS
    return [root, *_subfolders(root), *_subfolders(runs), root / DEMO]


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []


def _looks_like_a_model(folder: Path) -> bool:
    """Whether a folder holds weights or a record of training. A lone `config.json` may belong to any program."""
    names = (WEIGHTS_FILE, INDEX_FILE, PICKLE_FILE, PICKLE_INDEX_FILE, INFO_FILE, ADAPTER_FILE)
    if any((folder / name).is_file() for name in names) or (folder / "last" / CONFIG_FILE).is_file():
        return True
    try:
        return "model_type" in _read_json(folder / CONFIG_FILE)
    except _UnreadableError:
        return False


def _read_snapshot(snapshot: Snapshot) -> ModelEntry | None:
    """A pulled model. None if its family is not supported: other programs share the cache."""
    try:
        if _read_json(snapshot.folder / CONFIG_FILE).get("model_type") not in FAMILIES:
            return None
    except _UnreadableError:
        if short_name(snapshot.repository) == snapshot.repository:
            return None
    name = short_name(snapshot.repository)
    if find_pulled(name) != snapshot.folder and snapshot.is_complete:
        name = f"{name}@{snapshot.commit[:SHOWN_COMMIT]}"
    origin = f"hub, {snapshot.repository} at {snapshot.commit[:SHOWN_COMMIT]}"
    return _read_folder(snapshot.folder, name=name, kind="pulled", origin=origin)


# --- one folder ---------------------------------------------------------------------------------------------------


class _UnreadableError(Exception):
    """What is wrong with a folder, as a clause."""


def _read_folder(folder: Path, *, name: str, kind: str, origin: str | None = None) -> ModelEntry:
    """All that is known of a folder."""
    problems: list[str] = []
    config = info = parameters = None
    size = 0
    try:
        config = _read_config(folder)
    except _UnreadableError as error:
        problems.append(str(error))
    try:
        info = _read_info(folder)
    except _UnreadableError as error:
        problems.append(str(error))
    try:
        parameters, size = _read_weights(folder, tied=config is None or config.tie_word_embeddings)
    except _UnreadableError as error:
        problems.append(str(error))
    if (folder / ADAPTER_FILE).is_file() and not (folder / CONFIG_FILE).is_file():
        base = _adapter_base(folder)
        origin, problems = f"adapter on {base}" if base else "adapter", []
    elif not (folder / CONFIG_FILE).is_file() and (folder / "last" / CONFIG_FILE).is_file():
        problems = ["an unfinished run: repeat its command with --resume"]
    if kind == "pulled" and problems:
        problems.append(f"run: assistant pull {name}")
    made_from = None if info is None else f"{info.base_model}, fine-tuned"
    if isinstance(config, ClassifierConfig):
        made_from = "classifier" if info is None else f"{info.base_model}, trained to label texts"
    return ModelEntry(
        name=name,
        path=folder,
        kind=kind,
        parameters=parameters,
        size=size,
        template=None if info is None else info.template.name,
        origin=", ".join(filter(None, (origin, made_from))) or "base model",
        score=read_last_score(folder),
        modified=_modified(folder),
        problem="; ".join(problems) or None,
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise _UnreadableError(f"{path.name} is too large")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise _UnreadableError(f"no {path.name}") from error
    except OSError as error:
        raise _UnreadableError(f"{path.name}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise _UnreadableError(f"{path.name} is not JSON") from error
    if not isinstance(content, dict):
        raise _UnreadableError(f"{path.name} is not a JSON object")
    return content


def _read_config(folder: Path) -> ModelConfig:
    content = _read_json(folder / CONFIG_FILE)
    model_type = content.get("model_type")
    if model_type not in FAMILIES:
        raise _UnreadableError(f"not a {', '.join(FAMILIES)} but {str(model_type)[:40]}")
    try:
        return parse_config(content)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or CONFIG_FILE
        raise _UnreadableError(f"{CONFIG_FILE}: {where}: {fault['msg'][0].lower()}{fault['msg'][1:]}") from error


def read_info(folder: Path) -> ModelInfo | None:
    """Read a model folder's `assistant.json` without torch. None for a base model, and for a record that is damaged.

    Opening the model (`assistant.model.checkpoint`) says what is wrong with a damaged one.
    """
    try:
        return _read_info(folder)
    except _UnreadableError:
        return None


def _read_info(folder: Path) -> ModelInfo | None:
    if not (folder / INFO_FILE).exists():
        return None
    try:
        return parse_info(_read_json(folder / INFO_FILE))
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise _UnreadableError(f"{INFO_FILE}: {where}: {error.errors()[0]['msg'].lower()}") from error


def _read_weights(folder: Path, *, tied: bool) -> tuple[int | None, int]:
    """The number of parameters, if the files tell it without being loaded, and the bytes of the files."""
    if (folder / WEIGHTS_FILE).is_file():
        return _read_header(folder / WEIGHTS_FILE, tied=tied)
    for index in (INDEX_FILE, PICKLE_INDEX_FILE):
        if not (folder / index).is_file():
            continue
        weight_map = _read_json(folder / index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise _UnreadableError(f"{index} has no weight_map")
        names = sorted({str(name) for name in weight_map.values()})
        if absent := [name for name in names if Path(name).name != name or not (folder / name).is_file()]:
            raise _UnreadableError(f"no {absent[0][:60]}" + (f" and {len(absent) - 1} more" if len(absent) > 1 else ""))
        if index == PICKLE_INDEX_FILE:
            return None, sum((folder / name).stat().st_size for name in names)
        heads = [_read_header(folder / name, tied=tied) for name in names]
        return sum(parameters for parameters, _ in heads), sum(size for _, size in heads)
    if (folder / PICKLE_FILE).is_file():
        return None, (folder / PICKLE_FILE).stat().st_size
    raise _UnreadableError("no weights")


def _read_header(path: Path, *, tied: bool) -> tuple[int, int]:
    """The number of parameters and the bytes of a safetensors file. Raises _UnreadableError if it was cut."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, LARGEST_HEADER):
            raise _UnreadableError(f"{path.name} is damaged or cut")
        header = file.read(length)
    parameters, end = 0, 0
    try:
        for name, tensor in json.loads(header).items():
            if name == "__metadata__":
                continue
            end = max(end, int(tensor["data_offsets"][1]))
            is_mask = name.endswith((".attn.bias", ".attn.masked_bias"))
            if not is_mask and not (tied and name == "lm_head.weight"):
                parameters += math.prod(map(int, tensor["shape"]))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise _UnreadableError(f"{path.name} is damaged") from error
    if end != size - 8 - length:
        raise _UnreadableError(f"{path.name} was cut: {size:,} of {end + 8 + length:,} bytes")
    return parameters, size


def _adapter_base(folder: Path) -> str | None:
    try:
        base = _read_json(folder / ADAPTER_FILE).get("base_model_name_or_path")
    except _UnreadableError:
        return None
    return base if isinstance(base, str) else None


def _modified(folder: Path) -> datetime | None:
    """When the model changed: the newest of its files."""
    times = []
    for name in (CONFIG_FILE, INFO_FILE, WEIGHTS_FILE, INDEX_FILE, PICKLE_FILE, PICKLE_INDEX_FILE, ADAPTER_FILE):
        try:
            times.append((folder / name).stat().st_mtime)
        except OSError:
            continue
    try:
        return datetime.fromtimestamp(max(times), UTC) if times else None
    except (ValueError, OverflowError, OSError):
        return None
