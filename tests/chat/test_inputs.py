"""The history of sent messages."""

from __future__ import annotations

from assistant.chat.inputs import InputHistory


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
