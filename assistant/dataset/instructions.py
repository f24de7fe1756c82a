"""Reads, validates and writes instruction files. Does not know about tokens or templates.

`formats` says which files are read, `forms` which forms their rows may have. The chosen answer of a preference becomes
`output`, so that all code for examples also works for preferences.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from assistant.dataset.columns import Columns, parse_columns
from assistant.dataset.conversations import UnusableRow
from assistant.dataset.examples import Example, Exchange
from assistant.dataset.formats import iterate_rows
from assistant.dataset.forms import ROW_FORMS, ParsedRow, examples_of
from assistant.dataset.rows import BadRow, Row, key_list
from assistant.dataset.sources import find_files, shown_name
from assistant.errors import DataError

__all__ = ["Dataset", "Example", "Exchange", "dump_rows", "read_dataset", "read_examples", "read_with", "rows_of"]

MAX_PROBLEMS = 10_000
"""Faults that are kept of a set of files. Further ones are counted."""
_MAX_NAMES, _MAX_NUMBERS = 10, 5
RowParser: TypeAlias = Callable[[Row, str, Columns], ParsedRow]
"""Turns a row of a source into examples. Raises DataError, or UnusableRow for a sound row of another kind."""
SKIP_ADVICE = "Correct these rows, or leave them out with --skip-bad."


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """The examples of some files, and what of the files is not among them."""

    examples: list[Example]
    notes: tuple[str, ...] = ()
    """One sentence for every kind of text that is not used: fields, rows with tool calls, files, bad rows."""
    n_skipped: int = 0
    """Bad rows that were left out."""
    others: Mapping[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    """With `keep_others`: the unused fields of a row, by its source and number."""


def read_examples(*paths: str | Path) -> list[Example]:
    """Read and validate instruction files, and folders of them.

    Raises:
        DataError: a file is unreadable, or rows are invalid. `problems` names every invalid row of all files, by file,
            row number and field.
        PrerequisiteError: a package that reads a format is not installed.
    """
    return read_with(examples_of, paths, Columns()).examples


def read_dataset(
    *paths: str | Path, columns: Sequence[str] = (), skip_bad: bool = False, keep_others: bool = False
) -> Dataset:
    """Read instruction files as `read_examples` does, and report what is not used.

    `columns` holds `FIELD=COLUMN` words. With `skip_bad`, rows that are invalid are left out and counted. With
    `keep_others`, fields that have no meaning here are returned, too.

    Raises:
        DataError: see `read_examples`; with `skip_bad`, only if a file is unreadable or no row is left.
        PrerequisiteError: a package that reads a format is not installed.
        SettingsError: `columns` names an unknown field, or a column that no row has.
    """
    mapping = Columns(parse_columns(columns))
    return read_with(examples_of, paths, mapping, skip_bad=skip_bad, keep_others=keep_others, advice=SKIP_ADVICE)


def read_with(
    parse: RowParser,
    paths: Sequence[str | Path],
    columns: Columns,
    *,
    skip_bad: bool = False,
    keep_others: bool = False,
    advice: str = "",
    forms: str = ROW_FORMS,
) -> Dataset:
    """Read files of rows that `parse` turns into examples. `forms` names the forms of a row, `advice` ends an error.

    Raises: see `read_dataset`.
    """
    files = find_files([Path(path) for path in paths])
    notes = list(files.notes)
    examples: list[Example] = []
    problems: list[str] = []
    others: dict[tuple[str, int], dict[str, Any]] = {}
    seen: set[str] = set()
    n_bad = n_problems = n_unusable = 0
    for path in files.paths:
        reader = _FileReader(parse, columns, problems, others if keep_others else None)
        reader.read(path, examples)
        if skip_bad and reader.n_bad:
            notes.append(f"{reader.source}: left out {reader.bad_rows()}.")
        notes += reader.notes()
        n_bad, n_unusable = n_bad + reader.n_bad, n_unusable + sum(reader.unusable.values())
        n_problems += reader.n_problems
        seen |= reader.seen
    names = ", ".join(shown_name(Path(path)) for path in paths)
    missing = [name for name in columns.mapping.values() if name not in seen]
    if missing and (seen or not n_bad):
        raise DataError(
            f"--columns: expected names of columns in {names}, got {key_list(missing)}. "
            f"The files have {key_list(sorted(seen)) or 'none'}."
        )
    if n_problems and not (skip_bad and examples):
        hidden = n_problems - len(problems)
        more = [f"{names}: {hidden} further faults."] if hidden else []
        raise DataError([*problems, *more], advice="" if skip_bad else advice)
    if not examples:
        if n_unusable:
            raise DataError([f"{names}: expected at least one row of text, got none.", *notes])
        raise DataError(f"{names}: expected at least one row, got an empty list. Add rows with {forms}.")
    return Dataset(examples=examples, notes=tuple(notes), n_skipped=n_bad, others=others)


class _FileReader:
    """Reads one file into a list of examples, and counts what does not get there."""

    def __init__(
        self,
        parse: RowParser,
        columns: Columns,
        problems: list[str],
        others: dict[tuple[str, int], dict[str, Any]] | None,
    ) -> None:
        self._parse, self._columns, self._problems, self._others = parse, columns, problems, others
        self.n_problems = self.n_bad = 0
        self.seen: set[str] = set()
        """Names of fields that rows have."""
        self.unused: Counter[str] = Counter()
        self.unusable: Counter[str] = Counter()
        self.source = ""
        self._numbers: list[int] = []

    def read(self, path: Path, examples: list[Example]) -> None:
        """Add the examples of the file to the list."""
        self.source = shown_name(path)
        for row in iterate_rows(path, self._columns):
            if isinstance(row, BadRow):
                self._add_bad(row.number, (row.problem,))
                continue
            if isinstance(row.value, dict) and len(self.seen) < 1000:
                self.seen.update(row.value)
            try:
                parsed = self._parse(row, self.source, self._columns)
            except DataError as error:
                self._add_bad(row.number, error.problems)
            except UnusableRow as error:
                self.unusable[str(error)] += 1
            else:
                examples += parsed.examples
                if parsed.unused:
                    self.unused.update(parsed.unused.keys() if len(self.unused) < 1000 else ())
                    if self._others is not None:
                        self._others[self.source, row.number] = parsed.unused

    def _add_bad(self, number: int, problems: Sequence[str]) -> None:
        self.n_bad += 1
        self.n_problems += len(problems)
        self._problems += problems[: max(0, MAX_PROBLEMS - len(self._problems))]
        if len(self._numbers) < _MAX_NUMBERS:
            self._numbers.append(number)

    def bad_rows(self) -> str:
        """Return the bad rows in words."""
        numbers = ", ".join(map(str, self._numbers))
        more = ", ..." if self.n_bad > len(self._numbers) else ""
        return f"{_count(self.n_bad)} that cannot be used ({'row' if self.n_bad == 1 else 'rows'} {numbers}{more})"

    def notes(self) -> list[str]:
        """Return sentences on rows that hold more than text, and on fields that are not used."""
        notes = [f"{self.source}: left out {_count(n)} with {what}." for what, n in self.unusable.items()]
        if self.unused:
            named = [f'"{name[:40]}" ({_count(n)})' for name, n in self.unused.most_common(_MAX_NAMES)]
            more = f" and {len(self.unused) - _MAX_NAMES} more" if len(self.unused) > _MAX_NAMES else ""
            what = "that are not used" if self._others is None else "without a meaning here"
            notes.append(f"{self.source}: fields {what}: {', '.join(named)}{more}.")
        return notes


def _count(number: int) -> str:
    return f"{number} row" if number == 1 else f"{number} rows"


# --- writing ------------------------------------------------------------------------------------------------------


def rows_of(examples: Sequence[Example]) -> list[Example]:
    """Return the examples that hold the whole conversation of their row; others are a part of one of them."""
    covered = {(e.source, e.row, e.history[:length]) for e in examples for length in range(1, len(e.history) + 1)}
    return [e for e in examples if (e.source, e.row, e.turns) not in covered]


def dump_rows(examples: Sequence[Example]) -> str:
    """Return the examples as a JSON list that `read_examples` can read.

    A conversation becomes one row. Its longest example holds all exchanges, so its other examples are omitted.
    """
    return json.dumps([e.as_row() for e in rows_of(examples)], ensure_ascii=False, indent=2) + "\n"
