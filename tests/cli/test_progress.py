"""How a fine-tuning run is shown."""

from __future__ import annotations

import json
from pathlib import Path

from assistant.dataset.instructions import Example, dump_rows
from tests.support.commands import FINETUNE, invoke


def test_warnings_name_the_rows_that_are_too_long(folder: Path, examples: list[Example]) -> None:
    rows = json.loads(dump_rows(examples))
    rows += [{"instruction": "Say", "input": "x" * 3000, "output": "y"}, {"instruction": "Say", "output": "y" * 3000}]
    (folder / "long.json").write_text(json.dumps(rows))
    words = ["finetune", "long.json", "-m", "base", "-o", "out", *FINETUNE, "--split", "book", "--max-steps", "1"]
    done = invoke(*words)
    assert done.exit_code == 0, done.stderr
    assert "Shortened the user's text of 1 rows that do not fit into 256 positions: long.json, row 41." in done.stderr
    assert "Left out 1 rows that do not fit into 256 positions: long.json, row 42." in done.stderr
