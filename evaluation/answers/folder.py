"""The answers folder: a model's responses to a set of instructions, and what produced them.

    run.json          what produced the responses; a folder never mixes two models, data sets or settings
    responses.jsonl   one line per row, in the order of finishing; an interrupted command continues from here

Owns the format of both files. Does not know how a model answers, and nothing about scores.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from assistant.dataset.checks import Check
from assistant.dataset.instructions import Exchange
from assistant.decoding.reply import StopReason
from assistant.errors import DataError, SettingsError
from assistant.files import write_atomic
from assistant.jsonl import read_lines
from assistant.loops import loops
from assistant.settings import DecodePrecision, Frozen, GenerationSettings

RUN_FILE = "run.json"
RESPONSES_FILE = "responses.jsonl"

Part = Literal["auto", "test", "validation", "train", "all"]
"""Which rows of the data to answer."""


def part_text(part: str) -> str:
    """Return the name of a part in words: `the test part`, or `all rows`."""
    return "all rows" if part == "all" else f"the {part} part"


class ResponseRecord(Frozen):
    """One row of the data and one response to it. What a line of an older version lacks is None or empty."""

    id: str
    """16 hex digits of the row's contents. Rows with equal contents have different ids."""
    sample: int = 0
    """Number of the response among those to this row, counted from 0."""
    source: str
    row: int
    instruction: str
    input: str = ""
    reference: str
    """Empty if the row has none."""
    history: tuple[Exchange, ...] = ()
    category: str | None = None
    group: str | None = None
    accept: tuple[str, ...] = ()
    """Other right answers."""
    check: Check | None = None
    rubric: tuple[str, ...] = ()
    """Yes/no questions for a judge."""
    seen_in_training: bool | None = None
    """Whether the model was fine-tuned on this prompt. None if that is not known."""
    reference_bits_per_byte: float | None = None
    """Bits that the model needs for a byte of the reference. The lower, the likelier it holds the reference."""
    response: str | None
    """None if the model could not answer; `error` has the reason."""
    stop_reason: StopReason | None = None
    num_tokens: int | None = None
    seconds: float | None = None
    """Wall time of the reply. All replies of a batch have the same time."""
    error: str | None = None
    too_long: bool = False
    """The response was too long to keep, so `response` is None."""
    looping: bool | None = None
    """Whether the response repeats the same few tokens. `is_looping` knows it for older lines, too."""

    @property
    def key(self) -> str:
        """What identifies the line: the id of the row, and the number of every sample but the first."""
        return f"{self.id}.{self.sample}" if self.sample else self.id

    @property
    def is_reference_free(self) -> bool:
        """Whether the row has no reference. Its score never counts with those of other rows."""
        return not self.reference

    @property
    def is_looping(self) -> bool:
        """Whether the response repeats the same few tokens, or words if nobody looked at its tokens."""
        return self.looping if self.looping is not None else loops((self.response or "").split())

    @property
    def response_hash(self) -> str:
        """16 hex digits of the response. A score belongs to one response, and this hash identifies it."""
        return hashlib.sha256((self.response or "").encode()).hexdigest()[:16]


class AnswersInfo(Frozen):
    """The contents of `run.json`: what produced the responses."""

    format: Literal[1] = 1
    kind: Literal["model", "file"]
    name: str
    """The name of the model or of the file."""
    path: str
    digest: str | None
    """SHA-256 of the model's weights, or of the responses in the file. None if the model is not a folder."""
    template: str | None = None
    template_fingerprint: str | None = None
    data_files: tuple[str, ...]
    data_fingerprint: str
    """Fingerprint of the rows to answer."""
    part: Part = "all"
    rows: int
    samples: int = 1
    """Responses to each row."""
    settings: GenerationSettings | None = None
    precision: DecodePrecision = "auto"
    """Storage of the model's weights."""
    versions: dict[str, str]
    created: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswersFolder:
    """The contents of an answers folder. The responses are in the order of the data."""

    folder: Path
    info: AnswersInfo
    responses: tuple[ResponseRecord, ...]

    @property
    def unanswered(self) -> int:
        """Number of rows that the model was not asked about yet, or not for all samples."""
        n_answered = Counter(record.id for record in self.responses)
        return self.info.rows - sum(n >= self.info.samples for n in n_answered.values())


RECORD: TypeAdapter[ResponseRecord] = TypeAdapter(ResponseRecord)
"""The type of a line of `responses.jsonl`."""


# --- reading ------------------------------------------------------------------------------------------------------


