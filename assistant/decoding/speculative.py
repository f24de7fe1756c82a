"""What single prompts are answered with: the memory of what was read last, and drafts of what comes next."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from assistant.decoding.decoder import Cache, Decoder, Piece
from assistant.decoding.sampling import RowChance, copied, sample
from assistant.model.gpt import GPT
from assistant.settings import GenerationSettings

SLOT_STEP = 64
"""The cache of single prompts grows by so many slots."""
FEWEST_DRAFTED, MOST_DRAFTED = 4, 16
SMALLEST_DRAFTED_FOR = 64 * 2**20
"""Bytes of weights; smaller ones stay in the processor's caches, and reading them is not what takes the time."""
WORTH = 0.8
"""A draft must bring the time of a token down to this share."""


class Memory:
    """One row of a cache, and which tokens it holds."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.cache = Cache(decoder.config, rows=1, slots=0, device=decoder.device)
        self._ids: list[int] = []

    def recall(self, prompt: Sequence[int], slots: int) -> int:
        """Make room for `slots` tokens in the memory, and keep there what `prompt` begins with, its last token apart.

        Returns how many tokens those are.
        """
        n_known = n_common(self._ids[: self.cache.lengths[0]], prompt[:-1])
        if self.cache.slots < slots:
            larger = min(-(-slots // SLOT_STEP) * SLOT_STEP, self._decoder.config.context_length)
            grown = Cache(self._decoder.config, rows=1, slots=larger, device=self._decoder.device)
            grown.copy_row(self.cache, 0, 0, n_known)
            self.cache = grown
        self.cache.lengths[0] = n_known
        self._ids = list(prompt[:n_known])
        return n_known

    def forget(self) -> None:
        """Know nothing of what was read."""
        self.cache.lengths[0] = 0

    def remember(self, token_ids: Sequence[int]) -> None:
        """Say which tokens the decoder has added to the memory."""
        self._ids += token_ids


def n_common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with."""
    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return place
    return min(len(first), len(second))


class Drafting:
    """Tokens that a draft proposes for the prompt in the memory, and that the decoder then checks.

    Leviathan et al., arXiv 2211.17192, with the model's own smaller weights as the draft: of the same prompt it nearly
    always says the same. The draft reads the decoder's keys and values of what was said so far, so it needs none of
    its own; what it adds behind them, the check writes over.
    """

    def __init__(self, decoder: Decoder, draft: Decoder, memory: Memory, *, eos_id: int) -> None:
        self._decoder, self._draft, self._memory, self._eos_id = decoder, draft, memory, eos_id
        self._count = MOST_DRAFTED // 2

    def propose(
        self,
        pending: int,
        settings: GenerationSettings,
        chance: RowChance,
        room: int,
        should_stop: Callable[[], bool],
    ) -> list[int]:
        """`pending`, which the memory lacks, and what the draft says behind it: `room` tokens at most, no EOS."""
        memory, tokens = self._memory.cache, [pending]
        self._start = memory.lengths[0]
        chance = copied(chance)  # the same luck as the check will have
        while len(tokens) < min(self._count, room):
            if should_stop():
                del tokens[1:]
                break
            logits = self._draft.step(torch.tensor(tokens[-1:], device=self._draft.device), memory)
            (token,) = sample(logits.float().cpu(), settings, [chance])
            if token == self._eos_id:
                break
            tokens.append(token)
        memory.lengths[0] = self._start
        return tokens

    def check(self, tokens: Sequence[int]) -> Tensor:
        """Logits (T, V) of the decoder behind each of the tokens."""
        return self._decoder.read([Piece(0, tokens)], self._memory.cache, [True], is_every=True)

    def settle(self, tokens: Sequence[int], n_right: int) -> None:
        """Keep the first `n_right` tokens in the memory; draft more the next time if all were right, else fewer."""
        self._memory.cache.lengths[0] = self._start + n_right
        self._memory.remember(tokens[:n_right])
        if n_right == len(tokens):
            self._count = min(2 * self._count, MOST_DRAFTED)
        else:
            self._count = max(n_right + 1, FEWEST_DRAFTED)


@torch.inference_mode()
def useful_draft(model: GPT, decoder: Decoder) -> Decoder | None:
    """The weights in the storage that makes single prompts fastest as a draft, or None where none pays."""
    if decoder.device.type != "cpu" or 4 * model.n_parameters < SMALLEST_DRAFTED_FOR:
        return None
    count = min(8, decoder.config.context_length)
    cache = Cache(decoder.config, rows=1, slots=count, device=decoder.device)
    alone = _seconds_of(partial(decoder.step, torch.zeros(1, dtype=torch.int64), cache), cache)
    check = _seconds_of(partial(decoder.read, [Piece(0, [0] * count)], cache, [True], is_every=True), cache)
    best: Decoder | None = None
    least = WORTH * alone
    for storage in ("int8", "float16"):
        draft = Decoder(model, storage=storage)
        step = _seconds_of(partial(draft.step, torch.zeros(1, dtype=torch.int64), cache), cache)
        seconds = (check + (count - 1) * step) / count  # a token, all being right
        if seconds < least:
            best, least = draft, seconds
    return best


def _seconds_of(call: Callable[[], object], cache: Cache) -> float:
    """The least time of a few calls, each on an empty cache."""
    taken = []
    for _ in range(3):
        cache.lengths[0] = 0
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)
