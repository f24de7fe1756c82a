"""A row is right from the pass mark, in the report and in what it corrects; a rubric has a limited length."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assistant.dataset.checks import MAX_QUESTIONS
from tests.support.evaluation_command import evaluation, score
from tests.support.ollama_double import OllamaDouble, verdict


def test_pass_mark_decides_which_rows_are_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = [{"instruction": f"Say {n}.", "output": f"It is {n}.", "model_response": f"Is {n}."} for n in range(4)]
    Path("answers.json").write_text(json.dumps(rows))
    with OllamaDouble(models=("llama3.1:latest",), default=verdict(3)) as double:
        for mark, rate in ((80, 0.0), (60, 1.0)):
            report = score(Path("answers.json"), double, "--pass-mark", mark).json
            assert (report["judge_verdict"]["pass_mark"], report["corrected_rate"]["raw"]) == (mark, rate)
    again = evaluation("report", "runs/answers", "--pass-mark", 60, "--json").json
    assert again["corrected_rate"]["raw"] == 1.0


def test_rubric_with_too_many_questions_is_refused_with_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    row = {"instruction": "Write.", "rubric": ["Is it good?"] * (MAX_QUESTIONS + 1), "model_response": "Yes."}
    Path("answers.json").write_text(json.dumps([row]))
    done = evaluation("score", "answers.json")
    assert done.code == 1
    assert (
        f'answers.json, row 1: "rubric" must have at most {MAX_QUESTIONS} entries, got {MAX_QUESTIONS + 1}.' in done.err
    )