def read_answers(folder: Path) -> AnswersFolder:
    """Read an answers folder.

    Raises:
        DataError: the folder is not an answers folder, or one of its files is damaged.
    """
    info = _read_info(folder)
    if info is None or not (folder / RESPONSES_FILE).exists():
        missing = RUN_FILE if info is None else RESPONSES_FILE
        raise DataError(
            f"{folder}: expected an answers folder, got no {missing} there. To write one, run: "
            f"evaluation respond MODEL --data FILE --run {folder}, or evaluation score ANSWERS --run {folder}"
        )
    file_order = {name: index for index, name in enumerate(info.data_files)}
    records = {record.key: record for record in read_lines(folder / RESPONSES_FILE, RECORD)}
    ordered = sorted(records.values(), key=lambda record: (file_order.get(record.source, 0), record.row, record.sample))
    return AnswersFolder(folder=folder, info=info, responses=tuple(ordered))


def count_answered(folder: Path) -> int:
    """Count the rows and samples that have a line in the folder, with or without a response."""
    return len({record.key for record in read_lines(folder / RESPONSES_FILE, RECORD)})


def _read_info(folder: Path) -> AnswersInfo | None:
    path = folder / RUN_FILE
    try:
        return AnswersInfo.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(str(part) for part in fault["loc"]) or "the file"
        raise DataError(
            f"{path}: expected a description of answers by this program, got a fault in {field}: {fault['msg']}. "
            f"Choose another --run."
        ) from error


# --- one folder, one origin ---------------------------------------------------------------------------------------


def claim_folder(folder: Path, info: AnswersInfo) -> None:
    """Write `run.json`, or check that the folder already belongs to the same model, rows and settings.

    Raises:
        SettingsError: the folder holds other answers; the message says what differs.
    """
    stored = _read_info(folder)
    if stored is None:
        if (folder / RESPONSES_FILE).exists():
            raise SettingsError(
                f"{folder}: expected {RUN_FILE} beside {RESPONSES_FILE}, got none. Choose another --run."
            )
        write_atomic(folder / RUN_FILE, info.model_dump_json(indent=2) + "\n")
    elif differences := _differences(stored, info):
        raise SettingsError(
            f"{folder}: expected the model, rows and settings of the stored answers, got {'; '.join(differences)}. "
            f"Choose another --run."
        )


def is_correction(folder: Path, info: AnswersInfo) -> bool:
    """Return whether a file holds the responses of this folder beside other tasks or references.

    Then the folder takes the new rows: the responses are the same, and verdicts on changed rows are not lost either.
    """
    stored = _read_info(folder)
    if stored is None or stored.kind != "file" or info.kind != "file":
        return False
    return (stored.digest, stored.rows) == (info.digest, info.rows) and stored.data_fingerprint != info.data_fingerprint


def _differences(stored: AnswersInfo, requested: AnswersInfo) -> list[str]:
    """Describe what differs. Times, versions and paths may differ, and batch sizes are not stored."""
    if stored.kind == "file" and requested.kind == "file":
        same = (stored.digest, stored.data_fingerprint) == (requested.digest, requested.data_fingerprint)
        return [] if same else [f"other answers ({requested.path}; it holds those of {stored.path})"]
    if stored.kind != requested.kind:
        return [f"a {requested.kind} ({requested.name}; it holds the {stored.kind} {stored.name})"]
    differences = []
    if (stored.digest or stored.path) != (requested.digest or requested.path):
        differences.append(f"another model ({requested.path}; it holds answers of {stored.path})")
    if stored.template_fingerprint != requested.template_fingerprint:
        differences.append(f"another prompt template ({requested.template}; it has {stored.template})")
    if stored.data_fingerprint != requested.data_fingerprint:
        differences.append(f"other rows ({_describe_rows(requested)}; it holds {_describe_rows(stored)})")
    if stored.samples != requested.samples:
        differences.append(f"--samples {requested.samples} (it has {stored.samples})")
    if stored.precision != requested.precision:
        differences.append(f"--precision {requested.precision} (it has {stored.precision})")
    if stored.settings is not None and requested.settings is not None:
        requested_values = requested.settings.model_dump()
        for name, stored_value in stored.settings.model_dump().items():
            if stored_value != requested_values[name]:
                differences.append(f"--{name.replace('_', '-')} {requested_values[name]} (it has {stored_value})")
    return differences


def _describe_rows(info: AnswersInfo) -> str:
    return f"{part_text(info.part)}, {info.rows}, of {', '.join(info.data_files)}"
