"""Progress of a command, as a pipe gets it."""

from __future__ import annotations

import pytest

from evaluation.cli.progress import Bar


def test_bar_starts_when_the_number_is_known_and_again_for_the_next_run(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("asked") as bar:
        bar.step()  # nothing is known yet, so nothing is shown
        for total in (2, 0, 1):
            bar.start(total)
            for _ in range(total):
                bar.step()
        bar.start(0)
        bar.step()
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["asked 1 of 2", "asked 2 of 2", "asked 1 of 1"]
