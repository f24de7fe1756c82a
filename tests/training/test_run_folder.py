"""The run's folder: what a run may replace, what it needs to resume, and what a killed run leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from assistant.dataset.instructions import Example
from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import CheckpointError, PrerequisiteError, SettingsError
from assistant.interop.inventory import read_last_score
from assistant.model.checkpoint import load_checkpoint
from assistant.settings import LoraSettings
from assistant.training.run_folder import RunFolder, RunState, check_same_run, read_records
from tests.support.runs import FAST, train, weights

# --- what a run may replace ---------------------------------------------------------------------------------------


def test_new_and_empty_folders_are_free(tmp_path: Path) -> None:
    for path in (tmp_path / "new", tmp_path):
        RunFolder(path).check_free(overwrite=False, resume=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "resume", "message"),
    [
        (["notes.txt"], False, "got one with notes.txt in it"),
        (["notes.txt"], True, "got one with notes.txt in it"),
        (["config.json", "metrics.jsonl"], True, "Replace its model with --overwrite"),
        (["metrics.jsonl"], False, "got one with metrics.jsonl in it"),
        (["last/assistant.json", "last/training/state.json"], False, "got a run that can be resumed"),
        (["last/assistant.json"], True, "got one with last in it"),
    ],
)
def test_existing_files_are_replaced_only_with_overwrite(
    tmp_path: Path, names: list[str], resume: bool, message: str
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    with pytest.raises(SettingsError, match=message):
        RunFolder(tmp_path).check_free(overwrite=False, resume=resume)
    RunFolder(tmp_path).check_free(overwrite=True, resume=False)


@pytest.mark.parametrize("name", ["last", "best"])
def test_a_folder_named_last_or_best_without_a_model_is_never_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "weights.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(SettingsError, match="expected a model of an earlier run"):
            RunFolder(tmp_path).check_free(overwrite=overwrite, resume=True)


def test_a_run_killed_before_its_first_save_may_be_resumed(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    RunFolder(tmp_path).check_free(overwrite=False, resume=True)
    assert (tmp_path / "metrics.jsonl").exists()  # the check changes nothing


def test_a_file_instead_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SettingsError, match="expected a folder or nothing, got a file"):
        RunFolder(tmp_path / "file").check_free(overwrite=True, resume=False)


def test_only_one_run_at_a_time_may_use_a_folder(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    first.begin()
    for method in (second.begin, second.recover):
        with pytest.raises(PrerequisiteError, match="got one that is still running"):
            method()
    first.unlock()
    assert list(tmp_path.iterdir()) == []
    second.begin()
    second.unlock()


def test_begin_deletes_old_records_and_keeps_all_weights_and_other_files(tmp_path: Path) -> None:
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


# --- resuming -----------------------------------------------------------------------------------------------------

STATE_OF_0_1_0 = """
{
  "step": 3,
  "settings": {
    "epochs": 2,
    "max_steps": null,
    "batch_size": 8,
    "gradient_accumulation_steps": 1,
    "lora": null,
    "freeze_embeddings": false,
    "optimizer": "adamw",
    "learning_rate": 0.003,
    "warmup_steps": 20,
    "weight_decay": 0.1,
    "max_grad_norm": null,
    "beta": null,
    "train_on": "response",
    "template": "alpaca",
    "max_length": null,
    "too_long": "truncate",
    "precision": "float32",
    "gradient_checkpointing": false,
    "validate_every": null,
    "validation_answers": 0,
    "best_by": "loss",
    "patience": null,
    "book": false,
    "seed": 123
  },
  "base_model": "tiny",
  "processes": 1,
  "shards": false,
  "precision": "float32",
  "data_files": [
    "rows.json"
  ],
  "data_fingerprint": "6405cb06e5b055a0b1c9b34eed3919f8e291f2abac8b7f5800a4bccb74a95ed3",
  "split_method": "grouped",
  "split_seed": 123,
  "split_fractions": [
    0.85,
    0.1,
    0.05
  ],
  "best_step": 2,
  "best_validation_loss": 5.2477663213556465,
  "first_validation_loss": 5.561436393044212,
  "best_share": null,
  "validations_since_best": 0,
  "seconds": 0.18408864799948788
}
"""
"""What version 0.1.0 wrote for the rows of `examples`. Its null for `max_grad_norm` means "do not clip"."""
UNCLIPPED = FAST.model_copy(update={"max_grad_norm": 0.0, "validation_answers": 0})
"""Today's settings for the same run."""


