"""Examples to token rows: prompt, response and EOS as ids, within the context length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from assistant.dataset.instructions import Example
from assistant.dataset.prompts import TEXT_TEMPLATE, Template
from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import DataError
from assistant.settings import OverlongPolicy, TrainOn


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedExample:
    """One row: prompt, response and EOS as ids. The first `prompt_length` ids are the prompt."""

    input_ids: tuple[int, ...]
    prompt_length: int
    example: Example
    rejected: EncodedExample | None = None
    """The same prompt with the worse answer, where preferences are learnt."""
    reference: float | None = None
    """Log-probability (nats) of the response under the weights that a run on preferences began with."""

    @property
    def n_tokens(self) -> int:
        """Real tokens, those of the worse answer's row counted too."""
        return len(self.input_ids) + (len(self.rejected.input_ids) if self.rejected else 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedRows:
    """What became of a list of examples: the rows that are used, and those that had to be shortened or left out."""

    rows: tuple[EncodedExample, ...]
    truncated: tuple[Example, ...]
    dropped: tuple[Example, ...]


def encode_examples(
    examples: Sequence[Example],
    template: Template,
    tokenizer: Tokenizer,
    *,
    max_length: int,
    too_long: OverlongPolicy = "truncate",
    as_pairs: bool = False,
) -> EncodedRows:
    """Encode prompt and response apart, join them and append EOS by its id.

    A row of n ids takes n - 1 positions. One that takes more than `max_length` is shortened in the user's last text
    alone, so that template, response and EOS stay whole; it is left out where that is not enough. Plain text loses
    nothing: it goes on in a further row. With `as_pairs` the worse answer is encoded beside the better one, behind
    the very same prompt; else it is left aside.

    Raises:
        DataError: with `too_long="error"`, naming every row that is too long; plain text in an instruction template;
            with `as_pairs`, naming every row that has one answer alone.
    """
    if as_pairs:
        _check_pairs(examples)
    rows: list[EncodedExample] = []
    truncated: list[Example] = []
    dropped: list[Example] = []
    problems: list[str] = []
    for example in examples:
        if example.is_text:
            if template.name != TEXT_TEMPLATE:
                problems.append(f"{example.where}: expected an instruction, got plain text.")
            rows += _text_rows(example, tokenizer, max_length)
            continue
        prompt_ids = tokenizer.encode(template.render(example.instruction, example.input, example.history))
        answers = [example.output, *([example.rejected] if as_pairs and example.rejected is not None else [])]
        responses = [(*tokenizer.encode(answer), tokenizer.eos_id) for answer in answers]
        longest = max(map(len, responses))
        excess = len(prompt_ids) + longest - 1 - max_length
        if excess > 0:
            if too_long == "error":
                problems.append(f"{example.where}: expected at most {max_length} positions, got {excess + max_length}.")
                continue
            shortened = None
            if too_long == "truncate":
                shortened = _shorten_prompt(example, template, tokenizer, max_length + 1 - longest)
            if shortened is None:
                dropped.append(example)
                continue
            truncated.append(example)
            prompt_ids = shortened
        row, *others = (
            EncodedExample(input_ids=(*prompt_ids, *response), prompt_length=len(prompt_ids), example=example)
            for response in responses
        )
        rows.append(replace(row, rejected=others[0] if others else None))
    if problems:
        raise DataError([*problems, _advice(examples)])
    return EncodedRows(rows=tuple(rows), truncated=tuple(truncated), dropped=tuple(dropped))


def _advice(examples: Sequence[Example]) -> str:
    if any(example.is_text for example in examples):
        return f"Train plain text with --template {TEXT_TEMPLATE} --train-on all."
    return "Shorten the rows, raise --max-length, or choose --too-long truncate or drop."


def _check_pairs(examples: Sequence[Example]) -> None:
    problems = [
        f'{example.where}: expected "chosen" and "rejected", got one answer.'
        for example in examples
        if example.rejected is None
    ]
    if problems:
        raise DataError([*problems, "Learn rows with one answer by `assistant finetune`."])


def _text_rows(example: Example, tokenizer: Tokenizer, max_length: int) -> list[EncodedExample]:
    """Plain text and EOS in rows of at most `max_length` positions; the last id of a row opens the next one."""
    opening = tokenizer.encode(example.instruction)
    ids = (*opening, *tokenizer.encode(example.output), tokenizer.eos_id)
    rows = []
    for start in range(0, len(ids) - 1, max_length):
        piece = ids[start : start + max_length + 1]
        prompt_length = min(len(opening), len(piece) - 1) if start == 0 else 1
        rows.append(EncodedExample(input_ids=piece, prompt_length=prompt_length, example=example))
    return rows


def _shorten_prompt(example: Example, template: Template, tokenizer: Tokenizer, budget: int) -> list[int] | None:
    """The prompt in at most `budget` ids with the end of the user's text cut off, or None if no text would be left."""
    parts = template.parts(example.instruction, example.input, example.history)
    around = len(tokenizer.encode(parts.before)) + len(tokenizer.encode(parts.after))
    text_ids = tokenizer.encode(parts.user_text)
    # Joining may merge tokens differently at the borders, so the count is tried, from the longest that can fit.
    for keep in range(min(len(text_ids), budget - around + 4), 0, -1):
        text = tokenizer.decode(text_ids[:keep]).rstrip("\ufffd").rstrip()
        if not text:
            return None
        ids = tokenizer.encode(parts.before + text + parts.after)
        if len(ids) <= budget:
            return ids
    return None


def count_targets(row: EncodedExample, train_on: TrainOn) -> int:
    """How many tokens of a row count in the loss."""
    return len(row.input_ids) - (row.prompt_length if train_on == "response" else 1)


def sequences(rows: Sequence[EncodedExample]) -> list[EncodedExample]:
    """What the model reads of some rows: the rows, and behind them in the same order the rows of the worse answers."""
    return [*rows, *(row.rejected for row in rows if row.rejected is not None)]
