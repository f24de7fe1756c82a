"""The run that a report proposes to compare with."""

from __future__ import annotations

from pathlib import Path

from evaluation.cli.reports import write_reports
from evaluation.reports.siblings import earlier_run
from tests.evaluation.reports.test_index import judge, make_run
from tests.support.evaluation_command import evaluation


def test_newest_earlier_run_on_the_same_data_by_the_same_judge_is_proposed(tmp_path: Path) -> None:
    for day, name in enumerate(("a", "b", "c", "later"), start=1):
        write_reports(make_run(tmp_path / name, day, ["yes", "no"]).folder)
    write_reports(make_run(tmp_path / "other-data", 2, ["yes", "no", "no"]).folder)
    judged = make_run(tmp_path / "judged", 2, ["yes", "no"])
    judge(judged, [5, 1])
    write_reports(judged.folder)
    assert earlier_run(tmp_path / "c") == tmp_path / "b"
    assert earlier_run(tmp_path / "a") is earlier_run(tmp_path / "judged") is earlier_run(tmp_path / "none") is None
    out = evaluation("report", tmp_path / "c").out
    assert f"evaluation compare {tmp_path / 'b'} {tmp_path / 'c'}" in out
    assert "evaluation compare" not in evaluation("report", tmp_path / "a").out.split("Next")[1]
