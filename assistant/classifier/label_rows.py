"""Rows of a file with a label and its probability added, read and written as they come.

Cells that the file has stay as they are. Does not open files for writing and does not print.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import TypeAdapter, ValidationError

from assistant.classifier.inference import BATCH_SIZE, SORTED_BATCHES, Prediction, classify
from assistant.classifier.label_files import TEXT_FIELDS, field_columns
from assistant.classifier.model_folder import Classifier
from assistant.dataset.columns import Columns, is_empty, parse_columns
from assistant.dataset.formats import iterate_rows
from assistant.dataset.rows import BadRow, Layout, NumberText, Row, Text, json_type_name, key_list
from assistant.dataset.sources import shown_name
from assistant.errors import DataError

LABEL_COLUMN, PROBABILITY_COLUMN = "predicted_label", "probability"
MAX_PROBLEMS = 1000
_CHUNK = BATCH_SIZE * SORTED_BATCHES
_TEXT: TypeAdapter[str] = TypeAdapter(Text)
OutputKind: TypeAlias = Literal["table", "list", "objects", "predictions"]
"""`predictions` is one JSON object a row with all probabilities, without the row's own columns."""


@dataclass(slots=True)
class Counts:
    """What was done with the rows of a file so far."""

    labels: Counter[str] = field(default_factory=Counter)
    n_cut: int = 0
    """Texts longer than the classifier reads."""
    n_empty: int = 0
    """Rows without a text, which stay without a label."""
    problems: list[str] = field(default_factory=list)
    """Sentences about rows that cannot be read, at most `MAX_PROBLEMS`."""
    n_bad: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def n(self) -> int:
        """Rows with a label."""
        return self.labels.total()


def label_file(
    classifier: Classifier,
    path: Path,
    *,
    columns: Sequence[str] = (),
    skip_bad: bool = False,
    kind: OutputKind | None = None,
    delimiter: str | None = None,
    counts: Counts,
) -> Iterator[str]:
    """Yield the file's rows as text with two columns more: `predicted_label` and `probability`.

    They are written as the file spells them, or as `kind` and `delimiter` say. Some thousand rows at most are held. A
    row without a text stays without a label. With `skip_bad`, rows that cannot be read are left out. `counts` is filled
    while the rows are yielded.

    Raises:
        DataError: the file or a row cannot be read.
        SettingsError: `columns` names an unknown field.
    """
    reader = _Reader(path, Columns(parse_columns(columns, TEXT_FIELDS), TEXT_FIELDS), skip_bad, counts)
    rows = iter(reader)
    chunk = list(islice(rows, _CHUNK))
    if not chunk:
        raise DataError(counts.problems or f"{reader.name}: expected at least one row, got none. Add rows.")
    writer = _writer(reader, chunk, kind, delimiter, classifier.labels)
    yield writer.opening
    while chunk:
        predictions = classify(classifier, [text for _, text in chunk if text.strip()])
        for row, text in chunk:
            prediction = next(predictions) if text.strip() else None
            if prediction is None:
                counts.n_empty += 1
            else:
                counts.labels[prediction.label] += 1
                counts.n_cut += prediction.was_cut
            yield writer.row(row, prediction)
        chunk = list(islice(rows, _CHUNK))
    yield writer.closing


class _Reader:
    """The sound rows of a file, each with its text."""

    def __init__(self, path: Path, columns: Columns, skip_bad: bool, counts: Counts) -> None:
        self.name, self.layout = shown_name(path), Layout("lines")
        self.counts = counts
        self._path, self._columns, self._skip_bad = path, columns, skip_bad

    def __iter__(self) -> Iterator[tuple[Row, str]]:
        for row in iterate_rows(self._path, self._columns, on_layout=self._set_layout):
            try:
                if isinstance(row, BadRow):
                    raise DataError(row.problem)
                text = self._text(row)
            except DataError as error:
                if not self._skip_bad:
                    raise DataError(
                        error.problems, advice="Correct the row, or leave it out with --skip-bad."
                    ) from error
                self.counts.n_bad += 1
                if len(self.counts.problems) < MAX_PROBLEMS:
                    self.counts.problems += error.problems
                continue
            yield row, text

    def _set_layout(self, layout: Layout) -> None:
        self.layout = layout

    def _text(self, row: Row) -> str:
        where = f"{self.name}, row {row.number}"
        if isinstance(row.value, str):
            row = Row(row.number, {"text": row.value})
        if not isinstance(row.value, dict):
            raise DataError(f'{where}: expected an object with "text", got {json_type_name(row.value)}.')
        present = {field: names for field, names in self._columns.layout(row.value) if field == "text"}
        if not present:
            if self.layout.kind == "table" and len(row.value) < len(self.layout.header):
                return ""  # a short line of a table
            raise DataError(
                f'{where}: expected a column "text", got {key_list(row.value) or "none"}. '
                f"Name the column: --columns text=COLUMN."
            )
        value = row.value[field_columns(row.value, self._columns, where, only="text")["text"]]
        if is_empty(value):
            return ""
        try:
            return _TEXT.validate_python(value)
        except ValidationError as error:
            raise DataError(f"{where}: expected a text, got {json_type_name(value)}.") from error


