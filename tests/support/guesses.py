"""Files of answers that a double can recognise in a question: row 7 holds the response "Guess 7."."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from evaluation.answers.folder import read_answers
from evaluation.judging.ledger import read_ledger
from evaluation.judging.scoring import LEDGER_FILE
from tests.support.ollama_double import Behaviour, JsonObject, OllamaDouble, Scripted, prompt_of


def write_guesses(folder: Path, number: int, name: str = "guesses.json") -> Path:
    """Write a file of answers that all need a judge."""
    rows = [
        {"instruction": f"Question {row}?", "output": f"Answer {row}.", "model_response": f"Guess {row}."}
        for row in range(number)
    ]
    path = folder / name
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def row_of(prompt: str) -> int:
    """Return the row that a question is about."""
    match = re.search(r"Guess (\d+)\.", prompt)
    assert match is not None
    return int(match[1])


def outcomes_by_row(folder: Path) -> list[str | None]:
    """Return the reason why each row has no score, in the order of the file. None if it has one."""
    ledger = read_ledger(folder / LEDGER_FILE)
    assert ledger.newest_judge is not None
    outcomes = ledger.outcomes(ledger.newest_judge.fingerprint)
    records = read_answers(folder).responses
    return [outcomes["score", record.id, record.response_hash].unscored for record in records]


def by_row(behave: Callable[[int], Scripted]) -> Callable[[JsonObject], Behaviour]:
    """Return a behaviour that depends on the row in question."""

    def answer(body: JsonObject) -> Behaviour:
        behaviour = behave(row_of(prompt_of(body)))
        return behaviour(body) if callable(behaviour) else behaviour

    return answer


def asked(*doubles: OllamaDouble) -> list[int]:
    """Return the rows of all questions in order."""
    return [row_of(prompt_of(body)) for double in doubles for body in double.chat() if body["messages"]]
