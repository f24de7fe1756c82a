"""Fills an answers folder with answers from a file: JSON, JSONL, CSV, TSV or Parquet.

A row has the fields of an instruction file, in any of its forms, and the answer in `model_response`, as in the book's
`instruction-data-with-response.json`. In AlpacaEval's layout, `output` is the answer and `generator` the model's name;
there is no reference. A row without an answer stays in the folder, so that it is counted.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from assistant.dataset.columns import Columns, parse_columns
from assistant.dataset.conversations import UnusableRow
from assistant.dataset.examples import Example, row_ids
from assistant.dataset.formats import iterate_rows
from assistant.dataset.forms import examples_of
from assistant.dataset.instructions import SKIP_ADVICE
from assistant.dataset.rows import BadRow, Row, Text, row_fault
from assistant.dataset.sources import find_files, shown_name
from assistant.dataset.splits import data_fingerprint
from assistant.errors import DataError
from assistant.files import shown_path, write_atomic
from assistant.settings import DataSettings
from evaluation.answers.folder import RESPONSES_FILE, RUN_FILE, AnswersInfo, claim_folder, is_correction
from evaluation.answers.records import make_record, now, package_versions, with_response
from evaluation.figures import counted

RESPONSE_FIELDS = ("model_response", "prediction", "generation")
"""Names of the field with the answer; the first that a row has counts."""
LONGEST_TEXT = 2**20
"""Longest text that is read, in characters. Longer texts of a file are cut while it is read."""
CUT_LENGTH = LONGEST_TEXT - 64
"""A text that was read and has this length may have been cut."""
_TEXT: TypeAdapter[str] = TypeAdapter(Text)


@dataclass(slots=True)
class _Answers:
    """What a file holds: the rows, and the answer of each or None."""

    examples: list[Example] = field(default_factory=list)
    responses: list[str | None] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unused: Counter[str] = field(default_factory=Counter)
    n_bad: int = 0
    n_unusable: int = 0
    n_without_field: int = 0
    """Rows that have no field for an answer at all."""


def import_answers(path: Path, folder: Path, reading: DataSettings | None = None) -> tuple[str, ...]:
    """Make an answers folder from a file of answers, or take corrected tasks and references into the one it has made.

    Returns sentences on what of the file is not used.

    Raises:
        DataError: rows are not valid; the message names file, row and field of each. Or no row has an answer.
        SettingsError: the folder holds other answers, or `reading.columns` names no field.
    """
    reading = reading or DataSettings()
    answers = _read_files(path, reading)
    info = AnswersInfo(
        kind="file",
        name=shown_path(Path(path.name)),
        path=shown_path(path),
        digest=hashlib.sha256(json.dumps(answers.responses).encode()).hexdigest(),
        data_files=(shown_path(path),),
        data_fingerprint=data_fingerprint(answers.examples),
        rows=len(answers.examples),
        versions=package_versions(),
        created=now(),
    )
    is_corrected = is_correction(folder, info)
    if not is_corrected:
        claim_folder(folder, info)
    if is_corrected or not (folder / RESPONSES_FILE).exists():
        rows = zip(row_ids(answers.examples), answers.examples, answers.responses, strict=True)
        records = (with_response(make_record(row_id, example), response) for row_id, example, response in rows)
        write_atomic(folder / RESPONSES_FILE, "".join(record.model_dump_json() + "\n" for record in records))
    if is_corrected:
        write_atomic(folder / RUN_FILE, info.model_dump_json(indent=2) + "\n")
    return _notes(shown_path(path), answers)


def _read_files(path: Path, reading: DataSettings) -> _Answers:
    mapping = parse_columns(reading.columns)
    own_name = mapping.pop("model_response", None)
    columns, answers = Columns(mapping), _Answers()
    for file in find_files([path]).paths:
        for row in iterate_rows(file, columns, longest_text=LONGEST_TEXT):
            problems = [row.problem] if isinstance(row, BadRow) else _read_row(row, file, columns, own_name, answers)
            answers.n_bad += bool(problems)
            answers.problems += problems
    if answers.problems and not (reading.skip_bad and answers.examples):
        raise DataError(answers.problems, advice="" if reading.skip_bad else SKIP_ADVICE)
    name = shown_path(path)
    if not answers.examples:
        raise DataError(f"{name}: expected at least one answer, got an empty list.")
    if answers.n_without_field == len(answers.examples):
        raise DataError(
            f'{name}: expected answers in the field "{own_name or RESPONSE_FIELDS[0]}", got no such field in any row. '
            f"Name the field: --columns model_response=FIELD. To let a model answer: evaluation respond MODEL --data "
            f"{name} --run DIR"
        )
    return answers


def _read_row(row: Row, file: Path, columns: Columns, own_name: str | None, answers: _Answers) -> list[str]:
    """Add a row to the answers. Returns what is wrong with it, one sentence each."""
    source = shown_name(file)
    fields, response = row.value, None
    is_answered = isinstance(fields, dict)
    if isinstance(fields, dict):
        name, fields = _take_answer(fields, own_name)
        is_answered = name is not None
        if name is not None and row.value[name] is not None:
            try:
                response = _TEXT.validate_python(row.value[name])
            except ValidationError as error:
                return [row_fault(Path(source), row.number, {**error.errors()[0], "loc": (name,)})]
        if long := [key for key in fields if isinstance(fields[key], str) and len(fields[key]) >= CUT_LENGTH]:
            return [f'{source}, row {row.number}: "{long[0]}" must have less than {CUT_LENGTH} characters, got more.']
    try:
        parsed = examples_of(Row(row.number, fields), source, columns, needs_output=False)
    except DataError as error:
        return list(error.problems)
    except UnusableRow:
        answers.n_unusable += 1
        return []
    answers.n_without_field += not is_answered
    answers.examples.append(parsed.examples[-1])
    answers.responses.append(response)
    answers.unused.update(name[:40] for name in parsed.unused)
    return []


def _take_answer(fields: Mapping[str, Any], own_name: str | None) -> tuple[str | None, dict[str, Any]]:
    """Return the name of the field with the answer, if there is one, and the other fields."""
    names = RESPONSE_FIELDS if own_name is None else (own_name,)
    name = next((name for name in names if name in fields), None)
    if name is None and own_name is None and isinstance(fields.get("generator"), str):
        name = "output"
    return name, {key: value for key, value in fields.items() if key != name}


def _notes(name: str, answers: _Answers) -> tuple[str, ...]:
    notes = []
    if answers.n_bad:
        notes.append(f"{name}: left out {counted(answers.n_bad)} that cannot be used.")
    if answers.n_unusable:
        notes.append(f"{name}: left out {counted(answers.n_unusable)} with more than text.")
    if answers.unused:
        named = ", ".join(f'"{field}" ({counted(n)})' for field, n in answers.unused.most_common(10))
        notes.append(f"{name}: fields that are not used: {named}.")
    return tuple(notes)
