"""Thousands of hostile prompts in parts, with GPT-2's own vocabulary too."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assistant.dataset.examples import Exchange
from assistant.dataset.tokenizer import Tokenizer
from tests.chat.test_prompt_parts import PLAIN, check, histories, hostile, pocket_tokenizer, with_added_tokens

__all__ = ["pocket_tokenizer", "with_added_tokens"]


@pytest.mark.long
@pytest.mark.parametrize("name", ["gpt2_tokenizer", "pocket_tokenizer", "with_added_tokens"])
@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    template=st.sampled_from(PLAIN),
    instruction=hostile,
    input_text=hostile,
    history=histories,
    max_new_tokens=st.sampled_from([1, 10, 500]),
)
def test_the_parts_are_the_prompt_and_their_tokens_are_its_tokens(
    name: str,
    template: str,
    instruction: str,
    input_text: str,
    history: list[Exchange],
    max_new_tokens: int,
    request: pytest.FixtureRequest,
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    check(tokenizer, template, instruction, input_text, history, max_new_tokens)
