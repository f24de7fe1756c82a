"""`assistant import FILE.gguf`: the folder keeps the model's own template, and what the command names next works."""

from __future__ import annotations

from pathlib import Path

import pytest

from assistant.cli.finetune import default_template
from assistant.dataset.tokenizer import Tokenizer
from assistant.interop.gguf import export_gguf
from assistant.model.checkpoint import load_checkpoint
from tests.support.commands import invoke
from tests.support.marked import CHAT_TEMPLATES, with_markers
from tests.support.models import tiny_llama

UNKNOWN = "[INST] {{ messages[0].content }} [/INST]"


@pytest.mark.parametrize(
    ("chat_template", "name"), [(CHAT_TEMPLATES["smollm2"], "chatml"), ("", "alpaca"), (UNKNOWN, "alpaca")]
)
def test_the_models_own_template_is_the_default_of_finetune(
    tmp_path: Path,
    byte_tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    chat_template: str,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = tiny_llama(with_markers(byte_tokenizer), max_position_embeddings=512)
    if chat_template:
        monkeypatch.setattr(type(checkpoint.template), "chat_template", lambda _self, _bos="": chat_template)
    export_gguf(checkpoint, Path("model.gguf"), "f32")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    done = invoke("import", "model.gguf", "--output", "base")
    assert done.exit_code == 0, done.output
    assert "model.gguf: llama, 0.0M parameters" in done.stdout
    assert f"template {name}" in done.stdout
    template = load_checkpoint("base").template
    assert (template.name, default_template(Path("base"))) == (name, name)
    assert ("SmolLM" in template.preamble) is (name == "chatml")
    assert ("finetune --template names another" in done.stdout) is (chat_template == UNKNOWN)
    again = invoke("import", "model.gguf", "--output", "base")
    assert again.exit_code == 2
    assert "--overwrite" in again.output


def test_a_missing_file_and_options_of_other_files_are_refused(tmp_path: Path) -> None:
    done = invoke("import", str(tmp_path / "no.gguf"), "--output", str(tmp_path / "new"))
    assert done.exit_code == 1
    assert "no.gguf: expected a GGUF file, got no such file. Check the path." in done.output
    done = invoke("import", str(tmp_path / "no.gguf"), "--output", str(tmp_path / "new"), "--labels", "a,b")
    assert done.exit_code == 2
    assert not (tmp_path / "new").exists()
