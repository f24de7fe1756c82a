"""Files that only grow: torn ends, locks, and what the ledger makes of its lines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from assistant.errors import DataError, PrerequisiteError
from assistant.files import write_atomic
from assistant.jsonl import AppendOnly, read_lines, sound_length
from assistant.settings import Frozen
from evaluation.judgement import JudgeIdentity
from evaluation.ledger import JudgeLine, Judgement, now, read_ledger
from tests.conftest import REPOSITORY


class Note(Frozen):
    text: str


NOTE = TypeAdapter(Note)


def append(path: Path, *texts: str) -> None:
    with AppendOnly[Note](path) as file:
        file.append([Note(text=text) for text in texts])


def texts(path: Path) -> list[str]:
    return [note.text for note in read_lines(path, NOTE)]


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "notes.jsonl"
    append(path, "one", "line\nend, \u2028 and 東京")
    append(path, "three")
    assert texts(path) == ["one", "line\nend, \u2028 and 東京", "three"]
    assert path.read_bytes().count(b"\n") == 3


def test_no_file_has_no_records(tmp_path: Path) -> None:
    assert texts(tmp_path / "none.jsonl") == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(st.text(alphabet="ab\n\u00e9\u6771", max_size=5), min_size=1, max_size=4), st.data())
def test_a_file_cut_at_any_byte_loses_only_what_was_torn(
    tmp_path: Path, written: list[str], data: st.DataObject
) -> None:
    path = tmp_path / "notes.jsonl"
    path.unlink(missing_ok=True)
    append(path, *written)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    kept = whole[:cut].count(b"\n")
    assert texts(path) == written[:kept]
    append(path, "after")
    assert texts(path) == [*written[:kept], "after"]


@pytest.mark.parametrize("torn", [b'{"text": "ha', b"\x00\x00\x00\n", b'{"text": \n', b"\xff"])
def test_a_torn_end_is_cut_off_before_the_next_record(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "notes.jsonl"
    append(path, "one")
    path.write_bytes(path.read_bytes() + torn)
    assert texts(path) == ["one"]
    append(path, "two")
    assert path.read_bytes() == b'{"text":"one"}\n{"text":"two"}\n'


def test_reading_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_bytes(b'{"text":"one"}\n{"te')
    assert texts(path) == ["one"]
    assert path.read_bytes() == b'{"text":"one"}\n{"te'


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_bytes(b'{"text":"one"}\n{"text":2}\n{"text":"three"}\n')
    with pytest.raises(DataError, match=r"notes\.jsonl, row 2: expected a record .* fault in text"):
        read_lines(path, NOTE)


def test_sound_length_of_nothing() -> None:
    assert sound_length(b"") == 0
    assert sound_length(b"{") == 0


def test_a_second_writer_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    with AppendOnly[Note](path) as file:
        file.append([Note(text="one")])
        program = (
            "import sys\nfrom pathlib import Path\nfrom assistant.errors import PrerequisiteError\n"
            "from evaluation.ledger import AppendOnly\n"
            "try:\n    AppendOnly(Path(sys.argv[1]))\n"
            "except PrerequisiteError as error:\n    print(error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(path)], cwd=REPOSITORY, capture_output=True, check=True
        )
        assert "got another process at work on it" in done.stdout.decode()
        with pytest.raises(PrerequisiteError):
            AppendOnly(path)
        file.append([Note(text="two")])
    append(path, "three")
    assert texts(path) == ["one", "two", "three"]


def test_a_record_is_on_the_disk_before_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notes.jsonl"
    sizes = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (real(handle), sizes.append(os.fstat(handle).st_size)))
    with AppendOnly[Note](path) as file:
        file.append([Note(text="one")])
        file.append([])
        file.append([Note(text="two")])
    assert sizes == [15, 30]


def test_writing_whole_leaves_the_old_file_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.json"
    write_atomic(path, "old")

    def fail(_handle: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


# --- the ledger ---------------------------------------------------------------------------------------------------


def judge_line(rubric: str) -> JudgeLine:
    identity = JudgeIdentity(model="m", digest="d", server_version="1", client_version="2", options={}, rubric=rubric)
    return JudgeLine(fingerprint=identity.fingerprint, identity=identity, url="http://127.0.0.1:1", created=now())


def judgement(fingerprint: str, **fields: object) -> Judgement:
    known = {"id": "row", "response_hash": "hash", "fingerprint": fingerprint, "created": now()} | fields
    return Judgement.model_validate(known)


def test_the_last_attempt_counts_and_judges_are_not_mixed(tmp_path: Path) -> None:
    first, second = judge_line("a"), judge_line("b")
    path = tmp_path / "judgements.jsonl"
    with AppendOnly[JudgeLine | Judgement](path) as file:
        file.append([first, judgement(first.fingerprint, unscored="timeout", final=False)])
        file.append([judgement(first.fingerprint, score=3, source="judge")])
        file.append([judgement(first.fingerprint, score=5, source="judge", purpose="ceiling")])
        file.append([second, judgement(second.fingerprint, score=1, source="judge")])
    ledger = read_ledger(path)
    assert ledger.newest == second
    assert len(ledger.judgements) == 4
    old, new = ledger.outcomes(first.fingerprint), ledger.outcomes(second.fingerprint)
    assert {key[0]: line.points for key, line in old.items()} == {"score": 60, "ceiling": 100}
    assert {key[0]: line.points for key, line in new.items()} == {"score": 20}


def test_another_response_is_another_key(tmp_path: Path) -> None:
    line = judge_line("a")
    path = tmp_path / "judgements.jsonl"
    with AppendOnly[JudgeLine | Judgement](path) as file:
        file.append(
            [line, judgement(line.fingerprint, score=3), judgement(line.fingerprint, score=4, response_hash="x")]
        )
    assert len(read_ledger(path).outcomes(line.fingerprint)) == 2


def test_a_line_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "judgements.jsonl"
    path.write_text('{"kind":"other"}\n{"kind":"other"}\n')
    with pytest.raises(DataError, match="row 1"):
        read_ledger(path)
