"""Every command that README shows is run, in its order, on a tiny model; and the demo, whole."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import assistant.cli.app
import evaluation.cli
from assistant.cli.demo import MARKER, clear_folder
from assistant.dataset.instructions import Example, dump_rows, read_examples
from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import SettingsError
from tests.conftest import REPOSITORY
from tests.support.models import save_tiny
from tests.support.ollama_double import OllamaDouble, hashed_verdict

PAGES = ("README.md", "CONTRIBUTING.md", "benchmarks/RESULTS.md")


def commands(page: str) -> list[str]:
    """The lines of a page's `sh` blocks, without comments and continuation marks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (REPOSITORY / page).read_text(encoding="utf-8"), re.S | re.M)
    lines = "\n".join(blocks).replace("\\\n", " ").split("\n")
    return [line.split("  #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def run(command: str) -> tuple[int, str]:
    """Run a command in this process, or in a shell's if it needs one: exit code, and what it said."""
    program, *words = shlex.split(command)
    if program in {"assistant", "evaluation"} and "|" not in words:
        done = CliRunner().invoke(
            {"assistant": assistant.cli.app.app, "evaluation": evaluation.cli.app}[program], words
        )
        return done.exit_code, done.output
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    line = re.sub(r"\b(assistant|evaluation)\b(?= )", rf"{shlex.quote(sys.executable)} -m \1", command)
    shell = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, check=False)
    return shell.returncode, shell.stdout + shell.stderr


def test_the_commands_of_the_readme_work(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "gpt2", byte_tokenizer)
    (tmp_path / "mine.json").write_text(dump_rows(examples))
    pairs = [replace(row, rejected="No.") for row in examples]
    (tmp_path / "pairs.json").write_text(dump_rows(pairs))
    texts = [{"text": f"{row.instruction} {row.output}, again and again."} for row in examples]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    answers = [{"instruction": "Say", "output": "Hi", "model_response": "Hi"}]
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    ran = []
    with OllamaDouble(models=("llama3.1:latest",), default=hashed_verdict) as double:
        monkeypatch.setenv("OLLAMA_HOST", double.url)
        for command in commands("README.md"):
            if re.match(r"make |git |cd |ollama |hf |pip |python|torchrun|assistant (chat|demo)", command):
                continue  # set-up, other programs, what needs a terminal; demo and torchrun have tests of their own
            code, said = run(command)
            assert code == 0, f"{command}\n{said}"
            ran.append(command)
    text = "\n".join(ran)
    for words in ("assistant finetune", "assistant ask", "assistant data split", "assistant doctor"):
        assert words in text
    for words in ("evaluation respond", "evaluation score", "evaluation report", "--judge llama3.1"):
        assert words in text
    report = json.loads((tmp_path / "runs" / "answers-of-mine" / "report.json").read_text())
    assert report["score"] == "judge"
    assert report["n"] == 4


@pytest.mark.parametrize("page", PAGES)
def test_options_that_pages_show_exist(page: str) -> None:
    """Commands that are not run are at least spelt right."""
    shown = re.findall(r"\b(assistant|evaluation) (data \w+|\w+)((?: [^\n`|]*)?)", "\n".join(commands(page)))
    options: dict[tuple[str, str], str] = {}
    for program, name, rest in shown:
        if (program, name) not in options:
            call = [sys.executable, "-m", program, *name.split(), "--help"]
            environment = os.environ | {"COLUMNS": "200", "PYTHONPATH": str(REPOSITORY)}
            done = subprocess.run(call, capture_output=True, text=True, check=False, env=environment)
            assert done.returncode == 0, f"{page}: {program} {name}"
            options[program, name] = done.stdout
        for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", rest):
            assert option in options[program, name], f"{page}: {program} {name} {option}"


def test_links_lead_somewhere() -> None:
    for page in (*PAGES, "data/README.md"):
        path = REPOSITORY / page
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{page}: {target}"


def test_demo_does_the_whole_main_job(tmp_path: Path) -> None:
    """The demo's own steps on fewer rows: the commands it prints are the ones it runs."""
    program = (
        "import sys; from pathlib import Path; import assistant.demo as demo\n"
        "real = demo.shipped; demo.shipped = lambda name: Path('few.json') if name.endswith('.json') else real(name)\n"
        "demo.FINETUNE_OPTIONS = ('--max-steps', '5')\n"
        "sys.exit(demo.run_demo(Path('demo'), seed=1, as_json='--json' in sys.argv))\n"
    )
    few = [row for row in read_examples(REPOSITORY / "data" / "instructions.json") if row.category == "capitals"][:60]
    (tmp_path / "few.json").write_text(dump_rows(few))
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}

    call = [sys.executable, "-c", program, "--json"]
    done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["report"]["n"] == found["report"]["closed"]["n"] == 6
    assert found["report"]["closed"]["exact_matches"] == found["report"]["exact_matches"]
    (shown,) = found["shown"]
    assert shown["before"] != shown["after"]
    for words in ("$ assistant finetune few.json", "$ evaluation respond demo/model", "$ evaluation score demo/run"):
        assert words in done.stderr
    assert "assistant chat demo/model" in done.stderr


def test_demo_replaces_its_own_folder_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("mine")
    with pytest.raises(SettingsError, match="expected an empty folder or an earlier demo's"):
        clear_folder(tmp_path)
    assert (tmp_path / "model" / "config.json").read_text() == "mine"
    (tmp_path / MARKER).touch()
    (tmp_path / "notes.txt").write_text("mine")
    clear_folder(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {MARKER, "notes.txt"}
