"""The run to compare with: the newest earlier answers folder beside a folder, with the same data and judge."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from evaluation.answers.folder import RUN_FILE, AnswersInfo
from evaluation.reports.report import REPORT_FILE
from evaluation.reports.values import Report

MOST_FOLDERS = 200
"""Folders beside a folder that are looked at."""


def earlier_run(folder: Path) -> Path | None:
    """Return the newest scored answers folder beside `folder` that is older, or None if there is none."""
    own = _read(folder)
    if own is None:
        return None
    info, report = own
    found: list[tuple[float, Path]] = []
    for place in sorted(path.parent for path in folder.parent.glob(f"*/{RUN_FILE}"))[:MOST_FOLDERS]:
        other = _read(place) if place.resolve() != folder.resolve() else None
        if other is None or other[0].created > info.created:
            continue
        is_same_data = (other[0].data_fingerprint, other[0].rows) == (info.data_fingerprint, info.rows)
        if is_same_data and other[1].scorer == report.scorer:
            found.append((other[0].created.timestamp(), place))
    return max(found)[1] if found else None


def _read(folder: Path) -> tuple[AnswersInfo, Report] | None:
    try:
        info = AnswersInfo.model_validate_json((folder / RUN_FILE).read_bytes())
        report = Report.model_validate_json((folder / REPORT_FILE).read_bytes())
    except (OSError, ValidationError):
        return None
    return (info, report) if report.mean is not None else None
