"""Reads labelled texts from the files that the instruction reader reads, and names what is not used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from assistant.dataset.columns import Columns, FieldNames, is_empty, parse_columns
from assistant.dataset.examples import Example
from assistant.dataset.forms import ParsedRow
from assistant.dataset.instructions import SKIP_ADVICE, Dataset, read_with
from assistant.dataset.labelled import sort_labels
from assistant.dataset.rows import FilledText, OptionalText, Row, json_type_name, key_list, row_fault
from assistant.dataset.sources import shown_name
from assistant.dataset.splits import normalise
from assistant.errors import DataError

LABELLED_FIELDS = FieldNames(
    usual={
        "text": ("text", "message", "sms", "review", "sentence", "v2"),
        "label": ("label", "class", "category", "target", "sentiment", "v1"),
        "group": ("group",),
    },
    example="text=message,label=class",
    without_header=("label", "text"),
)
"""`v1` and `v2` are the columns of the SMS collection as a CSV file."""
TEXT_FIELDS = LABELLED_FIELDS._replace(example="text=message", line="text")
"""For files whose texts are labelled by a model: labels that they have are other columns."""
ROW_FORM = '"text" and "label"'
HAM, NOT_SPAM, SPAM = "ham", "not spam", "spam"
MAX_LABELS = 1000
_MANY_LABELS = 20
"""With more labels than this, more than one row in two must repeat a label, or the column is not one of labels."""


def read_labelled(*paths: str | Path, columns: Sequence[str] = (), skip_bad: bool = False) -> Dataset:
    """Read labelled texts. `columns` holds `FIELD=COLUMN` words for `text` and `label`.

    White space around a label is dropped, labels that differ only in case become one, and `ham` becomes `not spam`
    where the other labels are `spam` and `not spam` only. A note counts the rows that a merged spelling had.

    Raises:
        DataError: a file is unreadable, a row has no text or no label, or there are not at least two labels.
        SettingsError: `columns` names an unknown field, or a column that no row has.
    """
    mapping = Columns(parse_columns(columns, LABELLED_FIELDS), LABELLED_FIELDS)
    dataset = read_with(labelled_row, paths, mapping, skip_bad=skip_bad, advice=SKIP_ADVICE, forms=ROW_FORM)
    names = ", ".join(shown_name(Path(path)) for path in paths)
    spelling, notes = _spellings(Counter(example.output for example in dataset.examples))
    examples = [replace(example, output=spelling[example.output]) for example in dataset.examples]
    _check_labels(labels_of(examples), len(examples), names)
    notes += _contradictions(examples)
    return Dataset(examples=examples, notes=(*dataset.notes, *notes), n_skipped=dataset.n_skipped)


def labels_of(examples: Iterable[Example]) -> tuple[str, ...]:
    """Return the labels of the examples in the order of a classifier's outputs."""
    return sort_labels(example.output for example in examples)


class _LabelledRow(BaseModel):
    model_config = ConfigDict(extra="ignore")
    text: FilledText
    label: FilledText
    group: OptionalText = ""


def labelled_row(row: Row, source: str, columns: Columns) -> ParsedRow:
    """Turn one row into one labelled example.

    Raises:
        DataError: the text or the label is missing, blank or no text, or two columns may hold it.
    """
    where = f"{source}, row {row.number}"
    if not isinstance(row.value, dict):
        raise DataError(f"{where}: expected an object with {ROW_FORM}, got {json_type_name(row.value)}.")
    own = field_columns(row.value, columns, where)
    values = {field: row.value[name] for field, name in own.items()}
    try:
        parsed = _LabelledRow.model_validate(values)
    except ValidationError as error:
        raise DataError([_fault(source, row, own, details) for details in error.errors()]) from error
    used = set(own.values())
    unused = {name: value for name, value in row.value.items() if name not in used and not is_empty(value)}
    example = Example(
        instruction=parsed.text,
        output=" ".join(parsed.label.split()),
        group=parsed.group or None,
        source=source,
        row=row.number,
    )
    return ParsedRow([example], unused)


def field_columns(row: dict[str, Any], columns: Columns, where: str, *, only: str = "") -> dict[str, str]:
    """Return the row's own name of every field that it has, or of the field `only`.

    Raises:
        DataError: two columns have usual names of a field, and neither has the field's own.
    """
    own = {}
    for field, names in columns.layout(row):
        if only and field != only:
            continue
        if len(names) > 1 and columns.usual_name(names[0], row) != field:
            raise DataError(
                f"{where}: expected one column of the {field}, got {key_list(names)}. "
                f"Choose one: --columns {field}={names[0]}."
            )
        own[field] = names[0]
    return own


def _fault(source: str, row: Row, own: dict[str, str], details: Any) -> str:
    field = str(details["loc"][0]) if details["loc"] else "row"
    detail = {**details, "loc": (own.get(field, field),)}
    if details["type"] == "missing":
        sentence = row_fault(Path(source), row.number, detail | {"input": row.value})
        return f"{sentence} If another column holds it: --columns {field}=COLUMN."
    if details["input"] is None:
        return f'{source}, row {row.number}: "{own.get(field, field)}" is empty.'
    return row_fault(Path(source), row.number, detail)


def _spellings(counts: Counter[str]) -> tuple[dict[str, str], list[str]]:
    """Return the label that every spelling stands for, and a note about every spelling that is replaced."""
    by_folded: dict[str, list[str]] = {}
    for label in sorted(counts, key=lambda label: (-counts[label], label)):
        by_folded.setdefault(label.casefold(), []).append(label)
    spelling = {label: labels[0] for labels in by_folded.values() for label in labels}
    if HAM in by_folded and by_folded.keys() <= {HAM, SPAM, NOT_SPAM}:
        plain = {name: by_folded[name][0] for name in by_folded if name != HAM}
        spelling |= dict.fromkeys(by_folded[HAM], plain.get(NOT_SPAM, NOT_SPAM))
        if SPAM in by_folded:  # "Ham" and "Spam" become the book's words
            spelling |= dict.fromkeys(by_folded[SPAM], SPAM)
    notes = []
    for label, meaning in spelling.items():
        if label != meaning:
            rows = "1 row" if counts[label] == 1 else f"{counts[label]} rows"
            notes.append(f"The label {label!r} ({rows}) is read as {meaning!r}.")
    return spelling, notes


def _contradictions(examples: Sequence[Example]) -> list[str]:
    """Return a note if equal texts have different labels."""
    first: dict[str, Example] = {}
    pairs = []
    for example in examples:
        other = first.setdefault(normalise(example.instruction), example)
        if other.output != example.output:
            pairs.append((other, example))
    if not pairs:
        return []
    one, two = pairs[0]
    rows = "1 row has" if len(pairs) == 1 else f"{len(pairs)} rows have"
    return [f"{rows} the text of an earlier row and another label: {one.where} and {two.where}, for instance."]


def _check_labels(labels: Sequence[str], n_rows: int, names: str) -> None:
    if len(labels) == 1:
        raise DataError(
            f"{names}: expected at least two labels, got one: {labels[0]!r} in all {n_rows} rows. "
            f"Add rows with another label."
        )
    if len(labels) > MAX_LABELS or (len(labels) > _MANY_LABELS and 2 * len(labels) > n_rows):
        raise DataError(
            f"{names}: expected a few labels, each in many rows, got {len(labels)} different labels in {n_rows} rows. "
            f"Name the column with the labels: --columns label=COLUMN."
        )
