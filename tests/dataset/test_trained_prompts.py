"""Hashes of the prompts that a model was trained on."""

from __future__ import annotations

from pathlib import Path

from assistant.dataset.examples import Example, Exchange
from assistant.dataset.trained_prompts import PROMPTS_FILE, dump_hashes, prompt_hash, prompt_hashes, read_hashes


def test_equal_prompts_have_equal_hashes() -> None:
    plain = Example(instruction="Say  Hi!", output="a")
    assert prompt_hash(plain) == prompt_hash(Example(instruction="say hi", output="b", category="c"))
    others = [
        Example(instruction="say", input="hi", output="a"),
        Example(instruction="Say Hi!", output="a", history=(Exchange("x", "y"),)),
    ]
    assert len({prompt_hash(example) for example in [plain, *others]}) == 3


def test_a_file_of_eight_bytes_a_prompt_holds_the_hashes(tmp_path: Path, examples: list[Example]) -> None:
    hashes = prompt_hashes(examples)
    assert len(dump_hashes(hashes)) == 8 * 40
    assert read_hashes(tmp_path) is None
    (tmp_path / PROMPTS_FILE).write_bytes(dump_hashes(hashes))
    assert read_hashes(tmp_path) == hashes
    (tmp_path / PROMPTS_FILE).write_bytes(dump_hashes(hashes)[:-3])
    assert read_hashes(tmp_path) is None
