"""The exact prompt in parts under a tokenizer that normalizes, drops bytes, and keeps a line break with a sign."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant.dataset.examples import Exchange
from assistant.dataset.tokenizer import Tokenizer, read_tokenizer
from tests.chat.test_prompt_parts import check, histories, hostile
from tests.support.families import train


@pytest.fixture(scope="module")
def qwen_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("qwen")
    trained = train("qwen2", vocab_size=700, has_all_bytes=False, n_texts=300)
    (folder / "tokenizer.json").write_text(trained.to_str(), encoding="utf-8")
    return read_tokenizer(folder)


@settings(max_examples=25)
@given(instruction=hostile, input_text=hostile, history=histories, max_new_tokens=st.sampled_from([1, 10, 500]))
def test_the_parts_are_the_prompt_and_their_tokens_are_its_tokens(
    instruction: str, input_text: str, history: list[Exchange], max_new_tokens: int, qwen_tokenizer: Tokenizer
) -> None:
    check(qwen_tokenizer, "alpaca", instruction, input_text, history, max_new_tokens)


@pytest.mark.long
@settings(max_examples=3000)
@given(instruction=hostile, input_text=hostile, history=histories, max_new_tokens=st.sampled_from([1, 10, 500]))
def test_the_parts_of_thousands_of_prompts(
    instruction: str, input_text: str, history: list[Exchange], max_new_tokens: int, qwen_tokenizer: Tokenizer
) -> None:
    check(qwen_tokenizer, "alpaca", instruction, input_text, history, max_new_tokens)
