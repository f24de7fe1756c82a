"""What the command lines share: JSON and errors that cannot control a terminal, and pipes without a traceback."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from assistant.cli.console import fast_imports, print_json
from tests.conftest import REPOSITORY
from tests.support.commands import invoke


def test_json_is_ascii_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for terminal, shown in ((True, '"\\u009b31m"'), (False, '"\x9b31m"')):
        monkeypatch.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal)
        print_json({"a": "\x9b31m"})
        assert shown in capsys.readouterr().out


def test_errors_contain_no_escape_sequences(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a\\u001b[2J": 1}')
    done = invoke("data", "split", str(tmp_path / "x.json"), "-o", str(tmp_path / "\x1b[2J"))
    assert done.exit_code == 1
    assert "\x1b" not in done.stderr


def test_a_closed_pipe_gives_no_traceback(folder: Path) -> None:
    command = f"{sys.executable} -m assistant ask {folder / 'base'} 'Say red once.' --json | true"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, env=environment)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def _fail_without_collection() -> None:
    assert not gc.isenabled()
    raise ImportError


def test_garbage_is_collected_again_after_fast_imports() -> None:
    assert gc.isenabled()
    with pytest.raises(ImportError), fast_imports():
        _fail_without_collection()
    assert gc.isenabled()
