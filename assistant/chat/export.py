"""Files for people and for training, made of a conversation: Markdown, rows and preference pairs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from assistant.chat.conversation import Conversation, Turn
from assistant.chat.markdown_text import code_span, fenced
from assistant.chat.records import Answered, Asked, RowRun, Side
from assistant.dataset.convert import encode_rows
from assistant.dataset.examples import Example, Exchange
from assistant.dataset.forms import examples_of
from assistant.dataset.rows import Row
from assistant.dataset.sources import JSON_LINE_SUFFIXES, data_suffix
from assistant.dataset.splits import normalise
from assistant.decoding.reply import StopReason
from assistant.errors import DataError, SettingsError
from assistant.files import shown_path, write_atomic

NO_END: frozenset[StopReason] = frozenset({"length", "cancelled"})
"""Stop reasons of answers without an end. Chosen, they would teach the model to end in the middle of a sentence."""
_LABELS: dict[Side, str] = {"tuned": "Tuned model", "base": "Base model"}


@dataclass(kw_only=True, slots=True)
class ExportedRows:
    """Rows for training, and how many are not among them, by reason."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    n_held_out: int = 0
    """Corrections or choices on test rows. They are left out, or with `marked` in `rows` with their mark."""
    n_ties: int = 0
    n_equal: int = 0
    """Pairs of two equal texts."""
    n_without_end: int = 0
    """Choices of an answer that was cut at the token limit, or stopped."""
    n_unreadable: int = 0
    """Rows that a training command would refuse: without a text, or with characters that no tokenizer can encode."""

    def describe(self, what: str = "row", *, marked: bool = False) -> str:
        """Return what was made and what was left out, in one or two sentences."""
        n_held_out = 0 if marked else self.n_held_out
        reasons = [
            (n_held_out, "on test rows, which must not be learnt"),
            (self.n_ties, "without a better answer"),
            (self.n_equal, "with two equal texts"),
            (self.n_without_end, "whose better answer was cut or stopped"),
            (self.n_unreadable, "without a text that can be learnt"),
        ]
        left_out = ", ".join(f"{n} {why}" for n, why in reasons if n)
        made = f"{len(self.rows)} {what}" + ("" if len(self.rows) == 1 else "s")
        marks = f", {self.n_held_out} of them marked as test rows" if marked and self.n_held_out else ""
        return f"{made}{marks}." + (f" Left out: {left_out}." if left_out else "")


# --- rows and pairs -----------------------------------------------------------------------------------------------


def training_rows(
    conversation: Conversation, *, marked: bool = False, test_rows: Iterable[Example] = ()
) -> ExportedRows:
    """Return the corrections as rows for `assistant finetune`.

    A row holds the exchanges before it that the model saw, as a prompt: only the correction is learnt.

    Args:
        conversation: Turns with corrections.
        marked: Keep corrections of test rows, with `"held_out": true`. Training refuses a file with such a row.
        test_rows: Rows that count as test rows also where the person typed the question. The test rows that were asked
            in this conversation always do.
    """
    tests = _prompts_of(conversation, test_rows)
    exported = ExportedRows()
    for turn in conversation.turns:
        if turn.correction is None:
            continue
        is_test = _is_test(turn, tests)
        exported.n_held_out += is_test
        if is_test and not marked:
            continue
        example = replace(_example(conversation, turn, turn.answer("tuned"), turn.correction), held_out=is_test)
        row = _as_prompt_and_completion(example) if example.history else example.as_row()
        if _is_readable(row):
            exported.rows.append(row)
        else:
            exported.n_unreadable += 1
    return exported


