"""Reads a person's own rubric and own prompt. An error names the file, the line and the place.

A rubric file has a sentence for each point of the scale, and any number of rules:

    # A comment
    0: The response is not in French.
    ...
    5: The response is fully right and in French.
    - Accents must be right.

A prompt file has text with named places in braces, such as `{response}`. A line `---` ends the system message. The text
before it is the same for every row, so a server reads it only once.
"""

from __future__ import annotations

import re
from pathlib import Path

from assistant.errors import DataError
from evaluation.judging.rubric import RULES, TAG, Place, Rubric, Template
from evaluation.judging.verdict import MAX_SCORE

CONSTANT_PLACES = ("form", "rules", "scale")
"""Places that are the same for every row. They may be in the system message."""
ROW_PLACES = ("conversation", "input", "instruction", "reference", "response")
PLACES = tuple(sorted((*CONSTANT_PLACES, *ROW_PLACES)))
MAX_BYTES = 100_000
SYSTEM_END = "---"

_LEVEL = re.compile(r"([0-9]+)\s*:\s*(.*)")
_PLACE = re.compile(r"\{([A-Za-z_]+)\}")


def read_rubric(path: Path) -> Rubric:
    """Read a rubric file. Without rules of its own, it gets the product's.

    Raises:
        DataError: the file cannot be read, a line has another form, or a point of the scale is missing.
    """
    scale: dict[int, str] = {}
    rules: list[str] = []
    problems: list[str] = []
    for number, raw in enumerate(_read(path).splitlines(), start=1):
        line = raw.strip()
        where = f"{path}, line {number}"
        level = _LEVEL.fullmatch(line)
        if not line or line.startswith("#"):
            continue
        if line.startswith("-") and line.lstrip("- "):
            rules.append(line.lstrip("- "))
        elif not level or not level[2]:
            problems.append(f'{where}: expected "0: a sentence" or "- a rule", got {line[:80]!r}.')
        elif len(level[1]) > 1 or int(level[1]) > MAX_SCORE:
            problems.append(f"{where}: expected a point from 0 to {MAX_SCORE}, got {level[1][:20]}.")
        elif int(level[1]) in scale:
            problems.append(f"{where}: expected one sentence for {level[1]}, got a second one.")
        else:
            scale[int(level[1])] = level[2]
        if TAG in line.lower():
            problems.append(f"{where}, column {raw.lower().index(TAG) + 1}: expected no {TAG!r}, the mark of the tags.")
    missing = [str(point) for point in range(MAX_SCORE + 1) if point not in scale]
    if missing and not problems:
        problems.append(f"{path}: expected a sentence for each point from 0 to 5, got none for {', '.join(missing)}.")
    if problems:
        raise DataError(problems, advice='Write each point on a line of its own, like "0: The response is wrong."')
    return Rubric(scale=tuple(scale[point] for point in range(MAX_SCORE + 1)), rules=tuple(rules) or RULES)


def read_template(path: Path) -> Template:
    """Read a prompt file.

    Raises:
        DataError: the file cannot be read, a place is unknown or not allowed where it is, the instruction or the
            response is missing, or the text ends with a place.
    """
    lines = _read(path).splitlines(keepends=True)
    ends = [number for number, line in enumerate(lines) if line.strip() == SYSTEM_END]
    problems = [
        f"{path}, line {number + 1}: expected one line {SYSTEM_END!r}, got a second one." for number in ends[1:]
    ]
    split = ends[0] if ends else None
    pieces: tuple[list[str | Place], list[str | Place]] = ([], [])
    for number, line in enumerate(lines):
        if number not in ends:
            is_system = split is not None and number < split
            problems += _read_line(f"{path}, line {number + 1}", line, pieces[0 if is_system else 1], is_system)
    system, user = pieces
    names = {piece.name for piece in user if isinstance(piece, Place)}
    problems += [
        f"{path}: expected the place {{{name}}}, got none." for name in ("instruction", "response") if name not in names
    ]
    last = max(
        (at for at, piece in enumerate(user) if isinstance(piece, Place) and piece.name in ROW_PLACES), default=0
    )
    if not "".join(piece for piece in user[last + 1 :] if isinstance(piece, str)).strip() and not problems:
        problems.append(
            f"{path}, line {len(lines)}: expected a closing sentence after the last place, got none. "
            f"Without it, a response has the last word."
        )
    if problems:
        raise DataError(problems, advice=f"The places are {', '.join(f'{{{name}}}' for name in PLACES)}.")
    return Template(system=tuple(system), user=tuple(user))


def _read_line(where: str, line: str, pieces: list[str | Place], is_system: bool) -> list[str]:
    """Append a line's texts and places to the pieces. Returns a sentence for each fault."""
    problems = []
    end = 0
    for match in _PLACE.finditer(line):
        name, column = match[1], match.start() + 1
        if name not in PLACES:
            problems.append(f"{where}, column {column}: expected a known place, got {match[0][:40]}.")
        elif is_system and name in ROW_PLACES:
            problems.append(
                f"{where}, column {column}: expected {match[0]} after the line {SYSTEM_END!r}, got it before. "
                f"A text of a row must not be in the system message."
            )
        pieces += [line[end : match.start()], Place(name)]
        end = match.end()
    pieces.append(line[end:])
    if TAG in line.lower():
        problems.append(f"{where}, column {line.lower().index(TAG) + 1}: expected no {TAG!r}, the mark of the tags.")
    return problems


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise DataError(f"{path}: expected at most {MAX_BYTES} bytes of text, got more. Shorten it.")
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: expected UTF-8, got other bytes. Save the file as UTF-8.") from error
    except OSError as error:
        raise DataError(f"{path}: expected a text file, got: {error.strerror or error}. Check the path.") from error
