"""`assistant demo`: its steps on fewer rows, and the folder that it replaces. `tests/long` runs all of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assistant.cli import demo
from assistant.cli.demo import MARKER, clear_folder
from assistant.dataset.instructions import dump_rows, read_examples
from assistant.errors import SettingsError
from assistant.shipped import shipped
from tests.conftest import REPOSITORY


def test_demo_does_the_whole_main_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The demo's own steps on fewer rows: the commands it prints are the ones it runs."""
    few = [row for row in read_examples(REPOSITORY / "data" / "instructions.json") if row.category == "capitals"][:60]
    (tmp_path / "few.json").write_text(dump_rows(few))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setattr(demo, "ROWS", ("few.json",))
    monkeypatch.setattr(demo, "shipped", lambda name: Path("few.json") if name.endswith(".json") else shipped(name))
    monkeypatch.setattr(demo, "FINETUNE_OPTIONS", ("--max-steps", "5"))
    code = demo.run_demo(Path("demo"), seed=1, as_json=True)
    said = capfd.readouterr()
    assert code == 0, said.err
    result = json.loads(said.out)
    assert result["report"]["n"] == result["report"]["closed"]["n"] == 6
    assert result["report"]["closed"]["exact_matches"] == result["report"]["exact_matches"]
    (shown,) = result["shown"]
    assert shown["before"] != shown["after"]
    for words in ("$ assistant finetune few.json", "$ evaluation respond demo/model", "$ evaluation score demo/run"):
        assert words in said.err
    assert "assistant chat demo/model" in said.err


def test_demo_replaces_its_own_folder_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("mine")
    with pytest.raises(SettingsError, match="expected an empty folder or an earlier demo's"):
        clear_folder(tmp_path)
    assert (tmp_path / "model" / "config.json").read_text() == "mine"
    (tmp_path / MARKER).touch()
    (tmp_path / "notes.txt").write_text("mine")
    clear_folder(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {MARKER, "notes.txt"}
