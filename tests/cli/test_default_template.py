"""Which template `finetune` and `prefer` take where none is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assistant.cli.finetune import default_template
from assistant.dataset.prompts import get_template
from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import SettingsError
from assistant.model.checkpoint import load_checkpoint, save_checkpoint
from tests.support.commands import FINETUNE, invoke
from tests.support.evaluation_command import evaluation
from tests.support.marked import CHAT_TEMPLATES, save_both, with_markers
from tests.support.models import save_tiny, tiny_llama

UNKNOWN = "<|im_end|>{{ messages[0].content }}"


@pytest.fixture
def marked(folder: Path, byte_tokenizer: Tokenizer) -> Path:
    """A base model with the markers, in the current folder."""
    return save_tiny(folder / "marked", with_markers(byte_tokenizer))


@pytest.fixture
def llama(folder: Path, byte_tokenizer: Tokenizer) -> Path:
    """A tiny Llama with the markers and SmolLM2's chat template, in the current folder."""
    tokenizer, _ = save_both(folder / "tokenizer", byte_tokenizer, "smollm2")
    save_checkpoint(tiny_llama(tokenizer, max_position_embeddings=512), folder / "llama")
    give(folder / "llama", CHAT_TEMPLATES["smollm2"])
    return folder / "llama"


def give(folder: Path, chat_template: str) -> None:
    (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")


def test_a_chat_model_has_its_own_and_a_base_the_default(marked: Path, folder: Path) -> None:
    assert default_template(folder / "base", "alpaca") == default_template(marked, "alpaca") == "alpaca"
    give(marked, CHAT_TEMPLATES["smollm2"])
    assert default_template(marked, "alpaca") == "chatml"


def test_an_adapter_has_the_template_of_its_base(llama: Path, folder: Path) -> None:
    for base, name in ((llama.name, "chatml"), ("base", "alpaca")):
        done = invoke("finetune", "rows.json", "-m", base, "-o", f"on-{base}", "--max-steps", "1", "--lora", *FINETUNE)
        assert done.exit_code == 0, done.output
        adapter = folder / f"on-{base}" / "adapter"
        assert default_template(adapter, "alpaca") == load_checkpoint(adapter).template.name == name
    done = invoke("finetune", "rows.json", "-m", "on-llama/adapter", "-o", "more", "--max-steps", "1", *FINETUNE)
    assert done.exit_code == 0, done.output
    record = json.loads((folder / "more" / "assistant.json").read_text(encoding="utf-8"))
    assert record["template"]["texts"]["preamble"].startswith("<|im_start|>system\nYou are a helpful AI assistant")


def test_an_unknown_chat_template_needs_a_choice(marked: Path, llama: Path) -> None:
    for model in (marked, llama):
        give(model, UNKNOWN)
    assert default_template(marked, "alpaca") == "alpaca"  # GPT-2 has none of its own
    with pytest.raises(SettingsError, match=r"llama: expected a chat template .* for example --template alpaca"):
        default_template(llama, "alpaca")


def test_who_asks_such_a_model_is_told_once(llama: Path) -> None:
    words = ("ask", llama.name, "Say hi.", "--max-new-tokens", "2")
    assert invoke(*words).stderr == ""
    give(llama, UNKNOWN)
    told = "chat template is unknown here"
    assert invoke(*words).stderr.count(told) == 1
    assert "--template alpaca" in invoke(*words).stderr
    as_json = invoke(*words, "--json")
    assert told not in as_json.output
    assert json.loads(as_json.stdout)["prompt"].startswith("Below is an instruction")
    chat = ("chat", llama.name, "--plain", "--no-save", "--max-new-tokens", "2")
    assert invoke(*chat, text="Say hi.\nSay bye.\n").output.count(told) == 1
    answered = evaluation("respond", llama.name, "--data", "rows.json", "--run", "run", "--max-new-tokens", "2")
    assert (answered.code, answered.err.count(told)) == (0, 1)
    done = invoke("finetune", "rows.json", "-m", llama.name, "-o", "own", "--max-steps", "1", "--template", "alpaca")
    assert done.exit_code == 0, done.output
    assert told not in invoke("chat", "own", *chat[2:], text="Say hi.\n").output  # neither for its base


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
