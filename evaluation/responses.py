"""A run folder: what a model answered to a set of instructions, and what was run to get it.

run.json          what was run; a folder belongs to one run and is never mixed with another
responses.jsonl   one line a row, in the order of finishing; a run that was stopped goes on from here
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

import assistant
from assistant.dataset.formats import read_rows
from assistant.dataset.instructions import Example, Exchange
from assistant.dataset.rows import FilledText, OptionalText, Text, row_fault
from assistant.dataset.splits import (
    DEFAULT_FRACTIONS,
    DEFAULT_SPLIT_SEED,
    SplitMethod,
    data_fingerprint,
    split_examples,
)
from assistant.decoding.reply import Reply, StopReason
from assistant.errors import DataError, SettingsError
from assistant.files import shown_path, write_atomic
from assistant.jsonl import AppendOnly, read_lines
from assistant.settings import DecodePrecision, Frozen, GenerationSettings
from evaluation.ledger import now

if TYPE_CHECKING:
    from assistant.decoding.session import Session
    from assistant.model.config import ModelInfo

RUN_FILE = "run.json"
RESPONSES_FILE = "responses.jsonl"

Part = Literal["auto", "test", "validation", "train", "all"]


class ResponseRecord(Frozen):
    """One row and what was answered to it."""

    id: str
    """16 hex digits of the row's contents; rows with equal contents have different ones."""
    source: str
    row: int
    instruction: str
    input: str = ""
    reference: str
    history: tuple[Exchange, ...] = ()
    category: str | None = None
    response: str | None
    """None where there is none, for the reason in `error`."""
    stop_reason: StopReason | None = None
    num_tokens: int | None = None
    seconds: float | None = None
    """Wall time of the reply; replies of one batch share theirs."""
    error: str | None = None

    @property
    def response_hash(self) -> str:
        """16 hex digits of the response, so that a score is never taken for that of another response."""
        return hashlib.sha256((self.response or "").encode()).hexdigest()[:16]


class RunInfo(Frozen):
    """`run.json`: what the responses of a folder come from."""

    format: Literal[1] = 1
    kind: Literal["model", "file"]
    name: str
    """The model's name, or the file's."""
    path: str
    digest: str | None
    """SHA-256 of the model's weights, or of the file's answers; None where the model is no folder."""
    template: str | None = None
    template_fingerprint: str | None = None
    data_files: tuple[str, ...]
    data_fingerprint: str
    """Of the answered rows."""
    part: Part = "all"
    rows: int
    settings: GenerationSettings | None = None
    precision: DecodePrecision = "auto"
    """How the model's weights were kept."""
    versions: dict[str, str]
    created: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run folder as it stands on the disk; the responses in the order of the data."""

    folder: Path
    info: RunInfo
    responses: tuple[ResponseRecord, ...]

    @property
    def unanswered(self) -> int:
        """Rows that the model was not asked yet."""
        return self.info.rows - len(self.responses)


class ChosenPart(NamedTuple):
    """The rows to answer, the part they are, and a sentence on why."""

    examples: tuple[Example, ...]
    part: Part
    reason: str


class _AnswerRow(BaseModel):
    """A row of a file of answers, in the form of the book's `instruction-data-with-response.json`."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())
    instruction: FilledText
    input: OptionalText = ""
    output: FilledText
    model_response: Text
    category: Text | None = None


# --- what is asked ------------------------------------------------------------------------------------------------


