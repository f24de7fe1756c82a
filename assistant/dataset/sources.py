"""Files, folders and standard input as streams: unpacked, decoded, and named in messages.

Does not know about rows.
"""

from __future__ import annotations

import codecs
import gzip
import io
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias, cast

from assistant.errors import DataError
from assistant.files import shown_path

STANDARD_INPUT = Path("-")
BLOCK_BYTES = 1 << 18
"""Bytes that are read and decoded at once. Files are never held whole."""
JSON_LINE_SUFFIXES = frozenset({".jsonl", ".ndjson"})
SUFFIXES = frozenset({".json", ".csv", ".tsv", ".parquet"}) | JSON_LINE_SUFFIXES
PARQUET_MAGIC = b"PAR1"
_GZIP_MAGIC = b"\x1f\x8b"
_FOREIGN = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook. Unpack it, or save the sheet as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook. Save the sheet as CSV UTF-8",
    b"\x28\xb5\x2f\xfd": "a file packed with zstd. Unpack it first: unzstd",
    b"BZh": "a file packed with bzip2. Unpack it first: bunzip2",
    b"\xfd7zXZ": "a file packed with xz. Unpack it first: unxz",
    b"ARROW1": "an Arrow file. Save it as Parquet, CSV or JSONL",
    b"%PDF": "a PDF. Put its text into rows of a JSON or CSV file",
}

Stream: TypeAlias = "io.BufferedReader[Any]"
"""Bytes that can be looked at before they are read."""


class Files(NamedTuple):
    """The files that a person's paths stand for, and a sentence about each file that is not read."""

    paths: tuple[Path, ...]
    notes: tuple[str, ...]


def find_files(paths: Sequence[Path]) -> Files:
    """Replace every folder by the data files in it, in the order of their names.

    Raises:
        DataError: a folder holds no data file, or standard input is named twice.
    """
    found: list[Path] = []
    notes: list[str] = []
    for path in paths:
        if path == STANDARD_INPUT or not path.is_dir():
            found.append(path)
            continue
        files = sorted(entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith("."))
        data = [file for file in files if data_suffix(file) in SUFFIXES]
        if not data:
            endings = ", ".join(sorted(SUFFIXES))
            raise DataError(f"{path}: expected data files ({endings}, each also .gz), got none. Name the files.")
        found += data
        others = [shown_path(Path(file.name)) for file in files if file not in data]
        if others:
            more = f" and {len(others) - 5} more" if len(others) > 5 else ""
            notes.append(f"{shown_path(path)}: not data files, so not read: {', '.join(others[:5])}{more}.")
    if found.count(STANDARD_INPUT) > 1:
        raise DataError("-: expected standard input once, got it twice. Name it once.")
    return Files(tuple(found), tuple(notes))


