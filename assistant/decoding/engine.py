"""Decoding: one engine for the chat, single questions, samples during fine-tuning and whole test sets.

Rows of different length are decoded together, each ending by itself, a waiting one taking the place of one that ended.
Every row has its own cache length and its own random generator, so what it says does not depend on its neighbours.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from assistant.decoding.decoder import CHUNK, Cache, Decoder, Piece
from assistant.decoding.reply import StopReason, TokenLogprobs
from assistant.decoding.sampling import RowChance, logprobs_of, row_chance, sample
from assistant.decoding.speculative import Drafting, Memory, n_common, useful_draft
from assistant.errors import ContextError
from assistant.model.gpt import GPT
from assistant.settings import DecodePrecision, GenerationSettings

OnToken = Callable[[int, int], bool | None]
LONE_CHUNK = 96
"""Tokens of a single prompt that are read at once. More are a tenth faster, and need more memory than a fifth of the
cache (benchmarks/RESULTS.md)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated:
    """The new tokens of one prompt, EOS not among them, and why they end."""

    index: int
    """Which prompt."""
    token_ids: tuple[int, ...]
    stop_reason: StopReason
    seconds: float
    """Since the row was begun."""
    logprobs: tuple[TokenLogprobs, ...] | None = None
    """One for each of `token_ids`, and one more for EOS where it came; without texts. None if not asked for."""


@dataclass(kw_only=True, slots=True)
class _Row:
    """A prompt on its way to an answer."""

    index: int
    prompt: tuple[int, ...]
    limit: int
    chance: RowChance
    started: float
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    stop_reason: StopReason | None = None


def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings,
    *,
    eos_id: int,
    batch_size: int = 32,
    on_token: OnToken | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[Generated]:
    """What `Engine.generate` gives, for weights that will have changed the next time."""
    engine = Engine(Decoder(model, is_chosen=False), eos_id=eos_id)
    return engine.generate(prompts, settings, batch_size=batch_size, on_token=on_token, should_stop=should_stop)


def check_prompt_length(n_tokens: int, context_length: int) -> None:
    """Raise ContextError unless a prompt of so many tokens leaves room for an answer."""
    if n_tokens < 1:
        raise ContextError("prompt: expected at least one token, got none. Write something.")
    if n_tokens >= context_length:
        raise ContextError(
            f"prompt: expected fewer than {context_length} tokens, got {n_tokens}, which leaves the model no room to "
            f"answer. Shorten the text."
        )


