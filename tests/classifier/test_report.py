"""The report: what it says, and that no label or text can act on the terminal or the page."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from markdown_it import MarkdownIt
from rich.cells import cell_len

from assistant.classifier.report import Report, as_json, as_markdown, as_text
from assistant.classifier.scores import log_softmax, score
from assistant.dataset.examples import Example

HOSTILE = ("$\\frac{a}{b}$", "b|c\x1b[1m", "日本語", "a very long label name that goes on and on", "<b>_x_</b>")


def report(labels: tuple[str, ...], n: int = 60, strength: float = 3.0) -> Report:
    rng, k = np.random.default_rng(0), len(labels)
    targets = rng.integers(0, k, n)
    logits = rng.normal(0, 1, (n, k))
    logits[np.arange(n), targets] += strength
    examples = [
        Example(instruction=f"=cmd {place} \x1b[2J\u202e <script>", output=labels[target], source="a.csv", row=place)
        for place, target in enumerate(targets)
    ]
    scores = score(labels, examples, log_softmax(logits), temperature=1.5)
    return Report(scores=scores, rows={"train": 200, "validation": 20, "test": n}, notes=("2 texts were cut.",))


def test_the_terminal_shows_figures_matrix_and_mistakes() -> None:
    found = report(("not spam", "spam"))
    lines = as_text(found).splitlines()
    (first, second), (third, fourth) = found.scores.confusion
    assert lines[0] == "60 test rows with 2 labels (200 train, 20 validation, 60 test)."
    place = lines.index("right \\ predicted  not spam  spam")
    assert lines[place + 1].split() == ["not", "spam", str(first), str(second)]
    assert lines[place + 2].split() == ["spam", str(third), str(fourth)]
    accuracy = next(line for line in lines if line.startswith("accuracy"))
    assert f"{found.scores.accuracy.value:.1%} (" in accuracy
    assert sum("predicted" in line and "a.csv, row" in line for line in lines) == min(found.scores.n_mistakes, 5)
    assert lines[-1] == "note: 2 texts were cut."


@pytest.mark.parametrize("labels", [HOSTILE, tuple(f"topic {place}" for place in range(40))])
def test_hostile_and_many_labels_stay_on_their_lines(labels: tuple[str, ...]) -> None:
    text = as_text(report(labels, n=200, strength=1.0), width=100)
    assert not any(character in text for character in "\x1b\u202e\r")
    lines = text.splitlines()
    assert max(map(cell_len, lines)) <= 120
    if len(labels) > 12:
        assert any(line.startswith("Commonest confusions") for line in lines)
    else:
        start = next(place for place, line in enumerate(lines) if line.startswith("right \\ predicted"))
        assert len({cell_len(line) for line in lines[start : start + len(labels) + 1]}) == 1


def test_json_has_fractions_and_every_cell() -> None:
    found = report(("not spam", "spam"))
    record = json.loads(json.dumps(as_json(found)))
    assert 0 < record["accuracy"] <= 1
    assert record["accuracy"] == found.scores.accuracy.value
    low, high = record["intervals"]["balanced_accuracy"]
    assert low <= record["balanced_accuracy"] <= high
    assert sum(map(sum, record["confusion"])) == record["n"] == 60
    assert record["by_label"][0]["label"] == "not spam"
    assert record["calibration"]["temperature"] == 1.5
    assert len(record["mistakes"]) == min(record["n_mistakes"], 20)
    assert record["mistakes"][0]["text"].startswith("=cmd")


@pytest.mark.parametrize("labels", [HOSTILE, tuple(f"topic {place}" for place in range(40))])
def test_the_page_shows_every_text_and_runs_none(labels: tuple[str, ...]) -> None:
    page = as_markdown(report(labels, n=200, strength=1.0), title="my_model")
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(page)
    assert "<script>" not in html
    assert "\x1b" not in page
    assert html.count("=cmd") == 20
    assert '<img src="confusion.png"' in html
    assert html.count("<table>") == 4


def test_no_mistakes_are_said_to_be_none() -> None:
    found = report(("a", "b"), strength=50.0)
    assert "No mistakes." in as_text(found)
    assert "No mistakes." in as_markdown(replace(found, notes=()), title="x")