def data_suffix(path: Path) -> str:
    """Return the ending that names the format, in lower case and without `.gz`."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def shown_name(path: Path) -> str:
    """Return the name of a file for messages."""
    return "standard input" if path == STANDARD_INPUT else shown_path(path)


@contextmanager
def open_file(path: Path) -> Iterator[Stream]:
    """Open a file or standard input for reading. A gzipped one is unpacked as it is read.

    Raises:
        DataError: the file is missing, unreadable, or of a kind that holds no rows.
    """
    name = shown_name(path)
    try:
        raw: BinaryIO = _standard_input() if path == STANDARD_INPUT else path.open("rb")
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{name}: expected a file of rows, got no such file. Check the path.") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"{name}: expected a readable file, got {reason or error}.") from error
    file: Stream = io.BufferedReader(cast(io.RawIOBase, raw), BLOCK_BYTES)
    try:
        start = file.peek(8)[:8]
        foreign = next((kind for magic, kind in _FOREIGN.items() if start.startswith(magic)), None)
        if foreign is not None:
            raise DataError(f"{name}: expected JSON, JSONL, CSV, TSV or Parquet, got {foreign}.")
        if start.startswith(_GZIP_MAGIC):
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield io.BufferedReader(cast(io.RawIOBase, unpacked), BLOCK_BYTES)
        else:
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{name}: expected a whole gzip file, got a damaged one ({error}). Copy or download it again."
        ) from error
    except OSError as error:
        raise DataError(f"{name}: expected a readable file, got {error.strerror or error}.") from error
    finally:
        if path == STANDARD_INPUT:
            file.detach()  # closing it would close standard input
        else:
            file.close()


def _standard_input() -> BinaryIO:
    if sys.stdin is None or sys.stdin.closed:
        raise DataError("standard input: expected rows, got a closed input. Pipe a file in, or name it.")
    return sys.stdin.buffer


def text_blocks(file: Stream, name: str, *, is_table: bool = False) -> Iterator[str]:
    """Decode a stream block by block: UTF-8, or UTF-16 with a byte order mark.

    Raises:
        DataError: the bytes are not text in that encoding. The message names the byte and its offset.
    """
    start = file.peek(4)[:4]
    encoding = "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    decoder = codecs.getincrementaldecoder(encoding)()
    n_bytes, n_characters, is_last = 0, 0, False
    while not is_last:
        block = file.read(BLOCK_BYTES)
        is_last = not block
        held = len(decoder.getstate()[0])
        try:
            text = decoder.decode(block, final=is_last)
        except UnicodeDecodeError as error:
            raise DataError(_encoding_fault(name, error, n_bytes - held, is_table=is_table)) from error
        if "\x00" in text:
            place = n_characters + text.index("\x00")
            raise DataError(f"{name}: expected text, got a NUL byte at character {place}. Is it a binary file?")
        n_bytes += len(block)
        n_characters += len(text)
        if text:
            yield text


def _encoding_fault(name: str, error: UnicodeDecodeError, offset: int, *, is_table: bool) -> str:
    encoding = "UTF-16" if error.encoding.startswith("utf-16") else "UTF-8"
    advice = 'In Excel, save it as "CSV UTF-8".' if is_table else "Save the file as UTF-8."
    got = f"the byte 0x{error.object[error.start]:02x} at offset {offset + error.start}"
    return f"{name}: expected {encoding}, got {got}. {advice}"


def lines_of(blocks: Iterable[str]) -> Iterator[str]:
    """Cut blocks of text into lines that keep their `\\n`."""
    rest: list[str] = []
    for block in blocks:
        first, *others = block.split("\n")
        rest.append(first)
        for part in others:
            yield "".join(rest) + "\n"
            rest = [part]
    last = "".join(rest)
    if last:
        yield last


_JSON_PART, _TABLE_PART = re.compile(r'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL), re.compile('[^"]*(?:""[^"]*)*')
"""Text up to the next quote that opens or closes a text."""
_JSON_ESCAPE = re.compile(r"\\.", re.DOTALL)
_HIGH_SURROGATE = re.compile(r"\\u[dD][89abAB]")


def cut_texts(blocks: Iterable[str], longest: int, *, is_table: bool = False) -> Iterator[str]:
    """Yield the blocks without what texts in quotes have after `longest` characters, less up to twelve.

    Quotes are those of JSON, or with `is_table` those of CSV. Text outside of quotes is not changed.
    """
    pattern, sound_end = (_TABLE_PART, _even_quotes) if is_table else (_JSON_PART, _whole_escapes)
    is_inside, length, held = False, 0, ""
    for block in blocks:
        text, parts, place = held + block, [], 0
        end = sound_end(text, len(text))
        text, held = text[:end], text[end:]
        if length + len(text) <= longest:  # nothing to cut: only find where the last text begins
            plain = text.replace('""', "  ") if is_table else _JSON_ESCAPE.sub("  ", text)
            n_quotes = plain.count('"')
            is_inside ^= n_quotes % 2 == 1
            length = len(text) - 1 - plain.rfind('"') if n_quotes else length + len(text)
            yield text
            continue
        while place < len(text):
            found = pattern.match(text, place)
            stop = found.end() if found else len(text)
            room = max(longest - length, 0)
            cut = is_inside and stop - place > room
            parts.append(text[place : sound_end(text, place + room) if cut else stop])
            length += stop - place
            if stop < len(text):
                parts.append('"')
                is_inside, length = not is_inside, 0
            place = stop + 1
        yield "".join(parts)
    yield held


def _even_quotes(text: str, end: int) -> int:
    """Return `end`, or the place before it if a pair of quotes would be cut there."""
    return end - (end - len(text[:end].rstrip('"'))) % 2


def _whole_escapes(text: str, end: int) -> int:
    """Return `end`, or the last place before it that is in no escape of JSON and between no two surrogates."""
    start = text.rfind("\\", max(0, end - 6), end)
    n_backslashes = start + 1 - len(text[: start + 1].rstrip("\\"))
    if n_backslashes % 2 == 0:
        return end
    size = 6 if text[start + 1 : start + 2] == "u" else 2
    if end - start >= size:
        return start if _HIGH_SURROGATE.match(text, start) and end - start == 6 else end
    return start - 6 if _HIGH_SURROGATE.match(text, max(0, start - 6)) else start
