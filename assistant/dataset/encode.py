"""Encodes prompts, and examples (prompt, response and EOS), as token ids, within the context length.

Does not know about tensors, padding or batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from assistant.dataset.instructions import Example
from assistant.dataset.prompts import TEXT_TEMPLATE, Marker, Pieces, Template, join_pieces
from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import DataError, SettingsError
from assistant.settings import OverlongPolicy, TrainOn


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedExample:
    """Token ids of one example: prompt, response and EOS. The first `prompt_length` ids are the prompt."""

    input_ids: tuple[int, ...]
    prompt_length: int
    example: Example
    rejected: EncodedExample | None = None
    """The same prompt with the rejected answer, for preference training."""
    reference_logprob: float | None = None
    """Log-probability (nats) of the response under the reference model, the weights at the start of the run."""
    label: int | None = None
    """Index of the label of a text. Such a row has neither response nor EOS, and the label is its only target, at the
    last id. What follows the first `prompt_length` ids is padding, which the book's classifier reads too."""

    @property
    def n_tokens(self) -> int:
        """Number of tokens, including those of the rejected row, without the padding of a labelled text."""
        if self.label is not None:
            return self.prompt_length
        return len(self.input_ids) + (len(self.rejected.input_ids) if self.rejected else 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedRows:
    """The encoded rows of a list of examples, and the examples that were truncated or dropped."""

    rows: tuple[EncodedExample, ...]
    truncated: tuple[Example, ...]
    dropped: tuple[Example, ...]


def encode_pieces(pieces: Pieces, tokenizer: Tokenizer) -> list[int]:
    """Return the ids of a prompt. The token that the tokenizer puts before every text is the first."""
    ids = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    for piece in pieces:
        ids += [marker_id(piece, tokenizer)] if isinstance(piece, Marker) else tokenizer.encode(piece)
    return ids


def marker_id(marker: str, tokenizer: Tokenizer) -> int:
    """Return the id of a marker. Raise SettingsError if the tokenizer does not have it."""
    if (token_id := tokenizer.special_id(marker)) is None:
        raise SettingsError(
            f"template: expected a model with the token {marker}, got a tokenizer without it. Use --template alpaca."
        )
    return token_id


def for_template(tokenizer: Tokenizer, template: Template) -> Tokenizer:
    """Return the tokenizer with the template's end of a turn as EOS. Raise SettingsError if it lacks a marker."""
    ids = {marker: marker_id(marker, tokenizer) for marker in template.markers}
    eos_id = ids.get(template.end_of_turn, tokenizer.eos_id)
    return replace(tokenizer, eos_id=eos_id, eos_ids=tuple(dict.fromkeys((*tokenizer.eos_ids, eos_id))))


def encode_examples(
    examples: Sequence[Example],
    template: Template,
    tokenizer: Tokenizer,
    *,
    max_length: int,
    too_long: OverlongPolicy = "truncate",
    as_pairs: bool = False,
) -> EncodedRows:
    """Encode examples as rows of prompt, response and EOS.

    Prompt and response are encoded separately, and EOS is added by its id. A row of n ids takes n - 1 positions.
    `too_long` decides what happens to a row with more than `max_length` positions. "truncate" cuts only the end of the
    user's last text, so that template, response and EOS stay complete; it drops the row if no user text is left. Plain
    text is never cut: it continues in further rows. With `as_pairs`, each row also gets the rejected answer, after
    exactly the same prompt; without it, rejected answers are ignored.

    Raises:
        DataError: `problems` names every row at fault: each row without an output; with `too_long="error"`, each row
            that is too long; with `as_pairs`, each row without a rejected answer; and plain text, if the template is
            for instructions.
        SettingsError: the tokenizer lacks a marker of the template.
    """
    tokenizer = for_template(tokenizer, template)
    check_outputs(examples)
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
        prompt_ids = encode_pieces(template.pieces(example.instruction, example.input, example.history), tokenizer)
        responses = _encode_responses(example, tokenizer, as_pairs)
        longest = max(map(len, responses))
        n_positions = len(prompt_ids) + longest - 1
        if n_positions <= max_length:
            rows.append(_build_row(example, prompt_ids, responses))
            continue
        if too_long == "error":
            problems.append(f"{example.where}: expected at most {max_length} positions, got {n_positions}.")
            continue
        cut_ids = None
        if too_long == "truncate":
            cut_ids = _truncate_prompt(example, template, tokenizer, max_length + 1 - longest)
        if cut_ids is None:
            dropped.append(example)
        else:
            truncated.append(example)
            rows.append(_build_row(example, cut_ids, responses))
    if problems:
        advice = "Shorten the rows, raise --max-length, or choose --too-long truncate or drop."
        if any(example.is_text for example in examples):
            advice = f"Train plain text with --template {TEXT_TEMPLATE} --train-on all."
        raise DataError(problems, advice=advice)
    return EncodedRows(rows=tuple(rows), truncated=tuple(truncated), dropped=tuple(dropped))


def check_outputs(examples: Sequence[Example]) -> None:
    """Raise DataError, with every row at fault, if rows have no output to learn."""
    problems = [
        f'{example.where}: expected an "output" to learn, got a row that is only for evaluation.'
        for example in examples
        if example.is_reference_free
    ]
    if problems:
        raise DataError(problems, advice="Leave these rows out, or give them an output.")


def check_not_held_out(examples: Sequence[Example]) -> None:
    """Raise DataError if a row that should be learnt is marked as a test row."""
    marked = [example for example in examples if example.held_out]
    if marked:
        rows = len({(example.source, example.row) for example in marked})
        more = f" (and {rows - 1} more)" if rows > 1 else ""
        raise DataError(
            f'{marked[0].where}{more}: expected a row to learn from, got a test row with "held_out": true. '
            f"A model that learns from test rows cannot be tested on them any more. Leave these rows out."
        )


def _check_pairs(examples: Sequence[Example]) -> None:
    problems = [
        f'{example.where}: expected "chosen" and "rejected", got one answer.'
        for example in examples
        if example.rejected is None
    ]
    if problems:
        raise DataError(problems, advice="Use `assistant finetune` for rows with one answer.")


def _encode_responses(example: Example, tokenizer: Tokenizer, as_pairs: bool) -> list[tuple[int, ...]]:
    """Return the ids and EOS of the answer and, with `as_pairs`, of the rejected answer."""
    answers = [example.output]
    if as_pairs and example.rejected is not None:
        answers.append(example.rejected)
    return [(*tokenizer.encode(answer), tokenizer.eos_id) for answer in answers]


def _build_row(example: Example, prompt_ids: Sequence[int], responses: Sequence[tuple[int, ...]]) -> EncodedExample:
    row, *rejected = (
        EncodedExample(input_ids=(*prompt_ids, *response), prompt_length=len(prompt_ids), example=example)
        for response in responses
    )
    return replace(row, rejected=rejected[0] if rejected else None)


def _text_rows(example: Example, tokenizer: Tokenizer, max_length: int) -> list[EncodedExample]:
    """Encode plain text and EOS as rows of at most `max_length` positions.

    Each row starts with the last id of the row before it, so that every id except the first is a target once.
    """
    opening_ids = encode_pieces((example.instruction,), tokenizer)
    ids = (*opening_ids, *tokenizer.encode(example.output), tokenizer.eos_id)
    rows = []
    for start in range(0, len(ids) - 1, max_length):
        row_ids = ids[start : start + max_length + 1]
        prompt_length = min(len(opening_ids), len(row_ids) - 1) if start == 0 else 1
        rows.append(EncodedExample(input_ids=row_ids, prompt_length=prompt_length, example=example))
    return rows


def _truncate_prompt(example: Example, template: Template, tokenizer: Tokenizer, budget: int) -> list[int] | None:
    """Cut the end of the user's text so that the prompt has at most `budget` ids. None if no text would be left."""
    named = template.named_parts(example.instruction, example.input, example.history)
    place = max(index for index, (kind, _) in enumerate(named) if kind in ("instruction", "input"))
    sides = (named[:place], named[place + 1 :])
    before, after = (join_pieces(piece for _, part in side for piece in part) for side in sides)
    n_bos = 0 if tokenizer.bos_id is None else 1
    n_around = sum(len(encode_pieces(part, tokenizer)) - n_bos for part in (before, after)) + n_bos
    text_ids = tokenizer.encode(named[place][1][0])
    # Joined text can have other merges at the seams, so try each length, from the longest that can fit.
    for n_kept in range(min(len(text_ids), budget - n_around + 4), 0, -1):
        text = tokenizer.decode(text_ids[:n_kept]).rstrip("\ufffd").rstrip()
        if not text:
            return None
        ids = encode_pieces(join_pieces((*before, text, *after)), tokenizer)
        if len(ids) <= budget:
            return ids
    return None


def count_targets(row: EncodedExample, train_on: TrainOn) -> int:
    """Return the number of tokens of a row that count in the loss. A labelled text has one target."""
    if row.label is not None:
        return 1
    return len(row.input_ids) - (row.prompt_length if train_on == "response" else 1)


def sequences(rows: Sequence[EncodedExample]) -> list[EncodedExample]:
    """Return all sequences that the model reads: the rows, then their rejected rows in the same order."""
    return [*rows, *(row.rejected for row in rows if row.rejected is not None)]
