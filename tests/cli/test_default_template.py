"""Which template `finetune` and `prefer` take where none is named."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from assistant.cli.finetune import default_template
from assistant.dataset.prompts import get_template
from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import SettingsError
from assistant.model import checkpoint
from tests.support.commands import invoke
from tests.support.marked import CHAT_TEMPLATES, with_markers
from tests.support.models import save_tiny


@pytest.fixture
def marked(folder: Path, byte_tokenizer: Tokenizer) -> Path:
    """A base model with the markers, in the current folder."""
    return save_tiny(folder / "marked", with_markers(byte_tokenizer))


def give(folder: Path, chat_template: str) -> None:
    (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")


def test_a_chat_model_has_its_own_and_a_base_the_default(marked: Path, folder: Path) -> None:
    assert default_template(folder / "base", "alpaca") == default_template(marked, "alpaca") == "alpaca"
    give(marked, CHAT_TEMPLATES["smollm2"])
    assert default_template(marked, "alpaca") == "chatml"
    (folder / "adapter").mkdir()
    give(folder / "adapter", CHAT_TEMPLATES["llama3.2"])
    assert default_template(folder / "adapter", "alpaca") == "alpaca"


def test_an_unknown_chat_template_needs_a_choice(marked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give(marked, "<|im_end|>{{ messages[0].content }}")
    assert default_template(marked, "alpaca") == "alpaca"  # GPT-2 has none of its own
    monkeypatch.setattr(checkpoint, "read_config", lambda _: SimpleNamespace(model_type="llama"))
    with pytest.raises(SettingsError, match=r"marked: expected a chat template .* for example --template alpaca"):
        default_template(marked, "alpaca")


def test_a_run_learns_with_the_models_own_template(marked: Path, folder: Path) -> None:
    give(marked, CHAT_TEMPLATES["qwen3"])
    words = ["finetune", "rows.json", "-m", "marked", "--max-steps", "1"]
    assert invoke(*words, "-o", "own").exit_code == 0
    assert invoke(*words, "-o", "plain", "--template", "alpaca").exit_code == 0
    records = [json.loads((folder / name / "assistant.json").read_text(encoding="utf-8")) for name in ("own", "plain")]
    assert [record["template"]["name"] for record in records] == ["chatml", "alpaca"]
    assert [record["finetune"]["template"] for record in records] == ["chatml", "alpaca"]
    assert records[1]["template"]["fingerprint"] == get_template("alpaca").fingerprint
    assert default_template(folder / "own", "alpaca") == "chatml"
    shown = json.loads(invoke("data", "show", "rows.json", "-m", "own", "--template", "chatml", "--json").stdout)
    assert [token["text"] for token in shown["rows"][0]][-1] == "<|im_end|>"