def preference_pairs(
    conversation: Conversation, *, marked: bool = False, test_rows: Iterable[Example] = ()
) -> ExportedRows:
    """Return the choices, and the corrections of other answers, as pairs for `assistant prefer`.

    A correction is chosen over the answer of the tuned model that counts. The arguments are those of `training_rows`.
    """
    tests = _prompts_of(conversation, test_rows)
    exported = ExportedRows()
    for turn in conversation.turns:
        pairs = [pair for pair in (_chosen_pair(turn, exported), _corrected_pair(turn)) if pair is not None]
        is_test = _is_test(turn, tests)
        for answer, better, worse in pairs:
            exported.n_held_out += is_test
            if is_test and not marked:
                continue
            if better.strip() == worse.strip():
                exported.n_equal += 1
                continue
            example = _example(conversation, turn, answer, better)
            row = replace(example, rejected=worse, held_out=is_test).as_row()
            if better.strip() and worse.strip() and _is_readable(row):
                exported.rows.append(row)
            else:
                exported.n_unreadable += 1
    return exported


def _chosen_pair(turn: Turn, counts: ExportedRows) -> tuple[Answered, str, str] | None:
    """Return the chosen answer and both texts, or None and count why not."""
    choice = turn.choice
    if choice is None:
        return None
    if choice.chosen is None or choice.rejected is None:
        counts.n_ties += 1
        return None
    better = turn.answer(choice.chosen.side, choice.chosen.variant)
    worse = turn.answer(choice.rejected.side, choice.rejected.variant)
    if better is None or worse is None:
        return None
    if better.stop_reason in NO_END:
        counts.n_without_end += 1
        return None
    return better, better.response, worse.response


def _corrected_pair(turn: Turn) -> tuple[Answered, str, str] | None:
    answer = turn.answer("tuned")
    if turn.correction is None or answer is None:
        return None
    return answer, turn.correction, answer.response


def _example(conversation: Conversation, turn: Turn, answer: Answered | None, output: str) -> Example:
    """Return the question with this output, after the exchanges that the model saw before `answer`."""
    n_history = 0 if answer is None else answer.n_history
    history: tuple[Exchange, ...] = conversation.history(turn.number)[-n_history:] if n_history else ()
    question = turn.question
    return Example(instruction=question.instruction, input=question.input, output=output, history=history)


def _as_prompt_and_completion(example: Example) -> dict[str, Any]:
    """Return a row whose history is read and not learnt. In a row with `messages`, every answer would be learnt."""
    row = replace(example, input="", held_out=False).as_row()
    fields = {"prompt": row["messages"][:-1], "input": example.input, "completion": row["messages"][-1:]}
    return {name: value for name, value in fields.items() if value} | example.labels


def _is_test(turn: Turn, tests: frozenset[str]) -> bool:
    return turn.is_held_out or _prompt(turn.question) in tests


def _prompts_of(conversation: Conversation, examples: Iterable[Example]) -> frozenset[str]:
    """Return the prompts of test rows: of these, and of those that were asked in the conversation."""
    asked = [turn.question for turn in conversation.turns if turn.is_held_out]
    rows: list[Example | Asked | RowRun] = [*examples, *asked, *conversation.rows]
    return frozenset(map(_prompt, rows))


def _prompt(row: Example | Asked | RowRun) -> str:
    """Return the words of a prompt, for comparison. A person may type both into one field, the input last."""
    return " ".join(map(normalise, f"{row.instruction} {row.input}".split()))


def _is_readable(row: dict[str, Any]) -> bool:
    """Whether a training command reads the row as one example."""
    try:
        return len(examples_of(Row(1, row), "chat").examples) == 1
    except DataError:
        return False


# --- Markdown -----------------------------------------------------------------------------------------------------


def to_markdown(conversation: Conversation) -> str:
    """Return the conversation as Markdown. Texts of people and models are fenced, and cannot be read as markup."""
    parts = [f"# {code_span(conversation.title)}" if conversation.title.strip() else "# Conversation"]
    if conversation.opened is not None:
        opened = conversation.opened
        base = f", base model {code_span(opened.base)}" if opened.base else ""
        parts.append(f"{opened.at:%Y-%m-%d %H:%M} UTC, model {code_span(opened.model)}{base}")
    for turn in conversation.turns:
        parts += _turn_as_markdown(turn)
    if conversation.rows:
        n = len(conversation.rows)
        parts.append(f"{n} test {'row was' if n == 1 else 'rows were'} answered in the background.")
    return "\n\n".join(parts) + "\n"


