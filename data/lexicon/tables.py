"""Reading the tables: tab-separated, the first line names the columns. Pieces of text are parted by `---`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent

Row = dict[str, str]


@cache
def table(name: str) -> tuple[Row, ...]:
    """All rows of `name`.tsv.

    Raises:
        ValueError: a line has too few or too many cells, or an empty one; the sentence says which.
    """
    path = HERE / f"{name}.tsv"
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
    """The pieces of text in `name`.txt."""
    text = (HERE / f"{name}.txt").read_text(encoding="utf-8")
    return tuple(piece.strip() for piece in text.split("\n---\n") if piece.strip("-\n "))


@cache
def words(kind: str) -> tuple[str, ...]:
    """All words of one kind in words.tsv."""
    return tuple(row["word"] for row in table("words") if row["kind"] == kind)


@cache
def members() -> dict[str, tuple[Row, ...]]:
    """The rows of classes.tsv by their class."""
    found: dict[str, list[Row]] = {}
    for row in table("classes"):
        found.setdefault(row["class"], []).append(row)
    return {name: tuple(rows) for name, rows in found.items()}


@cache
def clear_others(name: str) -> tuple[str, ...]:
    """The classes that no member of this one could be taken for."""
    pairs = {(row["class"], row["other"]) for row in table("confusable")}
    return tuple(
        other for other in members() if other != name and (name, other) not in pairs and (other, name) not in pairs
    )


def split_cell(cell: str) -> Sequence[str]:
    """A cell that holds several values."""
    return cell.split("|")
