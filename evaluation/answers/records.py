"""Makes the records of an answers folder from examples: the limits and marks of a response.

Does not know who gives the responses.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version

import assistant
from assistant.dataset.examples import Example
from assistant.loops import loops
from evaluation.answers.folder import ResponseRecord

MAX_RESPONSE_BYTES = 2**16
"""Longest response that is kept, in bytes of UTF-8. No judge of this project's size reads a longer one."""


def make_record(row_id: str, example: Example) -> ResponseRecord:
    """Return the record of a row that has no response yet."""
    return ResponseRecord(
        id=row_id,
        source=example.source,
        row=example.row,
        instruction=example.instruction,
        input=example.input,
        reference=example.output,
        history=example.history,
        category=example.category,
        group=example.group,
        accept=example.accept,
        check=example.check,
        rubric=example.rubric,
        response=None,
    )


def with_response(
    record: ResponseRecord, response: str | None, token_ids: Sequence[int] | None = None
) -> ResponseRecord:
    """Return the record with a response, marked if it loops. A response that is too long is not kept.

    Token ids show a loop better than words do, which stand in for them.
    """
    if response is None:
        return record
    if (n_bytes := len(response.encode())) > MAX_RESPONSE_BYTES:
        error = f"response: expected at most {MAX_RESPONSE_BYTES} bytes, got {n_bytes} or more. It was not kept."
        return record.model_copy(update={"error": error, "too_long": True})
    is_looping = loops(response.split() if token_ids is None else token_ids)
    return record.model_copy(update={"response": response, "looping": is_looping})


def package_versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python, of this project and of some packages."""
    versions = {package: version(package) for package in packages}
    return {"python": platform.python_version(), "assistant": assistant.__version__, **versions}


def now() -> datetime:
    """Return the current time in UTC, without microseconds."""
    return datetime.now(UTC).replace(microsecond=0)
