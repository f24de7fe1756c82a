"""Examples to token rows, and token rows to padded batches. The shift by one and the mask are made here, nowhere else.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from assistant.config import TooLong, TrainOn
from assistant.errors import DataError
from assistant.instructions import Example
from assistant.layout import IGNORE_INDEX, Layout, lay_out
from assistant.prompts import TEXT_TEMPLATE, Template
from assistant.tokenizer import Tokenizer

BOOK_LOOKS_EVERY = 5
"""Steps between two looks of the book's loop at its losses (`eval_freq`)."""
MEGA_BATCH = 50
"""Micro-batches that are sorted by length together: enough to save the padding, few enough to keep the order random."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """A padded batch. `targets` stand one ahead of `input_ids`; what does not count is IGNORE_INDEX."""

    input_ids: Tensor
    """(B, T) int64, filled with EOS behind each row's length."""
    targets: Tensor
    """(B, T) int64."""
    lengths: Tensor
    """(B,) int64: positions of each row that are real."""
    n_tokens: int
    """Real tokens of the rows, EOS counted."""
    n_targets: int
    """Positions that count in the loss."""
    layout: Layout
    """The same rows and targets, with everything that is alike once."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(
            input_ids=self.input_ids.to(device),
            targets=self.targets.to(device),
            lengths=self.lengths.to(device),
            n_tokens=self.n_tokens,
            n_targets=self.n_targets,
            layout=self.layout.to(device),
        )


def encode_examples(
    examples: Sequence[Example],
    template: Template,
    tokenizer: Tokenizer,
    *,
    max_length: int,
    too_long: TooLong = "truncate",
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


def by_length(rows: Sequence[EncodedExample], batch_size: int) -> Iterator[list[EncodedExample]]:
    """Rows of like length in batches, to look at them all: always the same ones."""
    in_order = sorted(rows, key=lambda row: row.n_tokens)
    for start in range(0, len(in_order), batch_size):
        yield in_order[start : start + batch_size]


def collate(
    rows: Sequence[EncodedExample], *, pad_id: int, train_on: TrainOn = "response", as_tree: bool = False
) -> Batch:
    """Pad rows to the longest and shift by one: `input_ids` are all ids but the last, `targets` all but the first.

    Padding is masked by length, never by value: EOS is a target, and the padding behind it has the same id. With
    `train_on="response"` the first target is the response's first token, predicted at the prompt's last position.
    `as_tree` is `lay_out`'s.
    """
    inputs = [row.input_ids[:-1] for row in rows]
    targets = []
    for row in rows:
        first = row.prompt_length - 1 if train_on == "response" else 0
        targets.append((*(first * [IGNORE_INDEX]), *row.input_ids[first + 1 :]))
    longest = max(map(len, inputs))
    return Batch(
        input_ids=torch.tensor([(*ids, *((longest - len(ids)) * [pad_id])) for ids in inputs]),
        targets=torch.tensor([(*ids, *((longest - len(ids)) * [IGNORE_INDEX])) for ids in targets]),
        lengths=torch.tensor([len(ids) for ids in inputs]),
        n_tokens=sum(len(row.input_ids) for row in rows),
        n_targets=sum(count_targets(row, train_on) for row in rows),
        layout=lay_out(inputs, targets, pad_id=pad_id, as_tree=as_tree),
    )


def plan_batches(lengths: Sequence[int], *, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Row indices of every batch of one epoch: random, but with rows of like length together.

    The order depends on `seed` and `epoch` alone, so a run can be taken up anywhere. Rows are shuffled, sorted by
    length within mega-batches, and the batches shuffled again, or the loss would follow the lengths. The batch with
    the longest row comes first, so that a lack of memory shows at the first step. Every row is seen once.
    """
    generator = random.Random(f"batches {seed} {epoch}")
    order = list(range(len(lengths)))
    generator.shuffle(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), batch_size * MEGA_BATCH):
        mega = sorted(order[start : start + batch_size * MEGA_BATCH], key=lambda index: -lengths[index])
        batches += [mega[i : i + batch_size] for i in range(0, len(mega), batch_size)]
    generator.shuffle(batches)
    longest = max(range(len(batches)), key=lambda index: max(lengths[row] for row in batches[index]))
    batches.insert(0, batches.pop(longest))
    return batches


def book_batches(n_train: int, n_validation: int, *, batch_size: int, seed: int, epochs: int) -> list[list[list[int]]]:
    """The batches of every epoch in the order of the book's loop, which follows from torch's global generator.

    The book's loop looks at its losses every five steps, and its loaders draw from that same generator when it does,
    so the order of a later epoch depends on those looks. They are taken here too, with the same loaders over row
    numbers. The global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        train: DataLoader[int] = DataLoader(
            range(n_train),  # type: ignore[arg-type]
            batch_size=batch_size,
            shuffle=True,
            drop_last=True,
            collate_fn=list,
        )
        validation: DataLoader[int] = DataLoader(range(n_validation), batch_size=batch_size)  # type: ignore[arg-type]
        found: list[list[list[int]]] = []
        step = 0
        for _ in range(epochs):
            found.append([])
            for batch in train:
                found[-1].append(batch)
                if step % BOOK_LOOKS_EVERY == 0:
                    for loader in (train, validation):
                        next(iter(loader), None)
                step += 1
    return found