# --- output -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Writer:
    """Turns rows and predictions into text."""

    row: Callable[[Row, Prediction | None], str]
    opening: str = ""
    closing: str = ""


def _writer(
    reader: _Reader,
    first: list[tuple[Row, str]],
    kind: OutputKind | None,
    delimiter: str | None,
    labels: Sequence[str],
) -> _Writer:
    if kind == "predictions":
        return _Writer(lambda row, found: json.dumps({"row": row.number, **prediction_as_json(found, labels)}) + "\n")
    layout = reader.layout
    names = list(dict.fromkeys(layout.header or [name for row, _ in first for name in _cells(row)]))
    added = tuple(_free_name(name, names) for name in (LABEL_COLUMN, PROBABILITY_COLUMN))
    for name, wanted in zip(added, (LABEL_COLUMN, PROBABILITY_COLUMN), strict=True):
        if name != wanted:
            reader.counts.notes.append(f'The rows have a column "{wanted}" already, so the new one is "{name}".')
    own: OutputKind = layout.kind if layout.kind in {"list", "objects"} else "table"
    kind = kind or own
    if kind == "table":
        table = _Table(reader.name, names, delimiter or layout.delimiter or ",")
        return _Writer(table.row, opening=table.line([*names, *added]))
    objects = _Objects(reader.name, added, is_list=kind == "list")
    return _Writer(objects.row, opening="[" if kind == "list" else "", closing="\n]\n" if kind == "list" else "")


def _free_name(name: str, taken: Sequence[str]) -> str:
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    return found


def _cells(row: Row) -> dict[str, Any]:
    return row.value if isinstance(row.value, dict) else {"text": row.value}


class _Table:
    """A row as a line of a table."""

    def __init__(self, where: str, names: Sequence[str], delimiter: str) -> None:
        self._where, self._names, self._delimiter = where, names, delimiter

    def row(self, row: Row, prediction: Prediction | None) -> str:
        cells = _cells(row)
        unknown = [name for name in cells if name not in self._names]
        if unknown:
            raise DataError(
                f"{self._where}, row {row.number}: expected the columns of earlier rows, got {unknown[0]!r} too. "
                f"Write JSONL, which needs no columns: --output FILE.jsonl."
            )
        own = [_cell(cells.get(name)) for name in self._names]
        return self.line([*own, *((prediction.label, _probability(prediction)) if prediction else ("", ""))])

    def line(self, cells: Sequence[object]) -> str:
        line = io.StringIO()
        csv.writer(line, delimiter=self._delimiter, lineterminator="\n").writerow(cells)
        return line.getvalue()


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else _json(value)


class _Objects:
    """A row as a JSON object, one a line."""

    def __init__(self, where: str, added: Sequence[str], *, is_list: bool) -> None:
        self._where, self._added, self._is_list, self._is_first = where, added, is_list, True

    def row(self, row: Row, prediction: Prediction | None) -> str:
        cells = _cells(row)
        if clash := [name for name in self._added if name in cells]:
            where = f"{self._where}, row {row.number}"
            raise DataError(f"{where}: expected no {clash[0]!r}, which earlier rows lack. Rename it in all rows.")
        label, probability = self._added
        value = cells | {label: None, probability: None}
        if prediction is not None:
            value |= {label: prediction.label, probability: NumberText(_probability(prediction))}
        text = _json(value)
        if not self._is_list:
            return text + "\n"
        before, self._is_first = "\n  " if self._is_first else ",\n  ", False
        return before + text


def prediction_as_json(prediction: Prediction | None, labels: Sequence[str]) -> dict[str, Any]:
    """Return a prediction as JSON: label, its probability, and those of all labels. None for a row without a text."""
    if prediction is None:
        return {"label": None, "probability": None, "probabilities": None}
    return {
        "label": prediction.label,
        "probability": prediction.probabilities[prediction.index],
        "probabilities": dict(zip(labels, prediction.probabilities, strict=True)),
        "n_tokens": prediction.n_tokens,
        "was_cut": prediction.was_cut,
    }


def _probability(prediction: Prediction) -> str:
    return f"{prediction.probabilities[prediction.index]:.6f}"


def _json(value: Any) -> str:
    """Return a value as JSON. Numbers keep their spelling, and halves of surrogate pairs their escape."""
    if isinstance(value, NumberText):
        return str(value)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_json(str(key))}: {_json(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_json, value))}]"
    if isinstance(value, bytes):
        return json.dumps(value.hex())
    is_encodable = not isinstance(value, str) or not any("\ud800" <= character <= "\udfff" for character in value)
    return json.dumps(value, ensure_ascii=not is_encodable)
