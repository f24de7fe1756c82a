"""Fills an answers folder: with a model's responses to the rows of its data, or with answers from a file.

Owns which rows are answered and their ids. Does not know how responses are scored.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

import assistant
from assistant.dataset.formats import read_rows
from assistant.dataset.instructions import Example
from assistant.dataset.rows import FilledText, OptionalText, Text, row_fault
from assistant.dataset.splits import (
    DEFAULT_FRACTIONS,
    DEFAULT_SPLIT_SEED,
    data_fingerprint,
    split_examples,
)
from assistant.decoding.reply import Reply
from assistant.errors import ContextError, DataError, SettingsError
from assistant.files import shown_path, write_atomic
from assistant.jsonl import AppendOnly, read_lines
from assistant.settings import DecodePrecision, GenerationSettings, SplitMethod
from evaluation.answers_folder import (
    RECORD,
    RESPONSES_FILE,
    RUN_FILE,
    AnswersInfo,
    Part,
    ResponseRecord,
    claim_folder,
    is_correction,
)
from evaluation.ledger import now

if TYPE_CHECKING:
    from assistant.dataset.prompts import Template
    from assistant.model.config import ModelInfo


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


def row_ids(examples: Sequence[Example]) -> list[str]:
    """Return an id for every row: 16 hex digits of its contents and of the number of equal rows before it."""
    n_before: Counter[str] = Counter()
    ids = []
    for example in examples:
        contents = [example.instruction, example.input, [list(turn) for turn in example.history], example.output]
        text = json.dumps(contents)
        ids.append(hashlib.sha256(f"{text} {n_before[text]}".encode()).hexdigest()[:16])
        n_before[text] += 1
    return ids


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
        versions=_versions("torch", "tiktoken"),
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


def _versions(*packages: str) -> dict[str, str]:
    package_versions = {package: version(package) for package in packages}
    return {"python": platform.python_version(), "assistant": assistant.__version__, **package_versions}


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
    record = _record(row_id, example, None)
    if isinstance(reply, Exception):
        return record.model_copy(update={"error": str(reply)})
    return record.model_copy(
        update={
            "response": reply.response,
            "stop_reason": reply.stop_reason,
            "num_tokens": len(reply.token_ids),
            "seconds": round(reply.seconds, 3),
        }
    )


def _record(row_id: str, example: Example, response: str | None) -> ResponseRecord:
    return ResponseRecord(
        id=row_id,
        source=example.source,
        row=example.row,
        instruction=example.instruction,
        input=example.input,
        reference=example.output,
        history=example.history,
        category=example.category,
        response=response,
    )


# --- answers from a file ------------------------------------------------------------------------------------------


class _FileRow(BaseModel):
    """A row of a file of answers, with the fields of the book's `instruction-data-with-response.json`."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())
    instruction: FilledText
    input: OptionalText = ""
    output: FilledText
    model_response: Text
    category: Text | None = None


def import_answers(path: Path, folder: Path) -> None:
    """Make an answers folder from a file of answers, or take corrected tasks and references into the one it has made.

    The file is a JSON list or JSONL. Its rows have the fields of an instruction file and `model_response`.

    Raises:
        DataError: rows are not valid; the message names file, row and field of each.
        SettingsError: the folder holds other answers.
    """
    examples, responses = _read_file(path)
    info = AnswersInfo(
        kind="file",
        name=shown_path(Path(path.name)),
        path=shown_path(path),
        digest=hashlib.sha256(json.dumps(responses).encode()).hexdigest(),
        data_files=(shown_path(path),),
        data_fingerprint=data_fingerprint(examples),
        rows=len(examples),
        versions=_versions(),
        created=now(),
    )
    is_corrected = is_correction(folder, info)
    if not is_corrected:
        claim_folder(folder, info)
    if is_corrected or not (folder / RESPONSES_FILE).exists():
        rows = zip(row_ids(examples), examples, responses, strict=True)
        lines = [_record(*row).model_dump_json() + "\n" for row in rows]
        write_atomic(folder / RESPONSES_FILE, "".join(lines))
    if is_corrected:
        write_atomic(folder / RUN_FILE, info.model_dump_json(indent=2) + "\n")


def _read_file(path: Path) -> tuple[list[Example], list[str]]:
    examples, responses, problems = [], [], []
    for row in read_rows(path):
        try:
            fields = _FileRow.model_validate(row.value)
        except ValidationError as error:
            problems += [row_fault(path, row.number, detail) for detail in error.errors()]
            continue
        example_fields = fields.model_dump(exclude={"model_response"})
        examples.append(Example(**example_fields, source=shown_path(path), row=row.number))
        responses.append(fields.model_response)
    if problems:
        raise DataError(problems)
    if not examples:
        raise DataError(f"{path}: expected at least one answer, got an empty list.")
    return examples, responses
