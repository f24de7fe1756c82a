"""Every command that README and the pages in docs/ show is run, in its order, on a tiny model."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

import assistant.cli.app
import evaluation.cli.app
from assistant.dataset.instructions import Example, dump_rows
from assistant.dataset.tokenizer import Tokenizer
from assistant.shipped import shipped
from tests.conftest import REPOSITORY
from tests.support.hub_double import HubDouble, use_hub
from tests.support.models import save_tiny
from tests.support.ollama_double import OllamaDouble, hashed_verdict

MANUAL = ("README.md", *sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "docs").glob("*.md")))
PAGES = (*MANUAL, "CONTRIBUTING.md", "data/README.md", "benchmarks/RESULTS.md")
PROGRAMS = {"assistant": assistant.cli.app.app, "evaluation": evaluation.cli.app.app}
NOT_RUN = r"make |ollama |python |torchrun |evaluation label"
"""Set-up, other programs, and what needs a terminal. The demo and torchrun have tests of their own."""


def text_of(page: str) -> str:
    """A page's text."""
    return (REPOSITORY / page).read_text(encoding="utf-8")


def commands(page: str) -> list[str]:
    """The lines of a page's `sh` blocks, without comments and continuation marks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text_of(page), re.S | re.M)
    lines = "\n".join(blocks).replace("\\\n", " ").split("\n")
    return [line.split("  #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def run(command: str) -> tuple[int, str]:
    """Run a command in this process, or in a shell's if it needs one: exit code, and what it said.

    A shell runs what stands before a pipe. `tests/cli` has real pipes.
    """
    before, _, last = command.rpartition(" | ")
    program, *words = shlex.split(last)
    if program in PROGRAMS:
        text = subprocess.run(["bash", "-c", before], capture_output=True, check=True).stdout if before else None
        if words[0] == "chat" and not before:
            text = b"Say red once.\n/row\n"  # without a terminal, the chat reads lines
        done = CliRunner().invoke(PROGRAMS[program], words, input=text)
        return done.exit_code, done.output
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    line = re.sub(r"\b(assistant|evaluation)\b(?= )", rf"{shlex.quote(sys.executable)} -m \1", command)
    shell = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, check=False)
    return shell.returncode, shell.stdout + shell.stderr


def make_inputs(folder: Path, examples: list[Example]) -> None:
    """The files that the pages take as given."""
    (folder / "mine.json").write_text(dump_rows(examples))
    (folder / "corrections.jsonl").write_text('{"instruction": "Say pink again.", "output": "PINK again"}\n')
    pairs = [replace(row, rejected="No.") for row in examples]
    (folder / "pairs.json").write_text(dump_rows(pairs))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in json.loads(dump_rows(pairs))))
    texts = [{"text": f"{row.instruction} {row.output}, again and again."} for row in examples]
    (folder / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    (folder / "mine.csv").write_text("instruction,output\nSay hi.,Hi\nSay bye.,Bye\n")
    (folder / "more.tsv").write_text("instruction\toutput\nSay yes.\tYes\n")
    (folder / "fragen.csv").write_text("frage;antwort\nWas?;Das.\nWer?;Ich.\n")
    make_labelled_texts(folder)
    answers = [{"instruction": "Say", "output": "Hi", "model_response": "Hi"}]
    (folder / "answers.json").write_text(json.dumps(answers))


def make_labelled_texts(folder: Path) -> None:
    """The files of labelled texts: some rows of the spam set, in several forms."""
    rows = json.loads(shipped("spam.json").read_text(encoding="utf-8"))[:40]
    (folder / "data").mkdir()
    (folder / "data" / "spam.json").write_text(json.dumps(rows))
    texts = [row["text"].replace("\t", " ").replace("\n", " ") for row in rows]
    labels = ["spam" if row["label"] == "spam" else "ham" for row in rows]
    (folder / "sms.tsv").write_text("".join(f"{label}\t{text}\n" for label, text in zip(labels, texts, strict=True)))
    (folder / "mail.csv").write_text("text\n" + "".join(f'"{text.replace(chr(34), "")}"\n' for text in texts))
    teams = "".join(f"{label},{place} words\n" for place, label in enumerate(labels))
    (folder / "tickets.csv").write_text("team,body\n" + teams)


def test_the_commands_of_the_manual_work(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All pages one after the other, in one folder. A command that several pages show is run once."""
    monkeypatch.chdir(tmp_path)
    make_inputs(tmp_path, examples)
    gpt2 = save_tiny(tmp_path / "on-the-hub", byte_tokenizer)
    ran: set[str] = set()
    with OllamaDouble(models=("llama3.1:latest",), default=hashed_verdict) as double, HubDouble() as hub:
        monkeypatch.setenv("OLLAMA_HOST", double.url)
        hub.add("openai-community/gpt2", {path.name: path.read_bytes() for path in gpt2.iterdir()})
        use_hub(hub.url, monkeypatch)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        for page in MANUAL:
            for command in commands(page):
                if re.match(NOT_RUN, command) or command in ran:
                    continue
                output = re.search(r" (?:finetune|train) .*--output (\S+)", command)
                if output and "--resume" not in command:
                    shutil.rmtree(output[1], ignore_errors=True)  # another page may have made it with other options
                code, said = run(command)
                is_judged_red = (
                    " check-judge " in command and code == 1 and "is red" in said
                )  # the double's scores are random
                assert code == 0 or is_judged_red, f"{page}: {command}\n{said}"
                ran.add(command)
    named = ("finetune", "prefer", "ask", "data split", "classify train", "classify predict")
    for words in (*(f"assistant {name}" for name in named), "--judge"):
        assert words in "\n".join(ran)
    report = json.loads((tmp_path / "runs" / "answers" / "report.json").read_text())
    assert report["score"] == "judge"
    assert report["n"] == 4


