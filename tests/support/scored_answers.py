"""Answers folders with metrics and judgements, made without a model and without a judge."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assistant.jsonl import AppendOnly
from evaluation.answers.files import import_answers
from evaluation.answers.folder import AnswersFolder, read_answers
from evaluation.answers.records import now
from evaluation.judging.judgement import JudgeIdentity
from evaluation.judging.ledger import JudgeLine, Judgement
from evaluation.judging.scoring import LEDGER_FILE, write_metrics
from evaluation.judging.trust import HitRate, Level, Trust

IDENTITY = JudgeIdentity(model="m", digest="d" * 64, server_version="1", client_version="2", options={}, rubric="r")
FOUR_ROWS = [("Paris.", "\nParis."), ("4", "five"), ("Blue.", ""), ("A long answer.", "A long answer, nearly.")]
"""References and responses: exact, wrong, empty and nearly right."""
ROWS_WITH_CATEGORIES = [("1", "1", "sums"), ("2", "2", "sums"), ("3", "4", "sums"), ("a", "b", "letters"), ("c", "c")]


def measured_answers(folder: Path, rows: Sequence[tuple[str, ...]]) -> AnswersFolder:
    """Write an answers folder with metrics. A row is (reference, response) or (reference, response, category)."""
    values = [
        {"instruction": f"Task {number}.", "output": row[0], "model_response": row[1]}
        | ({"category": row[2]} if len(row) == 3 else {})
        for number, row in enumerate(rows, start=1)
    ]
    path = folder / "answers.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    import_answers(path, folder / "run")
    answers = read_answers(folder / "run")
    write_metrics(answers)
    return answers


def add_judgements(
    answers: AnswersFolder, fields_of_rows: Mapping[int, dict[str, Any]], identity: JudgeIdentity = IDENTITY
) -> None:
    """Add judgements to the ledger. `fields_of_rows` maps the index of a row to fields of its judgement."""
    lines: list[JudgeLine | Judgement] = [judge_line(identity)]
    for index, fields in fields_of_rows.items():
        record = answers.responses[index]
        lines.append(judgement(identity, id=record.id, **({"response_hash": record.response_hash} | fields)))
    with AppendOnly[JudgeLine | Judgement](answers.folder / LEDGER_FILE) as file:
        file.append(lines)


def judge_line(identity: JudgeIdentity = IDENTITY) -> JudgeLine:
    """Return the ledger line that starts the work of a judge."""
    return JudgeLine(fingerprint=identity.fingerprint, identity=identity, url="http://127.0.0.1:1", created=now())


def judgement(identity: JudgeIdentity = IDENTITY, **fields: Any) -> Judgement:
    """Return a judgement by this judge. `fields` replaces or adds fields."""
    defaults = {"id": "row", "response_hash": "hash", "fingerprint": identity.fingerprint, "created": now()}
    return Judgement.model_validate(defaults | fields)


def score_fields(score: int, source: str = "judge", **fields: Any) -> dict[str, Any]:
    """Return the fields of a judgement with a score."""
    return {"score": score, "source": source} | fields


def trust_of(level: Level, *reasons: str) -> Trust:
    """Return a verdict on a judge, without findings."""
    nothing = HitRate(right=0, n=0, interval=None)
    return Trust(level=level, reasons=reasons, tpr=nothing, tnr=nothing)
