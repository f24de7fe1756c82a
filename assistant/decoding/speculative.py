"""Speculative decoding of a single prompt: a fast draft proposes tokens, and the decoder verifies them all at once.

The method is that of Leviathan et al., arXiv 2211.17192. The draft is the same model with its weights in int8, so it
nearly always agrees with the decoder. In C, the logits that verify a token equal those of a step, bit for bit: so the
tokens are exactly those without a draft. This module knows nothing about stopping or text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from assistant.decoding.decoder import Decoder, PrefixCache, PromptChunk
from assistant.decoding.sampling import RowState, sample
from assistant.settings import GenerationSettings

MIN_PROPOSED, MAX_PROPOSED = 8, 16
MIN_WEIGHT_BYTES = 64 * 2**20
"""Use a draft only for at least this many bytes of weights. Smaller weights stay in the processor's caches, so reading
them does not take most of the time."""
FIRST_DRAFTED = 24
"""Make the draft after so many tokens of one or more replies. Fewer would take less time than making it."""


class Speculation:
    """Propose, verify and accept tokens of the row in a prefix cache.

    The draft reads the keys and values that the decoder stored, so it needs no separate cache. It adds keys and values
    for the tokens it proposes, and the decoder overwrites them when it verifies these tokens.
    """

    def __init__(self, decoder: Decoder, draft: Decoder, prefix_cache: PrefixCache, *, eos_ids: frozenset[int]) -> None:
        self._decoder, self._draft, self._prefix_cache, self._eos_ids = decoder, draft, prefix_cache, eos_ids
        self._n_to_propose = MAX_PROPOSED

    def propose(
        self,
        next_id: int,
        settings: GenerationSettings,
        row_state: RowState,
        max_tokens: int,
        should_stop: Callable[[], bool],
    ) -> list[int]:
        """Return `next_id`, which is not in the cache yet, and the draft's tokens after it, without EOS.

        Returns `max_tokens` ids at most, and only `next_id` once `should_stop` returns True.
        """
        cache, token_ids = self._prefix_cache.cache, [next_id]
        self._start = cache.lengths[0]
        row_state = row_state.copy()  # the draft's draws use the same random numbers as the decoder's will
        while len(token_ids) < min(self._n_to_propose, max_tokens):
            if should_stop():
                del token_ids[1:]
                break
            logits = self._draft.decode_step(torch.tensor(token_ids[-1:], device=self._draft.device), cache)
            (token_id,) = sample(logits.float().cpu(), settings, [row_state])
            if token_id in self._eos_ids:
                break
            token_ids.append(token_id)
        cache.lengths[0] = self._start
        return token_ids

    def verify(self, token_ids: Sequence[int]) -> Tensor:
        """Return the decoder's logits (T, V) that follow each of the proposed tokens."""
        return self._decoder.prefill([PromptChunk(0, token_ids)], self._prefix_cache.cache, [True], all_positions=True)

    def accept(self, token_ids: Sequence[int], n_accepted: int) -> None:
        """Keep the first `n_accepted` proposed tokens in the cache and drop the others.

        If all are accepted, the next proposal has up to twice as many tokens, otherwise about `n_accepted + 1`.
        """
        self._prefix_cache.cache.lengths[0] = self._start + n_accepted
        self._prefix_cache.append(token_ids[:n_accepted])
        if n_accepted == len(token_ids):
            self._n_to_propose = min(2 * self._n_to_propose, MAX_PROPOSED)
        else:
            self._n_to_propose = max(n_accepted + 1, MIN_PROPOSED)


def may_draft(decoder: Decoder) -> bool:
    """Whether a draft makes a float32 decoder faster: where one step reads all weights from memory, in C."""
    return decoder.is_compiled and decoder.n_weight_bytes >= MIN_WEIGHT_BYTES
