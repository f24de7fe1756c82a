"""Where the base model of a fine-tuned model is found: by a given path, the record, the name; and never a wrong one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from assistant.chat.models import BaseFound, find_base, missing_model_sentence
from assistant.dataset.tokenizer import Tokenizer
from assistant.model.checkpoint import load_info
from assistant.model.digest import record_base_path, weights_digest
from assistant.shipped import shipped
from tests.support.commands import FINETUNE, invoke
from tests.support.models import save_tiny


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, byte_tokenizer: Tokenizer) -> Path:
    """A folder with `base`, and `runs/mine`, which was fine-tuned from it with the command."""
    place = tmp_path_factory.mktemp("trained")
    save_tiny(place / "base", byte_tokenizer)
    rows: list[dict[str, object]] = [{"instruction": f"Say {n}.", "output": str(n)} for n in range(30)]
    rows += [{"messages": _messages(number)} for number in range(10)]
    (place / "rows.json").write_text(json.dumps(rows))
    words = ["finetune", str(place / "rows.json"), "--model", str(place / "base"), "--output", str(place / "runs/mine")]
    done = invoke(*words, *FINETUNE, "--max-steps", "1")
    assert done.exit_code == 0, done.output
    return place


def _messages(number: int) -> list[dict[str, str]]:
    turns = [f"Hello {number}", "Hi", f"And {number}?", "Yes"]
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(turns)]


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, in another place, with an empty current folder."""
    shutil.copytree(trained, tmp_path / "copy")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "copy"


def find(folder: Path, given: str | None = None) -> BaseFound:
    return find_base(folder, load_info(folder), given)


def change_record(folder: Path, **fields: object) -> None:
    path = folder / "assistant.json"
    record = json.loads(path.read_text())
    record = {name: value for name, value in (record | fields).items() if value != "absent"}
    path.write_text(json.dumps(record))


def test_the_record_has_path_weights_and_conversations(trained: Path) -> None:
    for part in ("runs/mine", "runs/mine/last"):
        info = load_info(trained / part)
        assert info is not None
        assert info.base_path == "../../base"
        assert info.base_digest == weights_digest(trained / "base")
        assert 0 < info.conversation_rows <= 10
        assert info.conversation_rows < info.rows["train"]


@pytest.mark.parametrize("part", ["runs/mine", "runs/mine/last"])
def test_it_is_found_after_both_were_moved_together(place: Path, part: str) -> None:
    assert find(place / part) == BaseFound(folder=place.resolve() / "base")
    os.chdir(place)
    assert find(Path(part)) == BaseFound(folder=place.resolve() / "base")
    (place / "link").symlink_to(place / part)
    assert find(Path("link")) == BaseFound(folder=place.resolve() / "base")


def test_a_moved_base_is_found_by_its_name(place: Path) -> None:
    """Beside the model, beside its folder, and in the current folder."""
    for new in (place / "runs" / "base", Path("base")):
        old = find(place / "runs/mine").folder
        assert old is not None
        old.rename(new)
        found = find(place / "runs/mine").folder
        assert found is not None
        assert found.samefile(new)


def test_other_weights_are_not_the_base(place: Path, byte_tokenizer: Tokenizer) -> None:
    """At the recorded path, or by its name only: the base was trained again, or is another model of the same name."""
    (place / "base").rename(place / "kept")
    save_tiny(place / "base", byte_tokenizer, seed=9)
    found = find(place / "runs/mine")
    assert found.folder is None
    assert found.reason.startswith(f"{place.resolve() / 'base'}: expected the weights that mine was fine-tuned from")
    assert "The base has changed since." in found.reason
    given = find(place / "runs/mine", str(place / "base"))
    assert given.folder == place / "base"
    assert "has other weights" in given.reason
    (place / "kept").rename(place / "runs" / "base")
    assert find(place / "runs/mine") == BaseFound(folder=place.resolve() / "runs" / "base")


