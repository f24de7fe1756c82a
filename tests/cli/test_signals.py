"""Signals, outputs that go away, and machines that lack something: nothing is lost, and no traceback appears."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path

import pytest

from assistant.cli.console import describe_os_error
from assistant.errors import DataError
from assistant.files import user_cache_folder
from assistant.model.checkpoint import load_checkpoint
from assistant.training.run_folder import METRICS_FILE, RunFolder, read_records
from tests.conftest import REPOSITORY
from tests.support.commands import FINETUNE, invoke, wait_for_steps

RUN = ("finetune", "rows.json", "-m", "base", *FINETUNE, "--max-steps", "60", "--batch-size", "2")


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPOSITORY)} | more


def popen(*words: str, output: int = subprocess.PIPE, ignores: Collection[int] = ()) -> subprocess.Popen[bytes]:
    """Start the command. It begins with the signals in `ignores` ignored, as under `nohup`."""

    def ignore() -> None:
        for number in ignores:
            signal.signal(number, signal.SIG_IGN)

    command = [sys.executable, "-m", "assistant", *words]
    return subprocess.Popen(command, stdout=output, stderr=output, env=environment(), preexec_fn=ignore)


def shell(command: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a bash command in which $A is the assistant."""
    variables = environment(A=f"{sys.executable} -m assistant", **more)
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, env=variables)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.long),
        pytest.param(signal.SIGHUP, marks=pytest.mark.long),
    ],
)
def test_a_signal_saves_the_run_even_if_nobody_reads_its_output(folder: Path, number: signal.Signals) -> None:
    reader, writer = os.pipe()
    process = popen(*RUN, "-o", "out", "--max-steps", "5000", output=writer)
    os.close(writer)
    wait_for_steps(folder / "out" / METRICS_FILE, 3, process)
    os.close(reader)
    process.send_signal(number)
    process.send_signal(number)  # as `timeout` and shells do
    assert process.wait(60) == 128 + number
    state = RunFolder(folder / "out").read_state()
    assert state is not None
    assert state.step >= 3
    assert load_checkpoint(folder / "out").info is not None


def test_a_run_goes_on_without_its_reader_and_without_a_signal_that_is_ignored(folder: Path) -> None:
    process = popen(*RUN, "-o", "out", "--json", ignores=[signal.SIGHUP])
    wait_for_steps(folder / "out" / METRICS_FILE, 2, process)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGPIPE)
    for stream in (process.stdout, process.stderr):
        assert stream is not None
        stream.close()
    assert process.wait(60) == 0
    assert len(read_records(folder / "out" / METRICS_FILE)) == 60


@pytest.mark.usefixtures("folder")
def test_outputs_that_cannot_be_written() -> None:
    rows = "$A data --help"  # text on stdout, without torch
    closed = shell(f"{rows} | true; echo ${{PIPESTATUS[0]}}")
    assert closed.stdout.strip() in ("141", "0")  # 0 if all was written before the reader left
    assert closed.stderr == ""
    full = shell(f"{rows} > /dev/full")
    assert full.returncode == 1
    assert full.stderr.startswith("error: standard output: expected room on the disk")
    for redirected in (f"{rows} >&-", f"{rows} 2>&-", f"{rows} > /dev/null 2> /dev/full"):
        done = shell(redirected)
        assert (done.returncode, done.stderr) == (0, "")
    silent = shell("$A data show nothing.json 2>&-")
    assert (silent.returncode, silent.stdout) == (1, "")


