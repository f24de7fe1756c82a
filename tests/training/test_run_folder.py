"""What a run may replace, and what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from assistant.errors import PrerequisiteError, SettingsError
from assistant.training.run_folder import RunFolder


def test_new_and_empty_folders_are_free(tmp_path: Path) -> None:
    for path in (tmp_path / "new", tmp_path):
        RunFolder(path).check_free(overwrite=False, resume=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "resume", "sentence"),
    [
        (["notes.txt"], False, "got one with notes.txt in it"),
        (["notes.txt"], True, "got one with notes.txt in it"),
        (["config.json", "metrics.jsonl"], True, "Replace its model with --overwrite"),
        (["metrics.jsonl"], False, "got one with metrics.jsonl in it"),
        (["last/assistant.json", "last/training/state.json"], False, "got a run that can be resumed"),
        (["last/assistant.json"], True, "got one with last in it"),
    ],
)
def test_what_someone_made_is_refused(tmp_path: Path, names: list[str], resume: bool, sentence: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    with pytest.raises(SettingsError, match=sentence):
        RunFolder(tmp_path).check_free(overwrite=False, resume=resume)
    RunFolder(tmp_path).check_free(overwrite=True, resume=False)


@pytest.mark.parametrize("name", ["last", "best"])
def test_a_folder_of_that_name_that_is_no_runs_is_never_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "weights.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(SettingsError, match="expected a model of an earlier run"):
            RunFolder(tmp_path).check_free(overwrite=overwrite, resume=True)


def test_remains_of_a_run_killed_at_once_may_be_resumed(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    RunFolder(tmp_path).check_free(overwrite=False, resume=True)
    assert (tmp_path / "metrics.jsonl").exists()  # asking changes nothing


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    first.begin()
    for begin in (second.begin, second.recover):
        with pytest.raises(PrerequisiteError, match="got one that is still running"):
            begin()
    first.unlock()
    assert list(tmp_path.iterdir()) == []
    second.begin()
    second.unlock()


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SettingsError, match="expected a folder or nothing, got a file"):
        RunFolder(tmp_path / "file").check_free(overwrite=True, resume=False)


def test_beginning_leaves_all_weights_and_other_files(tmp_path: Path) -> None:
    kept = ("config.json", "model.safetensors", "notes.txt", "last/config.json", "best/config.json")
    for name in (*kept, "metrics.jsonl", "loss.png", "last/training/state.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("x")
    folder = RunFolder(tmp_path)
    folder.begin()
    folder.unlock()
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(kept)


def test_a_link_to_nothing_and_a_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for path in (tmp_path / "link", tmp_path / "link" / "run"):
        with pytest.raises(SettingsError, match=r"link: expected a folder or nothing, got a symbolic link to .*gone"):
            RunFolder(path).check_free(overwrite=True, resume=False)
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    with pytest.raises(SettingsError, match="expected a folder that you may write to"):
        RunFolder(tmp_path / "new").check_free(overwrite=False, resume=False)
