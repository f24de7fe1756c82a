"""A look at a model during its run: what it answers to some of the held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from assistant.dataset.encode import EncodedExample
from assistant.decoding.engine import generate
from assistant.model.checkpoint import Checkpoint
from assistant.settings import GenerationSettings
from assistant.training.events import Sample

ANSWER_TOKENS = 64
"""Longest answer; a longer reference cannot be matched."""
LONGEST_PERIOD, REPEATS = 12, 4
"""A loop is the same 1 to 12 tokens, four times in a row and at least 8 tokens in all."""
SHORTEST_LOOP = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What a model answered to some rows, greedily: the first ones as samples, and shares of all."""

    n: int
    ended: float
    """Share that stopped by themselves."""
    looped: float
    """Share that say the same over and over."""
    exact: float
    """Share that are the reference, white space at the ends aside."""
    samples: tuple[Sample, ...]


def answer_rows(checkpoint: Checkpoint, rows: Sequence[EncodedExample], *, count: int, n_samples: int) -> Answers:
    """Answers to `count` of the rows, always the same ones, spread over them. The model must be in evaluation mode."""
    count = min(count, len(rows))
    chosen = [rows[place * len(rows) // count] for place in range(count)]
    tokenizer = checkpoint.tokenizer
    prompts = [row.input_ids[: row.prompt_length] for row in chosen]
    settings = GenerationSettings(max_new_tokens=ANSWER_TOKENS)
    found = sorted(
        generate(checkpoint.model, prompts, settings, eos_id=tokenizer.eos_id), key=lambda generated: generated.index
    )
    samples = [
        Sample(
            instruction=row.example.instruction,
            input=row.example.input,
            reference=row.example.output,
            response=tokenizer.decode(generated.token_ids),
            stop_reason=generated.stop_reason,
        )
        for row, generated in zip(chosen, found, strict=True)
    ]
    return Answers(
        n=count,
        ended=_share([sample.stop_reason == "eos" for sample in samples]),
        looped=_share([loops(generated.token_ids) for generated in found]),
        exact=_share([sample.response.strip() == sample.reference.strip() for sample in samples]),
        samples=tuple(samples[:n_samples]),
    )


def loops(token_ids: Sequence[int]) -> bool:
    """Whether somewhere the same few tokens come again and again."""
    for period in range(1, LONGEST_PERIOD + 1):
        wanted, run = max(period * (REPEATS - 1), SHORTEST_LOOP - period), 0
        for place in range(period, len(token_ids)):
            run = run + 1 if token_ids[place] == token_ids[place - period] else 0
            if run >= wanted:
                return True
    return False


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.0
