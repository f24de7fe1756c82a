"""Damaged and random files end in an answer or in a sentence: no traceback, no hang, no memory without bound.

10,000 cases inside this process, each through every command that it is an input of, and 60 through the real commands,
whose memory is measured.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assistant.dataset.tokenizer import Tokenizer
from assistant.interop.gguf import export_gguf
from tests.conftest import REPOSITORY
from tests.support.commands import invoke
from tests.support.models import save_tiny, tiny_checkpoint, tiny_llama

DAMAGED_ROWS, RANDOM_ROWS, DAMAGED_FOLDERS = 500, 5_500, 1_500
"""Cases: damaged files of each of six formats, files of random rows, and damaged model folders: 10,000 in all."""
DAMAGED_GGUF = 200
"""Damaged GGUF files of each of three families."""
REAL_COMMANDS = 60
TIMEOUT_S = 120.0
ALLOWED_BYTES, ALLOWED_TIMES, ALLOWED_A_ROW = 50 << 20, 4, 1_500
"""Memory above that of an empty run: these bytes, this multiple of the file, and these bytes for each row: the ids of a
row with its template, 170 bytes here, are in 64 bits each."""
FORMATS = ("rows.json", "rows.jsonl", "rows.csv", "rows.tsv", "rows.json.gz", "rows.csv.gz")
ONE_STEP = ("--model", "base", "--output", "out", "--max-steps", "1", "--overwrite", "--precision", "float32")


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


def ends_well(*words: str) -> bool:
    """Run a command. Fail unless it succeeds, or refuses its input with a sentence. Returns whether it succeeded."""
    done = invoke(*words)
    assert done.exception is None or isinstance(done.exception, SystemExit), (words, done.exception)
    assert done.exit_code in (0, 1, 2), (words, done.output)
    said = done.output.strip()
    assert done.exit_code == 0 or words[:2] == ("data", "check") or said.endswith((".", "?")), (words, said)
    return done.exit_code == 0


def read_rows(name: str, number: int) -> bool:
    """Give a row file to `data check`, and to `finetune` for one step. Both must agree whether it is usable."""
    skip = ("--skip-bad",) if number % 3 else ()
    checked = ends_well("data", "check", name, *skip)
    trained = ends_well("finetune", name, *ONE_STEP, *skip)
    assert trained or not checked, f"case {number}: data check found nothing, and finetune refused the file"
    return trained


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_row_files(folder: Path, name: str) -> None:
    if name != "rows.json":
        assert invoke("data", "convert", "rows.json", name).exit_code == 0
    original = (folder / name).read_bytes()
    chance = random.Random(name)
    outcomes = set()
    for number in range(DAMAGED_ROWS):
        is_packed = name.endswith(".gz") and number % 2 == 0  # damage inside, under a right checksum
        content = gzip.decompress(original) if is_packed else original
        content = damaged(content, chance)
        (folder / f"damaged.{name}").write_bytes(gzip.compress(content) if is_packed else content)
        outcomes.add(read_rows(f"damaged.{name}", number))
    assert outcomes == {True, False}


TEXTS = st.text(max_size=30) | st.sampled_from(
    ["", " ", "user", "assistant", "system", "gpt", "human", "text", "<|endoftext|>"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(("role", "content", "from", "value", "tool_calls"), TEXTS | VALUES),
    ),
    max_size=4,
)
NAMES = (
    "instruction", "input", "output", "system", "history", "context", "response", "prompt", "completion", "chosen",
    "rejected", "category", "group", "text", "question", "answer", "tools", "messages", "conversations", "other",
)  # fmt: skip
ROWS = st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, TEXTS | VALUES | MESSAGES))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_random_rows(folder: Path) -> None:
    number = 0

    @settings(max_examples=RANDOM_ROWS, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(ROWS | VALUES, max_size=4), st.booleans())
    def one_case(rows: list[Any], as_lines: bool) -> None:
        nonlocal number
        number += 1
        texts = [json.dumps(row) for row in rows]
        content = "".join(text + "\n" for text in texts) if as_lines else f"[{', '.join(texts)}]"
        name = "random.jsonl" if as_lines else "random.json"
        (folder / name).write_text(content)
        read_rows(name, number)

    one_case()
    assert number >= RANDOM_ROWS


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_damaged_model_folders(tmp_path: Path, byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcomes = [
        ends_well("ask", "model", "Say hi.", "--max-new-tokens", "3", "--precision", "float32")
        for _ in damaged_folders(tmp_path, byte_tokenizer, DAMAGED_FOLDERS)
    ]
    assert outcomes.count(False) > DAMAGED_FOLDERS // 4
    assert True in outcomes


def damaged_folders(folder: Path, tokenizer: Tokenizer, count: int) -> Any:
    """Damage one file of the model in `model`, `count` times. Yields the name of the file."""
    whole, model = save_tiny(folder / "whole", tokenizer), folder / "model"
    names = sorted(path.name for path in whole.iterdir())
    chance = random.Random("folders")
    shutil.copytree(whole, model)
    for _ in range(count):
        name = chance.choice(names)
        (model / name).write_bytes(damaged((whole / name).read_bytes(), chance))
        yield name
        shutil.copyfile(whole / name, model / name)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_damaged_gguf_files(
    tmp_path: Path, byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """Cut short, or with changed bits and bytes; most damage is at the front, where the settings are."""
    monkeypatch.chdir(tmp_path)
    made = tiny_checkpoint(byte_tokenizer) if family == "gpt2" else tiny_llama(byte_tokenizer, model_type=family)
    export_gguf(made, Path("whole.gguf"), "q8_0")
    whole, chance, outcomes = Path("whole.gguf").read_bytes(), random.Random(family), []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(DAMAGED_GGUF):
        value = bytearray(whole)
        match number % 4:
            case 0:
                del value[chance.randrange(len(value)) :]
            case 1:
                value[chance.randrange(len(value))] ^= 1 << chance.randrange(8)
            case 2:
                for _ in range(chance.randint(1, 3)):
                    value[chance.randrange(3000)] = chance.choice([0, 1, 127, 128, 255])
            case _:
                value = bytearray(damaged(whole, chance))
        Path("damaged.gguf").write_bytes(value)
        outcomes.append(ends_well("import", "damaged.gguf", "--output", "new"))
        assert {path.name for path in tmp_path.iterdir()} - {"new"} == {"whole.gguf", "damaged.gguf"}
        assert Path("new").exists() is outcomes[-1]
        assert not outcomes[-1] or ends_well("ask", "new", "Say hi.", "--max-new-tokens", "3"), number
        shutil.rmtree("new", ignore_errors=True)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 <= ALLOWED_BYTES + 4 * len(whole)
    assert DAMAGED_GGUF / 4 < outcomes.count(False) < DAMAGED_GGUF


# --- the real commands --------------------------------------------------------------------------------------------


def peak_bytes(*words: str) -> int:
    """Run a command in a new process, fail unless it ends well, and return its peak memory."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
        [sys.executable, "-m", "assistant", *words],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        output = process.stdout.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode in (0, 1, 2), output
    assert "Traceback" not in output
    return usage.ru_maxrss << 10