def choose_part(examples: Sequence[Example], part: Part, info: ModelInfo | None) -> ChosenPart:
    """The rows of `part`, split as the model's training data were.

    `auto` is the test part where the model was trained on just these data and the part has rows, else all rows.

    Raises:
        SettingsError: the part has no rows.
    """
    same_data = info is not None and info.data_fingerprint == data_fingerprint(examples)
    is_auto, part = part == "auto", ("test" if same_data else "all") if part == "auto" else part
    if part == "all":
        reason = (
            "all rows, those the model was trained on among them"
            if same_data
            else "all rows: the model was not trained on a split of these files"
        )
        return ChosenPart(tuple(examples), part, reason)
    method: SplitMethod = info.split_method if info else "grouped"
    seed = info.split_seed if info else DEFAULT_SPLIT_SEED
    fractions = info.split_fractions if info else DEFAULT_FRACTIONS
    chosen = split_examples(examples, method=method, seed=seed, fractions=fractions).part(part)
    if not chosen and is_auto:
        reason = "all rows: too few for a test part, so the model has learnt some; the score is not one of new rows"
        return ChosenPart(tuple(examples), "all", reason)
    if not chosen:
        raise SettingsError(
            f"--part: expected rows in {part!r}, got none of {len(examples)}. "
            f"Fine-tune with more rows or a larger --test-share, or answer all rows: --part all."
        )
    why = "as it was split for training" if same_data else "split for this; the model was not trained on these files"
    return ChosenPart(
        chosen, part, f"the {part} part ({len(chosen)} of {len(examples)} rows; {method}, seed {seed}), {why}"
    )


def row_ids(examples: Sequence[Example]) -> list[str]:
    """An id for every row: of its contents, and of how often they occurred before."""
    seen: Counter[str] = Counter()
    ids = []
    for example in examples:
        contents = [example.instruction, example.input, [list(turn) for turn in example.history], example.output]
        text = json.dumps(contents)
        ids.append(hashlib.sha256(f"{text} {seen[text]}".encode()).hexdigest()[:16])
        seen[text] += 1
    return ids