def write_state(output: Path, text: str) -> RunFolder:
    """Write the text as the state of the run in `output`."""
    path = output / "last" / "training" / "state.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return RunFolder(output)


def test_the_state_of_version_0_1_0_can_be_read_and_belongs_to_the_same_run(tmp_path: Path) -> None:
    before = write_state(tmp_path, STATE_OF_0_1_0).read_state()
    assert before is not None
    assert before.settings == UNCLIPPED
    check_same_run(before.model_copy(update={"step": 0, "settings": UNCLIPPED}), before, tmp_path)
    with pytest.raises(SettingsError, match=r"resume with max-grad-norm 0\.0, got 1\.0"):
        check_same_run(before.model_copy(update={"settings": FAST}), before, tmp_path)
    stored, expected = json.loads(before.model_dump_json()), json.loads(STATE_OF_0_1_0)
    expected["settings"]["max_grad_norm"] = 0.0
    assert stored["settings"].items() >= expected.pop("settings").items()
    del stored["settings"]
    assert stored.items() >= expected.items()


def test_a_run_of_version_0_1_0_resumes_to_the_same_weights(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    train(byte_tokenizer, examples, tmp_path / "whole", UNCLIPPED)
    train(byte_tokenizer, examples, tmp_path / "parts", UNCLIPPED, stop_at=3)
    write_state(tmp_path / "parts", STATE_OF_0_1_0)
    result, watcher = train(byte_tokenizer, examples, tmp_path / "parts", UNCLIPPED, resume=True)
    assert (watcher.plans[0].first_step, result.steps) == (3, 10)
    assert weights(tmp_path / "parts" / "last") == weights(tmp_path / "whole" / "last")


def test_a_state_without_the_fields_of_later_versions_can_be_read(tmp_path: Path) -> None:
    """Fields with a default were added one by one, so older states lack some of them."""
    state = json.loads(STATE_OF_0_1_0)
    for name, field in RunState.model_fields.items():
        if not field.is_required():
            state.pop(name, None)
    before = write_state(tmp_path, json.dumps(state)).read_state()
    assert before is not None
    assert (before.processes, before.shards, before.precision, before.step) == (1, False, None, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_fingerprint": "0"}, "got another data fingerprint"),
        ({"split_method": "book"}, r"got another split method \(book instead of grouped\)"),
        ({"split_seed": 1}, "got another split seed"),
        ({"split_fractions": (0.9, 0.05, 0.05)}, "got another split fractions"),
        ({"processes": 2}, "with the same number of processes, 1, got 2. Start 1"),
        ({"shards": True}, "expected to resume without --shard"),
        (
            {"settings": UNCLIPPED.model_copy(update={"lora": LoraSettings()})},
            "expected to resume with lora None, got rank=8",
        ),
    ],
)
def test_a_run_is_resumed_only_as_it_began(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    before = RunState.model_validate_json(STATE_OF_0_1_0)
    with pytest.raises(SettingsError, match=message):
        check_same_run(before.model_copy(update=changes), before, tmp_path)


def test_resuming_with_other_settings_or_data_is_refused(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    output = tmp_path / "run"
    train(byte_tokenizer, examples, output, stop_at=2)
    with pytest.raises(SettingsError, match=r"resume with learning-rate 0\.003, got 0\.5"):
        train(byte_tokenizer, examples, output, FAST.model_copy(update={"learning_rate": 0.5}), resume=True)
    with pytest.raises(SettingsError, match="another data fingerprint"):
        train(byte_tokenizer, examples[1:], output, resume=True)


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected the state of a run"):
        write_state(tmp_path, "{").read_state()


def test_a_stopped_preference_run_saves_its_reference_in_a_file_of_that_name(
    tmp_path: Path, byte_tokenizer: Tokenizer, pairs: list[Example]
) -> None:
    """Later versions must find it, so the names of the files and tensors stay as they are."""
    settings = FAST.model_copy(update={"beta": 0.3, "validation_answers": 0})
    train(byte_tokenizer, pairs, tmp_path / "run", settings, stop_at=1)
    training = tmp_path / "run" / "last" / "training"
    assert {path.name for path in training.iterdir()} == {
        "state.json",
        "optimizer.safetensors",
        "reference.safetensors",
    }
    logprobs = RunFolder(tmp_path / "run").read_reference_logprobs()
    assert {part: tuple(values.shape) for part, values in logprobs.items()} == {"train": (34, 2), "validation": (2, 2)}


def test_a_record_that_was_cut_off_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1}) + "\n" + '{"step": 2, "lo')
    assert read_records(path) == [{"step": 1}]


