"""Damaged files end in a sentence, never in a traceback."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import AssistantError
from assistant.model.checkpoint import load_checkpoint
from tests.support.commands import invoke
from tests.support.models import save_tiny

ROW_FILES, FOLDERS = 2_000, 1_500


def damaged(data: bytes, chance: random.Random) -> bytes:
    """The bytes with some of them changed, cut out, doubled or inserted."""
    value = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(value) + 1)
        length = chance.choice([1, 1, 1, 2, 8, 64])
        match chance.randrange(4):
            case 0:
                value[place : place + length] = chance.randbytes(min(length, len(value) - place))
            case 1:
                del value[place : place + length]
            case 2:
                value[place:place] = value[place : place + length]
            case _:
                value[place:place] = chance.choice([b'"', b"{", b"]", b"\\ud800", b"null", b"1e999", b"\xff", b"\x00"])
    return bytes(value)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv", "rows.tsv", "rows.json.gz", "rows.csv.gz"])
def test_damaged_row_files(folder: Path, name: str) -> None:
    if name != "rows.json":
        assert invoke("data", "convert", "rows.json", name).exit_code == 0
    original = (folder / name).read_bytes()
    chance = random.Random(name)
    for number in range(ROW_FILES):
        (folder / f"damaged.{name}").write_bytes(damaged(original, chance))
        done = invoke("data", "check", f"damaged.{name}", *(["--skip-bad"] if number % 2 else []))
        assert done.exception is None or isinstance(done.exception, SystemExit), (number, done.exception)
        assert done.exit_code in (0, 1, 2), number


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_damaged_model_folders(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    save_tiny(tmp_path / "whole", byte_tokenizer)
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    chance = random.Random("folders")
    shutil.copytree(tmp_path / "whole", tmp_path / "model")
    n_refused = 0
    for number in range(FOLDERS):
        name = chance.choice(names)
        original = (tmp_path / "whole" / name).read_bytes()
        (tmp_path / "model" / name).write_bytes(damaged(original, chance))
        try:
            load_checkpoint(tmp_path / "model")
        except AssistantError:
            n_refused += 1
        except Exception as error:  # noqa: BLE001 - the finding itself
            pytest.fail(f"case {number}, {name}: {error!r}")
        finally:
            (tmp_path / "model" / name).write_bytes(original)
    assert n_refused > FOLDERS // 4
