"""The ledger: which judgement of a row counts, and what a valid line is."""

from __future__ import annotations

from pathlib import Path

import pytest

from assistant.errors import DataError
from assistant.jsonl import AppendOnly
from evaluation.judging.ledger import JudgeLine, Judgement, read_ledger
from tests.support.scored_answers import IDENTITY, judge_line, judgement

OTHER_IDENTITY = IDENTITY.model_copy(update={"rubric": "b"})


def test_last_judgement_counts_and_judges_are_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "judgements.jsonl"
    with AppendOnly[JudgeLine | Judgement](path) as file:
        file.append([judge_line(), judgement(unscored="timeout", final=False)])
        file.append([judgement(score=3, source="judge")])
        file.append([judgement(score=5, source="judge", purpose="ceiling")])
        file.append([judge_line(OTHER_IDENTITY), judgement(OTHER_IDENTITY, score=1, source="judge")])
    ledger = read_ledger(path)
    assert ledger.newest_judge == ledger.judges[1]
    assert ledger.newest_judge.identity == OTHER_IDENTITY
    assert len(ledger.judgements) == 4
    old, new = ledger.outcomes(IDENTITY.fingerprint), ledger.outcomes(OTHER_IDENTITY.fingerprint)
    assert {key[0]: line.points for key, line in old.items()} == {"score": 60, "ceiling": 100}
    assert {key[0]: line.points for key, line in new.items()} == {"score": 20}


def test_judgements_of_two_responses_are_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "judgements.jsonl"
    with AppendOnly[JudgeLine | Judgement](path) as file:
        file.append([judge_line(), judgement(score=3), judgement(score=4, response_hash="x")])
    assert len(read_ledger(path).outcomes(IDENTITY.fingerprint)) == 2


def test_missing_file_gives_an_empty_ledger(tmp_path: Path) -> None:
    ledger = read_ledger(tmp_path / "judgements.jsonl")
    assert (ledger.judges, ledger.judgements, ledger.newest_judge) == ((), (), None)


def test_line_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "judgements.jsonl"
    path.write_text('{"kind":"other"}\n{"kind":"other"}\n')
    with pytest.raises(DataError, match="row 1"):
        read_ledger(path)
