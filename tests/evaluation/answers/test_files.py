"""Answers from a file: every layout, rows without an answer, and answers that are too long."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from assistant.dataset.instructions import Example
from assistant.dataset.sources import cut_texts
from assistant.errors import DataError, SettingsError
from assistant.settings import DataSettings, GenerationSettings
from evaluation.answers.files import LONGEST_TEXT, import_answers
from evaluation.answers.folder import RESPONSES_FILE, AnswersFolder, claim_folder, read_answers
from evaluation.answers.records import MAX_RESPONSE_BYTES
from evaluation.answers.responses import answer, choose_part, describe_answers
from evaluation.judging.scoring import write_metrics
from evaluation.reports.report import make_report
from tests.conftest import shared_file
from tests.support.evaluation_command import evaluation
from tests.support.uppercase_session import UppercaseSession

ROWS = [
    {"instruction": "1 + 1?", "input": "", "output": "2", "model_response": "\n2"},
    {"instruction": "2 + 2?", "output": "4", "model_response": "", "category": "sums"},
]


def write_rows(path: Path, rows: object) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def test_file_of_answers_becomes_an_answers_folder(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "answers.json", ROWS)
    import_answers(path, tmp_path / "run")
    answers = read_answers(tmp_path / "run")
    assert [(record.response, record.reference, record.category) for record in answers.responses] == [
        ("\n2", "2", None),
        ("", "4", "sums"),
    ]
    assert (answers.info.kind, answers.info.name, answers.info.rows) == ("file", "answers.json", 2)


def test_jsonl_file_of_answers_is_read(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    import_answers(path, tmp_path / "run")
    assert len(read_answers(tmp_path / "run").responses) == 2


def test_import_accepts_the_same_answers_again_and_refuses_others(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "answers.json", ROWS)
    import_answers(path, tmp_path / "run")
    before = (tmp_path / "run" / RESPONSES_FILE).read_bytes()
    import_answers(path, tmp_path / "run")
    copy = write_rows(tmp_path / "copy.json", ROWS)
    import_answers(copy, tmp_path / "run")
    changed = write_rows(path, [ROWS[0], ROWS[1] | {"model_response": "5"}])
    with pytest.raises(SettingsError, match=r"got other answers .*Choose another --run"):
        import_answers(changed, tmp_path / "run")
    assert (tmp_path / "run" / RESPONSES_FILE).read_bytes() == before


def test_file_does_not_replace_a_models_answers(tmp_path: Path, examples: list[Example]) -> None:
    settings = GenerationSettings(max_new_tokens=8)
    chosen = choose_part(examples, "all", None)
    claim_folder(tmp_path / "run", describe_answers(UppercaseSession(), "no-folder", ["rows.json"], chosen, settings))
    list(answer(UppercaseSession(), examples, tmp_path / "run", settings, batch_size=4))
    path = write_rows(tmp_path / "answers.json", ROWS)
    with pytest.raises(SettingsError, match=r"got a file \(answers\.json; it holds the model fake\)"):
        import_answers(path, tmp_path / "run")


def test_every_bad_row_is_named_with_file_row_and_field(tmp_path: Path) -> None:
    bad = [
        ROWS[0],
        {"instruction": "", "output": "y", "model_response": "z"},
        {"instruction": "x", "output": "y", "model_response": [4]},
        "text",
    ]
    path = write_rows(tmp_path / "answers.json", bad)
    with pytest.raises(DataError) as caught:
        import_answers(path, tmp_path / "run")
    problems = caught.value.problems
    assert [problem.split(": ")[0] for problem in problems] == [f"{path}, row {number}" for number in (2, 3, 4)]
    assert [
        word in problem for word, problem in zip(["instruction", "model_response", "an object"], problems, strict=True)
    ]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", "{", "\x00"])
def test_file_without_answers_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "answers.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"answers\.json"):
        import_answers(path, tmp_path / "run")


def imported(path: Path, folder: Path, *columns: str) -> AnswersFolder:
    import_answers(path, folder, DataSettings(columns=columns))
    return read_answers(folder)


def test_rows_without_an_answer_stay_and_are_unscored(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [*ROWS, {"instruction": "3?", "output": "3", "model_response": None}]
    path = write_rows(tmp_path / "answers.json", [*rows, {"instruction": "4?", "output": "4"}])
    answers = imported(path, tmp_path / "run")
    assert [record.response for record in answers.responses] == ["\n2", "", None, None]
    write_metrics(answers)
    report = make_report(tmp_path / "run")
    assert (report.n, report.scored, report.unscored) == (4, 2, {"no_response": 2})


@pytest.mark.parametrize(("name", "n_scored"), [("answers.json", 3), ("d32_answers_null.json", 1)])
def test_files_that_people_have(tmp_path: Path, name: str, n_scored: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = evaluation("score", shared_file(f"cases/{name}"), "--json").json
    assert report["scored"] == n_scored
    assert report["n"] == report["scored"] + sum(report["unscored"].values())


def test_alpaca_evals_output_is_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"instruction": "Say A.", "output": "A", "generator": "gpt2", "dataset": "helpful_base"}]
    (record,) = imported(write_rows(tmp_path / "alpaca.json", rows), tmp_path / "run").responses
    assert (record.response, record.reference) == ("A", "")
    result = evaluation("score", shared_file("cases/d33_alpaca_eval.json"), "--json")
    assert (result.json["n"], result.json["reference_free"]["n"], result.json["mean"]) == (0, 0, None)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_are_read_and_columns_named(tmp_path: Path, delimiter: str) -> None:
    lines = [["question", "gold", "said", "category"], ["1 + 1?", "2", "two", "sums"], ["2 + 2?", "4", "", "sums"]]
    path = tmp_path / "answers.csv"
    path.write_text("".join(delimiter.join(line) + "\n" for line in lines))
    answers = imported(path, tmp_path / "run", "output=gold,model_response=said")
    assert [(r.instruction, r.reference, r.response, r.category) for r in answers.responses] == [
        ("1 + 1?", "2", "two", "sums"),
        ("2 + 2?", "4", "", "sums"),
    ]


def test_answers_may_follow_messages_and_keep_their_marking(tmp_path: Path) -> None:
    turns = [("user", "A?"), ("assistant", "a"), ("user", "B?"), ("assistant", "b")]
    messages = [{"role": role, "content": text} for role, text in turns]
    row = {"messages": messages, "model_response": "c", "accept": ["c"], "group": "g"}
    (record,) = imported(write_rows(tmp_path / "answers.json", [row]), tmp_path / "run").responses
    assert (record.instruction, record.reference, record.history) == ("B?", "b", (("A?", "a"),))
    assert (record.accept, record.group, record.response) == (("c",), "g", "c")


def test_a_file_without_answers_says_which_field_it_needs(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.json", [{"instruction": "x", "output": "y"}])
    with pytest.raises(DataError, match=r'field "model_response", got no such field .*--columns model_response=FIELD'):
        import_answers(path, tmp_path / "run")
    with pytest.raises(DataError, match='field "said"'):
        import_answers(path, tmp_path / "run", DataSettings(columns=("model_response=said",)))


def test_bad_rows_can_be_left_out(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "answers.json", [*ROWS, {"instruction": "", "output": "y", "model_response": "z"}])
    (note,) = import_answers(path, tmp_path / "run", DataSettings(skip_bad=True))
    assert "left out 1 row" in note
    assert len(read_answers(tmp_path / "run").responses) == 2


def test_looping_answers_are_marked(tmp_path: Path) -> None:
    rows = [ROWS[0] | {"model_response": "It is " + "the best of " * 5}, ROWS[1]]
    answers = imported(write_rows(tmp_path / "answers.json", rows), tmp_path / "run")
    assert [record.looping for record in answers.responses] == [True, False]
    write_metrics(answers)
    report = make_report(tmp_path / "run")
    assert report.responses.looping == 1
    assert "1 response repeats itself." in report.notes


# --- long answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv"])
def test_an_answer_that_is_too_long_is_unscored_and_not_held(tmp_path: Path, ending: str) -> None:
    path, size = tmp_path / f"answers.{ending}", 24 * LONGEST_TEXT
    row = '{"instruction": "x", "output": "y", "model_response": "%s"}'
    with path.open("w") as file:
        file.write("instruction,output,model_response\n" if ending == "csv" else "[" if ending == "json" else "")
        start, end = ('x,y,"', '"') if ending == "csv" else row.split("%s")
        file.write(start)
        for _ in range(size // 2**16):
            file.write((r"a\nb" if ending != "csv" else 'a""b') * 2**14)
        file.write(end + {"json": ",", "jsonl": "\n", "csv": "\n"}[ending])
        file.write("x,z,short\n" if ending == "csv" else row.replace('"y"', '"z"') % "short")
        file.write("]" if ending == "json" else "")
    tracemalloc.start()
    answers = imported(path, tmp_path / "run")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size / 2
    assert [(record.response, record.too_long) for record in answers.responses] == [(None, True), ("short", False)]
    write_metrics(answers)
    assert make_report(tmp_path / "run").unscored == {"response_too_long": 1}


@pytest.mark.parametrize("length", [MAX_RESPONSE_BYTES, MAX_RESPONSE_BYTES + 1])
def test_the_limit_is_in_bytes(tmp_path: Path, length: int) -> None:
    text = "é" * (length // 2) + "a" * (length % 2)
    (record,) = imported(
        write_rows(tmp_path / "answers.json", [ROWS[0] | {"model_response": text}]), tmp_path / "run"
    ).responses
    assert (record.response == text, record.too_long) == (length <= MAX_RESPONSE_BYTES, length > MAX_RESPONSE_BYTES)


def test_a_long_question_is_a_fault_and_is_not_cut(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "answers.json", [ROWS[0] | {"input": "a" * 2 * LONGEST_TEXT}])
    with pytest.raises(DataError, match='"input" must have less than'):
        import_answers(path, tmp_path / "run")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 1000])
def test_texts_are_cut_whatever_the_blocks_are(size: int) -> None:
    texts = ["short", 'say "hi" \\ ' * 20, "\u00e9\U0001f600\n\t" * 30, "\\" * 301, "end"]
    source = json.dumps({str(place): text for place, text in enumerate(texts)} | {"n": [1] * 200})
    blocks = [source[place : place + size] for place in range(0, len(source), size)]
    assert "".join(cut_texts(blocks, 10_000)) == source
    assert "".join(cut_texts(blocks, 400)).startswith(source[:300])
    cut = json.loads("".join(cut_texts(blocks, 60)))
    assert cut["n"] == [1] * 200
    for place, text in enumerate(texts):
        assert text.startswith(cut[str(place)])
        assert len(text) < 60 or len(json.dumps(cut[str(place)])) > 40
    assert all(len(json.dumps(cut[str(place)])) <= 62 for place in range(len(texts)))


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_texts_of_tables_are_cut(size: int) -> None:
    source = 'a,b\n"' + 'x""y' * 50 + '",""\n"",' + "z" * 200 + "\n"
    blocks = [source[place : place + size] for place in range(0, len(source), size)]
    assert "".join(cut_texts(blocks, 1000, is_table=True)) == source
    cut = "".join(cut_texts(blocks, 60, is_table=True))
    assert cut.startswith('a,b\n"x""yx')
    assert cut.endswith('",""\n"",' + "z" * 200 + "\n")
    assert len(cut) < 300
