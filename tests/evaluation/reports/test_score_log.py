"""A model's folder knows its scores: `score` adds them, `assistant models` shows the newest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from assistant.chat.scores import read_score, read_suggestions
from assistant.interop.inventory import list_models, read_last_score
from assistant.jsonl import read_lines
from assistant.model.config import SCORES_FILE
from evaluation.answers.folder import ResponseRecord
from evaluation.reports.score_log import LINE, LONGEST_RIGHT_ROW, N_RIGHT_ROWS, right_rows
from tests.support.commands import invoke
from tests.support.evaluation_command import evaluation, score
from tests.support.ollama_double import OllamaDouble, verdict


def respond(run: str) -> None:
    done = evaluation("respond", "base", "--data", "rows.json", "--run", run, "--max-new-tokens", 2)
    assert done.code == 0, done.err


def test_score_is_added_to_the_model_s_folder_once(folder: Path) -> None:
    respond("answers")
    for _ in range(2):
        assert evaluation("score", "answers").code == 0
    lines = read_lines(folder / "base" / SCORES_FILE, LINE)
    assert len(lines) == 1
    assert (lines[0].judge, lines[0].metric, lines[0].rows) == (None, "exact match", lines[0].n)
    assert read_last_score(folder / "base") is not None


def test_newest_score_is_the_one_that_models_shows(folder: Path) -> None:
    respond("answers")
    assert evaluation("score", "answers").code == 0
    with OllamaDouble(models=("llama3.1:latest",), default=verdict(4)) as double:
        result = score(Path("answers"), double)
    last = read_last_score(folder / "base")
    assert last is not None
    assert (last.mean, last.by) == (result.json["mean"], "llama3.1")
    entry = next(entry for entry in list_models([folder]) if entry.path.name == "base")
    assert entry.score == last
    assert f"{last.mean:.4g} llama3.1" in invoke("models").stdout


def test_score_of_other_weights_is_not_added(folder: Path) -> None:
    respond("answers")
    weights = folder / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    assert evaluation("score", "answers").code == 0
    assert not (folder / "base" / SCORES_FILE).exists()


def test_damaged_file_and_read_only_folder_do_not_end_the_command(folder: Path) -> None:
    respond("answers")
    (folder / "base" / SCORES_FILE).write_text("{]\n")
    assert evaluation("score", "answers").code == 0


# --- rows that the model answered right ---------------------------------------------------------------------------


def record(number: int, **fields: Any) -> ResponseRecord:
    defaults = {"id": f"{number:016x}", "source": "rows.json", "row": number, "seen_in_training": False}
    texts = {"instruction": f"q{number}", "reference": "a", "response": " a\n"}
    return ResponseRecord.model_validate(defaults | texts | fields)


def chosen(*records: ResponseRecord, part: str = "test") -> list[str]:
    return [row.instruction for row in right_rows(records, part=part)]


@pytest.mark.parametrize(
    "fields",
    [
        {"response": "b"},
        {"response": None},
        {"response": "", "reference": ""},
        {"sample": 1},
        {"seen_in_training": True},
        {"history": [("a", "b")]},
        {"instruction": "x" * 50, "input": "y" * (LONGEST_RIGHT_ROW - 49)},
        {"instruction": "two\nlines"},
        {"instruction": "\x1b[31mred"},
        {"input": "\u202ereversed"},
    ],
)
def test_rows_that_are_not_right_short_and_held_out_are_not_suggested(fields: dict[str, Any]) -> None:
    assert chosen(record(1), record(2, **fields)) == ["q1"]


def test_rows_of_an_unknown_origin_are_suggested_only_from_the_test_part() -> None:
    unknown = record(1, seen_in_training=None)
    assert chosen(unknown) == ["q1"]
    assert chosen(unknown, part="all") == []
    assert chosen(record(2), part="all") == ["q2"]


def test_suggestions_are_of_different_categories_and_always_the_same() -> None:
    records = [record(number, category=f"c{number % 4}" if number % 4 else None) for number in range(40)]
    rows = chosen(*records)
    assert len(rows) == N_RIGHT_ROWS == len(set(rows))
    categories = [int(row[1:]) % 4 for row in rows]
    assert sorted(categories[:4]) == [0, 1, 2, 3]
    assert chosen(*reversed(records)) == rows
    assert chosen(*records[:3]) != []


def test_score_writes_the_rows_and_the_chat_reads_them(folder: Path) -> None:
    respond("answers")
    answers = Path("answers/responses.jsonl")
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    for line in lines[:3]:
        line["response"] = line["reference"]
    answers.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = json.loads(Path("answers/run.json").read_text())
    Path("answers/run.json").write_text(json.dumps(run | {"part": "test"}))
    assert evaluation("score", "answers").code == 0
    right = read_lines(folder / "base" / SCORES_FILE, LINE)[0].right
    asked = {(line["instruction"], line["input"]) for line in lines[:3]}
    assert {(row.instruction, row.input) for row in right} == asked
    assert {tuple(row) for row in read_suggestions(folder / "base")} == asked
    score = read_score(folder / "base")
    assert score is not None
    assert score.words == f"held-out {100 * 3 / len(lines):.0f} % of {len(lines)}"


def test_lines_of_an_older_version_are_read(tmp_path: Path) -> None:
    old = (
        '{"mean":62.5,"interval":[58.4,66.3],"n":594,"rows":594,"judge":null,"metric":"exact match","judge_level":null,'
        '"part":"test","data_files":["rows.json"],"run":"run","created":"2026-11-28T16:19:42Z"}\n'
    )
    (tmp_path / SCORES_FILE).write_text(old)
    assert read_lines(tmp_path / SCORES_FILE, LINE)[0].right == ()
    score = read_score(tmp_path)
    assert score is not None
    assert score.words == "held-out 62 % of 594"
