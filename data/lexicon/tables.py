"""Reads the lexicon: tables and pieces of text.

A table is tab-separated, and its first line names the columns. `---` separates the pieces of text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent

Row = dict[str, str]


@cache
def table(name: str) -> tuple[Row, ...]:
    """Return all rows of the lexicon's `name`.tsv. Raises as `read_table`."""
    return read_table(HERE / f"{name}.tsv")


def read_table(path: Path) -> tuple[Row, ...]:
    """Return all rows of a table.

    Raises:
        ValueError: a line has too few or too many cells, or an empty cell. The message names the line.
    """
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    columns = header.split("\t")
    rows = []
    for number, line in enumerate(lines, start=2):
        cells = line.split("\t")
        if len(cells) != len(columns) or not all(cell.strip() for cell in cells):
            raise ValueError(f"{path}, line {number}: expected {len(columns)} filled cells, got {cells}.")
        rows.append(dict(zip(columns, cells, strict=True)))
    return tuple(rows)


@cache
def pieces(name: str) -> tuple[str, ...]:
    """Return the pieces of text in `name`.txt."""
    text = (HERE / f"{name}.txt").read_text(encoding="utf-8")
    return tuple(piece.strip() for piece in text.split("\n---\n") if piece.strip("-\n "))


@cache
def words(kind: str, name: str = "words") -> tuple[str, ...]:
    """Return all words of one kind in a table with the columns `kind` and `word`."""
    return tuple(row["word"] for row in table(name) if row["kind"] == kind)


@cache
def members() -> dict[str, tuple[Row, ...]]:
    """Return the rows of classes.tsv by their class."""
    members_of: dict[str, list[Row]] = {}
    for row in table("classes"):
        members_of.setdefault(row["class"], []).append(row)
    return {name: tuple(rows) for name, rows in members_of.items()}


@cache
def clear_others(name: str) -> tuple[str, ...]:
    """Return the classes that are clearly different: no member of class `name` belongs to them."""
    pairs = {(row["class"], row["other"]) for row in table("confusable")}
    return tuple(
        other for other in members() if other != name and (name, other) not in pairs and (other, name) not in pairs
    )


def split_cell(cell: str) -> Sequence[str]:
    """Return the values of a cell that holds several."""
    return cell.split("|")
