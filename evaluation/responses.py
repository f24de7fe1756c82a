"""Fills an answers folder with a model's responses to the rows of its data.

Owns which rows are answered. Does not know how responses are scored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from assistant.dataset.instructions import Example
from assistant.dataset.splits import (
    DEFAULT_FRACTIONS,
    DEFAULT_SPLIT_SEED,
    data_fingerprint,
    split_examples,
)
from assistant.decoding.reply import Reply
from assistant.errors import ContextError, SettingsError
from assistant.jsonl import AppendOnly, read_lines
from assistant.settings import DecodePrecision, GenerationSettings, SplitMethod
from evaluation.answers_folder import RECORD, RESPONSES_FILE, AnswersInfo, Part, ResponseRecord
from evaluation.ledger import now
from evaluation.records import make_record, package_versions, row_ids, with_response

if TYPE_CHECKING:
    from assistant.dataset.prompts import Template
    from assistant.model.config import ModelInfo


__all__ = ["answer", "choose_part", "describe_answers", "row_ids"]


class BatchSession(Protocol):
    """What this module needs of a model. `assistant.decoding.session.Session` is the real one."""

    @property
    def name(self) -> str:
        """The model's name."""

    @property
    def template(self) -> Template:
        """The prompt template."""

    @property
    def precision(self) -> DecodePrecision:
        """Storage of the model's weights."""

    def replies(
        self, examples: Sequence[Example], settings: GenerationSettings, *, batch_size: int = 32
    ) -> Iterator[tuple[int, Reply | ContextError]]:
        """Answer the examples; see `Session.replies`."""


class ChosenPart(NamedTuple):
    """The rows to answer, the name of their part, and a sentence that says why."""

    examples: tuple[Example, ...]
    part: Part
    reason: str


# --- which rows ---------------------------------------------------------------------------------------------------


def choose_part(examples: Sequence[Example], part: Part, info: ModelInfo | None) -> ChosenPart:
    """Choose the rows of a part. The split is the one of the model's training run.

    `auto` is the test part if the model was trained on exactly these data and the part has rows, and all rows
    otherwise. `info` is None for a base model.

    Raises:
        SettingsError: the part has no rows.
    """
    same_data = info is not None and info.data_fingerprint == data_fingerprint(examples)
    is_auto = part == "auto"
    if part == "auto":
        part = "test" if same_data else "all"
    if part == "all":
        reason = (
            "all rows, including the rows that the model was trained on"
            if same_data
            else "all rows: the model was not trained on a split of these files"
        )
        return ChosenPart(tuple(examples), part, reason)
    method: SplitMethod = info.split_method if info else "grouped"
    seed = info.split_seed if info else DEFAULT_SPLIT_SEED
    fractions = info.split_fractions if info else DEFAULT_FRACTIONS
    chosen = split_examples(examples, method=method, seed=seed, fractions=fractions).part(part)
    if not chosen and is_auto:
        reason = "all rows: too few for a test part. The model was trained on some of them, so the score is too good"
        return ChosenPart(tuple(examples), "all", reason)
    if not chosen:
        raise SettingsError(
            f"--part: expected rows in {part!r}, got none of {len(examples)}. "
            f"Fine-tune with more rows or a larger --test-share, or answer all rows: --part all."
        )
    origin = "split as for training" if same_data else "split now: the model was not trained on these files"
    return ChosenPart(
        chosen, part, f"the {part} part ({len(chosen)} of {len(examples)} rows; {method}, seed {seed}), {origin}"
    )


# --- answers of a model -------------------------------------------------------------------------------------------


def describe_answers(
    session: BatchSession, model: str, data_files: Sequence[str], chosen: ChosenPart, settings: GenerationSettings
) -> AnswersInfo:
    """Describe the answers of a model to `chosen`, for `run.json`. `model` is the path of the model folder."""
    return AnswersInfo(
        kind="model",
        name=session.name,
        path=model,
        digest=_weights_digest(Path(model)),
        template=session.template.name,
        template_fingerprint=session.template.fingerprint,
        data_files=tuple(data_files),
        data_fingerprint=data_fingerprint(chosen.examples),
        part=chosen.part,
        rows=len(chosen.examples),
        settings=settings,
        precision=session.precision,
        versions=package_versions("torch", "tiktoken"),
        created=now(),
    )


def _weights_digest(folder: Path) -> str | None:
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not files:
        return None
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def answer(
    session: BatchSession,
    examples: Sequence[Example],
    folder: Path,
    settings: GenerationSettings,
    *,
    batch_size: int,
) -> Iterator[ResponseRecord]:
    """Answer the rows that have no line in the folder yet. Yields each record when its line is on the disk.

    Raises:
        PrerequisiteError: another process is writing there.
    """
    path = folder / RESPONSES_FILE
    with AppendOnly[ResponseRecord](path) as file:
        answered = {record.id for record in read_lines(path, RECORD)}
        ids = row_ids(examples)
        open_rows = [(row_id, row) for row_id, row in zip(ids, examples, strict=True) if row_id not in answered]
        replies = session.replies([row for _, row in open_rows], settings, batch_size=batch_size)
        for index, reply in replies:
            if isinstance(reply, Reply) and reply.stop_reason == "cancelled":
                continue
            record = _record_of_reply(*open_rows[index], reply)
            file.append([record])
            yield record


def _record_of_reply(row_id: str, example: Example, reply: Reply | Exception) -> ResponseRecord:
    record = make_record(row_id, example)
    if isinstance(reply, Exception):
        return record.model_copy(update={"error": str(reply)})
    return with_response(record, reply.response, reply.token_ids).model_copy(
        update={
            "stop_reason": reply.stop_reason,
            "num_tokens": len(reply.token_ids),
            "seconds": round(reply.seconds, 3),
        }
    )
