"""Preference pairs from several scored answers a row, for `assistant prefer`: the best answer against the worst.

Only answers to training rows become pairs: a model that learns from a test row can no longer be tested on it. Does not
know where scores come from.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from assistant.dataset.instructions import Example
from assistant.dataset.rows import FilledText
from assistant.errors import DataError
from assistant.model.config import ModelInfo
from assistant.settings import Frozen, SplitSettings
from evaluation.answers.folder import AnswersFolder, ResponseRecord
from evaluation.figures import counted
from evaluation.judging.ledger import read_ledger
from evaluation.judging.scoring import LEDGER_FILE, outcome_of
from evaluation.next_command import DEFAULT_JUDGE

DEFAULT_MARGIN = 20.0
"""One level of the judge's scale, in points."""
CUT = frozenset({"length", "cancelled"})
"""Stop reasons of answers without an end. Chosen, they would teach the model to end in the middle of a sentence."""

ScoreOf = Callable[[ResponseRecord], float | None]
"""Returns the points of an answer, from 0 to 100. None if it has no score."""

_ANSWER: TypeAdapter[str] = TypeAdapter(FilledText)


class PairCounts(Frozen):
    """How many pairs there are, and why the other rows gave none."""

    rows: int
    """Rows of the data."""
    answers: int
    pairs: int
    paired_rows: int
    """Rows with a pair."""
    too_few: int
    """Rows with fewer than two different answers that have a text and a score."""
    too_close: int
    """Rows whose best and worst answers differ by less than the margin, ties among them."""
    all_cut: int
    """Rows with a margin, but only between answers that were cut at the token limit."""
    unscored: int
    """Answers with a text and without a score."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """One usable answer to a row."""

    text: str
    score: float
    is_cut: bool


def check_part(answers: AnswersFolder) -> None:
    """Check that all answers of a folder are answers to training rows.

    Raises:
        DataError: they are not, or nobody knows; the message names the command that makes such a folder.
    """
    info = answers.info
    if info.part == "train":
        return
    got = {
        "test": "answers to the test part",
        "validation": "answers to the validation part",
    }.get(info.part, "answers to all rows, and test rows may be among them")
    if info.kind == "file":
        got = "answers from a file, and test rows may be among them"
    model, files = "MODEL", "--data FILE"
    if info.kind == "model":
        model, files = shlex.quote(info.path), " ".join(f"--data {shlex.quote(name)}" for name in info.data_files)
    run = shlex.quote(f"{answers.folder}-train")
    raise DataError(
        f"{answers.folder}: expected answers to training rows, got {got}. A model that learns from test rows cannot be "
        f"tested on them any more. Run: evaluation respond {model} {files} --part train --samples 4 --temperature 0.8 "
        f"--run {run}"
    )


def newest_scores(answers: AnswersFolder) -> ScoreOf:
    """Return the scores of the judge that was asked last. Exact matches and empty answers have theirs without it.

    Raises:
        DataError: no judge scored any answer.
    """
    ledger = read_ledger(answers.folder / LEDGER_FILE)
    outcomes = ledger.outcomes(ledger.newest_judge.fingerprint) if ledger.newest_judge is not None else {}
    if not any(outcome.source == "judge" for outcome in outcomes.values()):
        got = "none" if ledger.newest_judge is None else f"none by {ledger.newest_judge.identity.model}"
        raise DataError(
            f"{answers.folder}: expected a judge's scores of the answers, got {got}. "
            f"Run: evaluation score {shlex.quote(str(answers.folder))} --judge {DEFAULT_JUDGE}"
        )
    return lambda record: outcome_of(record, outcomes)[0]


def make_pairs(
    records: Iterable[ResponseRecord], score_of: ScoreOf, *, margin: float = DEFAULT_MARGIN, per_row: int = 1
) -> tuple[list[Example], PairCounts]:
    """Pair the best answer of each row with its worst, the second best with the second worst, and so on.

    Args:
        records: The answers, in the order of the data; those of a row share its id.
        score_of: The score of each answer.
        margin: Least difference of a pair's scores, above 0.
        per_row: Largest number of pairs of a row.

    Returns:
        The pairs as examples with a rejected answer, in the order of the data, and the counts. Among equal scores, the
        answer that was drawn first comes first, so that length plays no part.
    """
    rows: dict[str, list[ResponseRecord]] = {}
    for record in records:
        rows.setdefault(record.id, []).append(record)
    examples: list[Example] = []
    counts = dict.fromkeys(("paired_rows", "too_few", "too_close", "all_cut", "unscored"), 0)
    for group in rows.values():
        answers, n_unscored = _usable(sorted(group, key=lambda record: record.sample), score_of)
        counts["unscored"] += n_unscored
        pairs = _pairs_of(answers, margin, per_row)
        examples += [_example(group[0], better, worse) for better, worse in pairs]
        counts[_outcome(answers, pairs, margin)] += 1
    n_answers = sum(len(group) for group in rows.values())
    return examples, PairCounts(rows=len(rows), answers=n_answers, pairs=len(examples), **counts)


def split_options(model: Path) -> str | None:
    """Return the options with which `assistant prefer` keeps the test rows of this model's training run.

    The new model's folder stores its own split. With another one, `respond --part test` would answer rows that the
    pairs were made of. Empty if the defaults are right. None if the model was trained on the book's split, which
    `prefer` does not have.
    """
    try:
        info = ModelInfo.model_validate_json((model / "assistant.json").read_bytes())
    except (OSError, ValidationError):  # a base model, or one that has moved
        return ""
    if info.split_method == "book":
        return None
    _train, test, validation = info.split_fractions
    defaults = SplitSettings()
    options = {
        "--split-seed": (info.split_seed, defaults.split_seed),
        "--test-share": (test, defaults.test_share),
        "--validation-share": (validation, defaults.validation_share),
    }
    return "".join(f" {name} {value:g}" for name, (value, default) in options.items() if value != default)


def dump_pairs(examples: Sequence[Example]) -> str:
    """Return the pairs as a JSON list that `assistant prefer` reads."""
    return json.dumps([example.as_row() for example in examples], ensure_ascii=False, indent=2) + "\n"


def describe_counts(counts: PairCounts, output: Path, margin: float) -> str:
    """Return what was made of which rows, in one or two sentences."""
    made = f"{output}: {counted(counts.pairs, 'pair')} of {counted(counts.rows, 'row')} and {counts.answers} answers."
    reasons = [
        (counts.too_close, f"whose answers differ by less than {margin:g} points"),
        (counts.too_few, "with fewer than two different scored answers"),
        (counts.all_cut, "whose better answers were all cut at the token limit"),
    ]
    without = ", ".join(f"{n} {why}" for n, why in reasons if n)
    return f"{made} Rows without a pair: {without}." if without else made


def _usable(records: Sequence[ResponseRecord], score_of: ScoreOf) -> tuple[list[_Answer], int]:
    """Return the different answers that `assistant prefer` can read, and the number of those without a score."""
    answers: dict[str, _Answer] = {}
    n_unscored = 0
    for record in records:
        try:
            text = _ANSWER.validate_python(record.response)
        except ValidationError:  # no answer, an empty one, or one that no tokenizer can encode
            continue
        score = score_of(record)
        if score is None:
            n_unscored += 1
        else:
            answers.setdefault(text.strip(), _Answer(text, score, record.stop_reason in CUT))
    return list(answers.values()), n_unscored


def _pairs_of(answers: Sequence[_Answer], margin: float, per_row: int) -> list[tuple[_Answer, _Answer]]:
    """Return pairs of a better and a worse answer. Sorting is stable, so equal scores keep their order."""
    best = sorted((answer for answer in answers if not answer.is_cut), key=lambda answer: -answer.score)
    worst = sorted(answers, key=lambda answer: answer.score)
    pairs = list(zip(best, worst, strict=False))[:per_row]
    return [(better, worse) for better, worse in pairs if better.score - worse.score >= margin]


def _outcome(answers: Sequence[_Answer], pairs: Sequence[object], margin: float) -> str:
    """Return the name of the count that a row belongs to."""
    if pairs:
        return "paired_rows"
    if len(answers) < 2:
        return "too_few"
    scores = [answer.score for answer in answers]
    return "all_cut" if max(scores) - min(scores) >= margin else "too_close"


def _example(record: ResponseRecord, better: _Answer, worse: _Answer) -> Example:
    return Example(
        instruction=record.instruction,
        input=record.input,
        output=better.text,
        rejected=worse.text,
        history=record.history,
        category=record.category,
        group=record.group,
        source=record.source,
        row=record.row,
    )
