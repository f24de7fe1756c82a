"""A judge's identity: its fingerprint covers everything that can change a score."""

from __future__ import annotations

from typing import Any

import pytest

from evaluation.judgement import JudgeIdentity, JudgeSettings

IDENTITY = JudgeIdentity(
    model="llama3.1", digest="d", server_version="0.30", client_version="0.6", options={"num_ctx": 4096}, rubric="r"
)


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "e"},
        {"server_version": "0.99"},
        {"client_version": "0.7"},
        {"options": {"num_ctx": 8192}},
        {"rubric": "s"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_fingerprint_changes_with_each_field(change: dict[str, Any]) -> None:
    assert IDENTITY.model_copy(update=change).fingerprint != IDENTITY.fingerprint


def test_fingerprint_ignores_the_models_name() -> None:
    assert IDENTITY.model_copy(update={"model": "llama3.1:latest"}).fingerprint == IDENTITY.fingerprint


def test_options_are_deterministic() -> None:
    options = JudgeSettings(model="m", url="http://127.0.0.1:1", num_ctx=2048).options
    assert options == {"temperature": 0, "seed": 123, "num_ctx": 2048, "num_predict": 512}
