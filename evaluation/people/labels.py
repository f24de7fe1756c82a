"""A person's scores of responses, `labels.jsonl`: which rows to label, and every label in order. Lines are only added.

Rows are drawn at random from those that only a judge or a person can score. A person's scores of them show how far the
judge can be trusted. Owns the format of the file and which line of a row counts. Does not know how a row is shown, and
never reads a judge's scores.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated

from pydantic import Field, TypeAdapter

from assistant.escape import encodable, one_line, shorten
from assistant.jsonl import AppendOnly, read_lines
from assistant.settings import Frozen
from evaluation.answers.folder import AnswersFolder, ResponseRecord
from evaluation.answers.records import now
from evaluation.judging.settled import settle
from evaluation.judging.verdict import POINTS_PER_SCORE

LABELS_FILE = "labels.jsonl"
DEFAULT_SEED = 123
TAG_LENGTH = 60
"""Longest tag, in characters."""

LabelKey = tuple[str, int, str, str]
"""Row id, sample, response hash and labeller. Of the lines with the same key, the last one counts."""


class Label(Frozen):
    """One line of `labels.jsonl`: what a person thinks of one response, from this line on."""

    id: str
    response_hash: str
    sample: Annotated[int, Field(ge=0)] = 0
    score: Annotated[int, Field(ge=0, le=100)] | None = None
    """Points from 0 to 100. None if the row has only a tag so far, or if its score was taken back."""
    tag: str | None = None
    """The person's own word for what is wrong with the response, or what kind of row it is."""
    labeller: str
    created: datetime

    @property
    def key(self) -> LabelKey:
        """What was labelled, and by whom."""
        return self.id, self.sample, self.response_hash, self.labeller


_LABEL = TypeAdapter(Label)


def clean_tag(text: str) -> str | None:
    """Return a tag on one line and without control characters. None if nothing is left."""
    return shorten(one_line(encodable(text)), TAG_LENGTH) or None


# --- reading ------------------------------------------------------------------------------------------------------


def read_labels(answers: AnswersFolder) -> dict[LabelKey, Label]:
    """Read the label that counts of every key, the newest last. Labels of other responses than the folder's are left
    out.

    Raises:
        DataError: a complete line is not a label.
    """
    current = {(record.id, record.sample, record.response_hash) for record in answers.responses}
    labels: dict[LabelKey, Label] = {}
    for line in read_lines(answers.folder / LABELS_FILE, _LABEL):
        if line.key[:3] in current:
            labels.pop(line.key, None)
            labels[line.key] = line
    return labels


def label_scores(labels: Iterable[Label]) -> dict[tuple[str, int], float]:
    """Return the points of every labelled row, by row id and sample. Several people's scores become their mean."""
    points: dict[tuple[str, int], list[int]] = {}
    for label in labels:
        if label.score is not None:
            points.setdefault((label.id, label.sample), []).append(label.score)
    return {row: sum(scores) / len(scores) for row, scores in points.items()}


# --- which rows ---------------------------------------------------------------------------------------------------


def draw_rows(records: Iterable[ResponseRecord], *, seed: int = DEFAULT_SEED) -> list[ResponseRecord]:
    """Return the rows that are not settled, in a random order that depends only on their ids and the seed.

    So the first n are a random sample for every n, and a second session continues the first. A row with several answers
    is drawn with its first one. Rows without a reference are left out: their scores are not in the mean of the others.
    """
    rows = [record for record in records if record.sample == 0 and record.reference and settle(record) is None]
    return sorted(rows, key=lambda record: hashlib.sha256(f"{seed} {record.id}".encode()).hexdigest())


# --- labelling ----------------------------------------------------------------------------------------------------