def test_a_narrow_encoding_and_no_home(folder: Path) -> None:
    """A user without a passwd entry, in a container: its home is unknown."""
    (folder / "odd.json").write_text(json.dumps([{"instruction": "Zwölf 日本 🙂", "output": "é"}]))
    show = ["data", "show", "odd.json", "-m", "base"]
    done = shell(f"$A {' '.join(show)}", PYTHONIOENCODING="ascii")
    assert done.stderr == ""
    assert "\\u21b5" in done.stdout
    assert "Traceback" not in done.stdout
    homeless = (
        "import json, os, pwd, sys\n"
        "def unknown(_): raise KeyError('no such user')\n"
        "pwd.getpwuid = unknown\n"
        "for name in ('HOME', 'XDG_CACHE_HOME', 'MPLCONFIGDIR', 'USER', 'LOGNAME'): os.environ.pop(name, None)\n"
        "from assistant.files import user_cache_folder\n"
        "assert user_cache_folder() is None\n"
        "from assistant.cli.app import main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    sys.argv[1:] = words\n"
        "    try: main()\n"
        "    except SystemExit as end: assert end.code == 0, words\n"
    )
    commands = [show, ["ask", "base", "Hi", "--max-new-tokens", "2"], [*RUN, "-o", "out", "--max-steps", "2"]]
    done = subprocess.run(
        [sys.executable, "-c", homeless, json.dumps(commands)],
        capture_output=True, text=True, check=False, env=environment(PYTHONIOENCODING="latin-1"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "\\u21b5" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert (folder / "out" / "model.safetensors").exists()
    assert not (folder / "~").exists()
    assert user_cache_folder() is not None


@pytest.mark.usefixtures("folder")
def test_a_full_disk_and_a_link_to_nothing_keep_the_earlier_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    assert invoke(*RUN, "-o", "out", "--max-steps", "2").exit_code == 0
    before = Path("out/model.safetensors").read_bytes()

    def full(file: int) -> None:
        if Path(f"/proc/self/fd/{file}").readlink().suffix == ".safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        done = invoke(*RUN, "-o", "out", "--max-steps", "3", "--overwrite")
    assert done.exit_code == 1
    assert "error: out/best: expected room on the disk, got: No space left on device. Free some" in done.stderr
    assert Path("out/model.safetensors").read_bytes() == before
    assert load_checkpoint("out/last").info is not None
    Path("link").symlink_to("gone")
    for words in ([*RUN, "-o", "link"], ["data", "split", "rows.json", "-o", "link"], ["demo", "--output", "link"]):
        refused = invoke(*words)
        assert refused.exit_code == 2
        assert "link: expected a folder or nothing, got a symbolic link to gone" in refused.stderr


@pytest.mark.usefixtures("folder")
def test_a_finished_run_gets_more_epochs() -> None:
    words = ("finetune", "rows.json", "-m", "base", *FINETUNE, "--warmup-steps", "0")
    done = invoke(*words, "-o", "out", "--keep-state")
    assert "To train it further: --model out --output out-more, or the same command with --resume" in done.stderr
    assert "finished already" in invoke(*words, "-o", "out", "--resume").stderr
    fewer = invoke(*words, "-o", "out", "--resume", "--epochs", "1")
    assert "expected more than the 10 steps that this run has done, got 5" in fewer.stderr
    other = invoke(*words, "-o", "out", "--resume", "--epochs", "4", "--batch-size", "3")
    assert other.exit_code == 2
    more = invoke(*words, "-o", "out", "--resume", "--epochs", "4")
    assert more.exit_code == 0, more.stderr
    rates = [record["learning_rate"] for record in read_records(Path("out/metrics.jsonl"))]
    assert rates[10:] == rates[:10]
    assert rates[0] > rates[9]
    assert RunFolder("out").read_state() is None
    lost = invoke(*words, "-o", "out", "--resume", "--epochs", "6")
    assert lost.exit_code == 2
    assert "To go on from it, use --model out and another --output" in lost.stderr
    assert invoke(*words[:3], "out", *FINETUNE, "-o", "next", "--max-steps", "1").exit_code == 0


def test_the_best_weights_of_a_run_killed_before_its_first_save_stay(folder: Path) -> None:
    process = popen(*RUN, "-o", "out", "--validate-every", "1", "--max-steps", "5000")
    wait_for_steps(folder / "out" / METRICS_FILE, 4, process)
    process.kill()
    process.communicate()
    assert load_checkpoint("out/best").info is not None
    run = RunFolder("out")
    run.check_free(overwrite=False, resume=True)
    run.begin()
    run.unlock()
    assert load_checkpoint("out/best").info is not None


@pytest.mark.usefixtures("folder")
def test_a_signal_during_the_import_of_torch_ends_at_once() -> None:
    process = popen(*RUN, "-o", "out")
    while process.poll() is None and "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (128 + signal.SIGTERM, b"Interrupted.\n")


@pytest.mark.parametrize("moment", ["before the command", "after the command"])
def test_a_signal_outside_the_command_gives_its_own_exit_status(moment: str) -> None:
    script = f"""
import os, signal, typer
from assistant.cli import console

class Early(console.Commands):
    def make_context(self, *words, **more):
        if {moment!r} == "before the command":
            os.kill(os.getpid(), signal.SIGHUP)
        return super().make_context(*words, **more)

app = typer.Typer(cls=Early)
set_handler = signal.signal

def late(number, handler):
    signal.signal = set_handler
    os.kill(os.getpid(), signal.SIGHUP)
    return set_handler(number, handler)

@app.command()
def command():
    signal.signal = late  # the program calls it after the command

@app.command()
def other():
    pass

console.run_program(app, "program")
"""
    done = subprocess.run(
        [sys.executable, "-c", script, "command"], capture_output=True, check=False, env=environment()
    )
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGHUP, b"", b"")


def test_after_an_interruption_the_process_ends_at_once() -> None:
    """The usual end waits for C++ code of torch, which at times aborts the process while its threads run."""
    script = """
import atexit, os, signal, typer
from assistant.cli import console

app = typer.Typer(cls=console.Commands)

@app.command()
def command():
    atexit.register(os.abort)
    print("a result")
    os.kill(os.getpid(), signal.SIGTERM)

@app.command()
def other():
    pass

console.run_program(app, "program")
"""
    done = subprocess.run(
        [sys.executable, "-c", script, "command"], capture_output=True, check=False, env=environment()
    )
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGTERM, b"a result\n", b"Interrupted.\n")


