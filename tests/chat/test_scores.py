"""The score in words, and the suggestions, from `scores.jsonl`: new lines, old lines, damaged lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from assistant.chat.scores import Suggestion, read_score, read_suggestions
from assistant.model.config import SCORES_FILE

OLD: dict[str, Any] = {"mean": 62.4579, "n": 594, "judge": None, "metric": "exact match", "part": "test"}


def write(folder: Path, *lines: dict[str, Any] | str) -> None:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / SCORES_FILE).write_text("\n".join(texts) + "\n")


def words(folder: Path) -> str | None:
    score = read_score(folder)
    return None if score is None else score.words


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "held-out 62 % of 594"),
        ({"mean": 100, "n": 3}, "held-out 100 % of 3"),
        ({"mean": 99.9}, "held-out >99 % of 594"),
        ({"mean": 0.3}, "held-out <1 % of 594"),
        ({"mean": 0}, "held-out 0 % of 594"),
        ({"part": "all"}, "scored 62 % of 594"),
        ({"judge": "llama3.1", "judge_level": "green"}, "held-out 62 points of 594 by llama3.1"),
        ({"judge": "llama3.1", "judge_level": "red"}, "held-out 62? points of 594 by llama3.1"),
        ({"judge": "\x1b]0;x\x07" + "y" * 99}, "held-out 62 points of 594 by ␛]0;x␇" + "y" * 18),
        ({"n": True}, "held-out 62 %"),
        ({"n": -4, "judge": 7, "judge_level": []}, "held-out 62 %"),
    ],
)
def test_the_score_in_words(tmp_path: Path, fields: dict[str, Any], expected: str) -> None:
    write(tmp_path, OLD | fields)
    assert words(tmp_path) == expected


def test_the_newest_line_of_the_test_part_counts(tmp_path: Path) -> None:
    assert words(tmp_path) is None
    write(tmp_path, OLD | {"mean": 10}, OLD | {"mean": 20}, OLD | {"mean": 30, "part": "train"}, '{"mean": 5')
    assert words(tmp_path) == "held-out 20 % of 594"
    write(tmp_path, OLD | {"part": "all", "mean": 40}, OLD | {"part": "all", "mean": 50})
    assert words(tmp_path) == "scored 50 % of 594"


def test_suggestions_are_those_of_the_newest_line_that_has_any(tmp_path: Path) -> None:
    assert read_suggestions(tmp_path) == ()
    write(tmp_path, OLD)
    assert read_suggestions(tmp_path) == ()
    right = [{"instruction": f"q{number}", "input": "x" if number else ""} for number in range(9)]
    write(tmp_path, OLD | {"right": right[:1]}, OLD | {"right": right}, OLD, OLD | {"right": []})
    assert read_suggestions(tmp_path) == tuple(Suggestion(f"q{n}", "x" if n else "") for n in range(6))


def test_damaged_and_hostile_suggestions_are_left_out(tmp_path: Path) -> None:
    bad = [1, None, {}, {"instruction": 3}, {"instruction": " "}, {"instruction": "a", "input": None}]
    bad += [{"instruction": "x" * 81}, {"instruction": "two\nlines"}, {"instruction": "\x1b[31mred"}]
    write(tmp_path, OLD | {"right": [*bad, {"instruction": "good"}]}, OLD | {"right": "text"}, OLD | {"right": bad})
    assert read_suggestions(tmp_path) == (Suggestion("good"),)
