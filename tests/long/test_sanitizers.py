"""The step in C, compiled with gcc's sanitizers, runs the tests of `tests/decoding/test_step.py` without a report."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

SCRIPT = """
import sys, types
import pytest
from assistant.decoding import step
from assistant.model import compiled
compiled.find_spec = lambda name: types.SimpleNamespace(origin=sys.argv[1]) if name.endswith("_step") else None
assert step.level() is not None, step.problem()
options = ["-q", "-s", "-p", "no:cacheprovider", "-p", "no:faulthandler", "--timeout=0", "-k", sys.argv[2]]
sys.exit(pytest.main(["tests/decoding/test_step.py", *options]))
"""


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("sanitizers", "library", "tests"),
    [
        ("address,undefined", "libasan.so", "not library"),
        ("thread", "libtsan.so", "number_of_threads or computed_with_it"),
    ],
)
def test_no_sanitizer_reports_anything(sanitizers: str, library: str, tests: str, tmp_path: Path) -> None:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("gcc is not installed")
    runtime = subprocess.run([compiler, f"-print-file-name={library}"], capture_output=True, text=True, check=True)
    if not Path(runtime.stdout.strip()).is_absolute():
        pytest.skip(f"gcc has no {library}")
    target = tmp_path / "_step.so"
    flags = ["-O1", "-g", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fPIC", "-shared"]
    source = REPOSITORY / "assistant" / "decoding" / "step.c"
    subprocess.run([compiler, *flags, f"-fsanitize={sanitizers}", "-o", target, source, "-lm"], check=True)
    environment = os.environ | {
        "LD_PRELOAD": runtime.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "TSAN_OPTIONS": "exitcode=0:ignore_noninstrumented_modules=1",
        "PYTHONPATH": str(REPOSITORY),
    }
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(target), tests],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    output = found.stdout + found.stderr
    assert found.returncode == 0, output[-6000:]
    assert "runtime error" not in output, output[-6000:]
    assert "ERROR: AddressSanitizer" not in output, output[-6000:]
    # OpenMP itself is not compiled with the sanitizer, which does not see that its threads start after `run` has
    # written the job. What the threads share after that is seen.
    races = [report for report in output.split("WARNING: ThreadSanitizer")[1:] if "#0 run" not in report]
    assert not races, races[0][:6000]
