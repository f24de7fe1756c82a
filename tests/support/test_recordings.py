"""The double keeps its contract: to each request that was recorded, it answers as the real server did."""

from __future__ import annotations

import pytest

from tests.support.ollama_double import OllamaDouble
from tests.support.recordings import contract, exchanges, prepare, replay, scripted

LEFT_OUT = {"client leaves"}
"""What the client did, not the server."""


@pytest.mark.parametrize("version", ["0.32.15", "0.24.0"])
def test_double_answers_as_the_recorded_server(version: str) -> None:
    differences = {}
    recorded = [exchange for exchange in exchanges(f"ollama-{version}.jsonl") if exchange.name not in LEFT_OUT]
    with OllamaDouble(models=(), version=version) as double:
        prepare(double)
        for exchange in recorded:
            behaviour = scripted(exchange)
            if behaviour is not None:
                double.enqueue(behaviour)
            expected, actual = contract(exchange), contract(replay(double, exchange))
            assert double.pending == 0, exchange.name
            if actual != expected:
                names = sorted(expected.keys() | actual.keys())
                pairs = {name: (expected.get(name), actual.get(name)) for name in names}
                differences[exchange.name] = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    assert len(recorded) >= 85
    assert differences == {}
