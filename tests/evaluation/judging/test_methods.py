"""The whole command with control items and with every method: the score, the trust in the judge, the exit status."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from evaluation.answers.folder import read_answers
from evaluation.judging.controls import PURPOSES
from evaluation.judging.ledger import read_ledger
from evaluation.judging.scoring import LEDGER_FILE
from tests.support.evaluation_command import score
from tests.support.ollama_double import Answer, JsonObject, OllamaDouble, prompt_of, verdict


def write_answers(folder: Path, number: int = 12) -> Path:
    """Rows with references of six words; every third response is wrong, and none is exact."""
    rows = [
        {
            "instruction": f"Say sentence number {row}.",
            "output": f"This is the sentence number {row}.",
            "model_response": f"Here is sentence number {row if row % 3 else 99}.",
        }
        for row in range(number)
    ]
    path = folder / "answers.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def parts_of(body: JsonObject) -> dict[str, str]:
    """The texts between the tags of a question."""
    text = prompt_of(body)
    return {
        name: text.split(f"<{name}-xq7z>\n")[-1].split(f"\n</{name}-xq7z>")[0] for name in ("reference", "response")
    }


def fair(body: JsonObject) -> Answer:
    """A judge that calls a sentence right if it ends as the reference does."""
    parts = parts_of(body)
    is_right = parts["response"].split()[-3:] == parts["reference"].split()[-3:]
    return verdict(5 if is_right and not parts["response"].startswith("Say") else 0)


def kind(_body: JsonObject) -> Answer:
    """A judge that likes everything."""
    return verdict(5)


@pytest.fixture
def double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OllamaDouble]:
    """A server, the current folder, and no verdicts of other tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with OllamaDouble(models=("llama3.1:latest",)) as server:
        yield server


def test_control_items_make_a_fair_judge_green_and_do_not_count_in_the_mean(
    tmp_path: Path, double: OllamaDouble
) -> None:
    double.default = fair
    report = score(write_answers(tmp_path), double, "--controls", 4).json
    assert (report["n"], report["scored"], report["sources"]) == (12, 12, {"judge": 12})
    assert report["mean"] == pytest.approx(100 * 8 / 12, abs=0.01)
    assert report["judge_verdict"]["level"] == "green", report["judge_verdict"]
    assert report["judge_verdict"]["tpr"]["right"] == 4
    folder = tmp_path / "runs" / "answers"
    purposes = {line.purpose for line in read_ledger(folder / LEDGER_FILE).judgements}
    assert purposes >= {PURPOSES["reference"], PURPOSES["colon"], PURPOSES["order"], "score"}
    assert len(read_answers(folder).responses) == 12


def test_judge_that_likes_everything_is_red_whatever_the_mean(tmp_path: Path, double: OllamaDouble) -> None:
    double.default = kind
    report = score(write_answers(tmp_path), double, "--controls", 4).json
    assert report["mean"] == 100
    assert report["judge_verdict"]["level"] == "red"
    assert report["corrected_rate"]["corrected"] is None
    assert "It obeys orders" in " ".join(report["judge_verdict"]["reasons"])


def test_without_control_items_nothing_is_known(tmp_path: Path, double: OllamaDouble) -> None:
    double.default = fair
    report = score(write_answers(tmp_path), double, "--controls", 0).json
    assert report["judge_verdict"]["level"] == "untested"
    assert report["judge_verdict"]["findings"] == []


def test_the_book_s_method_has_points_from_0_to_100(tmp_path: Path, double: OllamaDouble) -> None:
    double.default = Answer("85")
    report = score(write_answers(tmp_path), double, "--method", "book").json
    assert report["mean"] == 85
    explained = score(write_answers(tmp_path), double, "--method", "book", "--json").json
    assert explained["judge"]["judge_fingerprint"] == report["judge"]["judge_fingerprint"]
    double.default = verdict(3)
    other = score(write_answers(tmp_path), double).json
    assert other["mean"] == 60
    assert other["judge"]["judge_fingerprint"] != report["judge"]["judge_fingerprint"]


def test_own_rubric_reaches_the_judge(tmp_path: Path, double: OllamaDouble) -> None:
    double.default = verdict(2)
    scale = "".join(f"{point}: Level number {point}.\n" for point in range(6))
    (tmp_path / "rubric.txt").write_text(f"{scale}- Answers must be in Latin.\n")
    assert score(write_answers(tmp_path), double, "--rubric", "rubric.txt").json["mean"] == 40
    system = next(body for body in double.chat() if body["messages"])["messages"][0]["content"]
    assert "Answers must be in Latin." in system
    assert "5: Level number 5." in system


def test_rows_with_questions_have_a_mean_of_their_own(tmp_path: Path, double: OllamaDouble) -> None:
    rows = [
        {"instruction": "Write a poem.", "rubric": ["Does it rhyme?", "Is it short?"], "model_response": "Rain, pain."},
        {"instruction": "Say hi.", "output": "Hi there, all of you!", "model_response": "Hello there, all of you!"},
    ]
    (tmp_path / "answers.json").write_text(json.dumps(rows), encoding="utf-8")

    def answer(body: JsonObject) -> Answer:
        listed = {"analysis": "Short.", "question_01": True, "question_02": False}
        return Answer(json.dumps(listed)) if "question_01" in prompt_of(body) else verdict(5)

    double.default = answer
    report = score(tmp_path / "answers.json", double).json
    assert (report["n"], report["mean"]) == (1, 100)
    assert report["reference_free"]["mean"] == 50