def options_of(program: str, words: list[str]) -> set[str]:
    """The options of a command. Raises KeyError where there is no such command."""
    command: Any = typer.main.get_command(PROGRAMS[program])
    for word in words:
        command = command.commands[word]
    return {"--help"} | {name for parameter in command.params for name in parameter.opts}


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_that_pages_show_exist(page: str) -> None:
    """Commands that are not run, those in tables among them, are at least spelt right."""
    inline = re.findall(r"`((?:assistant|evaluation) [^`\n]+)`", text_of(page))
    for command in (*commands(page), *inline):
        words_of_command = r"\b(assistant|evaluation) ((?:data|classify) \w+|\w[\w-]*)((?: [^`|]*)?)"
        for program, words, rest in re.findall(words_of_command, command):
            known = options_of(program, words.split())
            for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", rest):
                assert option in known, f"{page}: {program} {words} {option}"
        for module, script in re.findall(r"\bpython (?:-m (data\.[\w.]+)|(\S+\.py))", command):
            assert (REPOSITORY / (script or module.replace(".", "/") + ".py")).exists(), f"{page}: {command}"


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", text_of(page)):
            if "://" not in target:
                assert ((REPOSITORY / page).parent / target).exists(), f"{page}: {target}"


def test_readme_links_to_every_page() -> None:
    for page in MANUAL[1:]:
        assert f"]({page})" in text_of("README.md")


def test_the_books_snippet_runs_on_our_classifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Python of the page on labels: it builds, trains, saves, loads and asks."""
    (tmp_path / "data").symlink_to(REPOSITORY / "data")
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"^```python\n(.*?)^```", text_of("docs/classifier.md"), re.S | re.M)
    assert "classify_review(" in snippet
    exec(compile(snippet, "docs/classifier.md", "exec"), {})
    assert capsys.readouterr().out.split("\n")[:2] == ["spam", "not spam"]
    assert (tmp_path / "review_classifier.pth").exists()