def test_a_signal_waits_while_a_picture_is_drawn(folder: Path) -> None:
    """matplotlib's C++ code loses an exception that a handler raises, or makes another one of it."""
    script = """
import os, pathlib, signal
from assistant.cli import app, label_job

def draw_confusion(scores):
    os.kill(os.getpid(), signal.SIGHUP)
    pathlib.Path("drawn").touch()
    return b""

label_job.draw_confusion = draw_confusion
app.main()
"""
    rows = [{"text": f"{label} {number}", "label": label} for number in range(20) for label in ("red", "blue")]
    Path("texts.json").write_text(json.dumps(rows), encoding="utf-8")
    words = ("classify", "train", "texts.json", "-m", "base", "-o", "out", "--max-steps", "1", "--batch-size", "2")
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, check=False, text=True, env=environment()
    )
    assert done.returncode == 128 + signal.SIGHUP, done.stderr
    assert (folder / "drawn").exists()


def test_advice_is_shown_after_many_problems() -> None:
    error = DataError([f"row {number}: too long." for number in range(50)], advice="Shorten the rows.")
    assert str(error).endswith("row 19: too long.\n... and 30 more.\nShorten the rows.")
    assert describe_os_error(FileNotFoundError(2, "No such file", "x")) == "x: No such file."


@pytest.mark.usefixtures("folder")
def test_a_short_plan_is_in_seconds() -> None:
    assert re.search(r"about \d+ seconds?\.", invoke(*RUN, "-o", "out", "--plan").stderr)
    end = invoke(*RUN, "-o", "out", "--max-steps", "1", "--validation-share", "0").stderr
    assert "its records in metrics.jsonl and loss.png there" in end