# --- publishing, and runs that were killed ------------------------------------------------------------------------


@pytest.mark.parametrize("stop_at", [None, 2])
def test_a_run_without_validation_replaces_an_earlier_model_by_its_last_weights(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], stop_at: int | None
) -> None:
    output, single_row = tmp_path / "run", examples[:1]
    train(byte_tokenizer, single_row, output, FAST.model_copy(update={"max_steps": 1}))
    earlier = weights(output)
    settings = FAST.model_copy(update={"max_steps": 5})
    train(byte_tokenizer, single_row, output, settings, stop_at=stop_at)
    assert weights(output) == weights(output / "last") != earlier
    if stop_at:
        train(byte_tokenizer, single_row, output, settings, resume=True)
    info = load_checkpoint(output).info
    assert info is not None
    assert info.metrics["step"] == 5
    assert weights(output) == weights(output / "last")


def test_a_run_killed_while_it_saves_resumes_to_the_same_weights(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    """Killed between the two renames of a save: the earlier folder is moved aside, the new one still missing."""
    train(byte_tokenizer, examples, tmp_path / "whole")
    output = tmp_path / "run"
    train(byte_tokenizer, examples, output, stop_at=3)
    (output / ".last.abc").mkdir()
    (output / "last").rename(output / ".last.abc" / "last")
    (output / ".best.half").mkdir()
    folder = RunFolder(output)
    folder.recover()
    folder.unlock()
    assert not [path for path in output.iterdir() if path.name.startswith(".")]
    train(byte_tokenizer, examples, output, resume=True)
    assert weights(output / "last") == weights(tmp_path / "whole" / "last")


@pytest.mark.parametrize("n_moved", [0, 3, 100])
def test_a_run_killed_while_it_publishes_resumes_to_the_same_model(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], n_moved: int
) -> None:
    """Killed between two renames of `publish`, after it moved `n_moved` files out of `best`."""
    train(byte_tokenizer, examples, tmp_path / "whole")
    output = tmp_path / "run"
    train(byte_tokenizer, examples, output, stop_at=5)
    names = [path.name for path in (output / "last").iterdir() if path.is_file() and path.name != "config.json"]
    names = [*sorted(names), "config.json"]
    (output / "best").mkdir()
    for name in names[n_moved:]:
        (output / name).rename(output / "best" / name)
    resumed, _ = train(byte_tokenizer, examples, output, resume=True)
    assert resumed.steps == 10
    assert weights(output) == weights(tmp_path / "whole")
    assert not (output / "best").exists()
    assert load_checkpoint(output).info is not None


def test_new_weights_remove_the_scores_of_the_old_ones(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    output = tmp_path / "run"
    train(byte_tokenizer, examples, output)
    (output / "scores.jsonl").write_text('{"mean": 99}\n', encoding="utf-8")
    train(byte_tokenizer, examples, output)
    assert read_last_score(output) is None


def test_a_run_killed_while_it_ends_counts_as_finished(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    output = tmp_path / "run"
    train(byte_tokenizer, examples, output)
    (output / "last" / "training").mkdir()
    (output / "last" / "training" / "optimizer.safetensors").write_text("x")
    folder = RunFolder(output)
    folder.recover()
    folder.unlock()
    assert not (output / "last" / "training").exists()
