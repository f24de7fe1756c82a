"""The HTML pages in a real browser, from a file: no script errors, filters and rows work, hostile rows stay text."""

from __future__ import annotations

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest

from evaluation.cli.reports import write_reports
from tests.support.hostile import HOSTILE
from tests.support.scored_answers import add_judgements, measured_answers, score_fields

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


def open_in_browser(page: Path, state: str, profile: Path) -> tuple[str, str]:
    """Return the page's elements after its script ran, and what the browser's console says."""
    done = subprocess.run(
        [
            *(str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"),
            *("--enable-logging=stderr", "--dump-dom", f"file://{quote(str(page))}#{state}"),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line or "Content Security" in line]
    return done.stdout, "\n".join(console)


def test_rows_can_be_filtered_and_opened_and_hostile_ones_do_nothing(tmp_path: Path) -> None:
    text = HOSTILE.replace("\ud800", "").replace("\x00", "")
    rows = [(text, text + "!"), *[("right", "right")] * 60, *[("x", f"bad {number}") for number in range(3)]]
    answers = measured_answers(tmp_path, rows)
    scores = {0: score_fields(1, analysis=text), 61: score_fields(1), 62: score_fields(3), 63: {"unscored": "timeout"}}
    add_judgements(answers, scores | {index: score_fields(5, "exact") for index in range(1, 61)})
    write_reports(answers.folder)
    page = answers.folder / "report.html"

    states = (f"open={answers.responses[0].id}", "view=worst&text=TASK+6")
    with ThreadPoolExecutor() as pool:
        profiles = [tmp_path / f"profile-{number}" for number in range(len(states))]
        (all_rows, first_console), (filtered, second_console) = pool.map(open_in_browser, [page] * 2, states, profiles)

    assert first_console == second_console == ""
    assert "64 of 64 rows" in all_rows
    assert len(re.findall(r'<details class="row"', all_rows)) == 50
    assert "Show more (14 left)" in all_rows
    opened = re.findall(r'<details class="row"[^>]* open=.*?</details>', all_rows, re.S)
    assert len(opened) == 1
    assert opened[0].count("&lt;/script&gt;&lt;script&gt;document.title='HACKED'") >= 3
    assert "by the judge (untested)" in opened[0]
    assert re.findall("<title>(.*?)</title>", all_rows)[0] == "answers.json, 64 rows"
    assert not re.findall(r"<img|<svg [^>]*onload", all_rows)
    assert "1 of 64 rows" in filtered
    assert re.findall(r'class="soft">(row \d+)<', filtered) == ["row 62"]
