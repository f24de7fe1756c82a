"""`assistant classify`: a classifier is trained, reported and used by command."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from assistant.classifier.model_folder import load_classifier
from assistant.model.checkpoint import save_checkpoint
from assistant.model.heads import make_classifier
from tests.support.commands import interrupt, invoke
from tests.support.models import tiny_checkpoint

FAST = ("--learning-rate", "3e-3", "--precision", "float32", "--trained", "all")
LABELS = ("<b>$x$</b>", "plain")


@pytest.fixture
def folder(folder: Path) -> Path:
    """The current folder, with a base model in `base` and 80 texts of two labels in `texts.csv`."""
    rows = [
        ("aa ab" * (place % 7 + 1) + f" {place}", "xx yx"[: place % 4 + 2] * 3 + f" {place}") for place in range(40)
    ]
    lines = [line for first, second in rows for line in ((f"{first}", "ham"), (f"{second}", "spam"))]
    with (folder / "texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("Text", "Label"), *lines])
    return folder


@pytest.fixture
def classifier(folder: Path, byte_tokenizer) -> Path:  # type: ignore[no-untyped-def]
    """The folder of an untrained classifier with a hostile label."""
    save_checkpoint(make_classifier(tiny_checkpoint(byte_tokenizer), ("=a\x1b[31m", "b"), seed=1), folder / "labels")
    return folder / "labels"


def test_a_classifier_is_trained_and_reported(folder: Path) -> None:
    done = invoke("classify", "train", "texts.csv", "-m", "base", "-o", "out", "--epochs", "4", *FAST)
    assert done.exit_code == 0, done.stderr
    assert "note: The label 'ham' (40 rows) is read as 'not spam'." in done.stderr
    assert "Next: assistant classify predict out" in done.stderr
    assert "accuracy" in done.stderr
    assert done.stdout.startswith("16 test rows with 2 labels (56 train, 8 validation, 16 test).")
    assert "note: The temperature stays 1: 20 validation rows are needed to fit it, and there are 8." in done.stdout
    report = json.loads((folder / "out" / "report.json").read_text())
    assert report["rows"] == {"train": 56, "validation": 8, "test": 16}
    assert report["accuracy"] > 0.8
    assert (folder / "out" / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert "# out\n" in (folder / "out" / "report.md").read_text()
    found = invoke("classify", "predict", "out", "aa abaa ab 7")
    assert found.stdout.splitlines()[0].startswith("not spam")


@pytest.mark.usefixtures("folder")
def test_the_temperature_is_stored_and_the_report_is_that_of_the_stored_model() -> None:
    words = ("classify", "train", "texts.csv", "-m", "base", "-o", "out", "--max-steps", "4", *FAST)
    done = invoke(*words, "--validation-share", "0.3", "--json")
    assert done.exit_code == 0, done.stderr
    record = json.loads(done.stdout)
    temperature = record["report"]["calibration"]["temperature"]
    assert temperature != 1.0
    assert load_classifier("out").temperature == pytest.approx(temperature)
    assert record["accuracy"] == record["report"]["accuracy"]
    again = invoke(*words, "--validation-share", "0.3", "--json", "--resume")
    assert "finished already" in again.stderr
    assert json.loads(again.stdout)["report"] == record["report"]


def test_a_stopped_run_has_no_report_and_goes_on(folder: Path) -> None:
    words = ("classify", "train", "texts.csv", "-m", "base", "-o", "out", *FAST, "--batch-size", "1")
    long = (*words, "--epochs", "40", "--save-every", "0")
    stopped = interrupt(*long, metrics=folder / "out" / "metrics.jsonl", steps=3)
    assert stopped.exit_code == 130, stopped.stderr
    assert not (folder / "out" / "report.json").exists()
    resumed = invoke(*words, "--resume", "--max-steps", "2")
    assert resumed.exit_code != 0 or (folder / "out" / "report.json").exists()


def test_the_book_balances_the_labels_and_its_bias_is_named(folder: Path) -> None:
    with (folder / "texts.csv").open("a", newline="") as file:
        csv.writer(file).writerows([(f"more {place}", "ham") for place in range(10)])
    done = invoke("classify", "train", "texts.csv", "-m", "base", "-o", "out", "--book", "--max-steps", "2")
    assert done.exit_code == 0, done.stderr
    assert "note: --book: left out 10 rows, so that every label has as many as the rarest." in done.stderr
    assert "transformers" in done.stdout
    record = json.loads((folder / "out" / "assistant.json").read_text())
    assert record["split_method"] == "book"
    assert record["classifier"]["reading"] == "padded"
    refused = invoke("classify", "train", "texts.csv", "-m", "base", "-o", "two", "--book", "--balance", "weights")
    assert refused.exit_code == 2
    assert "--book: expected no other option that the recipe sets, got --balance. Leave one out." in refused.stderr


def test_plan_writes_nothing(folder: Path) -> None:
    done = invoke("classify", "train", "texts.csv", "-m", "base", "-o", "out", "--plan", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["steps"] > 0
    assert not (folder / "out").exists()


def table(path: Path) -> list[list[str]]:
    return list(csv.reader(io.StringIO(path.read_text(), newline="")))


# --- predict ------------------------------------------------------------------------------------------------------


def test_one_text_has_a_label_and_probabilities(classifier: Path) -> None:
    shown = invoke("classify", "predict", str(classifier), "hello")
    assert shown.exit_code == 0, shown.stderr
    assert "\x1b" not in shown.stdout
    assert {line.split()[0] for line in shown.stdout.splitlines()} == {"=a␛[31m", "b"}
    record = json.loads(invoke("classify", "predict", str(classifier), "hello", "--json").stdout)
    assert set(record["probabilities"]) == {"=a\x1b[31m", "b"}
    assert sum(record["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert record["probability"] == max(record["probabilities"].values())


def test_a_table_goes_in_and_comes_out_with_two_columns_more(folder: Path, classifier: Path) -> None:
    done = invoke("classify", "predict", str(classifier), "texts.csv", "--output", "new/labelled.csv")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == ""
    assert "80 rows labelled" in done.stderr
    rows = table(folder / "new" / "labelled.csv")
    assert rows[0] == ["Text", "Label", "predicted_label", "probability"]
    assert [row[:2] for row in rows] == table(folder / "texts.csv")
    assert all(0.5 <= float(row[3]) <= 1 for row in rows[1:])
    again = invoke("classify", "predict", str(classifier), "texts.csv", "--output", "new/labelled.csv")
    assert again.exit_code == 2
    assert "Add --overwrite" in again.stderr
    printed = invoke("classify", "predict", str(classifier), "texts.csv")
    assert list(csv.reader(io.StringIO(printed.stdout))) == rows


def test_a_pipe_may_hold_lines_or_a_table(classifier: Path) -> None:
    lines = invoke("classify", "predict", str(classifier), "-", text="first\n\nsecond\n")
    assert [line.split(",")[0] for line in lines.stdout.splitlines()] == ["text", "first", "second"]
    table = invoke("classify", "predict", str(classifier), text='n,sms\n1,"a, b"\n')
    assert table.stdout.startswith('n,sms,predicted_label,probability\n1,"a, b",')
    objects = invoke("classify", "predict", str(classifier), "-", "--json", text='{"text": "a"}\n{"text": "b"}\n')
    assert [json.loads(line)["row"] for line in objects.stdout.splitlines()] == [1, 2]


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["labels", "missing.csv"], "expected a file of texts, got no such file"),
        (["labels", " "], "expected some text, got nothing"),
        (["labels", "a text", "-o", "x.csv"], "--output: expected with a file of texts, got one text"),
        (["labels", "texts.csv", "-o", "x.pdf"], "expected a name that ends in .csv, .tsv, .json, .jsonl, got x.pdf"),
        (["labels", "texts.csv", "-o", "texts.csv", "--overwrite"], "expected another file than the one that is read"),
        (["labels", "texts.csv", "-o", "x.csv", "--json"], "--json: expected without --output, got both"),
        (["labels", "texts.csv", "--columns", "text=body"], 'expected a column "text"'),
        (["base", "a text"], "expected a classifier, got a language model"),
    ],
)
def test_what_cannot_be_labelled_is_refused_in_a_sentence(classifier: Path, words: list[str], fault: str) -> None:
    refused = invoke("classify", "predict", *words)
    assert refused.exit_code in {1, 2}
    assert fault in refused.stderr
    assert not list(classifier.parent.glob("x.*"))


def test_a_broken_row_leaves_no_half_file(folder: Path, classifier: Path) -> None:
    (folder / "rows.jsonl").write_text('{"text": "a"}\nbroken\n')
    refused = invoke("classify", "predict", str(classifier), "rows.jsonl", "-o", "x.jsonl")
    assert refused.exit_code == 1
    assert "rows.jsonl, row 2" in refused.stderr
    assert not list(folder.glob("*x.jsonl*"))
    done = invoke("classify", "predict", str(classifier), "rows.jsonl", "-o", "x.jsonl", "--skip-bad")
    assert done.exit_code == 0
    assert "left out 1 row that cannot be read" in done.stderr
