"""The exact prompt of a question in named parts, with the tokens of each. Imports no torch.

The screen counts tokens at every keystroke. So texts that do not change are encoded once: GPT-2's pattern always splits
between a character that is not white space and a line break, and what is on both sides is encoded by itself. So is what
is on both sides of a marker.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import accumulate, chain

from assistant.chat.events import ModelCard
from assistant.dataset.context import count_forgotten
from assistant.dataset.examples import Exchange
from assistant.dataset.prompts import Marker, PartKind, Pieces, join_pieces

CACHED_TEXTS = 4096
"""Constant texts of a model's prompts whose tokens are kept: headers, and exchanges of the conversation."""
CACHED_HISTORIES = 8
_SAFE_CUT = re.compile(r"(?<=[!-~])(?=\n)")
"""Between a printable ASCII character and a line break."""

Encoded = tuple[tuple[int, ...], tuple[int, ...]]
"""Token ids, and the bytes of text that each covers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptPart:
    """A part of a prompt. A token belongs to the part in which it begins, and may reach into the next."""

    kind: PartKind
    text: str
    token_ids: tuple[int, ...]

    @property
    def n_tokens(self) -> int:
        """Number of tokens that begin in this part."""
        return len(self.token_ids)


@dataclass(frozen=True, kw_only=True)
class ExactPrompt:
    """A prompt as it will be sent. The texts of its parts are the prompt, and their tokens are its tokens."""

    parts: tuple[PromptPart, ...]
    context_length: int
    n_forgotten: int
    """Exchanges, the oldest ones, that do not fit. `Session.reply` leaves out the same ones."""

    @cached_property
    def n_tokens(self) -> int:
        """Tokens of the whole prompt."""
        return sum(part.n_tokens for part in self.parts)

    @property
    def room(self) -> int:
        """Tokens that the context has left for the reply. 0: the prompt is too long to be answered."""
        return max(self.context_length - self.n_tokens, 0)

    @property
    def text(self) -> str:
        """The whole prompt."""
        return "".join(part.text for part in self.parts)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The ids of the whole prompt."""
        return tuple(token_id for part in self.parts for token_id in part.token_ids)


class PromptLayout:
    """Lays out prompts for one model. Keep it: what it has encoded once it does not encode again."""

    def __init__(self, card: ModelCard) -> None:
        self._template, self._tokenizer, self._context_length = card.template, card.tokenizer, card.context_length
        self._encode_constant = lru_cache(CACHED_TEXTS, typed=True)(self._encode)
        self._frame = lru_cache(CACHED_HISTORIES)(self._new_frame)

    def lay_out(
        self, instruction: str, *, input: str = "", history: Sequence[Exchange] = (), max_new_tokens: int
    ) -> ExactPrompt:
        """Return the prompt that `Session.reply` sends for this question with these settings.

        A prompt that is too long is laid out as well; `room` is 0 then.
        """
        start_without = self._frame(bool(input), tuple(history))
        named = self._template.named_parts(instruction, input)
        tail = [piece for kind, part in named if kind not in ("preamble", "instruction header") for piece in part]
        bos_ids = () if self._tokenizer.bos_id is None else (self._tokenizer.bos_id,)

        @cache  # the rest is nearly always the same
        def encode_tail(rest: str) -> list[Encoded]:
            return [*map(self._encode, join_pieces((rest, *tail)))]

        def n_tokens(n_forgotten: int) -> int:
            start = start_without(n_forgotten)
            return len(bos_ids) + start.n_tokens + sum(len(ids) for ids, _ in encode_tail(start.rest))

        n_forgotten = count_forgotten(
            n_tokens, len(history), context_length=self._context_length, max_new_tokens=max_new_tokens
        )
        start = start_without(n_forgotten)
        pieces = [*map(self._encode_constant, start.pieces), *encode_tail(start.rest)]
        return ExactPrompt(
            parts=_attribute(self._template.named_parts(instruction, input, history[n_forgotten:]), pieces, bos_ids),
            context_length=self._context_length,
            n_forgotten=n_forgotten,
        )

    def _encode(self, piece: str) -> Encoded:
        from assistant.dataset.encode import marker_id  # tiktoken: the chat paints its first frame without it

        if isinstance(piece, Marker):
            return (marker_id(piece, self._tokenizer),), (len(piece),)
        ids, sizes = self._tokenizer.encode_with_sizes(piece)
        return tuple(ids), tuple(sizes)

    def _new_frame(self, has_input: bool, history: tuple[Exchange, ...]) -> Callable[[int], _Start]:
        """Return what stands before an instruction, as a function of the number of exchanges that are left out."""
        template = self._template
        opening = template.split(template.preamble_with_input if has_input else template.preamble)
        exchanges = [template.exchange(exchange) for exchange in history]
        header = template.split(template.instruction_header)

        @cache
        def start(n_forgotten: int) -> _Start:
            return self._new_start(chain(opening, *exchanges[n_forgotten:], header))

        return start

    def _new_start(self, pieces: Iterable[str]) -> _Start:
        # Where a tokenizer matches added tokens in a text, they may be anywhere, so nothing is encoded by itself. Other
        # patterns than GPT-2's may keep a line break with the sign before it.
        added = self._tokenizer.added
        can_cut = added.is_never_matched and added.pipeline.is_gpt2
        found, rest = list[str](), ""
        for piece in pieces:
            if isinstance(piece, Marker):
                found += [rest, piece] if rest else [piece]
                rest = ""
            elif can_cut and (cut := _SAFE_CUT.search(piece)):
                found.append(rest + piece[: cut.start()])
                rest = piece[cut.start() :]
            else:
                rest += piece
        return _Start(tuple(found), sum(len(self._encode_constant(piece)[0]) for piece in found), rest)


@dataclass(frozen=True, slots=True)
class _Start:
    """What stands before an instruction: pieces that are encoded by themselves, and a rest that is not."""

    pieces: Pieces
    n_tokens: int
    """Tokens of `pieces`."""
    rest: str


def _attribute(
    named: Sequence[tuple[PartKind, Pieces]], pieces: Sequence[Encoded], bos_ids: tuple[int, ...]
) -> tuple[PromptPart, ...]:
    """Give every token to the part in which it begins. A part may have none. The first part has `bos_ids`, too."""
    from assistant.dataset.tokenizer import utf8_length  # tiktoken: the chat paints its first frame without it

    ids = [*bos_ids, *(token_id for piece_ids, _ in pieces for token_id in piece_ids)]
    starts = [*(-1 for _ in bos_ids), 0, *accumulate(size for _, sizes in pieces for size in sizes)][: len(ids)]
    parts, first, end = [], 0, 0
    for kind, texts in named:
        end += utf8_length(text := "".join(texts))
        last = bisect_left(starts, end)
        parts.append(PromptPart(kind=kind, text=text, token_ids=tuple(ids[first:last])))
        first = last
    return tuple(parts)
