"""Decoding: one engine for the chat, single questions, samples during fine-tuning and whole test sets.

Rows of different length are decoded together. Every row has its own cache length and its own random generator, so
what it says does not depend on its neighbours. Shapes: B rows, V vocab_size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from assistant.config import GenerationSettings, StopReason, TokenLogprobs
from assistant.errors import ContextError
from assistant.model import GPT, KVCache
from assistant.sampling import RowChance, logprobs_of, row_chance, sample


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated:
    """The new tokens of one prompt, EOS not among them, and why they end."""

    index: int
    """Which prompt."""
    token_ids: tuple[int, ...]
    stop_reason: StopReason
    seconds: float
    logprobs: tuple[TokenLogprobs, ...] | None = None
    """One for each of `token_ids`, and one more for EOS where it came; without texts. None if not asked for."""


@dataclass(kw_only=True, slots=True)
class _Row:
    """A prompt on its way to an answer."""

    index: int
    prompt: tuple[int, ...]
    limit: int
    chance: RowChance
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
    on_token: Callable[[int, int], bool | None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[Generated]:
    """Answer every prompt (token ids, not empty), `batch_size` at a time, longest first; yields in order of finishing.

    `on_token(index, token_id)` is called for every new token but EOS, and ends its row as `stop` by returning True,
    that token still among the row's. This is how `settings.stop` is heeded, by callers who know the text; here it does
    nothing. `should_stop()` is asked before every step, and what is unfinished then ends as `cancelled`. A reply ends
    as `length` at `max_new_tokens` or at the end of the context. The model must be in evaluation mode.

    Raises:
        ContextError: a prompt leaves no room for a single token. Raised before anything is decoded.
    """
    for prompt in prompts:
        check_prompt_length(len(prompt), model.config.context_length)
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for start in range(0, len(order), batch_size):
        rows = [_new_row(model, index, prompts[index], settings) for index in order[start : start + batch_size]]
        yield from _generate_together(model, rows, settings, eos_id, on_token, should_stop or (lambda: False))


def check_prompt_length(n_tokens: int, context_length: int) -> None:
    """Raise ContextError unless a prompt of so many tokens leaves room for an answer."""
    if n_tokens < 1:
        raise ContextError("prompt: expected at least one token, got none. Write something.")
    if n_tokens >= context_length:
        raise ContextError(
            f"prompt: expected fewer than {context_length} tokens, got {n_tokens}, which leaves the model no room to "
            f"answer. Shorten the text."
        )


def _new_row(model: GPT, index: int, prompt: Sequence[int], settings: GenerationSettings) -> _Row:
    return _Row(
        index=index,
        prompt=tuple(prompt),
        limit=min(settings.max_new_tokens, model.config.context_length - len(prompt)),
        chance=row_chance(settings.seed, prompt),
    )


@torch.inference_mode()
def _generate_together(
    model: GPT,
    rows: list[_Row],
    settings: GenerationSettings,
    eos_id: int,
    on_token: Callable[[int, int], bool | None] | None,
    should_stop: Callable[[], bool],
) -> Iterator[Generated]:
    start = time.perf_counter()
    device = model.transformer.wte.weight.device
    slots = max(len(row.prompt) + row.limit for row in rows)
    cache = KVCache(model.config, rows=len(rows), slots=slots, device=device)
    input_ids = torch.full((len(rows), max(len(row.prompt) for row in rows)), eos_id, dtype=torch.int64)
    for line, row in enumerate(rows):
        input_ids[line, : len(row.prompt)] = torch.tensor(row.prompt)
    new_lengths = [len(row.prompt) for row in rows]
    while True:
        if should_stop():
            for row in rows:
                row.stop_reason = row.stop_reason or "cancelled"
            break
        hidden = model(input_ids.to(device), cache=cache, new_lengths=new_lengths)
        last = torch.tensor(new_lengths, device=device) - 1
        logits = model.head(hidden[torch.arange(len(rows), device=device), last]).float().cpu()
        next_ids = sample(logits, settings, [row.chance for row in rows])
        if settings.logprobs is not None:
            for row, logprobs in zip(rows, logprobs_of(logits, next_ids, settings.logprobs), strict=True):
                if row.stop_reason is None:
                    row.logprobs.append(logprobs)
        for row, token_id in zip(rows, next_ids, strict=True):
            if row.stop_reason is None:
                _accept(row, token_id, eos_id, on_token)
        going = [line for line, row in enumerate(rows) if row.stop_reason is None]
        if not going:
            break
        if len(going) <= 3 * len(rows) // 4:  # moving the cache costs, so not for every row that ends
            yield from _finished(rows, settings, start)
            cache.select(going)
            rows, next_ids = [rows[line] for line in going], [next_ids[line] for line in going]
        # A finished row that still stands in the batch writes to one slot over and over, so it cannot overflow.
        new_lengths = [1 if row.stop_reason is None else 0 for row in rows]
        input_ids = torch.tensor(next_ids)[:, None]
    yield from _finished(rows, settings, start)


def _accept(row: _Row, token_id: int, eos_id: int, on_token: Callable[[int, int], bool | None] | None) -> None:
    if token_id == eos_id:
        row.stop_reason = "eos"
        return
    row.token_ids.append(token_id)
    if on_token is not None and on_token(row.index, token_id):
        row.stop_reason = "stop"
    elif len(row.token_ids) >= row.limit:
        row.stop_reason = "length"


def _finished(rows: list[_Row], settings: GenerationSettings, start: float) -> Iterator[Generated]:
    seconds = time.perf_counter() - start
    for row in rows:
        if row.stop_reason is not None:
            yield Generated(
                index=row.index,
                token_ids=tuple(row.token_ids),
                stop_reason=row.stop_reason,
                seconds=seconds,
                logprobs=None if settings.logprobs is None else tuple(row.logprobs),
            )