def describe_model_run(
    session: Session, model: str, data_files: Sequence[str], chosen: ChosenPart, settings: GenerationSettings
) -> RunInfo:
    """What `run.json` says of answering `chosen` with a model."""
    return RunInfo(
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
    found = {package: version(package) for package in packages}
    return {"python": platform.python_version(), "assistant": assistant.__version__, **found}


# --- answering ----------------------------------------------------------------------------------------------------


def begin_run(folder: Path, info: RunInfo) -> None:
    """Make the folder this run's, or see that it already is.

    Raises:
        SettingsError: it holds another run; the sentence says what differs.
    """
    stored = _read_info(folder)
    if stored is None:
        if (folder / RESPONSES_FILE).exists():
            raise SettingsError(
                f"{folder}: expected {RUN_FILE} beside {RESPONSES_FILE}, got none. Choose another --run."
            )
        write_atomic(folder / RUN_FILE, info.model_dump_json(indent=2) + "\n")
    elif differences := _differences(stored, info):
        raise SettingsError(f"{folder}: expected the run it holds, got {'; '.join(differences)}. Choose another --run.")


def answer(
    session: Session, examples: Sequence[Example], folder: Path, settings: GenerationSettings, *, batch_size: int
) -> Iterator[ResponseRecord]:
    """Answer the rows that have no line in the folder yet; yields each when its line is on the disk.

    Raises:
        PrerequisiteError: another process is writing there.
    """
    path = folder / RESPONSES_FILE
    with AppendOnly[ResponseRecord](path) as file:
        done = {record.id for record in read_lines(path, _RECORD)}
        missing = [(row_id, row) for row_id, row in zip(row_ids(examples), examples, strict=True) if row_id not in done]
        replies = session.replies([row for _, row in missing], settings, batch_size=batch_size)
        for index, reply in replies:
            if isinstance(reply, Reply) and reply.stop_reason == "cancelled":
                continue
            record = _record(*missing[index], reply)
            file.append([record])
            yield record


def count_answered(folder: Path) -> int:
    """How many rows have a line, with or without an answer."""
    return len({record.id for record in read_lines(folder / RESPONSES_FILE, _RECORD)})


def _record(
    row_id: str, example: Example, reply: Reply | Exception | None, response: str | None = None
) -> ResponseRecord:
    known = ResponseRecord(
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
    if isinstance(reply, Exception):
        return known.model_copy(update={"error": str(reply)})
    if reply is None:
        return known
    return known.model_copy(
        update={
            "response": reply.response,
            "stop_reason": reply.stop_reason,
            "num_tokens": len(reply.token_ids),
            "seconds": round(reply.seconds, 3),
        }
    )


# --- answers from elsewhere ---------------------------------------------------------------------------------------


def import_answers(path: Path, folder: Path) -> None:
    """Make a run folder of a file of answers: a JSON list or JSONL with `model_response` beside the data's fields.

    Raises:
        DataError: naming every bad row by file, row and field.
        SettingsError: the folder holds other responses.
    """
    examples, responses = _read_answers(path)
    info = RunInfo(
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
    begin_run(folder, info)
    if not (folder / RESPONSES_FILE).exists():
        rows = zip(row_ids(examples), examples, responses, strict=True)
        lines = [_record(row_id, row, None, response).model_dump_json() + "\n" for row_id, row, response in rows]
        write_atomic(folder / RESPONSES_FILE, "".join(lines))


def _read_answers(path: Path) -> tuple[list[Example], list[str]]:
    examples, responses, problems = [], [], []
    for row in read_rows(path):
        try:
            found = _AnswerRow.model_validate(row.value)
        except ValidationError as error:
            problems += [row_fault(path, row.number, detail) for detail in error.errors()]
            continue
        fields = found.model_dump(exclude={"model_response"})
        examples.append(Example(**fields, source=shown_path(path), row=row.number))
        responses.append(found.model_response)
    if problems:
        raise DataError(problems)
    if not examples:
        raise DataError(f"{path}: expected at least one answer, got an empty list.")
    return examples, responses


# --- reading a run ------------------------------------------------------------------------------------------------

_RECORD = TypeAdapter(ResponseRecord)


def read_run(folder: Path) -> Run:
    """A run folder. Raises DataError where there is none, or where a file of it is damaged."""
    info = _read_info(folder)
    if info is None or not (folder / RESPONSES_FILE).exists():
        missing = RUN_FILE if info is None else RESPONSES_FILE
        raise DataError(
            f"{folder}: expected a run folder, got none with {missing}. "
            f"Make one: evaluation respond MODEL --data FILE --run {folder}, or evaluation score ANSWERS --run {folder}"
        )
    place = {name: index for index, name in enumerate(info.data_files)}
    records = {record.id: record for record in read_lines(folder / RESPONSES_FILE, _RECORD)}
    ordered = sorted(records.values(), key=lambda record: (place.get(record.source, 0), record.row))
    return Run(folder=folder, info=info, responses=tuple(ordered))


def _read_info(folder: Path) -> RunInfo | None:
    path = folder / RUN_FILE
    try:
        return RunInfo.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(str(part) for part in fault["loc"]) or "the file"
        raise DataError(
            f"{path}: expected a run of this program, got a fault in {field}: {fault['msg']}. Choose another --run."
        ) from error


def _differences(stored: RunInfo, wanted: RunInfo) -> list[str]:
    """What makes the two different runs, in words. Times, versions, paths and batch sizes do not."""
    if stored.kind == "file" and wanted.kind == "file":
        same = (stored.digest, stored.data_fingerprint) == (wanted.digest, wanted.data_fingerprint)
        return [] if same else [f"other answers ({wanted.path}; it holds those of {stored.path})"]
    if stored.kind != wanted.kind:
        return [f"a {wanted.kind} ({wanted.name}; it holds the {stored.kind} {stored.name})"]
    differences = []
    if (stored.digest or stored.path) != (wanted.digest or wanted.path):
        differences.append(f"another model ({wanted.path}; it holds answers of {stored.path})")
    if stored.template_fingerprint != wanted.template_fingerprint:
        differences.append(f"another prompt template ({wanted.template}; it has {stored.template})")
    if stored.data_fingerprint != wanted.data_fingerprint:
        differences.append(f"other rows ({_rows_in_words(wanted)}; it holds {_rows_in_words(stored)})")
    if stored.precision != wanted.precision:
        differences.append(f"--precision {wanted.precision} (it has {stored.precision})")
    if stored.settings is not None and wanted.settings is not None:
        ours = wanted.settings.model_dump()
        for name, before in stored.settings.model_dump().items():
            if before != ours[name]:
                differences.append(f"--{name.replace('_', '-')} {ours[name]} (it has {before})")
    return differences


def _rows_in_words(info: RunInfo) -> str:
    part = "all rows" if info.part == "all" else f"the {info.part} part"
    return f"{part}, {info.rows}, of {', '.join(info.data_files)}"