def test_a_record_of_an_older_version_is_followed_by_name(place: Path) -> None:
    change_record(place / "runs/mine", base_path="absent", base_digest="absent", conversation_rows="absent")
    info = load_info(place / "runs/mine")
    assert info is not None
    assert (info.base_path, info.base_digest, info.conversation_rows) == (None, None, 0)
    assert find(place / "runs/mine") == BaseFound(folder=place.resolve() / "base")
    change_record(place / "runs/mine", base_model="pocket")
    assert find(place / "runs/mine") == BaseFound(folder=shipped("pocket"))


def test_a_base_that_is_nowhere_is_a_sentence(place: Path) -> None:
    shutil.rmtree(place / "base")
    found = find(place / "runs/mine")
    assert found.folder is None
    assert found.reason == (
        "base model base: expected its folder, got none, neither where it was nor by its name. "
        "Give its folder with --base."
    )


def test_a_base_model_and_an_adapter_have_none(place: Path) -> None:
    found = find(place / "base")
    assert found.folder is None
    assert found.reason.startswith("base is a base model, so there is nothing to compare it with.")
    adapter = place / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "../base"}')
    found = find(adapter)
    assert found.folder is None
    assert found.reason.startswith("adapter is an adapter of another program")
    for folder in (place / "base", adapter):
        assert find(folder, "pocket") == BaseFound(folder=shipped("pocket"))


def test_a_given_base_that_does_not_exist_is_a_sentence(place: Path) -> None:
    found = find(place / "runs/mine", "nothing/here/at/all")
    assert found.folder is None
    assert found.reason.startswith("--base: model nothing/here/at/all: expected")
    assert "pocket" in found.reason
    found = find(place / "runs/mine", "gpt2")
    assert found.folder is None
    assert "Run: assistant pull gpt2" in found.reason


@pytest.mark.parametrize("path", ["", ".", "..", "\0", "a\0b", "x" * 5000, "/", "/proc", "../" * 300, "~", "con\n"])
def test_a_hostile_record_finds_nothing_and_raises_nothing(place: Path, path: str) -> None:
    change_record(place / "runs/mine", base_path=path, base_model=path or "y" * 5000)
    found = find(place / "runs/mine")
    assert found.folder is None
    assert len(found.reason) < 1000


def test_a_model_is_not_its_own_base(place: Path) -> None:
    """A run that was trained again from its own result has a path to itself."""
    change_record(place / "runs/mine", base_path=".", base_model="mine", base_digest=None)
    assert find(place / "runs/mine").folder is None


def test_weights_that_cannot_be_read_are_not_taken(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_folder: Path) -> str:
        raise PermissionError("no")

    monkeypatch.setattr("assistant.chat.models.weights_digest", refuse)
    assert find(place / "runs/mine").folder is None


# --- the recorded path --------------------------------------------------------------------------------------------


def test_the_path_is_relative_unless_only_the_root_is_shared(tmp_path: Path) -> None:
    assert record_base_path(tmp_path / "base", tmp_path / "runs" / "mine") == "../../base"
    assert record_base_path(Path("/models/gpt2"), Path("/home/me/run")) == "/models/gpt2"
    assert record_base_path(tmp_path / "a\udcff", tmp_path / "run") is None
    (tmp_path / "real" / "base").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "base")
    assert record_base_path(tmp_path / "link", tmp_path / "run") == "../real/base"


# --- models that are here -----------------------------------------------------------------------------------------


def test_the_nearest_model_comes_first(place: Path, byte_tokenizer: Tokenizer) -> None:
    os.chdir(place)
    assert missing_model_sentence("runs/mnie").startswith(
        "model runs/mnie: expected a model folder or the name of a model, got neither. Here are: runs/mine, "
    )
    assert "Here are: pocket" in missing_model_sentence("pokcet")
    for number in range(6):
        save_tiny(place / f"other{number}", byte_tokenizer)
    sentence = missing_model_sentence("other7")
    assert "other" in sentence.partition("Here are: ")[2].partition(",")[0]
    assert " and 4 more." in sentence
    assert len(missing_model_sentence("z" * 9999)) < 1000