def _turn_as_markdown(turn: Turn) -> list[str]:
    question = turn.question
    parts = [f"## {turn.number + 1}. {'Test row' if turn.is_held_out else 'Question'}", fenced(question.instruction)]
    if question.input:
        parts += ["Input:", fenced(question.input)]
    for side in _sides(turn):
        for answer in turn.answers[side]:
            parts += [_answer_line(turn, answer), fenced(answer.response)]
    if question.reference is not None:
        parts += ["Reference:", fenced(question.reference)]
    if turn.choice is not None:
        chosen = turn.choice.chosen
        words = "neither answer" if chosen is None else f"{_LABELS[chosen.side].lower()}, answer {chosen.variant + 1}"
        parts.append(f"Chosen{' blind' if turn.choice.blind else ''}: {words}.")
    if turn.correction is not None:
        parts += ["Correction:", fenced(turn.correction)]
    return parts


def _sides(turn: Turn) -> tuple[Side, Side]:
    return ("base", "tuned") if turn.is_blind and turn.question.left == "base" else ("tuned", "base")


def _answer_line(turn: Turn, answer: Answered) -> str:
    """Return who answered, and how. While a blind choice is open, the models have no names."""
    name = _LABELS[answer.side]
    if turn.is_blind:
        name = "Left answer" if answer.side == turn.question.left else "Right answer"
    settings = answer.settings
    words = [f"temperature {settings.temperature:g}", f"seed {settings.seed}"]
    if not turn.is_blind:  # its length could tell which model it is
        words.insert(0, f"{len(answer.token_ids)} tokens")
        words += {"length": ["cut at the limit"], "cancelled": ["stopped"]}.get(answer.stop_reason, [])
    return f"{name}, answer {answer.variant + 1} ({', '.join(words)}):"


# --- files --------------------------------------------------------------------------------------------------------


def save_markdown(conversation: Conversation, path: Path) -> None:
    """Write the conversation as Markdown. Raises as `save_rows`."""
    _save(path, to_markdown(conversation).encode())


def save_rows(exported: ExportedRows, path: Path) -> None:
    """Write rows as a JSON list, or as JSONL if the name ends in `.jsonl`. `.gz` after that packs the file.

    Raises:
        SettingsError: the file exists, its name has another ending, or there are no rows.
        DataError: the file cannot be written.
    """
    if not exported.rows:
        raise SettingsError(f"{shown_path(path)}: expected rows to write, got none. {exported.describe()}")
    if data_suffix(path) not in {".json", *JSON_LINE_SUFFIXES}:  # a table has no place for a history
        raise SettingsError(
            f"{shown_path(path)}: expected a name that ends in .json or .jsonl, got {path.suffix or 'no ending'}. "
            f"Choose such a name."
        )
    _save(path, encode_rows(exported.rows, path))


def free_name(folder: Path, stem: str, suffix: str) -> Path:
    """Return the path of a new file in a folder: `stem` with the suffix, or with a number before it."""
    names = (f"{stem}{f'-{number}' if number > 1 else ''}{suffix}" for number in range(1, 10_000))
    return next(folder / name for name in names if not os.path.lexists(folder / name))


def _save(path: Path, content: bytes) -> None:
    if path.is_dir():
        raise SettingsError(f"{shown_path(path)}: expected a name for a file, got a folder. Add a name.")
    if os.path.lexists(path):
        raise SettingsError(f"{shown_path(path)}: expected a name for a new file, got one that exists. Choose another.")
    try:
        write_atomic(path, content)
    except OSError as error:
        raise DataError(
            f"{shown_path(path)}: expected to write the file, got {error.strerror or error}. Choose another place."
        ) from error
