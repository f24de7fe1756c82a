"""The whole demo, twice: most questions with one right answer are answered word for word, by the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assistant.dataset.instructions import read_examples
from assistant.dataset.splits import split_examples
from assistant.decoding.decoder import Decoder
from assistant.decoding.engine import Engine
from assistant.model.checkpoint import load_checkpoint
from assistant.settings import GenerationSettings
from assistant.shipped import ROWS, shipped
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
    drafts_change_no_word(tmp_path / "first" / "model")


def drafts_change_no_word(folder: Path) -> None:
    """`auto` keeps its promise on every test row. Pocket is too small for it to draft, so the draft is made here."""
    checkpoint = load_checkpoint(folder)
    eos_id, settings = checkpoint.tokenizer.eos_id, GenerationSettings(temperature=0.0, max_new_tokens=64)
    plain = Engine(Decoder(checkpoint.model, plain=True), eos_id=eos_id)
    drafted = Engine(Decoder(checkpoint.model), eos_id=eos_id, draft=Decoder(checkpoint.model, storage="int8"))
    rows = split_examples(read_examples(*map(shipped, ROWS))).test
    for row in rows:
        prompt = checkpoint.tokenizer.encode(checkpoint.template.render(row.instruction, row.input, row.history))
        first, second = (next(engine.generate([prompt], settings)).token_ids for engine in (plain, drafted))
        assert first == second, row.where