class LabelSession:
    """One person's way through the drawn rows. Every step is on the disk before it takes effect.

    Args:
        rows: The drawn rows, in their order.
        labels: The labels that exist already, of everybody.
        file: Where labels are added.
        count: Number of rows to label, earlier sessions included.
    """

    def __init__(
        self,
        rows: Sequence[ResponseRecord],
        labels: Mapping[LabelKey, Label],
        file: AppendOnly[Label],
        *,
        labeller: str,
        count: int,
    ) -> None:
        self.labeller = labeller
        self.total = min(count, len(rows))
        self._file = file
        self._rows = {self._key(row): row for row in rows}
        self._labels = {key: label for key, label in labels.items() if key in self._rows}
        self._tags = [label.tag for label in labels.values() if label.tag is not None]
        self._skipped: dict[LabelKey, None] = {}
        self._past = [key for key, label in self._labels.items() if label.score is not None]
        """Rows that were scored or skipped, the latest last, for `undo`."""
        self._returned_to: LabelKey | None = None

    @property
    def done(self) -> int:
        """Number of rows with a score."""
        return sum(label.score is not None for label in self._labels.values())

    @property
    def n_skipped(self) -> int:
        """Number of rows that were skipped. They come again in the next session."""
        return len(self._skipped)

    @property
    def current(self) -> ResponseRecord | None:
        """The row to label now. None if enough rows have a score, or only skipped rows are left."""
        key = self._current_key
        return None if key is None else self._rows[key]

    @property
    def tag(self) -> str | None:
        """The tag of the current row."""
        label = self._labels.get(self._current_key) if self._current_key is not None else None
        return label.tag if label is not None else None

    @property
    def known_tags(self) -> list[str]:
        """All tags in use, the commonest first."""
        return [tag for tag, _ in Counter(self._tags).most_common()]

    def score(self, level: int) -> None:
        """Give the current row a score of the rubric's scale, and go on to the next row."""
        key = self._current_key
        if key is None:
            return
        self._write(key, score=level * POINTS_PER_SCORE, tag=self.tag)
        self._past.append(key)
        self._returned_to = None

    def set_tag(self, text: str) -> None:
        """Give the current row a tag, or take it away with an empty text. The row stays the current one."""
        key, tag = self._current_key, clean_tag(text)
        if key is None or tag == self.tag:
            return
        self._write(key, score=None, tag=tag)
        self._tags += [tag] if tag is not None else []

    def skip(self) -> None:
        """Go on to the next row without a score. The row comes again in the next session."""
        key = self._current_key
        if key is not None:
            self._skipped[key] = None
            self._past.append(key)
            self._returned_to = None

    def undo(self) -> bool:
        """Go back to the row before, and take its score back. Its tag stays. False if there is no row before."""
        if not self._past:
            return False
        key = self._past[-1]
        label = self._labels.get(key)
        if label is not None and label.score is not None:
            self._write(key, score=None, tag=label.tag)
        self._past.pop()
        self._skipped.pop(key, None)
        self._returned_to = key
        return True

    @property
    def _current_key(self) -> LabelKey | None:
        if self._returned_to is not None:
            return self._returned_to
        if self.done >= self.total:
            return None
        return next((key for key in self._rows if key not in self._skipped and not self._has_score(key)), None)

    def _has_score(self, key: LabelKey) -> bool:
        label = self._labels.get(key)
        return label is not None and label.score is not None

    def _key(self, row: ResponseRecord) -> LabelKey:
        return row.id, row.sample, row.response_hash, self.labeller

    def _write(self, key: LabelKey, *, score: int | None, tag: str | None) -> None:
        row_id, sample, response_hash, labeller = key
        label = Label(
            id=row_id, response_hash=response_hash, sample=sample, score=score, tag=tag, labeller=labeller,
            created=now(),
        )  # fmt: skip
        self._file.append([label])
        self._labels[key] = label


# --- what the labels are worth ------------------------------------------------------------------------------------


class TagCount(Frozen):
    """The labels with one tag in one category."""

    tag: str
    category: str | None
    n: int
    mean: float | None
    """Mean of the points. None if no row has a score yet."""


class LabelSummary(Frozen):
    """What the labels of an answers folder are worth."""

    run: str
    labels: int
    """Scores, of all people together."""
    rows: int
    """Rows with a score."""
    open_rows: int
    """Rows that are not settled; the labels are a sample of them."""
    mean: float | None
    """Mean of the labelled rows, from 0 to 100."""
    labellers: dict[str, int]
    """Number of scores by person."""
    tags: tuple[TagCount, ...]


def summarise(answers: AnswersFolder, labels: Iterable[Label], *, open_rows: int) -> LabelSummary:
    """Count scores and tags. `open_rows` is the number of rows that are not settled."""
    labels = list(labels)
    scores = label_scores(labels)
    categories = {(record.id, record.sample): record.category for record in answers.responses}
    tagged: dict[tuple[str, str | None], list[Label]] = {}
    for label in labels:
        if label.tag is not None:
            tagged.setdefault((label.tag, categories.get((label.id, label.sample))), []).append(label)
    counts = [
        TagCount(tag=tag, category=category, n=len(group), mean=_mean([label.score for label in group]))
        for (tag, category), group in tagged.items()
    ]
    return LabelSummary(
        run=str(answers.folder),
        labels=sum(label.score is not None for label in labels),
        rows=len(scores),
        open_rows=open_rows,
        mean=_mean(list(scores.values())),
        labellers=dict(Counter(label.labeller for label in labels if label.score is not None)),
        tags=tuple(sorted(counts, key=lambda count: (-count.n, count.tag, count.category or ""))),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 4) if known else None
