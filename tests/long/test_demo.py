"""The whole demo, twice: most questions with one right answer are answered word for word, by the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.commands import assistant
from tests.support.runs import weights


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    closed = []
    for name in ("first", "second"):
        done = assistant("demo", "--output", name, "--json")
        assert done.returncode == 0, done.stderr
        closed.append(json.loads(done.stdout)["report"]["closed"])
    assert closed[0] == closed[1]
    assert weights(tmp_path / "first" / "model") == weights(tmp_path / "second" / "model")
    assert closed[0]["exact_matches"] > 0.65 * closed[0]["n"]
