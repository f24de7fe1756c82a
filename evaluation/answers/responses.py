"""Fills an answers folder with a model's responses to the rows of its data.

Owns which rows are answered. Does not know how responses are scored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from assistant.dataset.instructions import Example
from assistant.dataset.splits import (
    DEFAULT_FRACTIONS,
    DEFAULT_SPLIT_SEED,
    data_fingerprint,
    split_examples,
)
from assistant.dataset.trained_prompts import prompt_hash, prompt_hashes, read_hashes
from assistant.decoding.reply import Reply
from assistant.errors import ContextError, SettingsError
from assistant.jsonl import AppendOnly, read_lines
from assistant.settings import DecodePrecision, GenerationSettings, SplitMethod
from evaluation.answers.bits import bits_per_byte
from evaluation.answers.folder import RECORD, RESPONSES_FILE, AnswersInfo, Part, ResponseRecord
from evaluation.answers.records import make_record, now, package_versions, row_ids, weights_digest, with_response

if TYPE_CHECKING:
    from assistant.dataset.prompts import Template
    from assistant.model.config import ModelInfo


class BatchSession(Protocol):
    """What this module needs of a model. `assistant.decoding.session.Session` is the real one."""

    @property
    def name(self) -> str:
        """The model's name."""

    @property
    def template(self) -> Template:
        """The prompt template."""

    @property
    def precision(self) -> DecodePrecision:
        """Storage of the model's weights."""

    def replies(
        self,
        examples: Sequence[Example],
        settings: GenerationSettings,
        *,
        batch_size: int = 32,
        on_reference: Callable[[int, float], None] | None = None,
    ) -> Iterator[tuple[int, Reply | ContextError]]:
        """Answer the examples; see `Session.replies`."""


class ChosenPart(NamedTuple):
    """The rows to answer, the name of their part, and a sentence that says why."""

    examples: tuple[Example, ...]
    part: Part
    reason: str


# --- which rows ---------------------------------------------------------------------------------------------------


def choose_part(examples: Sequence[Example], part: Part, info: ModelInfo | None) -> ChosenPart:
    """Choose the rows of a part. The split is the one of the model's training run.

    `auto` is the test part if the model was trained on exactly these data and the part has rows, and all rows
    otherwise. `info` is None for a base model.

    Raises:
        SettingsError: the part has no rows.
    """
    same_data = info is not None and info.data_fingerprint == data_fingerprint(examples)
    is_auto = part == "auto"
    if part == "auto":
        part = "test" if same_data else "all"
    if part == "all":
        reason = (
            "all rows, including the rows that the model was trained on"
            if same_data
            else "all rows: the model was not trained on a split of these files"
        )
        return ChosenPart(tuple(examples), part, reason)
    method: SplitMethod = info.split_method if info else "grouped"
    seed = info.split_seed if info else DEFAULT_SPLIT_SEED
    fractions = info.split_fractions if info else DEFAULT_FRACTIONS
    chosen = split_examples(examples, method=method, seed=seed, fractions=fractions).part(part)
    if not chosen and is_auto:
        reason = "all rows: too few for a test part. The model was trained on some of them, so the score is too good"
        return ChosenPart(tuple(examples), "all", reason)
    if not chosen:
        raise SettingsError(
            f"--part: expected rows in {part!r}, got none of {len(examples)}. "
            f"Fine-tune with more rows or a larger --test-share, or answer all rows: --part all."
        )
    origin = "split as for training" if same_data else "split now: the model was not trained on these files"
    return ChosenPart(
        chosen, part, f"the {part} part ({len(chosen)} of {len(examples)} rows; {method}, seed {seed}), {origin}"
    )


# --- answers of a model -------------------------------------------------------------------------------------------


def describe_answers(
    session: BatchSession,
    model: str,
    data_files: Sequence[str],
    chosen: ChosenPart,
    settings: GenerationSettings,
    *,
    samples: int = 1,
) -> AnswersInfo:
    """Describe the answers of a model to `chosen`, for `run.json`. `model` is the path of the model folder."""
    return AnswersInfo(
        kind="model",
        name=session.name,
        path=model,
        digest=weights_digest(Path(model)),
        template=session.template.name,
        template_fingerprint=session.template.fingerprint,
        data_files=tuple(data_files),
        data_fingerprint=data_fingerprint(chosen.examples),
        part=chosen.part,
        rows=len(chosen.examples),
        samples=samples,
        settings=settings,
        precision=session.precision,
        versions=package_versions("torch", "tiktoken"),
        created=now(),
    )


