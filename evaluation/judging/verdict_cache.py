"""Verdicts of all runs of this user: one append-only file in the cache folder, so that no question is asked twice.

A verdict is found by the fingerprint of its judge and the hash of its question. Only scores are kept: a failure may
not occur again. The file is a cache, so a line that cannot be read is skipped, and a missing file is empty. Several
processes may write at a time.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from pydantic import ValidationError

from assistant.files import user_cache_folder
from evaluation.judging.judgement import Attempt

VERDICTS_FILE = "verdicts.jsonl"


class StoredVerdict(Attempt):
    """A line of the file: a scored attempt, and the judge that made it."""

    fingerprint: str


class Verdicts:
    """The file of verdicts. `path` is by default in the user's cache folder; without one, nothing is kept."""

    def __init__(self, path: Path | None = None) -> None:
        folder = user_cache_folder()
        self.path = path or (folder / VERDICTS_FILE if folder else None)

    def find(self, fingerprint: str, questions: Collection[str]) -> dict[str, Attempt]:
        """Return the newest verdict of one judge on each of these questions, by the question's hash."""
        found: dict[str, Attempt] = {}
        if not questions:
            return found
        for line in self._lines():
            # Most lines belong to other judges. To parse them all would take most of the time.
            if fingerprint.encode() not in line:
                continue
            try:
                verdict = StoredVerdict.model_validate_json(line)
            except ValidationError:
                continue
            if verdict.question in questions and verdict.fingerprint == fingerprint and verdict.score is not None:
                fields = verdict.model_dump(exclude={"fingerprint"}) | {"reused": True, "final": True}
                found[str(verdict.question)] = Attempt.model_validate(fields)
        return found

    def add(self, fingerprint: str, attempts: Iterable[Attempt]) -> None:
        """Append the attempts that have a score. Does nothing where the folder cannot be written."""
        kept = [
            attempt for attempt in attempts if attempt.score is not None and attempt.question and not attempt.reused
        ]
        if not kept or self.path is None:
            return
        lines = [StoredVerdict(**attempt.model_dump(), fingerprint=fingerprint).model_dump_json() for attempt in kept]
        data = "".join(line + "\n" for line in lines).encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                end = file.seek(0, os.SEEK_END)
                if end:
                    file.seek(end - 1)
                    data = data if file.read(1) == b"\n" else b"\n" + data  # after a torn line
                file.write(data)
        except OSError:
            return  # A cache that cannot be written must not end a run.

    def _lines(self) -> Iterator[bytes]:
        if self.path is None:
            return
        try:
            with self.path.open("rb") as file:
                yield from file
        except OSError:
            return