def check_memory(words: Callable[[str], tuple[str, ...]], empty: str, files: list[tuple[Path, int]]) -> None:
    """Run a command on each file, and compare its memory with that of a run on a tiny file."""
    base = peak_bytes(*words(empty))
    for path, n_rows in files:
        allowed = ALLOWED_BYTES + ALLOWED_TIMES * path.stat().st_size + ALLOWED_A_ROW * n_rows
        assert peak_bytes(*words(path.name)) - base <= allowed, (words(path.name), path.stat().st_size)


@pytest.mark.long
@pytest.mark.timeout(TIMEOUT_S * REAL_COMMANDS)
def test_the_memory_of_real_commands(folder: Path, byte_tokenizer: Tokenizer) -> None:
    chance = random.Random("real")
    rows = json.loads((folder / "rows.json").read_text())
    files = []
    for number in range(REAL_COMMANDS // 2):
        many = [row | {"group": f"{number} {n}"} for n in range(10 ** chance.randint(0, 3)) for row in rows]
        name = FORMATS[number % len(FORMATS)]
        (folder / "large.json").write_text(json.dumps(many))
        assert invoke("data", "convert", "large.json", f"{number}.{name}").exit_code == 0
        path = folder / f"{number}.{name}"
        path.write_bytes(damaged(path.read_bytes(), chance) if number % 3 else path.read_bytes())
        files.append((path, len(many)))
    check_memory(lambda name: ("data", "check", name, "--skip-bad"), "rows.json", files[::2])
    check_memory(lambda name: ("finetune", name, *ONE_STEP, "--skip-bad"), "rows.json", files[1::2])
    base = peak_bytes("ask", "base", "Say hi.", "--max-new-tokens", "3")
    for _ in damaged_folders(folder, byte_tokenizer, REAL_COMMANDS // 2):
        assert peak_bytes("ask", "model", "Say hi.", "--max-new-tokens", "3") - base <= ALLOWED_BYTES
