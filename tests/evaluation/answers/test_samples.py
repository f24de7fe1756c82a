"""Several responses to a row, reference bits, new marks for old responses, and folders of older versions."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from assistant.dataset.checks import Check
from assistant.dataset.instructions import Example, dump_rows
from assistant.dataset.tokenizer import Tokenizer
from assistant.decoding.session import Session
from assistant.errors import SettingsError
from assistant.settings import GenerationSettings
from evaluation.answers.bits import bits_per_byte
from evaluation.answers.folder import RESPONSES_FILE, AnswersFolder, claim_folder, read_answers
from evaluation.answers.responses import answer, check_samples, choose_part, describe_answers, sample_seed
from evaluation.cli import app as cli
from evaluation.judging.scoring import write_metrics
from evaluation.reports.report import make_report
from tests.support.evaluation_command import evaluation
from tests.support.models import save_tiny
from tests.support.scored_answers import measured_answers
from tests.support.uppercase_session import UppercaseSession

SAMPLED = GenerationSettings(max_new_tokens=8, temperature=1.0)


def answer_all(
    session: UppercaseSession | Session, examples: Sequence[Example], folder: Path, *, samples: int = 1
) -> AnswersFolder:
    chosen = choose_part(examples, "all", None)
    claim_folder(folder, describe_answers(session, "no-folder", ["rows.json"], chosen, SAMPLED, samples=samples))
    list(answer(session, examples, folder, SAMPLED, batch_size=4, samples=samples))
    return read_answers(folder)


def test_every_row_gets_every_sample_after_an_interruption(tmp_path: Path, examples: list[Example]) -> None:
    with pytest.raises(KeyboardInterrupt):
        answer_all(UppercaseSession(interrupt_after=15), examples, tmp_path, samples=3)
    assert read_answers(tmp_path).unanswered == 40
    session = UppercaseSession()
    answers = answer_all(session, examples, tmp_path, samples=3)
    assert len(session.instructions) == 105
    assert (len(answers.responses), answers.unanswered) == (120, 0)
    assert len({record.key for record in answers.responses}) == 120
    assert [record.sample for record in answers.responses[:4]] == [0, 1, 2, 0]
    assert len({record.id for record in answers.responses}) == 40


def test_samples_differ_and_come_again_with_the_same_seed(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    session = Session.load(save_tiny(tmp_path / "model", byte_tokenizer), may_draft=False)
    rows = [Example(instruction=f"Say {word}.", output="x", row=n) for n, word in enumerate(["a", "b", "c"], start=1)]
    first, again = (answer_all(session, rows, tmp_path / name, samples=3).responses for name in ("first", "again"))
    assert [record.response for record in first] == [record.response for record in again]
    assert len({record.response for record in first}) == 9
    alone = answer_all(session, rows, tmp_path / "alone").responses
    assert [record.response for record in alone] == [record.response for record in first if record.sample == 0]
    assert len({sample_seed(seed, sample) for seed in range(20) for sample in range(20)}) == 400


def test_several_samples_need_a_temperature(tmp_path: Path) -> None:
    check_samples(1, GenerationSettings())
    check_samples(4, SAMPLED)
    with pytest.raises(SettingsError, match=r"--samples: expected 1 at --temperature 0, .* got 4"):
        check_samples(4, GenerationSettings())
    data = tmp_path / "rows.json"
    data.write_text(json.dumps([{"instruction": "x", "output": "y"}]))
    result = evaluation("respond", "m", "--data", data, "--run", tmp_path / "run", "--samples", 2)
    assert (result.code, "--samples: expected 1" in result.error) == (2, True)
    assert not (tmp_path / "run").exists()


def test_another_number_of_samples_needs_another_folder(tmp_path: Path, examples: list[Example]) -> None:
    answer_all(UppercaseSession(), examples, tmp_path)
    with pytest.raises(SettingsError, match=r"got --samples 2 \(it has 1\)"):
        answer_all(UppercaseSession(), examples, tmp_path, samples=2)


def test_the_score_of_a_row_is_the_mean_of_its_samples(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, [("a", "a", "x"), ("b", "c", "x"), ("d", "d", "y")])
    lines = [record.model_dump() for record in answers.responses]
    lines += [line | {"sample": 1, "response": response} for line, response in zip(lines, "abb", strict=True)]
    lines += [line | {"sample": 2, "response": None} for line in lines[:3]]
    records = [type(answers.responses[0]).model_validate(line) for line in lines]
    (answers.folder / RESPONSES_FILE).write_text("".join(record.model_dump_json() + "\n" for record in records))
    info = answers.info.model_copy(update={"samples": 3})
    (answers.folder / "run.json").write_text(info.model_dump_json())
    write_metrics(read_answers(answers.folder))
    report = make_report(answers.folder)
    assert (report.n, report.scored) == (3, 3)
    assert report.mean == pytest.approx(200 / 3, abs=1e-3)
    assert report.metrics["exact"].n == 3
    assert report.metrics["exact"].mean == pytest.approx(200 / 3, abs=1e-3)
    assert (report.unscored, report.unanswered, report.responses.samples) == ({}, 0, 3)
    assert [(c.name, c.mean, c.rows) for c in report.categories] == [("x", 75.0, 2), ("y", 50.0, 1)]


def test_respond_takes_samples_and_reports_bits(
    tmp_path: Path, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "load_session", lambda _model, _precision: UppercaseSession())
    Path("rows.json").write_text(dump_rows(examples))
    command = ("respond", "m", "--data", "rows.json", "--temperature", 0.5)
    assert evaluation(*command, "--run", "mine", "--samples", 2).code == 0
    report = evaluation("score", "mine", "--json").json
    assert (report["n"], report["scored"], report["responses"]["samples"]) == (40, 40, 2)
    bits = report["responses"]["reference_bits_per_byte"]
    assert (bits["n"], bits["mean"]) == (40, pytest.approx(1 / math.log(2), abs=1e-4))
    assert "reference bits per byte" in evaluation("report", "mine").out
    assert evaluation(*command, "--run", "without", "--no-reference-bits").code == 0
    report = evaluation("score", "without", "--json").json
    assert report["responses"]["reference_bits_per_byte"]["n"] == 0


def test_bits_count_the_bytes_of_the_reference() -> None:
    assert bits_per_byte(-8 * math.log(2), "né") == pytest.approx(8 / 3, abs=1e-6)
    assert bits_per_byte(-1.0, "") is None
    assert bits_per_byte(-math.inf, "x") is None


def test_new_marks_reach_old_responses(tmp_path: Path, examples: list[Example]) -> None:
    before = answer_all(UppercaseSession(), examples, tmp_path)
    check = Check(contains=("SAY",))
    marked = [replace(examples[0], accept=("SAY RED ONCE.",)), replace(examples[1], check=check), *examples[2:]]
    session = UppercaseSession()
    after = answer_all(session, marked, tmp_path)
    assert session.instructions == []
    assert (after.responses[0].accept, after.responses[1].check) == (("SAY RED ONCE.",), check)
    assert [record.response for record in after.responses] == [record.response for record in before.responses]
    size = (tmp_path / RESPONSES_FILE).stat().st_size
    answer_all(session, marked, tmp_path)
    assert (tmp_path / RESPONSES_FILE).stat().st_size == size


OLD_RUN = """{"format":1,"kind":"model","name":"mine","path":"runs/mine","digest":null,"template":"alpaca",
"template_fingerprint":"0","data_files":["rows.json"],"data_fingerprint":"1","part":"test","rows":2,"settings":null,
"precision":"auto","versions":{"python":"3.11.7"},"created":"2026-11-01T10:00:00Z"}"""
OLD_LINE = (
    '{"id":"%s","source":"rows.json","row":%d,"instruction":"Capital?","input":"","reference":"Paris","history":[],'
    '"category":"facts","response":"%s","stop_reason":"eos","num_tokens":2,"seconds":0.4,"error":null}\n'
)


def test_a_folder_of_an_older_version_stays_readable(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(OLD_RUN)
    lines = OLD_LINE % ("a" * 16, 1, "Paris") + OLD_LINE % ("b" * 16, 2, "no no no no no no no no")
    (tmp_path / RESPONSES_FILE).write_text(lines)
    answers = read_answers(tmp_path)
    assert [(record.key, record.sample, record.is_looping) for record in answers.responses] == [
        ("a" * 16, 0, False),
        ("b" * 16, 0, True),
    ]
    write_metrics(answers)
    report = make_report(tmp_path)
    assert (report.n, report.mean, report.responses.samples) == (2, 50.0, 1)
    assert report.responses.seen_in_training is None
    assert report.responses.reference_bits_per_byte.n == 0
