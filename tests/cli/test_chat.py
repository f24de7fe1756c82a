"""`assistant chat` as a command: which model, which conversation, which front, and how it ends."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from assistant.chat.setup import ChatSetup
from assistant.chat.store import Store
from assistant.dataset.tokenizer import Tokenizer
from tests.conftest import REPOSITORY
from tests.support.commands import invoke
from tests.support.models import save_tiny

SHORT = ("--max-new-tokens", "2")


@pytest.fixture
def chats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Where the conversations of this test are kept."""
    monkeypatch.setenv("ASSISTANT_DATA_DIR", str(tmp_path / "data"))
    return Store()


@pytest.fixture
def _in_folder(folder: Path, chats: Store) -> None:
    """The current folder has a model in `base`."""


def test_help_names_what_the_chat_is_for() -> None:
    done = invoke("chat", "--help")
    assert done.exit_code == 0
    words = " ".join(done.output.replace("│", " ").split())
    assert "Chat with a model in the terminal, alone or beside its base model. F1 in the chat lists the keys." in words
    for panel in ("Comparing", "Conversations", "Sampling"):
        assert f"─ {panel} ─" in words
    assert "Go on with a conversation: last, or the id that the chat printed." in words


@pytest.mark.usefixtures("_in_folder")
def test_a_pipe_gets_the_plain_chat(chats: Store) -> None:
    done = invoke("chat", "base", *SHORT, text="Say red.\nSay blue.\n")
    assert done.exit_code == 0, done.stderr
    assert done.stderr == "Plain chat: standard input is not a terminal.\n"
    lines = done.stdout.split("\n")
    assert lines[0] == "Chat with base. /help lists the commands, /quit ends."
    assert [line for line in lines if line.startswith("You: ")] == ["You: Say red.", "You: Say blue."]
    assert done.stdout.count("ran to the limit)") == 2
    assert [turn.question.instruction for turn in chats.read("last").turns] == ["Say red.", "Say blue."]


@pytest.mark.usefixtures("_in_folder")
def test_a_conversation_is_resumed_with_its_model(chats: Store) -> None:
    invoke("chat", "base", "--plain", *SHORT, text="Say red.\n")
    id = chats.list()[0].id
    done = invoke("chat", "--resume", "last", "--plain", *SHORT, text="Say blue.\n")
    assert done.stdout.startswith("Chat with base. ")
    assert "Going on with a conversation. 1 question so far.\nYou: Say red.\nModel: " in done.stdout
    assert done.stderr == ""
    assert len(chats.read(id).turns) == 2
    assert len(chats.list()) == 1
    other = invoke("chat", "--resume", id, "--no-save", "--plain", *SHORT, text="Say pink.\n")
    assert "2 questions so far." in other.stdout
    assert len(chats.read(id).turns) == 2


@pytest.mark.usefixtures("_in_folder")
def test_nothing_is_written_without_saving_or_asking(chats: Store) -> None:
    assert invoke("chat", "base", "--plain", "--no-save", *SHORT, text="Say red.\n").exit_code == 0
    assert invoke("chat", "base", "--plain", text="/tally\n/quit\n").exit_code == 0
    assert not list(chats.where().parent.rglob("*.jsonl"))


def test_where(chats: Store) -> None:
    done = invoke("chat", "--where")
    assert (done.stdout, done.stderr, done.exit_code) == (f"{chats.where()}\n", "", 0)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["bas"], 1, "model bas: expected a model folder or the name of a model, got neither. Here are: base, pocket."),
        (["base", "--base", "bas"], 1, "--base: model bas: expected a model folder or the name of a model"),
        (["base", "--data", "nosuch.json"], 1, "--data: nosuch.json: expected a file of rows, got no such file."),
        (["base", "--resume", "nosuch"], 2, "got none: there is none yet."),
        (["--resume", "last"], 2, "got none: there is none yet."),
        (["base", "--seed", "-1"], 2, "--seed: expected greater than or equal to 0, got -1."),
        (["base", "--temperature", "-1"], 2, "--temperature: expected greater than or equal to 0, got -1"),
        (["broken"], 1, "broken: expected a model folder, got no model.safetensors (found: config.json)."),
        (["rows.json"], 1, "rows.json"),
    ],
)
@pytest.mark.usefixtures("_in_folder")
def test_mistakes_are_a_sentence_on_stderr(words: list[str], code: int, sentence: str) -> None:
    Path("broken").mkdir()
    shutil.copyfile("base/config.json", "broken/config.json")
    done = invoke("chat", *words, "--plain", text="Hello\n")
    assert sentence in done.stderr, done.stderr
    assert done.exit_code == code
    assert done.stderr.startswith("error: ")
    assert "Model:" not in done.stdout


@pytest.mark.usefixtures("_in_folder")
def test_a_conversation_whose_model_has_gone_names_those_that_are_here() -> None:
    shutil.copytree("base", "mine")
    invoke("chat", "mine", "--plain", *SHORT, text="Say red.\n")
    shutil.rmtree("mine")
    done = invoke("chat", "--resume", "last", "--plain", text="")
    assert done.exit_code == 1
    assert "Here are: base, pocket." in done.stderr.replace("pocket, base", "base, pocket")
    assert invoke("chat", "base", "--resume", "last", "--plain", text="").exit_code == 0


@pytest.mark.usefixtures("_in_folder")
def test_another_model_may_be_the_base(byte_tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_tiny(tmp_path / "other", byte_tokenizer, seed=2)
    done = invoke("chat", "base", "--base", "other", "--data", "rows.json", "--plain", *SHORT, text="/row\n/run 3\n")
    assert done.stdout.startswith("Chat with base, compared with other. ")
    assert "\nModel: " in done.stdout
    assert "\nBase: " in done.stdout
    assert "(4 test rows: Model 0 right, Base 0 right. A verdict comes after 20 test rows.)" in done.stdout


def test_the_full_screen_gets_the_same_setup(folder: Path, chats: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    del chats
    seen: list[ChatSetup] = []
    monkeypatch.setattr("assistant.tui.terminal.terminal_problem", lambda: None)

    def run_chat(setup: ChatSetup) -> int:
        seen.append(setup)
        return 7

    monkeypatch.setattr("assistant.tui.app.run_chat", run_chat)
    done = invoke("chat", "base", "--temperature", "0.5", "--seed", "3", text="")
    assert done.exit_code == 7
    assert (seen[0].folder, seen[0].model_name, seen[0].settings.seed) == (Path("base"), "base", 3)
    assert (seen[0].settings.generation.temperature, seen[0].settings.generation.seed) == (0.5, 3)
    assert folder.exists()


# --- real processes -----------------------------------------------------------------------------------------------


def run(text: bytes | None, *words: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a new process."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)} | more.pop("environment", {})
    return subprocess.run(
        [sys.executable, "-m", "assistant", "chat", *words], input=text, capture_output=True, check=False,
        env=environment, timeout=60, **more,
    )  # fmt: skip


@pytest.mark.usefixtures("_in_folder")
def test_any_bytes_in_and_no_escape_out() -> None:
    """With an output that has only ASCII, and a base that is still loading when the lines end."""
    done = run(b"\xff\x1b[31m\xc3\xbc\n\xe2\x80\xae\n", "base", *SHORT, environment={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode("ascii").split("\n")
    assert lines[1].startswith("You: ")
    assert b"\x1b" not in done.stdout + done.stderr
    assert lines[-1] == ""