def seen_in_training(
    folder: Path, info: ModelInfo | None, examples: Sequence[Example], chosen: ChosenPart
) -> list[bool | None]:
    """Return of every chosen row whether the model in `folder` was fine-tuned on its prompt; None if it is not known.

    A folder without hashes is of an older version. Its training part is known if `examples` are the rows it is from.
    """
    trained = read_hashes(folder)
    if trained is None and info is not None and info.data_fingerprint == data_fingerprint(examples):
        split = split_examples(examples, method=info.split_method, seed=info.split_seed, fractions=info.split_fractions)
        trained = prompt_hashes(split.train)
    return [None if trained is None else prompt_hash(example) in trained for example in chosen.examples]


def check_samples(samples: int, settings: GenerationSettings) -> None:
    """Raise SettingsError if several responses to a row would all be the same."""
    if samples == 1:
        return
    from assistant.decoding.sampling import GREEDY_BELOW

    if settings.temperature < GREEDY_BELOW:
        raise SettingsError(
            f"--samples: expected 1 at --temperature {settings.temperature:g}, where all responses to a row are the "
            f"same, got {samples}. Raise the temperature: --temperature 0.7"
        )


def sample_seed(seed: int, sample: int) -> int:
    """Return the seed of a sample. The first sample has the seed itself, so that it is the answer without samples."""
    if sample == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed} sample {sample}".encode()).digest()[:7], "big")


def answer(
    session: BatchSession,
    examples: Sequence[Example],
    folder: Path,
    settings: GenerationSettings,
    *,
    batch_size: int,
    samples: int = 1,
    seen: Sequence[bool | None] = (),
    reference_bits: bool = True,
) -> Iterator[ResponseRecord]:
    """Answer the rows that have no line in the folder yet, `samples` times. Yields each record when it is on the disk.

    `seen` says of each row whether its prompt stands in the training data. A row whose marks changed (accept, check,
    rubric, category, group) gets a new line with its old response; such lines are not yielded.

    Raises:
        PrerequisiteError: another process is writing there.
    """
    path = folder / RESPONSES_FILE
    with AppendOnly[ResponseRecord](path) as file:
        answered = {record.key: record for record in read_lines(path, RECORD)}
        rows = [make_record(row_id, row) for row_id, row in zip(row_ids(examples), examples, strict=True)]
        if seen:
            rows = [row.model_copy(update={"seen_in_training": value}) for row, value in zip(rows, seen, strict=True)]
        file.append(_with_new_marks(rows, answered))
        for sample in range(samples):
            records = [row.model_copy(update={"sample": sample}) for row in rows]
            open_rows = [place for place, record in enumerate(records) if record.key not in answered]
            logprobs: dict[int, float] = {}
            replies = session.replies(
                [examples[place] for place in open_rows],
                settings.model_copy(update={"seed": sample_seed(settings.seed, sample)}),
                batch_size=batch_size,
                on_reference=logprobs.__setitem__ if reference_bits and sample == 0 else None,
            )
            for index, reply in replies:
                if isinstance(reply, Reply) and reply.stop_reason == "cancelled":
                    continue
                record = _with_reply(records[open_rows[index]], reply)
                if index in logprobs:
                    bits = bits_per_byte(logprobs.pop(index), record.reference)
                    record = record.model_copy(update={"reference_bits_per_byte": bits})
                file.append([record])
                yield record


def _with_new_marks(rows: Sequence[ResponseRecord], answered: Mapping[str, ResponseRecord]) -> Iterator[ResponseRecord]:
    """Yield the answered records whose row is marked otherwise now, with the new marks."""
    by_id = {row.id: row for row in rows}
    for record in answered.values():
        row = by_id.get(record.id)
        if row is not None:
            marks = {name: getattr(row, name) for name in ("category", "group", "accept", "check", "rubric")}
            if any(getattr(record, name) != value for name, value in marks.items()):
                yield record.model_copy(update=marks)


def _with_reply(record: ResponseRecord, reply: Reply | Exception) -> ResponseRecord:
    if isinstance(reply, Exception):
        return record.model_copy(update={"error": str(reply)})
    return with_response(record, reply.response, reply.token_ids).model_copy(
        update={
            "stop_reason": reply.stop_reason,
            "num_tokens": len(reply.token_ids),
            "seconds": round(reply.seconds, 3),
        }
    )
