"""Answers folders: they belong to one model, data set and settings, and damaged folders are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assistant.dataset.instructions import Example
from assistant.dataset.prompts import TEMPLATES
from assistant.errors import DataError, SettingsError
from assistant.settings import GenerationSettings
from evaluation.answers.folder import RESPONSES_FILE, RUN_FILE, AnswersInfo, ResponseRecord, claim_folder, read_answers
from evaluation.answers.responses import choose_part, describe_answers
from tests.support.uppercase_session import UppercaseSession

SETTINGS = GenerationSettings(max_new_tokens=8)


def describe(
    examples: Sequence[Example],
    session: UppercaseSession | None = None,
    *,
    model: Path = Path("no-folder"),
    **settings: Any,
) -> AnswersInfo:
    """Describe the answers of a fake model to these rows."""
    chosen = choose_part(examples, "all", None)
    generation = SETTINGS.model_copy(update=settings)
    return describe_answers(session or UppercaseSession(), str(model), ["rows.json"], chosen, generation)


def test_response_hash_depends_on_the_response() -> None:
    record = ResponseRecord(id="a", source="s", row=1, instruction="i", reference="r", response="x")
    assert record.response_hash != record.model_copy(update={"response": "y"}).response_hash


# --- one folder, one origin ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"max_new_tokens": 9}, "--max-new-tokens 9 (it has 8)"),
        ({"temperature": 0.5}, "--temperature 0.5 (it has 0.0)"),
        ({"seed": 4}, "--seed 4 (it has 0)"),
    ],
)
def test_other_settings_are_refused(
    tmp_path: Path, examples: list[Example], change: dict[str, Any], difference: str
) -> None:
    claim_folder(tmp_path, describe(examples))
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(SettingsError, match="Choose another --run") as caught:
        claim_folder(tmp_path, describe(examples, **change))
    assert difference in str(caught.value)
    assert (tmp_path / "run.json").read_bytes() == before


def test_other_storage_of_the_weights_is_refused(tmp_path: Path, examples: list[Example]) -> None:
    claim_folder(tmp_path, describe(examples))
    with pytest.raises(SettingsError, match=r"--precision int8 \(it has auto\)"):
        claim_folder(tmp_path, describe(examples, UppercaseSession(precision="int8")))


def test_other_rows_and_another_template_are_refused(tmp_path: Path, examples: list[Example]) -> None:
    claim_folder(tmp_path, describe(examples))
    with pytest.raises(SettingsError, match=r"other rows \(all rows, 39, of rows\.json; it holds all rows, 40"):
        claim_folder(tmp_path, describe(examples[1:]))
    with pytest.raises(SettingsError, match=r"another prompt template \(phi3; it has alpaca\)"):
        claim_folder(tmp_path, describe(examples, UppercaseSession(template=TEMPLATES["phi3"])))


def test_other_weights_in_the_same_model_folder_are_refused(tmp_path: Path, examples: list[Example]) -> None:
    model, moved_model, folder = tmp_path / "model", tmp_path / "moved", tmp_path / "run"
    for path in (model, moved_model):
        path.mkdir()
        (path / "model.safetensors").write_bytes(b"one")
    claim_folder(folder, describe(examples, model=model))
    claim_folder(folder, describe(examples, model=moved_model))
    (model / "model.safetensors").write_bytes(b"two")
    with pytest.raises(SettingsError, match="another model"):
        claim_folder(folder, describe(examples, model=model))


def test_equal_description_is_accepted(tmp_path: Path, examples: list[Example]) -> None:
    claim_folder(tmp_path, describe(examples))
    moved = [replace(example, source="other.json") for example in examples]
    before = (tmp_path / RUN_FILE).read_text()
    claim_folder(tmp_path, describe(moved))
    assert (tmp_path / RUN_FILE).read_text() == before


def test_responses_without_run_json_are_refused(tmp_path: Path, examples: list[Example]) -> None:
    (tmp_path / RESPONSES_FILE).write_text("")
    with pytest.raises(SettingsError, match=r"expected run\.json beside responses\.jsonl"):
        claim_folder(tmp_path, describe(examples))


# --- reading ------------------------------------------------------------------------------------------------------


def test_folder_without_answers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected an answers folder, got no run\.json there\. To write one, run:"):
        read_answers(tmp_path / "nowhere")


def test_folder_without_responses_is_refused(tmp_path: Path, examples: list[Example]) -> None:
    claim_folder(tmp_path, describe(examples))
    with pytest.raises(DataError, match=r"expected an answers folder, got no responses\.jsonl there"):
        read_answers(tmp_path)


def test_damaged_run_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(DataError, match=r"run\.json: expected a description of answers by this program"):
        read_answers(tmp_path)