class Engine:
    """A model that answers, and remembers what it read last: what the next prompt begins with is not read again.

    With a `draft`, the same weights in a smaller storage, a single prompt is answered faster: the draft proposes some
    tokens, and the decoder reads them all at once, which costs it hardly more than reading one. What is said is what
    the decoder alone would have said.
    """

    def __init__(self, decoder: Decoder, *, eos_id: int, draft: Decoder | None = None) -> None:
        self.decoder, self.draft, self.eos_id = decoder, draft, eos_id
        self.memory = Memory(decoder)
        """What was read last, and single prompts are answered in."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        settings: GenerationSettings,
        *,
        batch_size: int = 32,
        on_token: OnToken | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Iterator[Generated]:
        """Answer every prompt (token ids, not empty), `batch_size` at a time, longest first; yields each as it ends.

        `on_token(index, token_id)` is called for every new token but EOS, and ends its row as `stop` by returning
        True, that token still among the row's. This is how `settings.stop` is heeded, by callers who know the text;
        here it does nothing. `should_stop()` is asked before every step, and what is unfinished then ends as
        `cancelled`. A reply ends as `length` at `max_new_tokens` or at the end of the context.

        Raises:
            ContextError: a prompt leaves no room for a single token. Raised before anything is decoded.
        """
        context_length = self.decoder.config.context_length
        for prompt in prompts:
            check_prompt_length(len(prompt), context_length)
        job = _Job(self, settings, on_token, should_stop or (lambda: False))
        if len(prompts) == 1:
            yield job.answer_one(prompts[0])
        else:
            yield from job.answer_many(prompts, batch_size)


class _Job:
    """One call of `Engine.generate`."""

    def __init__(
        self, engine: Engine, settings: GenerationSettings, on_token: OnToken | None, should_stop: Callable[[], bool]
    ) -> None:
        self.engine, self.settings, self.decoder = engine, settings, engine.decoder
        self.on_token, self.should_stop = on_token, should_stop

    def _new_row(self, index: int, prompt: Sequence[int]) -> _Row:
        return _Row(
            index=index,
            prompt=tuple(prompt),
            limit=min(self.settings.max_new_tokens, self.decoder.config.context_length - len(prompt)),
            chance=row_chance(self.settings.seed, prompt),
            started=time.perf_counter(),
        )

    def _finished(self, row: _Row) -> Generated:
        assert row.stop_reason is not None
        return Generated(
            index=row.index,
            token_ids=tuple(row.token_ids),
            stop_reason=row.stop_reason,
            seconds=time.perf_counter() - row.started,
            logprobs=None if self.settings.logprobs is None else tuple(row.logprobs),
        )

    def _continue(self, rows: Sequence[_Row], logits: Tensor) -> list[int]:
        """Draw the next token of every row from logits (B, V), and end the rows that it ends."""
        logits = logits.float().cpu()
        next_ids = sample(logits, self.settings, [row.chance for row in rows])
        if self.settings.logprobs is not None:
            for row, logprobs in zip(rows, logprobs_of(logits, next_ids, self.settings.logprobs), strict=True):
                row.logprobs.append(logprobs)
        for row, token_id in zip(rows, next_ids, strict=True):
            if token_id == self.engine.eos_id:
                row.stop_reason = "eos"
                continue
            row.token_ids.append(token_id)
            if self.on_token is not None and self.on_token(row.index, token_id):
                row.stop_reason = "stop"
            elif len(row.token_ids) >= row.limit:
                row.stop_reason = "length"
        return next_ids

    # --- one prompt ---------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def answer_one(self, prompt: Sequence[int]) -> Generated:
        """Continue a prompt in the engine's memory, where the next prompt finds it."""
        row = self._new_row(0, prompt)
        start = self.engine.memory.recall(prompt, len(prompt) + row.limit)
        logits = self._read_on(row, start)
        if logits is not None:
            pending = self._continue([row], logits)
            drafting = (
                None
                if self.engine.draft is None
                else Drafting(self.decoder, self.engine.draft, self.engine.memory, eos_id=self.engine.eos_id)
            )
            while row.stop_reason is None:
                if self.should_stop():
                    break
                if drafting is None:
                    logits = self.decoder.step(
                        torch.tensor(pending, device=self.decoder.device), self.engine.memory.cache
                    )
                    self.engine.memory.remember(pending)
                    pending = self._continue([row], logits)
                else:
                    pending = self._continue_drafted(row, pending[0], drafting)
        row.stop_reason = row.stop_reason or "cancelled"
        return self._finished(row)

    def _read_on(self, row: _Row, start: int) -> Tensor | None:
        """Read the prompt's tokens from `start` on; logits (1, V) behind it, or None if it was cancelled."""
        logits = None
        for first in range(start, len(row.prompt), LONE_CHUNK):
            if self.should_stop():
                return None
            tokens = row.prompt[first : first + LONE_CHUNK]
            is_last = first + LONE_CHUNK >= len(row.prompt)
            logits = self.decoder.read([Piece(0, tokens)], self.engine.memory.cache, [is_last])
            self.engine.memory.remember(tokens)
        return logits

    def _continue_drafted(self, row: _Row, pending: int, drafting: Drafting) -> list[int]:
        """Some tokens at once. Returns the last one, which is in the row but not in the memory."""
        room = row.limit - len(row.token_ids)
        tokens = drafting.propose(pending, self.settings, row.chance, room, self.should_stop)
        logits = drafting.check(tokens)
        next_ids: list[int] = []
        for place in range(len(tokens)):
            next_ids = self._continue([row], logits[place : place + 1])
            is_as_drafted = place + 1 < len(tokens) and next_ids[0] == tokens[place + 1]
            if row.stop_reason is not None or not is_as_drafted:
                break
        drafting.settle(tokens, place + 1)
        return next_ids

    # --- many prompts -------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def answer_many(self, prompts: Sequence[Sequence[int]], batch_size: int) -> Iterator[Generated]:
        """Continue prompts together in a cache of their own."""
        if not prompts:
            return
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        limit, context_length = self.settings.max_new_tokens, self.decoder.config.context_length
        slots = max(min(len(prompt) + limit, context_length) for prompt in prompts)
        n_shared = self._read_shared(prompts)
        cache = Cache(self.decoder.config, rows=min(batch_size, len(prompts)), slots=slots, device=self.decoder.device)
        waiting = deque(order)
        rows: list[_Row] = []
        pending: list[int] = []
        while rows or waiting:
            if self.should_stop():
                break
            new = [self._new_row(index, prompts[index]) for index in _take(waiting, len(cache.lengths) - len(rows))]
            if new:
                for place in range(len(rows), len(rows) + len(new)):
                    cache.copy_row(self.engine.memory.cache, 0, place, n_shared)
                logits = self._read_together(new, n_shared, len(rows), cache)
                rows += new
                pending += self._continue(new, logits)
            else:
                logits = self.decoder.step(torch.tensor(pending, device=self.decoder.device), cache)
                pending = self._continue(rows, logits)
            yield from self._part_with_finished(rows, pending, cache)
        for row in [*rows, *(self._new_row(index, prompts[index]) for index in waiting)]:
            row.stop_reason = "cancelled"
            yield self._finished(row)

    def _read_shared(self, prompts: Sequence[Sequence[int]]) -> int:
        """Read what all prompts begin with into the memory, once; returns its length."""
        first, last = min(map(tuple, prompts)), max(map(tuple, prompts))  # those in between share what these two do
        n_shared = min(n_common(first, last), min(len(prompt) for prompt in prompts) - 1)
        start = self.engine.memory.recall([*first[:n_shared], -1], n_shared)
        for place in range(start, n_shared, CHUNK):
            tokens = first[place : min(place + CHUNK, n_shared)]
            self.decoder.read([Piece(0, tokens)], self.engine.memory.cache, [False])
            self.engine.memory.remember(tokens)
        return n_shared

    def _read_together(self, rows: Sequence[_Row], n_shared: int, first_place: int, cache: Cache) -> Tensor:
        """Read the prompts of new rows, the shared tokens apart; logits (B, V) behind them."""
        logits: list[Tensor] = []
        pieces: list[Piece] = []
        wanted: list[bool] = []
        room = CHUNK

        def flush() -> None:
            nonlocal room
            if pieces:
                logits.append(self.decoder.read(pieces, cache, wanted))
            pieces.clear()
            wanted.clear()
            room = CHUNK

        for place, row in enumerate(rows, start=first_place):
            rest = row.prompt[n_shared:]
            while rest:
                if room < min(len(rest), CHUNK // 4):  # no use in a few tokens of a long prompt
                    flush()
                part, rest = rest[:room], rest[room:]
                pieces.append(Piece(place, part))
                wanted.append(not rest)
                room -= len(part)
                if rest:
                    flush()
        flush()
        return torch.cat(logits)

    def _part_with_finished(self, rows: list[_Row], pending: list[int], cache: Cache) -> Iterator[Generated]:
        """Take rows that have ended out of the batch; the last row moves to the place of each."""
        for place in reversed(range(len(rows))):
            if rows[place].stop_reason is None:
                continue
            done, last = rows[place], len(rows) - 1
            if place != last:
                cache.copy_row(cache, last, place, cache.lengths[last])
                rows[place], pending[place] = rows[last], pending[last]
            rows.pop()
            pending.pop()
            cache.lengths[last] = 0
            yield self._finished(done)


def _take(waiting: deque[int], count: int) -> list[int]:
    return [waiting.popleft() for _ in range(min(count, len(waiting)))]


# --- building -----------------------------------------------------------------------------------------------------


def build_engine(model: GPT, *, eos_id: int, precision: DecodePrecision = "auto", may_draft: bool = True) -> Engine:
    """An engine with the weights in that storage. It keeps nothing of `model` but weights in float32.

    `auto` is float32, with a draft where that is faster: what is said is then what float32 says. Without `may_draft`
    there is none, which many prompts have no use for.
    """
    if precision != "auto":
        return Engine(Decoder(model, storage=precision), eos_id=eos_id)
    decoder = Decoder(model)
    return Engine(decoder, eos_id=eos_id, draft=useful_draft(model, decoder) if may_draft else None)
