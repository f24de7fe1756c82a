"""The decoding engine, for the chat, single questions, answers during fine-tuning, and whole test sets.

Rows of different lengths are decoded in one batch. Each row ends by itself, and a waiting prompt takes its place. Every
row has its own length and random generator, so its tokens do not depend on the other rows.

This module knows token ids only; `assistant.decoding.session` knows the text.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from assistant.dataset.context import check_prompt_length
from assistant.decoding import speculative
from assistant.decoding.continuations import score_continuations
from assistant.decoding.decoder import Cache, Decoder, PrefixCache, PromptChunk, common_prefix_length
from assistant.decoding.generated import Generated, Row
from assistant.decoding.sampling import force, new_row_state, sample, token_logprobs
from assistant.decoding.speculative import FIRST_DRAFTED, Speculation
from assistant.model.gpt import GPT
from assistant.settings import DecodePrecision, GenerationSettings

OnToken = Callable[[int, int], bool | None]
"""Called with (index of the prompt, new token id); returns True to end that row."""
OnScored = Callable[[int, float], None]
"""Called with (index of the prompt, log-probability of its given continuation in nats)."""
PREFILL_CHUNK = 256
"""Maximum tokens of one prefill. Larger chunks are not faster and need more memory."""
SINGLE_PROMPT_CHUNK = 96
"""Maximum tokens of one prefill of a single prompt. Larger chunks are a tenth faster, but need more memory than a fifth
of the cache (benchmarks/RESULTS.md)."""


def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings,
    *,
    eos_id: int | Collection[int],
    batch_size: int = 32,
    on_token: OnToken | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Generator[Generated]:
    """Run `Engine.generate` once, for weights that will change before the next call: it does not tune kernels."""
    engine = Engine(Decoder(model, plain=True), eos_id=eos_id)
    return engine.generate(prompts, settings, batch_size=batch_size, on_token=on_token, should_stop=should_stop)


class Engine:
    """A decoder with a prefix cache: a prompt that begins like the last one is only read from where they differ.

    With a `draft` (the same weights in a smaller storage), a single prompt is answered faster by speculative decoding:
    the draft proposes tokens, and the decoder verifies them all at once, which takes hardly longer than decoding one.
    The tokens are those that the decoder would choose without a draft.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        eos_id: int | Collection[int],
        draft: Decoder | None = None,
        make_draft: Callable[[], Decoder] | None = None,
    ) -> None:
        """Each of `eos_id`, one id or several, ends a reply. `make_draft` is called when a draft first pays."""
        self.decoder, self.draft, self._make_draft = decoder, draft, make_draft
        self._n_without_draft = 0
        self.eos_ids = frozenset([eos_id] if isinstance(eos_id, int) else eos_id)
        self.prefix_cache = PrefixCache(decoder.config, device=decoder.device, dtype=decoder.cache_dtype)
        """The last single prompt and its reply, or the prefix that the last batch shared."""

    def draft_for_next_token(self) -> Decoder | None:
        """The draft; None if there is none, or none yet. It is made after FIRST_DRAFTED tokens without one."""
        if self._make_draft is not None:
            self._n_without_draft += 1
            if self._n_without_draft > FIRST_DRAFTED:
                self.draft, self._make_draft = self._make_draft(), None
        return self.draft

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        settings: GenerationSettings,
        *,
        batch_size: int = 32,
        on_token: OnToken | None = None,
        should_stop: Callable[[], bool] | None = None,
        continuations: Sequence[Sequence[int]] = (),
        on_scored: OnScored | None = None,
        forced_ids: Sequence[int] = (),
    ) -> Generator[Generated]:
        """Continue every prompt (token ids, not empty), `batch_size` at a time, longest first; yield each as it ends.

        `on_token(index, token_id)` is called for every new token except EOS. If it returns True, the row ends with
        `stop` and keeps that token. Callers that know the text use this for `settings.stop`, which the engine ignores.
        `should_stop()` is called before every step; when it returns True, all unfinished rows end with `cancelled`. A
        row ends with `length` at `max_new_tokens` or at the end of the context. `continuations` has a text (token ids,
        not empty) for each prompt: before a row starts, `on_scored(index, log-probability)` says how likely the model
        holds it there, unless the context is too short for both. The new tokens of a single prompt begin with
        `forced_ids`, if there are any, and an EOS among them ends the row.

        Raises:
            ContextError: a prompt leaves no room for a new token. Raised before anything is decoded.
        """
        context_length = self.decoder.config.context_length
        for prompt in prompts:
            check_prompt_length(len(prompt), context_length)
        call = _GenerateCall(self, settings, on_token, should_stop or (lambda: False))
        if on_scored is not None:
            call.continuations, call.on_scored = continuations, on_scored
        if len(prompts) == 1:
            yield call.generate_one(prompts[0], forced_ids)
        else:
            yield from call.generate_batch(prompts, batch_size)


