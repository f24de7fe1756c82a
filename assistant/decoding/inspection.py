"""A look at a given answer: how likely the model holds each of its tokens, and what it would write instead.

Knows token ids only. The answer stays in the prefix cache, as after a reply.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from assistant.decoding.decoder import Decoder, PrefixCache, PromptChunk
from assistant.decoding.reply import InspectedToken, TokenLogprob
from assistant.decoding.sampling import top_k
from assistant.errors import ContextError

CHUNK_TOKENS = 96
"""Maximum tokens of one forward pass. Those of the answer have logits of the whole vocabulary."""


@torch.inference_mode()
def inspect(
    decoder: Decoder,
    prefix_cache: PrefixCache,
    prompt: Sequence[int],
    token_ids: Sequence[int],
    *,
    count: int,
    eos_ids: Sequence[int] = (),
) -> list[InspectedToken]:
    """Return an entry for each of `token_ids`, which follow `prompt`, without texts.

    With `eos_ids`, one more entry is for the likeliest of them after the answer. Each entry has the `count` likeliest
    tokens.

    Raises:
        ContextError: the prompt is empty, or prompt and answer are longer than the context.
    """
    n_tokens, context_length = len(prompt) + len(token_ids), decoder.config.context_length
    if not prompt or n_tokens > context_length:
        raise ContextError(
            f"prompt and answer: expected a prompt, and at most {context_length} tokens together, got "
            f"{len(prompt)} and {len(token_ids)} tokens. Shorten them."
        )
    if not token_ids and not eos_ids:
        return []
    # The logits after a token say what follows it. Those after the last token matter only for EOS.
    read_ids = [*prompt, *token_ids] if eos_ids else [*prompt, *token_ids][:-1]
    first_with_logits = len(prompt) - 1
    position = prefix_cache.reuse_prefix(prompt, len(read_ids))
    found: list[InspectedToken] = []
    while position < len(read_ids):
        needs_logits = position >= first_with_logits
        end = min(position + CHUNK_TOKENS, len(read_ids) if needs_logits else first_with_logits)
        chunk = PromptChunk(0, read_ids[position:end])
        logits = decoder.prefill([chunk], prefix_cache.cache, [False], all_positions=needs_logits)
        prefix_cache.append(chunk.input_ids)
        if needs_logits:
            answer_start = position - first_with_logits
            found += _inspect_chunk(logits.float().cpu(), token_ids[answer_start:], count, eos_ids)
        position = end
    return found


def _inspect_chunk(
    logits: Tensor, token_ids: Sequence[int], count: int, eos_ids: Sequence[int]
) -> list[InspectedToken]:
    """Look at as many tokens as logits (T, V) have rows: the next ones of `token_ids`, and EOS after the last."""
    chosen = list(token_ids[: len(logits)])
    if len(chosen) < len(logits):
        chosen.append(max(sorted(eos_ids), key=lambda eos_id: logits[-1, eos_id].item()))
    ids = torch.tensor(chosen)[:, None]
    chosen_logits = logits.gather(-1, ids)
    n_before = (logits > chosen_logits).sum(dim=-1)
    n_before += ((logits == chosen_logits) & (torch.arange(logits.shape[-1]) < ids)).sum(dim=-1)
    logprobs = logits.log_softmax(dim=-1)
    entropies = torch.special.entr(logprobs.exp()).sum(dim=-1) / math.log(2)
    likeliest = _likeliest(logprobs, min(count, logits.shape[-1]))
    return [
        InspectedToken(token_id=token_id, logprob=logprob, likeliest=top, rank=1 + before, entropy=entropy)
        for token_id, logprob, top, before, entropy in zip(
            chosen,
            logprobs.gather(-1, ids)[:, 0].tolist(),
            likeliest,
            n_before.tolist(),
            entropies.tolist(),
            strict=True,
        )
    ]


def _likeliest(logprobs: Tensor, count: int) -> list[tuple[TokenLogprob, ...]]:
    """Return the `count` likeliest tokens of each row, likeliest first; of equal ones, the smaller id first."""
    if count == 0:
        return [()] * len(logprobs)
    values, ids = top_k(logprobs, count)  # rising ids, and all that are as likely as the last
    values, order = values.sort(dim=-1, descending=True, stable=True)
    ids = ids.gather(-1, order)
    return [
        tuple(TokenLogprob(token_id=token_id, logprob=value) for token_id, value in zip(row_ids, row, strict=True))
        for row_ids, row in zip(ids[:, :count].tolist(), values[:, :count].tolist(), strict=True)
    ]
