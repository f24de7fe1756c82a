"""What is copied, and the sequences that copy it."""

from __future__ import annotations

import base64

import pytest

from assistant.tui.clipboard import copy_sequence, pieces


def test_an_answer_and_its_code_blocks_can_be_copied() -> None:
    answer = "Try:\n```python\nprint(1)\n```\nor\n~~~\na\n\nb\n~~~\n"
    assert [tuple(piece) for piece in pieces(answer)] == [
        ("the answer", answer),
        ("code block 1 of 2", "print(1)"),
        ("code block 2 of 2", "a\n\nb"),
    ]
    assert [piece.text for piece in pieces("```\nopen to the end")] == ["```\nopen to the end", "open to the end"]
    assert [piece.text for piece in pieces("no code")] == ["no code"]


@pytest.mark.parametrize("text", ["hello", "é\x1b[31m\n", "a" * 5000, "\udc80"])
def test_the_clipboard_gets_the_original_text(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMUX", raising=False)
    sequence = copy_sequence(text)
    assert sequence.startswith("\x1b]52;c;")
    assert base64.b64decode(sequence[7:-1]) == text.encode("utf-8", "surrogatepass")
    monkeypatch.setenv("TMUX", "/tmp/x,1,0")
    both = copy_sequence(text)
    assert both == sequence + "\x1bPtmux;" + sequence.replace("\x1b", "\x1b\x1b") + "\x1b\\"