class _GenerateCall:
    """One call of `Engine.generate`."""

    def __init__(
        self, engine: Engine, settings: GenerationSettings, on_token: OnToken | None, should_stop: Callable[[], bool]
    ) -> None:
        self.engine, self.settings, self.decoder = engine, settings, engine.decoder
        self.on_token, self.should_stop = on_token, should_stop
        self.continuations: Sequence[Sequence[int]] = ()
        self.on_scored: OnScored | None = None

    def _start_row(self, index: int, prompt: Sequence[int]) -> Row:
        return Row(
            index=index,
            prompt=tuple(prompt),
            max_new_tokens=min(self.settings.max_new_tokens, self.decoder.config.context_length - len(prompt)),
            state=new_row_state(self.settings.seed, prompt),
            started=time.perf_counter(),
        )

    def _result(self, row: Row) -> Generated:
        assert row.stop_reason is not None
        return Generated(
            index=row.index,
            token_ids=tuple(row.token_ids),
            stop_reason=row.stop_reason,
            seconds=time.perf_counter() - row.started,
            logprobs=None if self.settings.logprobs is None else tuple(row.logprobs),
        )

    def _sample(self, rows: Sequence[Row], logits: Tensor) -> list[int]:
        """Sample the next token of every row from logits (B, V), and set the stop reason of rows that it ends."""
        logits = logits.float().cpu()
        next_ids = sample(logits, self.settings, [row.state for row in rows])
        self._add(rows, logits, next_ids)
        return next_ids

    def _add(self, rows: Sequence[Row], logits: Tensor, next_ids: Sequence[int]) -> None:
        """Add the next token of every row, chosen by logits (B, V) on the CPU; set the reason of rows that it ends."""
        if self.settings.logprobs is not None:
            for row, logprobs in zip(rows, token_logprobs(logits, next_ids, self.settings.logprobs), strict=True):
                row.logprobs.append(logprobs)
        for row, token_id in zip(rows, next_ids, strict=True):
            if token_id in self.engine.eos_ids:
                row.stop_reason = "eos"
                continue
            row.token_ids.append(token_id)
            if self.on_token is not None and self.on_token(row.index, token_id):
                row.stop_reason = "stop"
            elif len(row.token_ids) >= row.max_new_tokens:
                row.stop_reason = "length"

    def _slots(self, index: int, prompt: Sequence[int]) -> int:
        """Return the slots of the cache that a prompt needs with its reply, and with its continuation if that fits."""
        context_length, n_given = self.decoder.config.context_length, 0
        if self.on_scored is not None and len(prompt) + len(self.continuations[index]) - 1 <= context_length:
            n_given = len(self.continuations[index]) - 1
        return min(len(prompt) + max(self.settings.max_new_tokens, n_given), context_length)

    def _score(self, rows: Sequence[Row], logits: Tensor, cache: Cache, first_row: int) -> None:
        """Report the log-probabilities of the given continuations of rows that stand in the cache from `first_row`."""
        if self.on_scored is None:
            return
        given = [self.continuations[row.index] for row in rows]
        room = self.decoder.config.context_length + 1
        # A continuation that does not fit is cut to its first token, which needs no room, and not reported.
        fitting = [ids if len(row.prompt) + len(ids) <= room else ids[:1] for row, ids in zip(rows, given, strict=True)]
        sums = score_continuations(self.decoder, cache, first_row, logits, fitting)
        for row, ids, cut, value in zip(rows, given, fitting, sums, strict=True):
            if len(ids) == len(cut):
                self.on_scored(row.index, value)

    # --- one prompt ---------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def generate_one(self, prompt: Sequence[int], forced_ids: Sequence[int] = ()) -> Generated:
        """Continue a prompt in the engine's prefix cache, so that the next prompt can reuse it."""
        row, prefix_cache = self._start_row(0, prompt), self.engine.prefix_cache
        start = prefix_cache.reuse_prefix(prompt, self._slots(0, prompt))
        logits = self._prefill_prompt(row, start)
        if logits is not None:
            self._score([row], logits, prefix_cache.cache, 0)
            next_ids = self._force(row, logits, forced_ids) if forced_ids else self._sample([row], logits)
            speculation = None
            while row.stop_reason is None:
                if self.should_stop():
                    break
                speculation = speculation or self._new_speculation()
                if speculation is None:
                    logits = self.decoder.decode_step(
                        torch.tensor(next_ids, device=self.decoder.device), prefix_cache.cache
                    )
                    prefix_cache.append(next_ids)
                    next_ids = self._sample([row], logits)
                else:
                    next_ids = self._speculate(row, next_ids[0], speculation)
        row.stop_reason = row.stop_reason or "cancelled"
        return self._result(row)

    def _force(self, row: Row, logits: Tensor, forced_ids: Sequence[int]) -> list[int]:
        """Begin the row with given tokens; logits (1, V) follow its prompt. Returns the last, as `_sample` does."""
        self._force_one(row, logits, forced_ids[0])
        prefix_cache, last = self.engine.prefix_cache, len(forced_ids) - 1
        for first in range(0, last, SINGLE_PROMPT_CHUNK):
            if row.stop_reason is not None or self.should_stop():
                row.stop_reason = row.stop_reason or "cancelled"
                break
            end = min(first + SINGLE_PROMPT_CHUNK, last)
            chunk = PromptChunk(0, forced_ids[first:end])
            needs_logits = self.settings.logprobs is not None
            logits = self.decoder.prefill([chunk], prefix_cache.cache, [False], all_positions=needs_logits)
            prefix_cache.append(chunk.input_ids)
            for place, token_id in enumerate(forced_ids[first + 1 : end + 1]):
                if row.stop_reason is None:
                    self._force_one(row, logits[place : place + 1], token_id)
        return [forced_ids[-1]]

    def _force_one(self, row: Row, logits: Tensor, token_id: int) -> None:
        force(token_id, self.settings, row.state)
        self._add([row], logits.float().cpu(), [token_id])

    def _new_speculation(self) -> Speculation | None:
        engine, draft = self.engine, self.engine.draft_for_next_token()
        if draft is None:
            return None
        return Speculation(engine.decoder, draft, engine.prefix_cache, eos_ids=engine.eos_ids)

    def _prefill_prompt(self, row: Row, start: int) -> Tensor | None:
        """Prefill the prompt from position `start`; return the logits (1, V) after it, or None if cancelled."""
        logits = None
        for first in range(start, len(row.prompt), SINGLE_PROMPT_CHUNK):
            if self.should_stop():
                return None
            token_ids = row.prompt[first : first + SINGLE_PROMPT_CHUNK]
            is_last = first + SINGLE_PROMPT_CHUNK >= len(row.prompt)
            logits = self.decoder.prefill([PromptChunk(0, token_ids)], self.engine.prefix_cache.cache, [is_last])
            self.engine.prefix_cache.append(token_ids)
        return logits

    def _speculate(self, row: Row, next_id: int, speculation: Speculation) -> list[int]:
        """Add one or more tokens to the row. `next_id` is the row's last token, which is not in the cache yet.

        Returns the last sampled token in a list, as `_sample` does.
        """
        max_tokens = row.max_new_tokens - len(row.token_ids)
        proposed_ids = speculation.propose(next_id, self.settings, row.state, max_tokens, self.should_stop)
        logits = speculation.verify(proposed_ids)
        next_ids: list[int] = []
        for n_accepted in range(1, len(proposed_ids) + 1):
            next_ids = self._sample([row], logits[n_accepted - 1 : n_accepted])
            is_as_proposed = n_accepted < len(proposed_ids) and next_ids[0] == proposed_ids[n_accepted]
            if row.stop_reason is not None or not is_as_proposed:
                break
        speculation.accept(proposed_ids, n_accepted)
        return next_ids

    # --- several prompts ----------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def generate_batch(self, prompts: Sequence[Sequence[int]], batch_size: int) -> Iterator[Generated]:
        """Continue several prompts together, in a new cache."""
        if not prompts:
            return
        slots = max(self._slots(index, prompt) for index, prompt in enumerate(prompts))
        n_shared = self._prefill_shared_prefix(prompts)
        decoder, n_rows = self.decoder, min(batch_size, len(prompts))
        cache = Cache(decoder.config, rows=n_rows, slots=slots, device=decoder.device, dtype=decoder.cache_dtype)
        waiting = deque(sorted(range(len(prompts)), key=lambda index: -len(prompts[index])))
        rows: list[Row] = []
        next_ids: list[int] = []
        while rows or waiting:
            if self.should_stop():
                break
            new_rows = [
                self._start_row(index, prompts[index]) for index in _pop_left(waiting, len(cache.lengths) - len(rows))
            ]
            if new_rows:
                logits = self._prefill_rows(new_rows, n_shared, len(rows), cache)
                self._score(new_rows, logits, cache, len(rows))
                rows += new_rows
                next_ids += self._sample(new_rows, logits)
            else:
                logits = self.decoder.decode_step(torch.tensor(next_ids, device=self.decoder.device), cache)
                next_ids = self._sample(rows, logits)
            yield from self._remove_finished(rows, next_ids, cache)
        for row in [*rows, *(self._start_row(index, prompts[index]) for index in waiting)]:
            row.stop_reason = "cancelled"
            yield self._result(row)

    def _prefill_shared_prefix(self, prompts: Sequence[Sequence[int]]) -> int:
        """Prefill the prefix that all prompts share once, in the prefix cache; return its length."""
        # The prefix that the first and the last in sorted order share is shared by all prompts between them.
        first, last = min(map(tuple, prompts)), max(map(tuple, prompts))
        n_shared = min(common_prefix_length(first, last), min(len(prompt) for prompt in prompts) - 1)
        # -1 is not a token id. `reuse_prefix` never keeps the last token of its prompt, so it can keep all shared ones.
        start = self.engine.prefix_cache.reuse_prefix([*first[:n_shared], -1], n_shared)
        for position in range(start, n_shared, PREFILL_CHUNK):
            token_ids = first[position : min(position + PREFILL_CHUNK, n_shared)]
            self.decoder.prefill([PromptChunk(0, token_ids)], self.engine.prefix_cache.cache, [False])
            self.engine.prefix_cache.append(token_ids)
        return n_shared

    def _prefill_rows(self, rows: Sequence[Row], n_shared: int, first_row: int, cache: Cache) -> Tensor:
        """Copy the shared prefix into new rows and prefill the rest of their prompts; return the logits (B, V).

        The rows are stored in the cache from `first_row` on.
        """
        for cache_row in range(first_row, first_row + len(rows)):
            cache.copy_row(self.engine.prefix_cache.cache, 0, cache_row, n_shared)
        logits: list[Tensor] = []
        chunks: list[PromptChunk] = []
        needs_logits: list[bool] = []
        room = PREFILL_CHUNK

        def flush() -> None:
            nonlocal room
            if chunks:
                logits.append(self.decoder.prefill(chunks, cache, needs_logits))
            chunks.clear()
            needs_logits.clear()
            room = PREFILL_CHUNK

        for cache_row, row in enumerate(rows, start=first_row):
            remaining = row.prompt[n_shared:]
            while remaining:
                if room < min(len(remaining), PREFILL_CHUNK // 4):  # a short piece of a long prompt wastes a prefill
                    flush()
                token_ids, remaining = remaining[:room], remaining[room:]
                chunks.append(PromptChunk(cache_row, token_ids))
                needs_logits.append(not remaining)
                room -= len(token_ids)
                if remaining:
                    flush()
        flush()
        return torch.cat(logits)

    def _remove_finished(self, rows: list[Row], next_ids: list[int], cache: Cache) -> Iterator[Generated]:
        """Yield the rows that have ended and remove them; the last row of the batch moves into each free place."""
        for index in reversed(range(len(rows))):
            if rows[index].stop_reason is None:
                continue
            finished, last = rows[index], len(rows) - 1
            if index != last:
                cache.copy_row(cache, last, index, cache.lengths[last])
                rows[index], next_ids[index] = rows[last], next_ids[last]
            rows.pop()
            next_ids.pop()
            cache.lengths[last] = 0
            yield self._result(finished)


def _pop_left(waiting: deque[int], count: int) -> list[int]:
    return [waiting.popleft() for _ in range(min(count, len(waiting)))]


def build_engine(
    model: GPT, *, eos_id: int | Collection[int], precision: DecodePrecision = "auto", may_draft: bool = True
) -> Engine:
    """Build an engine with the weights in one storage. Of `model`, it keeps at most the float32 weights.

    `auto` stores float32 and drafts in int8 where that is faster; the tokens are those of float32 either way. Pass
    `may_draft=False` for several prompts at a time: a draft does not help them.
    """
    if precision != "auto":
        return Engine(Decoder(model, storage=precision), eos_id=eos_id)
    decoder = Decoder(model)
    drafts = may_draft and speculative.may_draft(decoder)
    return Engine(decoder, eos_id=eos_id, make_draft=partial(Decoder, model, storage="int8") if drafts else None)
