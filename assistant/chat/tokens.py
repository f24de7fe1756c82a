"""A look at an answer token by token, under the model that wrote it and under its base model. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from itertools import zip_longest
from typing import TYPE_CHECKING

from assistant.chat.events import TokenDetail
from assistant.chat.records import Answered
from assistant.decoding.reply import InspectedToken, SessionLike
from assistant.errors import ContextError, SettingsError

if TYPE_CHECKING:  # the chat paints its first frame before it needs a tokenizer
    from assistant.dataset.tokenizer import Tokenizer

SHOWN_ALTERNATIVES = 5


def inspect_answer(
    tuned: SessionLike, base: SessionLike | None, answer: Answered, prompt_ids: Sequence[int]
) -> tuple[TokenDetail, ...]:
    """Look at an answer's tokens after its prompt: one value for each, and one for EOS if the answer ended by itself.

    `tuned` is the model that wrote the answer. The base model is asked about the same tokens after the same prompt,
    under the template of `tuned`. The values have nothing of the base model where there is none, where its tokenizer is
    another, and where its context is too short.

    Raises:
        ContextError: prompt and answer do not fit into the context of `tuned`, so it cannot have written it.
        SettingsError: `tuned` does not have these tokens.
        RuntimeError: a session is answering another caller.
    """
    found = tuned.inspect(prompt_ids, answer.token_ids, count=SHOWN_ALTERNATIVES, with_eos=answer.stop_reason == "eos")
    of_base: Sequence[InspectedToken | None] = [None] * len(found)
    if base is not None and have_same_tokens(tuned.tokenizer, base.tokenizer):
        with suppress(ContextError, SettingsError):  # a base model with another context or vocabulary
            # With EOS as one of the tokens: where several tokens end a reply, it is the same one in both models.
            of_base = base.inspect(prompt_ids, [token.token_id for token in found], count=0, with_eos=False)
    return tuple(_detail(token, under_base) for token, under_base in zip(found, of_base, strict=True))


def have_same_tokens(first: Tokenizer, second: Tokenizer) -> bool:
    """Whether two tokenizers give every text the same ids."""
    return first is second or (
        (first.vocab_json, first.merges_txt, first.added.ids, first.added.tokens, first.added.pipeline)
        == (second.vocab_json, second.merges_txt, second.added.ids, second.added.tokens, second.added.pipeline)
    )


def first_difference(tuned: Answered, base: Answered) -> int | None:
    """Return the index of the first token in which two answers differ. None if they have the same tokens.

    Where one answer is the beginning of the other, this is the number of its tokens. The models must have the same
    tokenizer (`have_same_tokens`).
    """
    pairs = zip_longest(tuned.token_ids, base.token_ids)
    return next((index for index, (one, other) in enumerate(pairs) if one != other), None)


def character_offset(tokenizer: Tokenizer, answer: Answered, index: int) -> int:
    """Return where token `index` of an answer begins in its response, in characters.

    A token that begins inside a character has that character's place. The end of the answer is its length.
    """
    decoder = tokenizer.stream_decoder()
    n_before = sum(len(decoder.push(token_id)) for token_id in answer.token_ids[:index])
    return min(n_before, len(answer.response))


def _detail(token: InspectedToken, under_base: InspectedToken | None) -> TokenDetail:
    return TokenDetail(
        token_id=token.token_id,
        text=token.text or "",
        probability=math.exp(token.logprob),
        rank=token.rank,
        entropy=token.entropy,
        likeliest=token.likeliest,
        base_probability=None if under_base is None else math.exp(under_base.logprob),
        base_rank=None if under_base is None else under_base.rank,
    )
