"""Rows of JSON text: a list, objects one on a line, or objects over several lines.

The text is parsed row by row and dropped after each, so that a file is never held whole.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from assistant.dataset.rows import BadRow, NumberText, Row, json_type_name
from assistant.dataset.sources import lines_of
from assistant.errors import DataError

_SPACE = re.compile(r"[ \t\n\r]*")
_TRAILING_COMMA = re.compile(r",\s*([]}])")
_NEAR_END = 16
"""An error this close to the end of the text that was read may only mean that the text goes on."""
TOO_DEEP = "JSON that is nested too deeply"


class _Parser:
    """Parses one JSON value. Numbers keep their spelling, NaN is null, and repeated keys are remembered."""

    def __init__(self) -> None:
        self.repeated: dict[str, None] = {}
        """Keys that occur twice in one object of the value parsed last."""
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object,
            parse_float=NumberText,
            parse_int=NumberText,
            parse_constant=lambda name: None if name == "NaN" else NumberText(name),
        )

    def parse(self, text: str, start: int) -> tuple[Any, int]:
        """Return the value that begins at `start`, and where it ends."""
        self.repeated = {}
        return self._decoder.raw_decode(text, start)

    def row(self, name: str, number: int, value: Any) -> Row | BadRow:
        """Return the value as a row, or as a bad row if one of its objects has a key twice."""
        if not self.repeated:
            return Row(number, value)
        keys = ", ".join(repr(key[:40]) for key in list(self.repeated)[:5])
        return BadRow(number, f"{name}, row {number}: expected every key once, got {keys} twice. Keep one of them.")

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    self.repeated[key] = None
                seen.add(key)
        return value


def _reason(error: json.JSONDecodeError) -> str:
    """Return what the parser found wrong, in words that follow "got"."""
    trailing = _TRAILING_COMMA.search(error.doc, max(0, error.pos - 1))
    if trailing is not None and trailing.start() <= error.pos:
        return f"a comma before {trailing[1]!r}"
    return f"{error.msg[0].lower()}{error.msg[1:]}"


class _Buffer:
    """Text that is parsed from its start. What was parsed is dropped."""

    def __init__(self, blocks: Iterator[str], name: str) -> None:
        self._blocks, self._name, self._parser = blocks, name, _Parser()
        self._text, self._place, self._ended = "", 0, False
        self._lines, self._column = 0, 0  # of the dropped text

    def peek(self) -> str:
        """Return the next character that is not white space, or "" at the end."""
        while True:
            match = _SPACE.match(self._text, self._place)
            assert match is not None
            self._place = match.end()
            if self._place < len(self._text):
                return self._text[self._place]
            if not self._read():
                return ""

    def take(self) -> None:
        """Step over the character that `peek` returned."""
        self._place += 1

    def row(self, number: int) -> Row | BadRow:
        """Parse the value that begins here. Raises DataError if it is not JSON."""
        return self._parser.row(self._name, number, self.value())

    def value(self) -> Any:
        """Parse the value that begins here. Raises DataError if it is not JSON."""
        while True:
            try:
                value, end = self._parser.parse(self._text, self._place)
            except RecursionError as error:
                raise DataError(f"{self._name}: expected a list of flat rows, got {TOO_DEEP}.") from error
            except json.JSONDecodeError as error:
                may_go_on = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - _NEAR_END
                if may_go_on and self._read():
                    continue
                raise DataError(self._fault(error)) from error
            if end == len(self._text) and self._text[end - 1] not in '}]"' and self._read():
                continue  # a number may go on
            self._place = end
            return value

    def fault(self, expected: str, got: str, advice: str, *, at: str = "") -> DataError:
        """Return an error at the current place, or at the last `at` before it."""
        place = max(self._text.rfind(at, 0, self._place), 0) if at else self._place
        return DataError(f"{self._where(place)}: expected {expected}, got {got}. {advice}")

    def _fault(self, error: json.JSONDecodeError) -> str:
        where = self._where(error.pos)
        if not self._text[error.pos :].strip():
            return f"{where}: expected JSON, got the end of the file. The file may be cut: copy it again."
        return f"{where}: expected JSON, got {_reason(error)}. Correct the file there."

    def _where(self, place: int) -> str:
        line = self._lines + self._text.count("\n", 0, place) + 1
        newline = self._text.rfind("\n", 0, place)
        column = place - newline if newline >= 0 else self._column + place + 1
        return f"{self._name}, line {line}, column {column}"

    def _read(self) -> bool:
        """Drop what was parsed and read at least as much as is held. Returns whether there was more."""
        dropped, held = self._text[: self._place], self._text[self._place :]
        newline = dropped.rfind("\n")
        self._lines += dropped.count("\n")
        self._column = len(dropped) - newline - 1 if newline >= 0 else self._column + len(dropped)
        parts, n_wanted, n_read = [held], max(1, len(held)), 0
        while n_read < n_wanted:
            block = next(self._blocks, None)
            if block is None:
                break
            parts.append(block)
            n_read += len(block)
        self._text, self._place = "".join(parts), 0
        return n_read > 0


def list_rows(blocks: Iterator[str], name: str) -> Iterator[Row | BadRow]:
    """Yield the rows of a JSON list, or of several lists one after the other.

    Raises:
        DataError: the text is not JSON, or not a list. The message names the line and the column.
    """
    buffer, number = _Buffer(blocks, name), 0
    if buffer.peek() != "[":
        raise DataError(f"{name}: expected a list of rows, got {json_type_name(buffer.value())}.")
    while buffer.peek() == "[":
        buffer.take()
        while (character := buffer.peek()) != "]":
            if character == "":
                raise buffer.fault("']' or a further row", "the end of the file", "The file may be cut: copy it again.")
            number += 1
            yield buffer.row(number)
            character = buffer.peek()
            if character == ",":
                buffer.take()
                if buffer.peek() == "]":
                    raise buffer.fault("no comma after the last row", "one", "Remove the comma.", at=",")
            elif character not in {"]", ""}:
                raise buffer.fault("',' or ']' after the row", repr(character), "Correct the file there.")
        buffer.take()
    if character := buffer.peek():
        raise buffer.fault("nothing after the list", repr(character), "Correct the file there.")


# --- objects ------------------------------------------------------------------------------------------------------


class _Held(NamedTuple):
    """Lines that were read and not parsed yet, and the number of the first."""

    number: int
    text: str


class _Lines:
    """Numbered lines, some of which may be put back."""

    def __init__(self, blocks: Iterable[str]) -> None:
        self._lines = enumerate(lines_of(blocks), start=1)
        self._returned: deque[_Held] = deque()

    def take(self) -> _Held | None:
        """Return the next line, or None at the end."""
        if self._returned:
            return self._returned.popleft()
        number, text = next(self._lines, (0, ""))
        return _Held(number, text) if number else None

    def put_back(self, number: int, text: str) -> None:
        """Return the text of one or more lines."""
        lines = re.findall(r"[^\n]*\n|[^\n]+", text)
        self._returned.extendleft(reversed([_Held(number + place, line) for place, line in enumerate(lines)]))

    def extend(self, held: _Held, n_lines: int) -> _Held | None:
        """Return `held` with up to `n_lines` further lines, or None at the end."""
        further = [line for line in (self.take() for _ in range(n_lines)) if line is not None]
        if not further:
            return None
        return _Held(held.number, held.text + "".join(line.text for line in further))


def object_rows(blocks: Iterator[str], name: str) -> Iterator[Row | BadRow]:
    """Yield the objects of a text: one on a line, or printed over several lines.

    A row's number is the line that it begins on; of two rows on a line, the second gets the next free number. A line
    that is not JSON becomes a bad row.
    """
    lines, parser, last = _Lines(blocks), _Parser(), 0
    while (held := lines.take()) is not None:
        if not held.text.strip():
            continue
        outcome = _parse_object(lines, parser, held, name)
        number = max(outcome.number, last + 1)
        if isinstance(outcome, BadRow):
            yield outcome
        else:
            yield parser.row(name, number, outcome.value)
        last = number


def _parse_object(lines: _Lines, parser: _Parser, held: _Held, name: str) -> Row | BadRow:
    """Parse the object that begins on the held line, and put back what comes after it."""
    number, n_more = held.number, 1
    while True:
        start = len(held.text) - len(held.text.lstrip(" \t\r\n"))
        try:
            value, end = parser.parse(held.text, start)
        except RecursionError:
            return _bad_object(lines, held, f"{name}, row {number}: expected a flat row, got {TOO_DEEP}.")
        except json.JSONDecodeError as error:
            is_cut = error.pos >= len(held.text.rstrip()) and not error.msg.startswith(("Unterminated", "Invalid"))
            extended = lines.extend(held, n_more) if is_cut else None
            if extended is not None:
                held, n_more = extended, n_more * 2
                continue
            where = f"line {number + error.lineno - 1}: " if error.lineno > 1 else ""
            reason = "the end of the file" if is_cut else _reason(error)
            return _bad_object(
                lines, held, f"{name}, row {number}: expected one JSON object on the line, got {where}{reason}."
            )
        rest = held.text[end:]
        follows = rest.lstrip(" \t\r")
        if follows.startswith(","):
            rest = follows[1:]
            follows = rest.lstrip(" \t\r")
        if follows and follows[0] not in "\n{[":
            return _bad_object(
                lines, held, f"{name}, row {number}: expected one JSON object on the line, got extra data."
            )
        lines.put_back(number + held.text.count("\n", 0, end), rest)
        return Row(number, value)


def _bad_object(lines: _Lines, held: _Held, problem: str) -> BadRow:
    """Return the first held line as a bad row, and put back the others from the next line that begins an object."""
    rest = held.text.partition("\n")[2]
    if rest:
        begin = re.search(r"^\{", rest, re.MULTILINE)
        skipped = rest[: begin.start()] if begin else rest
        lines.put_back(held.number + 1 + skipped.count("\n"), rest[len(skipped) :])
    return BadRow(held.number, problem)
