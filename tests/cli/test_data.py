"""`assistant data` and the options that read data, as a person types them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import evaluation.cli.app
from assistant.cli.app import app
from tests.support.commands import FINETUNE, invoke

QA = 'question,answer,source\nSay "red".,Red.,web\nSay blue.,Blue.,\n'


@pytest.mark.usefixtures("folder")
def test_convert_writes_every_format_and_replaces_nothing() -> None:
    Path("qa.csv").write_text(QA)
    done = invoke("data", "convert", "qa.csv", "qa.jsonl.gz")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "qa.jsonl.gz: 2 rows.\n"
    assert 'note: qa.csv: fields without a meaning here: "source" (1 row).' in done.stderr
    first = json.loads(gzip.decompress(Path("qa.jsonl.gz").read_bytes()).splitlines()[0])
    assert first == {"instruction": 'Say "red".', "input": "", "output": "Red.", "source": "web"}
    again = invoke("data", "convert", "qa.csv", "qa.jsonl.gz")
    assert again.exit_code == 2
    assert "Add --overwrite" in again.stderr
    assert invoke("data", "convert", "qa.csv", "qa.jsonl.gz", "--overwrite", "--json").exit_code == 0
    assert invoke("data", "convert", "qa.csv").exit_code == 2
    assert not list(Path().glob(".*new"))


@pytest.mark.usefixtures("folder")
def test_convert_reads_and_writes_pipes() -> None:
    done = CliRunner().invoke(app, ["data", "convert", "-", "-", "--to", "messages"], input=QA.encode())
    assert done.exit_code == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows[1] == {
        "messages": [{"role": "user", "content": "Say blue."}, {"role": "assistant", "content": "Blue."}]
    }
    twice = CliRunner().invoke(app, ["data", "check", "-", "-"], input=QA.encode())
    assert "expected standard input once" in twice.stderr


@pytest.mark.usefixtures("folder")
def test_bad_rows_are_left_out_by_every_command_on_request() -> None:
    rows = json.loads(Path("rows.json").read_text())
    Path("bad.json").write_text(json.dumps([*rows, rows[0] | {"output": ""}, {"messages": 1}]))
    for words in (["data", "check"], ["data", "split", "-o", "parts"], ["data", "show"], ["data", "convert", "x.json"]):
        name, *rest = words[1:]
        ordered = ["data", name, "bad.json", *rest]
        refused = invoke(*ordered)
        assert refused.exit_code == 1, words
        assert "bad.json, row 41" in refused.stderr
        assert "leave them out with --skip-bad" in refused.stderr
        done = invoke(*ordered, "--skip-bad")
        assert done.exit_code == 0, done.stderr
        assert "note: bad.json: left out 2 rows that cannot be used (rows 41, 42)." in done.stderr
    done = invoke("finetune", "bad.json", "-m", "base", "-o", "out", *FINETUNE, "--max-steps", "1", "--skip-bad")
    assert done.exit_code == 0, done.stderr
    assert "left out 2 rows" in done.stderr
    fixed = invoke("data", "check", "bad.json", "--fix", "fixed.json")
    assert fixed.exit_code == 1  # bad rows are findings
    assert "fixed.json: written without 2 rows" in fixed.stderr
    assert invoke("data", "check", "fixed.json").exit_code == 0


@pytest.mark.usefixtures("folder")
def test_columns_are_named_for_every_command() -> None:
    rows = json.loads(Path("rows.json").read_text())
    Path("odd.json").write_text(json.dumps([{"frage": row["instruction"], "antwort": row["output"]} for row in rows]))
    words = ["--columns", "instruction=frage,output=antwort"]
    assert "name them: --columns" in invoke("data", "check", "odd.json").stderr
    assert invoke("data", "check", "odd.json", *words).exit_code == 0
    assert invoke("data", "show", "odd.json", *words).exit_code == 0
    done = invoke("finetune", "odd.json", "-m", "base", "-o", "out", *FINETUNE, "--max-steps", "1", *words)
    assert done.exit_code == 0, done.stderr
    wrong = invoke("data", "check", "odd.json", "--columns", "frage")
    assert wrong.exit_code == 2
    assert "expected FIELD=COLUMN" in wrong.stderr


@pytest.mark.usefixtures("folder")
def test_check_finds_plain_text_that_finetune_refuses() -> None:
    Path("mixed.jsonl").write_text('{"text": "Once upon a time."}\n{"question": "a", "answer": "b"}\n')
    refused = invoke("finetune", "mixed.jsonl", "-m", "base", "-o", "out", *FINETUNE)
    assert refused.exit_code == 1
    found = invoke("data", "check", "mixed.jsonl")
    assert found.exit_code == 1
    assert "with --template text: 1 row." in found.stdout
    assert invoke("data", "check", "mixed.jsonl", "--template", "text").exit_code == 0


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("n_rows", [1, 2, 5])
def test_tiny_sets_run_through_every_command(n_rows: int) -> None:
    rows = [{"instruction": f"Name thing {n} of {n * n}.", "output": f"It is {n}."} for n in range(n_rows)]
    Path("few.json").write_text(json.dumps(rows))
    commands = [
        "data check few.json --model base", "data split few.json -o parts", "data show few.json --model base",
        "finetune few.json -m base -o run --max-steps 2 --precision float32", "ask run Hi --max-new-tokens 2",
    ]  # fmt: skip
    for command in commands:
        done = invoke(*command.split())
        assert done.exit_code == 0, f"{command}: {done.stderr}"
    for command in ("respond run --data few.json --run answers --max-new-tokens 2", "score answers", "report answers"):
        done = CliRunner().invoke(evaluation.cli.app.app, command.split())
        assert done.exit_code == 0, f"{command}: {done.stderr}"
    part = CliRunner().invoke(
        evaluation.cli.app.app, ["respond", "run", "--data", "few.json", "--run", "test", "--part", "test"]
    )
    assert part.exit_code == 2
    assert "larger --test-share, or answer all rows: --part all" in part.stderr


def test_data_split_writes_three_files_and_does_not_overwrite_them(folder: Path) -> None:
    done = invoke("data", "split", "rows.json", "-o", "parts", "--json")
    assert json.loads(done.stdout)["rows"] == {"train": 34, "validation": 2, "test": 4}
    assert len(json.loads((folder / "parts" / "test.json").read_text())) == 4
    again = invoke("data", "split", "rows.json", "-o", "parts")
    assert again.exit_code == 2
    assert "Add --overwrite" in again.stderr
