"""The title line: what is dropped first where there is little room."""

from __future__ import annotations

import pytest

from assistant.tui.title import TitleParts, title_content

PARTS = TitleParts(model="runs/mine", base="pocket", size="4.3M", template="alpaca", score="held-out 62 % of 594")


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (80, "runs/mine ← pocket · 4.3M · alpaca" + " " * 26 + "held-out 62 % of 594"),
        (50, "runs/mine ← pocket · 4.3M" + " " * 5 + "held-out 62 % of 594"),
        (40, "runs/mine ← pocket  held-out 62 % of 594"),
        (39, "runs/mine ← pocket"),
        (12, "runs/mine"),
        (4, "runs/mine"),
    ],
)
def test_what_matters_least_is_dropped_first(width: int, shown: str) -> None:
    assert title_content(PARTS, width).plain == shown


def test_what_is_not_known_is_left_out() -> None:
    assert title_content(TitleParts(model="a\nb", template="alpaca"), 80).plain == "a b · alpaca"
