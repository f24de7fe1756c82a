"""The main job on real weights: SmolLM2 is fine-tuned, chatted with, scored and exported, and is a judge that is bad.

The figures are those of the book's rows, which lie beside the checkout. Without them, the shipped instructions are
used, and no figure is compared. `REAL_SEEDS=123,1,2` fine-tunes with several seeds, five minutes each, and compares
their mean.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from assistant.decoding.session import Session
from assistant.interop.gguf import export_gguf
from assistant.model.checkpoint import load_checkpoint
from assistant.settings import GenerationSettings
from tests.conftest import REPOSITORY, SHARED
from tests.support.llama_cpp import check_gaps, differences, llama_server
from tests.support.real_weights import smollm2, use_llama_cpp

pytestmark = [pytest.mark.long, pytest.mark.timeout(2700)]

BOOK_ROWS = SHARED / "data" / "book-instruction-data.json"
SEEDS = os.environ.get("REAL_SEEDS", "123").split(",")
RECIPE = ("--epochs", "2", "--learning-rate", "5e-5", "--batch-size", "8", "--precision", "bfloat16")
JUDGE = "smollm2"


@dataclass(frozen=True)
class Job:
    """A fine-tuned model, and the report on its answers to the test rows."""

    model: Path
    run: Path
    report: dict[str, Any]

    @property
    def validation_loss(self) -> float:
        """The lowest of the run, whose weights were kept."""
        lines = (self.model / "validation.jsonl").read_text(encoding="utf-8").splitlines()
        return min(float(json.loads(line)["validation_loss"]) for line in lines)


def command(module: str, *words: object, expected: int = 0, text: str | None = None) -> str:
    """Run a command in a new process with a thread for each core, and return its standard output."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": str(os.cpu_count() or 1)}
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, words)], input=text, capture_output=True, text=True, check=False,
        env=environment,
    )  # fmt: skip
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the imported model in `base` and the rows in `rows.json`."""
    folder = tmp_path_factory.mktemp("job")
    command("assistant", "import", smollm2(), "--output", folder / "base")
    rows = json.loads((BOOK_ROWS if BOOK_ROWS.exists() else REPOSITORY / "data" / "instructions.json").read_bytes())
    (folder / "rows.json").write_text(json.dumps(rows[:1100]), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def jobs(folder: Path) -> list[Job]:
    """One fine-tuned and scored model for each seed."""
    return [do_the_job(folder, seed) for seed in SEEDS]


def do_the_job(folder: Path, seed: str) -> Job:
    model, run, rows = folder / f"tuned-{seed}", folder / f"run-{seed}", folder / "rows.json"
    options = ("--split", "book", "--template", "alpaca", "--seed", seed)
    command("assistant", "finetune", rows, "--model", folder / "base", "--output", model, *RECIPE, *options)
    command("evaluation", "respond", model, "--data", rows, "--run", run)
    return Job(model, run, json.loads(command("evaluation", "score", run, "--json")))


def test_most_answers_end_and_the_figures_are_those_that_were_seen(jobs: list[Job]) -> None:
    losses = [job.validation_loss for job in jobs]
    exact = [job.report["exact_matches"] for job in jobs]
    print(f"seeds {SEEDS}: validation losses {losses}, exact matches {exact}")
    for job in jobs:
        assert job.report["n"] == job.report["scored"] == 110
        assert job.report["stop_reasons"]["eos"] > 100
    if not BOOK_ROWS.exists():
        pytest.skip(f"the figures are those of {BOOK_ROWS}, which is not on this machine")
    assert statistics.mean(losses) <= 0.75
    assert min(exact) >= 22


def test_a_turn_of_the_chat_is_the_answer_of_the_run(jobs: list[Job]) -> None:
    row = next(row for row in answered(jobs[0]) if not row["input"] and row["stop_reason"] == "eos")
    asked = command("assistant", "ask", jobs[0].model, row["instruction"], "--temperature", "0")
    assert asked.strip() == row["response"].strip()
    said = command(
        "assistant", "chat", jobs[0].model, "--no-save", "--temperature", "0", text=row["instruction"] + "\n"
    )
    assert row["response"].strip() in said


def answered(job: Job) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (job.run / "responses.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("quantization", ["f32", "f16"])
def test_llama_cpp_gives_our_answers_from_the_exported_model(
    jobs: list[Job], tmp_path: Path, quantization: Any
) -> None:
    use_llama_cpp()
    session = Session.load(jobs[0].model, precision="float32")
    settings = GenerationSettings(temperature=0.0, max_new_tokens=64)
    replies = [
        session.reply(row["instruction"], input=row["input"], settings=settings) for row in answered(jobs[0])[:20]
    ]
    checkpoint = load_checkpoint(jobs[0].model)
    export_gguf(checkpoint, tmp_path / "tuned.gguf", quantization)
    with llama_server(tmp_path / "tuned.gguf", n_ctx=1024) as (_, ask):
        gaps = differences(checkpoint.model, replies, ask, eos_id=session.tokenizer.eos_id)
    check_gaps(gaps, quantization)


def test_smollm2_is_a_bad_judge_and_the_report_says_so(jobs: list[Job]) -> None:
    use_llama_cpp()
    with llama_server(smollm2(), n_ctx=4096, n_threads=os.cpu_count() or 1, alias=JUDGE) as (address, _):
        judge = ("--judge", JUDGE, "--api", "openai", "--host", address, "--controls", "3")
        report = json.loads(command("evaluation", "score", jobs[0].run, *judge, "--limit", "10", "--json"))
        checked = json.loads(command("evaluation", "check-judge", *judge, "--json", expected=1))
    assert report["judge_verdict"]["level"] == checked["level"] == "red"
