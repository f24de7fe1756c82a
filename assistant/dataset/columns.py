"""Names of fields: the usual ones, those that a person maps, and the field that each stands for.

Does not know what a row of these fields means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from assistant.errors import SettingsError

ALIASES: dict[str, tuple[str, ...]] = {
    "instruction": ("instruction", "prompt", "question", "query"),
    "input": ("input", "context"),
    "output": ("output", "completion", "answer", "response"),
}
"""Usual names of a field, the first that a row has counts."""
OTHERS = (
    "chosen", "rejected", "text", "messages", "conversations", "system", "history", "tools", "category", "group",
    "accept", "check", "rubric", "held_out",
)  # fmt: skip
KNOWN_NAMES = frozenset(name for names in ALIASES.values() for name in names) | frozenset(OTHERS)
_MAX_LAYOUTS = 1000
"""Sets of names that are remembered, so that rows with the same names are fast to read."""


class FieldNames(NamedTuple):
    """The fields that rows of some kind may have."""

    usual: Mapping[str, tuple[str, ...]]
    """The usual names of every field."""
    example: str
    """The needed fields for messages, as FIELD=COLUMN, separated by a comma."""
    without_header: tuple[str, ...] = ()
    """Fields of a tab-separated line in a file that names no columns; empty if such a file cannot be read."""
    line: str = ""
    """The field that every line of any other text is; empty if such a text cannot be read."""


INSTRUCTION_FIELDS = FieldNames(
    usual=ALIASES | {name: (name,) for name in OTHERS}, example="instruction=question,output=answer"
)


class Fields(NamedTuple):
    """A row with the names that `forms` knows."""

    values: dict[str, Any]
    """By field."""
    names: dict[str, str]
    """The row's own name of every field in `values`."""
    others: dict[str, Any]
    """Values of names that stand for no field."""


class Columns:
    """Turns the names in rows into fields. `mapping` gives the names of some fields; the others have their usual ones.

    Raises:
        SettingsError: `mapping` names a field that does not exist, or one column twice.
    """

    def __init__(self, mapping: Mapping[str, str] | None = None, names: FieldNames = INSTRUCTION_FIELDS) -> None:
        self.mapping, self.names = dict(mapping or {}), names
        unknown = [field for field in self.mapping if field not in names.usual]
        if unknown:
            raise SettingsError(
                f"--columns: expected fields of {', '.join(names.usual)}, got {', '.join(unknown)}. "
                f"Write FIELD=COLUMN, for instance --columns {names.example}."
            )
        twice = sorted({name for name in self.mapping.values() if list(self.mapping.values()).count(name) > 1})
        if twice:
            raise SettingsError(f"--columns: expected a column for one field, got {twice[0]!r} for two. Leave one out.")
        taken = set(self.mapping.values())
        self._candidates: dict[str, tuple[str, ...]] = {
            field: (self.mapping[field],)
            if field in self.mapping
            else tuple(name for name in usual if name not in taken)
            for field, usual in names.usual.items()
        }
        self.known = frozenset(name for names in self._candidates.values() for name in names)
        self._layouts: dict[tuple[str, ...], list[tuple[str, list[str]]]] = {}

    def fields_of(self, row: Mapping[str, Any]) -> Fields:
        """Return the row's fields. Names differ from the usual ones at most in case and white space."""
        values, names = {}, {}
        for field, present in self.layout(row):
            name = present[0]
            if len(present) > 1:
                name = next((name for name in present if not is_empty(row[name])), name)
            values[field], names[field] = row[name], name
        if len(names) == len(row):
            return Fields(values, names, {})
        used = set(names.values())
        return Fields(values, names, {name: value for name, value in row.items() if name not in used})

    def layout(self, row: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
        """Return every field that the row has, with the row's own names for it, the preferred one first."""
        keys = tuple(row)
        layout = self._layouts.get(keys)
        if layout is None:
            own = {self.usual_name(name, row): name for name in row}
            present = {field: [own[name] for name in names if name in own] for field, names in self._candidates.items()}
            layout = [(field, names) for field, names in present.items() if names]
            if len(self._layouts) < _MAX_LAYOUTS:
                self._layouts[keys] = layout
        return layout

    def usual_name(self, name: str, row: Iterable[str] = ()) -> str:
        """Return the known name that equals this one but for case and white space, or the name itself."""
        if name in self.known:
            return name
        folded = " ".join(name.split()).casefold()
        return folded if folded in self.known and folded not in row else name


def is_empty(value: object) -> bool:
    """Whether a field holds nothing: null, white space, or an empty list or object."""
    if isinstance(value, str):
        return not value.strip() or value.strip() in {"[]", "{}"}
    return value is None or value == [] or value == {}


def parse_columns(words: Sequence[str], names: FieldNames = INSTRUCTION_FIELDS) -> dict[str, str]:
    """Return the mapping that `FIELD=COLUMN` words describe.

    Raises:
        SettingsError: a word has no `=`, or a field is named twice.
    """
    mapping: dict[str, str] = {}
    for word in words:
        field, equals, column = (part.strip() for part in word.partition("="))
        if not (field and equals and column) or field in mapping:
            what = "every field once" if field in mapping else "FIELD=COLUMN"
            raise SettingsError(
                f"--columns: expected {what}, got {word!r}. Write for instance --columns {names.example}."
            )
        mapping[field] = column
    return mapping
