"""A judge's identity: its fingerprint covers everything that can change a score."""

from __future__ import annotations

from typing import Any

import pytest

from evaluation.judging.judgement import JudgeIdentity, JudgeSettings

IDENTITY = JudgeIdentity(
    model="llama3.1", digest="d", server_version="0.30", client_version="0.6", options={"num_ctx": 4096}, rubric="r"
)


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "e"},
        {"model": "other"},
        {"options": {"num_ctx": 4096, "repeat_penalty": 1.1}},
        {"rubric": "s"},
        {"api": "openai"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_fingerprint_changes_with_each_field_that_a_verdict_depends_on(change: dict[str, Any]) -> None:
    assert IDENTITY.model_copy(update=change).fingerprint != IDENTITY.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"server_version": "0.99"},
        {"client_version": "0.7"},
        {"options": {"num_ctx": 8192}},
        {"model": "llama3.1:latest"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_fingerprint_ignores_all_else(change: dict[str, Any]) -> None:
    assert IDENTITY.model_copy(update=change).fingerprint == IDENTITY.fingerprint


def test_every_option_that_changes_what_is_sampled_is_in_the_options() -> None:
    options = JudgeSettings(model="m", urls=("http://127.0.0.1:1",), num_ctx=2048).options
    assert options == {
        "temperature": 0,
        "seed": 123,
        "num_ctx": 2048,
        "num_predict": 512,
        "repeat_penalty": 1.0,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "top_k": 40,
        "top_p": 1.0,
        "min_p": 0.0,
    }
