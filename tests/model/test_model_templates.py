"""A model's own template: found in its folder, kept through training, written for other programs, ending replies."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from assistant.dataset.encode import encode_pieces
from assistant.dataset.examples import Exchange
from assistant.dataset.prompts import get_template
from assistant.dataset.tokenizer import Tokenizer
from assistant.decoding.session import Session
from assistant.errors import CheckpointError, SettingsError
from assistant.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from assistant.model.templates import template_record
from assistant.settings import GenerationSettings
from tests.support.marked import CHAT_TEMPLATES, with_markers
from tests.support.models import save_tiny, tiny_checkpoint
from tests.support.uppercase_session import trained_on

SMOLLM2 = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"


@pytest.fixture
def chat_model(tmp_path: Path, byte_tokenizer: Tokenizer) -> Path:
    """A tiny base model that has SmolLM2's chat template."""
    folder = save_tiny(tmp_path / "base", with_markers(byte_tokenizer), n_positions=512)
    edit(folder / "tokenizer_config.json", chat_template=CHAT_TEMPLATES["smollm2"])
    return folder


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def trained(checkpoint: Checkpoint) -> Checkpoint:
    """The model with a record, as if it had been trained with its template."""
    info = trained_on([]).model_copy(update={"template": template_record(checkpoint.template)})
    return replace(checkpoint.with_template(checkpoint.template.name), info=info)


def test_a_chat_models_own_template_is_its_default(chat_model: Path) -> None:
    checkpoint = load_checkpoint(chat_model)
    assert (checkpoint.template.name, checkpoint.template.preamble) == ("chatml", SMOLLM2)
    assert checkpoint.with_template("chatml").template == checkpoint.template
    assert checkpoint.with_template("alpaca").template == get_template("alpaca")
    assert checkpoint.with_template("alpaca").tokenizer == checkpoint.tokenizer


def test_the_system_text_is_kept_with_a_trained_model_and_checked(chat_model: Path, tmp_path: Path) -> None:
    checkpoint = trained(load_checkpoint(chat_model))
    save_checkpoint(checkpoint, tmp_path / "tuned")
    again = load_checkpoint(tmp_path / "tuned")
    assert again.template == checkpoint.template
    end_id = again.tokenizer.special_id("<|im_end|>")
    assert again.tokenizer.eos_ids == (256, end_id)
    config = json.loads((tmp_path / "tuned/generation_config.json").read_text(encoding="utf-8"))
    assert config["eos_token_id"] == [256, end_id]
    record = json.loads((tmp_path / "tuned/assistant.json").read_text(encoding="utf-8"))["template"]
    assert record["texts"]["preamble"] == SMOLLM2
    record["texts"]["preamble"] = SMOLLM2.replace("helpful", "cheerful")
    edit(tmp_path / "tuned/assistant.json", template=record)
    with pytest.raises(CheckpointError, match=r"expected the template it was trained with \(chatml, "):
        load_checkpoint(tmp_path / "tuned")


def test_the_written_folder_gives_the_same_ids_in_transformers(chat_model: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    checkpoint = trained(load_checkpoint(chat_model))
    save_checkpoint(checkpoint, tmp_path / "tuned")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "tuned")
    turns = (("user", "One"), ("assistant", "é"), ("user", "Two"))
    messages = [{"role": role, "content": text} for role, text in turns]
    rendered = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == checkpoint.template.render("Two", history=[Exchange("One", "é")])


def test_the_end_of_a_turn_ends_a_reply(chat_model: Path) -> None:
    checkpoint = load_checkpoint(chat_model)
    end_id = checkpoint.tokenizer.special_id("<|im_end|>")
    assert end_id not in checkpoint.tokenizer.eos_ids
    with torch.no_grad():  # the head now prefers one token after anything
        for weight in checkpoint.model.transformer.ln_f.parameters():
            weight.fill_(1.0)
        checkpoint.model.lm_head.weight[end_id] = 9.0
    session = Session(checkpoint, precision="float32")
    reply = session.reply("Say <|im_end|>.", history=[Exchange("One", "1")], settings=GenerationSettings())
    assert (reply.stop_reason, reply.token_ids) == ("eos", ())
    assert reply.prompt == checkpoint.template.render("Say <|im_end|>.", history=[Exchange("One", "1")])
    assert list(reply.prompt_token_ids) == encode_pieces(
        checkpoint.template.pieces("Say <|im_end|>.", "", [Exchange("One", "1")]), checkpoint.tokenizer
    )


def test_a_template_needs_its_markers(byte_tokenizer: Tokenizer) -> None:
    checkpoint = tiny_checkpoint(byte_tokenizer)
    with pytest.raises(SettingsError, match=re.escape("expected a model with the token <|im_start|>")):
        checkpoint.with_template("chatml")
    with pytest.raises(SettingsError, match=re.escape("the token <|im_start|>, got a tokenizer without it")):
        Session(replace(checkpoint, template=get_template("chatml")))
