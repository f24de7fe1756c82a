"""The commands `evaluation label` and `evaluation pairs`, without a terminal. The screen has tests of its own."""

from __future__ import annotations

import getpass
import json
from pathlib import Path

import pytest

from evaluation.answers import folder as answers_folder
from evaluation.answers.folder import AnswersFolder, ResponseRecord, read_answers
from evaluation.cli import people as cli_people
from evaluation.people import label_screen
from evaluation.people import pairs as evaluation_pairs
from evaluation.people.labels import LABELS_FILE, LabelSession, read_labels
from tests.support.evaluation_command import evaluation
from tests.support.scored_answers import add_judgements, measured_answers, score_fields

pytestmark = pytest.mark.usefixtures("work_in_tmp_path")

THREE_ROWS = [("1", "1", "sums"), ("2", "3", "sums"), ("3", "4", "sums"), ("a", "b", "letters")]
"""One exact match, and three rows that need a person."""
HOSTILE = "\x1b[31m[bold]x[/] \u202e"


def press_keys(monkeypatch: pytest.MonkeyPatch, *levels: int, tag: str = "", code: int = 0) -> None:
    """Replace the screen by a person who scores the next rows with these levels, and tags the first."""

    def run(session: LabelSession, _place: str) -> int:
        session.set_tag(tag)
        for level in levels:
            session.score(level)
        return code

    monkeypatch.setattr(label_screen, "run_labels", run)
    monkeypatch.setattr(cli_people, "check_terminal", lambda _folder: None)


# --- label --------------------------------------------------------------------------------------------------------


def test_label_without_a_terminal_is_one_sentence_and_writes_nothing(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, THREE_ROWS)
    result = evaluation("label", answers.folder)
    assert result.code == 1
    assert result.error == (
        f"error: label: expected a terminal as standard input, got a file or a pipe. "
        f"Run in a terminal: evaluation label {answers.folder}"
    )
    assert not (answers.folder / LABELS_FILE).exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["none"], 1, "none: expected an answers folder"),
        (["run", "--labeller", " "], 2, "--labeller: expected a name, got ' '"),
        (["run", "--count", "0"], 2, "count"),
    ],
)
def test_label_refuses(tmp_path: Path, words: list[str], code: int, message: str) -> None:
    measured_answers(tmp_path, THREE_ROWS)
    result = evaluation("label", *words)
    assert result.code == code
    assert message in result.err


def test_label_refuses_a_folder_where_all_rows_are_settled(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, [("x", "x"), ("y", "")])
    result = evaluation("label", answers.folder)
    assert result.code == 1
    assert "expected rows that need a person, got none: all 2 answers are exact matches, empty or missing" in result.err


def test_label_shows_what_the_labels_are_worth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = measured_answers(tmp_path, THREE_ROWS)
    press_keys(monkeypatch, 2, 5, tag="off by one")
    result = evaluation("label", answers.folder, "--labeller", "ada")
    assert result.code == 0
    assert [line.split() for line in result.out.splitlines()[:1]] == [["tag", "category", "n", "mean", "score"]]
    assert "off by one" in result.out
    assert "Your labels: mean 70.0 of 100, on 2 of the 3 rows" in " ".join(result.out.split())
    assert "labels.jsonl: 2 of 3 rows labelled by ada. Give the same command again to continue." in result.err
    assert "To label more: --count 4." in evaluation("label", answers.folder, "--labeller", "ada", "--count", 2).err
    press_keys(monkeypatch, 0)
    assert "3 rows labelled by ada. No other row" in evaluation("label", answers.folder, "--labeller", "ada").err
    result = evaluation("label", answers.folder, "--labeller", "ada", "--json")
    assert {name: result.json[name] for name in ("labels", "rows", "open_rows", "mean", "labellers")} == {
        **{"labels": 3, "rows": 3, "open_rows": 3, "mean": round(140 / 3, 4), "labellers": {"ada": 3}},
    }
    assert [(tag["tag"], tag["n"]) for tag in result.json["tags"]] == [("off by one", 1)]


def test_ctrl_c_in_the_screen_shows_the_labels_and_exits_with_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = measured_answers(tmp_path, THREE_ROWS)
    press_keys(monkeypatch, 3, code=130)
    result = evaluation("label", answers.folder)
    assert result.code == 130
    assert "mean 60.0 of 100" in result.out
    (label,) = read_labels(read_answers(answers.folder)).values()
    assert label.labeller == getpass.getuser()


