"""Answers to some validation rows during a run, and how many of them end, loop or are exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from assistant.dataset.encode import EncodedExample
from assistant.decoding.engine import generate
from assistant.exact_match import is_exact
from assistant.loops import loops
from assistant.model.checkpoint import Checkpoint
from assistant.model.config import ModelConfig
from assistant.settings import GenerationSettings
from assistant.training.events import Sample

ANSWER_TOKENS = 64
"""Longest answer, in tokens. A longer reference cannot be matched."""
ANSWER_CACHE_BYTES = 200 * 2**20
"""For the keys and values of the rows that are answered together. Large models answer fewer rows at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """Greedy answers to some rows: shares over all of them, and the first ones as samples."""

    n: int
    ended: float
    """Share that end with EOS."""
    looped: float
    """Share that repeat the same few tokens."""
    exact: float
    """Share that equal the reference, ignoring white space at both ends."""
    samples: tuple[Sample, ...]


def answer_rows(checkpoint: Checkpoint, rows: Sequence[EncodedExample], *, count: int, n_samples: int) -> Answers:
    """Answer `count` rows, always the same ones, spread over all rows. The model must be in evaluation mode."""
    count = min(count, len(rows))
    chosen = [rows[index * len(rows) // count] for index in range(count)]
    tokenizer = checkpoint.tokenizer
    prompts = [row.input_ids[: row.prompt_length] for row in chosen]
    settings = GenerationSettings(max_new_tokens=ANSWER_TOKENS)
    answers = generate(
        checkpoint.model,
        prompts,
        settings,
        eos_id=tokenizer.eos_ids,
        batch_size=_rows_at_a_time(checkpoint.config, max(map(len, prompts)) + ANSWER_TOKENS),
    )
    generated = sorted(answers, key=lambda answer: answer.index)
    samples = [
        Sample(
            instruction=row.example.instruction,
            input=row.example.input,
            reference=row.example.output,
            response=tokenizer.decode(answer.token_ids),
            stop_reason=answer.stop_reason,
        )
        for row, answer in zip(chosen, generated, strict=True)
    ]
    return Answers(
        n=count,
        ended=_share([sample.stop_reason == "eos" for sample in samples]),
        looped=_share([loops(answer.token_ids) for answer in generated]),
        exact=_share([is_exact(sample.response, sample.reference) for sample in samples]),
        samples=tuple(samples[:n_samples]),
    )


def _rows_at_a_time(config: ModelConfig, n_tokens: int) -> int:
    """Return how many rows of this length are answered together: the optimizer's memory is needed at the same time."""
    row_bytes = 2 * 4 * config.n_layer * config.heads.n_kv_head * config.heads.size * n_tokens  # keys, values: float32
    return max(1, ANSWER_CACHE_BYTES // row_bytes)


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.0
