"""A model's folder knows its scores: `score` adds them, `assistant models` shows the newest."""

from __future__ import annotations

from pathlib import Path

from assistant.interop.inventory import list_models, read_last_score
from assistant.jsonl import read_lines
from evaluation.reports.score_log import LINE, SCORES_FILE
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
