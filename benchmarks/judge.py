"""What the program itself costs while a judge works: seconds a row beside the judge's own, and memory.

    python benchmarks/judge.py [--rows 1000] [--answer-seconds 0.05] [--hosts 2] [--parallel 4]

The judge is the double of the tests, in processes of its own: each answer takes the same time, so all else is overhead.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from evaluation.answers.files import import_answers
from evaluation.answers.folder import read_answers
from evaluation.judging.judgement import JudgeSettings
from evaluation.judging.scoring import Asking, judge_answers
from evaluation.judging.verdict_cache import Verdicts
from evaluation.judging.work import JudgeStep
from tests.support.double_processes import running_doubles


def main() -> None:
    """Score a file of answers, and print the overhead of a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--answer-seconds", type=float, default=0.05)
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--parallel", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        measure(Path(name), options)


def measure(folder: Path, options: argparse.Namespace) -> None:
    """Run once in an empty folder."""
    rows = [
        {"instruction": f"Question {row}?", "output": f"Answer {row}.", "model_response": f"Guess {row}. " * 10}
        for row in range(options.rows)
    ]
    path = folder / "answers.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    import_answers(path, folder / "run")
    answers = read_answers(folder / "run")
    memory: list[int] = []

    def note_memory(step: JudgeStep) -> None:
        if step.done in (options.rows // 10, options.rows):
            memory.append(resident_mib())

    arguments = ("--answer-seconds", str(options.answer_seconds), "--parallel", str(options.parallel))
    with running_doubles(options.hosts, *arguments) as urls:
        settings = JudgeSettings(model="llama3.1", urls=tuple(urls), parallel=options.parallel)
        start, cpu = time.perf_counter(), time.process_time()
        judge_answers(
            answers, settings, Asking(controls=0), on_step=note_memory, verdicts=Verdicts(folder / "verdicts.jsonl")
        )
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    in_flight = options.hosts * options.parallel
    ideal = options.rows * options.answer_seconds / in_flight
    print(
        f"{options.rows} rows, {in_flight} in flight at {options.hosts} hosts: {seconds:.2f} s, at best {ideal:.2f} s"
    )
    print(f"overhead {1000 * (seconds - ideal) / options.rows:.2f} ms a row; this process used {cpu:.2f} s of CPU")
    print(f"memory after a tenth {memory[0]} MiB, at the end {memory[-1]} MiB, peak {peak_mib()} MiB")
    print(f"{os.cpu_count()} CPUs")


def resident_mib() -> int:
    """Return the memory of this process now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def peak_mib() -> int:
    """Return the largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


if __name__ == "__main__":
    main()
