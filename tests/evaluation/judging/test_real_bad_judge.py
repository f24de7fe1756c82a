"""The verdicts of a real bad judge, SmolLM2-135M, replayed as the judge of a whole run: the report must be red.

It gave 94.9 of 100 on one server, with verdicts such as "The response is wrong", score 5. Its verdicts on control items
were not recorded, so a control item gets the verdict of its row: this judge hardly looked at responses.
"""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from evaluation.judging.rubric import TAG, neutralise
from tests.conftest import shared_file
from tests.support.evaluation_command import evaluation
from tests.support.ollama_double import Answer, JsonObject, OllamaDouble, verdict

pytestmark = pytest.mark.usefixtures("work_in_tmp_path")


class ReplayedJudge:
    """Gives the recorded verdict of the row that a question is about. Rows without one get the most frequent score."""

    def __init__(self, server: str) -> None:
        rows = json.loads(shared_file("data/book-responses.json").read_bytes())
        records = json.loads(shared_file("ollama-transcripts/verdicts-smollm2.json").read_bytes())
        self._verdicts = {
            _start(rows[record["row"] - 1]): record[server] for record in records if record[server]["score"] is not None
        }

    def __call__(self, body: JsonObject) -> Answer:
        text = body["messages"][-1]["content"] if body["messages"] else ""
        recorded = next((value for start, value in self._verdicts.items() if text.startswith(start)), None)
        return (
            verdict(5, "The answer is correct.")
            if recorded is None
            else verdict(recorded["score"], recorded["analysis"])
        )


def _start(row: dict[str, str]) -> str:
    """Return how a question about a row begins."""
    start = f"<instruction-{TAG}>\n{neutralise(row['instruction'])}\n</instruction-{TAG}>\n\n"
    return start + (f"<input-{TAG}>\n{neutralise(row['input'])}\n" if row["input"].strip() else f"<reference-{TAG}>")


@pytest.mark.parametrize(
    ("server", "controls", "reason"), [("0.32.15", 2, "obeys orders"), ("0.24.0", 8, "right from")]
)
def test_report_of_a_real_bad_judge_is_red_wherever_the_score_stands(server: str, controls: int, reason: str) -> None:
    with OllamaDouble(default=ReplayedJudge(server)) as double:
        command = ("score", shared_file("data/book-responses.json"), "--run", "runs/a", "--judge", "llama3.1")
        result = evaluation(*command, "--host", double.url, "--controls", controls, "--fail-under", 1)
    assert (result.code, "red judge" in result.error) == (1, True)
    report = json.loads(Path("runs/a/report.json").read_text())
    assert (report["judge_verdict"]["level"], report["scored"]) == ("red", 110)
    assert reason in " ".join(report["judge_verdict"]["reasons"])
    assert report["corrected_rate"]["corrected"] is None  # it separates too little to correct anything
    headline = f"Score {report['mean']:.1f} of 100, but the judge is red"
    for text in (result.out, Path("runs/a/report.md").read_text(), Path("runs/a/report.html").read_text()):
        assert headline in text
    assert evaluation("report", "runs/a", "--junit", "a.xml").code == 0
    assert ElementTree.parse("a.xml").getroot()[0][0][0].tag == "failure"
    assert f"{report['mean']:.1f}?" in evaluation("runs", "runs").out


def test_without_control_items_the_equal_scores_of_the_rows_are_enough() -> None:
    with OllamaDouble(default=ReplayedJudge("0.32.15")) as double:
        command = ("score", shared_file("data/book-responses.json"), "--run", "runs/a", "--judge", "llama3.1")
        result = evaluation(*command, "--host", double.url, "--controls", 0, "--json")
    assert result.json["judge_verdict"]["level"] == "red"
    assert "nearly every row the same score" in " ".join(result.json["judge_verdict"]["reasons"])
    assert result.json["mean"] > 90