def test_the_seed_chooses_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = measured_answers(tmp_path, [(str(n), "x") for n in range(20)])
    for seed in (1, 2, 3, 4):
        press_keys(monkeypatch, 1)
        evaluation("label", answers.folder, "--seed", seed, "--labeller", f"seed {seed}")
    assert len({label.id for label in read_labels(answers).values()}) > 1


def test_hostile_tags_and_categories_are_shown_readably(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = measured_answers(tmp_path, [("a", "b", HOSTILE)])
    press_keys(monkeypatch, 1, tag=HOSTILE)
    out = evaluation("label", answers.folder).out
    assert out.count(r"␛[31m[bold]x[/] \u202e") == 2
    assert out.replace("\n", "").isprintable()


def test_a_user_without_a_name_is_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_name() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(getpass, "getuser", no_name)
    assert cli_people._user().isdigit()


def test_without_labels_the_table_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = measured_answers(tmp_path, THREE_ROWS)
    press_keys(monkeypatch)
    assert "No row has a label yet." in evaluation("label", answers.folder).out


# --- pairs --------------------------------------------------------------------------------------------------------


class Sampled(ResponseRecord):
    """An answer with its number among the answers to its row."""

    sample: int = 0


@pytest.fixture
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AnswersFolder:
    """A folder with two scored answers to each of two training rows: one pair, and one row with equal scores."""
    answers = measured_answers(tmp_path, [("r", "good"), ("r", "bad"), ("s", "fair"), ("s", "also fair")])
    add_judgements(answers, {0: score_fields(5), 1: score_fields(1), 2: score_fields(3), 3: score_fields(3)})
    records = tuple(
        Sampled.model_validate(record.model_dump() | {"id": answers.responses[n - n % 2].id, "sample": n % 2})
        for n, record in enumerate(answers.responses)
    )
    info = answers.info.model_copy(update={"part": "train", "path": "runs/mine"})
    folder = AnswersFolder(folder=answers.folder, info=info, responses=records)
    scores = {record.response: points for record, points in zip(records, (100.0, 20.0, 60.0, 60.0), strict=True)}
    monkeypatch.setattr(answers_folder, "read_answers", lambda _folder: folder)
    monkeypatch.setattr(evaluation_pairs, "newest_scores", lambda _answers: lambda record: scores[record.response])
    return folder


@pytest.mark.usefixtures("samples")
def test_pairs_are_written_counted_and_followed_by_the_next_command() -> None:
    result = evaluation("pairs", "run", "--output", "out/pairs.json")
    assert result.code == 0
    assert result.out.splitlines() == [
        "out/pairs.json: 1 pair of 2 rows and 4 answers. "
        "Rows without a pair: 1 whose answers differ by less than 20 points.",
        "Next: assistant prefer out/pairs.json --model runs/mine --output runs/preferred",
    ]
    (pair,) = json.loads(Path("out/pairs.json").read_text())
    assert (pair["chosen"], pair["rejected"], pair["instruction"]) == ("good", "bad", "Task 1.")


@pytest.mark.usefixtures("samples")
def test_an_existing_file_stays_without_overwrite() -> None:
    Path("pairs.json").write_text("mine")
    result = evaluation("pairs", "run", "--output", "pairs.json")
    assert result.code == 2
    assert result.error.endswith("expected a name for a new file, got one that exists. Add --overwrite.")
    assert Path("pairs.json").read_text() == "mine"
    result = evaluation("pairs", "run", "--output", "pairs.json", "--overwrite", "--json")
    assert result.json == {
        **{"output": "pairs.json", "margin": 20.0, "rows": 2, "answers": 4, "pairs": 1, "paired_rows": 1},
        **{"too_few": 0, "too_close": 1, "all_cut": 0, "unscored": 0},
    }


@pytest.mark.usefixtures("samples")
def test_without_a_pair_nothing_is_written() -> None:
    result = evaluation("pairs", "run", "--output", "pairs.json", "--margin", 100)
    assert result.code == 1
    assert "0 pairs of 2 rows and 4 answers" in result.error
    assert "or lower --margin" in result.error
    assert not Path("pairs.json").exists()


def test_pairs_of_test_rows_are_refused(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, THREE_ROWS)
    result = evaluation("pairs", answers.folder, "--output", "pairs.json")
    assert result.code == 1
    assert "--part train --samples 4 --temperature 0.8" in result.error
    assert not Path("pairs.json").exists()
