"""The history of sent messages, in one chat and from chat to chat."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assistant.chat.inputs import KEPT, LONGEST_KEPT, MOST_LINES, InputFile, InputHistory


def recalled(history: InputHistory) -> list[str]:
    """All entries, newest first."""
    entries = []
    while (entry := history.earlier("")) is not None:
        entries.append(entry)
    return entries


def test_the_history_ends_at_the_oldest_message_and_at_the_draft() -> None:
    history = InputHistory()
    assert history.earlier("draft") is None
    assert history.later("draft") is None
    history.add("one")
    assert history.earlier("draft") == "one"
    assert history.earlier("one") is None
    assert history.later("one") == "draft"
    assert history.later("draft") is None


def test_a_repeated_message_is_stored_once() -> None:
    history = InputHistory()
    history.add("one")
    history.add("two")
    history.add("two")
    assert [history.earlier(""), history.earlier("two"), history.earlier("one")] == ["two", "one", None]


def test_edits_stay_until_the_next_message_is_sent() -> None:
    history = InputHistory()
    history.add("one")
    history.add("two")
    assert history.earlier("draft") == "two"
    assert history.earlier("two, edited") == "one"
    assert history.later("one") == "two, edited"
    assert history.later("two, edited") == "draft"
    history.add("three")
    assert [history.earlier(""), history.earlier("three"), history.earlier("two")] == ["three", "two", "one"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.lists(st.text(st.characters(), min_size=1), min_size=1, max_size=6))
def test_the_next_chat_recalls_every_text_as_it_was_typed(tmp_path: Path, texts: list[str]) -> None:
    path = tmp_path / "new" / "inputs"
    path.unlink(missing_ok=True)
    history = InputHistory(path)
    for text in texts:
        history.add(text)
    again = InputHistory(path)
    assert again.problem == ""
    assert recalled(again) == recalled(history)
    assert path.read_bytes().isascii()
    again.add("more")
    assert recalled(InputHistory(path))[0] == "more"


def test_only_the_newest_messages_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "inputs"
    path.write_text("".join(f'"{number}"\n' for number in range(MOST_LINES + 5)))
    newest = [str(number) for number in range(MOST_LINES + 5 - KEPT, MOST_LINES + 5)]
    history = InputHistory(path)
    assert recalled(history) == newest[::-1]
    assert path.read_text() == "".join(f'"{text}"\n' for text in newest)
    assert path.stat().st_mode & 0o777 == 0o600
    history.add("more")
    assert recalled(InputHistory(path)) == ["more", *newest[:0:-1]]


def test_a_torn_or_foreign_line_costs_no_other_message(tmp_path: Path) -> None:
    path = tmp_path / "inputs"
    path.write_bytes(b'"one"\n{"a": 1}\n\xff\xfe\n\n3\n""\n' + b"[" * 100_000 + b'\n"two"\n"torn')
    history = InputHistory(path)
    assert recalled(history) == ["two", "one"]
    history.add("three")
    assert recalled(InputHistory(path)) == ["three", "two", "one"]


def test_a_huge_message_is_recalled_in_its_own_chat_alone(tmp_path: Path) -> None:
    history = InputHistory(tmp_path / "inputs")
    history.add("x" * (LONGEST_KEPT + 1))
    assert len(recalled(history)[0]) == LONGEST_KEPT + 1
    assert not (tmp_path / "inputs").exists()


def test_a_history_that_cannot_be_written_is_a_sentence_and_works_on(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    history = InputHistory(tmp_path / "folder")
    history.add("one")
    assert history.problem == f"{tmp_path}/folder: expected to keep what you type for later chats, got Is a directory."
    assert history.earlier("") == "one"


def test_a_full_disk_leaves_no_half_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = InputHistory(tmp_path / "inputs")
    history.add("one")
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
        history.add("two")
    assert history.problem.endswith("got No space left on device.")
    assert (tmp_path / "inputs").read_text() == '"one"\n'
    history.add("three")
    assert history.problem == ""
    assert recalled(InputHistory(tmp_path / "inputs")) == ["three", "one"]


def test_two_chats_never_write_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "inputs"
    InputFile(path).append("one")
    (lock,) = [file for file in tmp_path.iterdir() if file.name.endswith(".lock")]
    thread = threading.Thread(target=InputFile(path).append, args=("two",))
    with lock.open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        assert InputFile(path).read() == ["one"]
    thread.join()
    assert InputFile(path).read() == ["one", "two"]
