"""The plain chat: lines in, lines out, on scripted sessions."""

from __future__ import annotations

import io
import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant.chat.commands import COMMANDS
from assistant.chat.conversation import Conversation
from assistant.chat.scores import Suggestion
from assistant.chat.setup import ChatSetup
from assistant.chat.store import Store
from assistant.cli.plain import run_plain
from assistant.dataset.examples import Example
from assistant.errors import PrerequisiteError
from assistant.settings import GenerationSettings
from tests.support.chat_rows import answered, asked
from tests.support.chat_setup import make_setup
from tests.support.hostile import HOSTILE
from tests.support.scripted_session import ScriptedSession

PLURALS = tuple(
    Example(instruction="Plural?", input=word, output=f"{word}s") for word in ("cat", "dog", "hen", "cow", "pig")
)


class Typed(io.StringIO):
    """What a person types in a terminal."""

    def isatty(self) -> bool:
        return True


def talk(setup: ChatSetup, *lines: str, is_dialogue: bool = False) -> list[str]:
    """Chat in these lines, and return the lines that were written after the greeting."""
    output = io.StringIO()
    source = Typed if is_dialogue else io.StringIO
    assert run_plain(setup, source("".join(f"{line}\n" for line in lines)), output) == 0
    greeting, *written = output.getvalue().split("\n")
    assert greeting.startswith("Chat with toy")
    assert written.pop() in (["", "You: "] if is_dialogue else [""])
    return written


def ask(*lines: str, tuned: ScriptedSession | None = None, base: ScriptedSession | None = None, **more: Any) -> str:
    """Chat in these lines, and return what was written after the greeting."""
    return "\n".join(talk(make_setup(tuned, base, **more), *lines))


# --- questions ----------------------------------------------------------------------------------------------------


def test_lines_from_a_pipe_are_answered_in_their_order() -> None:
    session = ScriptedSession(echo=True)
    written = ask("one", "", "two", "three", tuned=session)
    assert session.instructions == ["one", "two", "three"]
    assert re.findall(r"(?:You|Model): .*", written) == [
        line for word in ("one", "two", "three") for line in (f"You: {word}", f"Model: You said: {word}.")
    ]


def test_a_person_sees_no_echo_of_what_the_terminal_shows_already() -> None:
    written = talk(make_setup(), "Say hello.", is_dialogue=True)
    assert written == ["You: Model: Hello.", "(1 token, 20/s, ended by itself)", "You: "]


@pytest.mark.parametrize(
    ("lines", "sent"),
    [
        (("a\\", "b"), ["a\nb"]),
        (("a\\", "", "b"), ["a\n", "b"]),
        (("a \\", "  b\\", "c"), ["a \n  b\nc"]),
        (("C:\\\\", "b"), ["C:\\", "b"]),
        (("a\\\\\\", "b"), ["a\\\\\nb"]),
        (("a\\",), ["a"]),
        ((" a  b ",), [" a  b "]),
        (("\ufeffa", "\ufeffb"), ["a", "\ufeffb"]),
        (("//help", "/usr/bin"), ["/help", "/usr/bin"]),
        (("quit", "quit"), ["quit"]),
    ],
)
def test_what_is_sent(lines: tuple[str, ...], sent: list[str]) -> None:
    session = ScriptedSession("ok")
    ask(*lines, tuned=session)
    assert session.instructions == sent


def test_an_input_belongs_to_one_question() -> None:
    session = ScriptedSession("ok")
    written = ask("/input happy", "A synonym?", "Hello", "/input x", "/input", "Ciao", tuned=session)
    assert session.inputs == ["happy", "", ""]
    assert "You: A synonym?\nInput: happy\nModel: ok" in written


def test_further_lines_of_an_answer_are_indented() -> None:
    written = ask("a", tuned=ScriptedSession("one\r", "\nYou: two\n", "\n", "three\n"))
    assert written.startswith("You: a\nModel: one\n  You: two\n\n  three\n(4 tokens")


def test_an_answer_without_text() -> None:
    assert "\nModel: (no text)\n(1 token, 20/s, ended without text)" in ask("a", tuned=ScriptedSession(""))


def test_an_error_is_a_problem_and_the_chat_goes_on() -> None:
    written = ask("a", "/quit", tuned=ScriptedSession("x", error=ValueError("a\x1b[31mb")))
    assert "Model: x\nProblem: ValueError: a␛[31mb" in written
    assert "ctrl" not in written
    assert "prompt" not in written


def test_commands_about_an_answer_need_one() -> None:
    written = ask("/again", "/tokens", "/choose left", "/keep 1", "/correct a", "/prompt", "/nearest")
    assert written.split("\n") == ["There is no answer yet."] * 7


# --- the beginning and the end ------------------------------------------------------------------------------------


def test_a_model_that_cannot_be_loaded_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> ScriptedSession:
        raise PrerequisiteError("toy: expected weights, got none. Train it.")

    output = io.StringIO()
    assert run_plain(make_setup(fail, ScriptedSession("x")), io.StringIO("Hello\n"), output) == 1
    assert capsys.readouterr().err == "error: toy: expected weights, got none. Train it.\n"
    assert output.getvalue().count("\n") == 1


def test_a_base_that_cannot_be_loaded_is_a_sentence() -> None:
    def fail() -> ScriptedSession:
        raise PrerequisiteError("plain: expected weights, got none.")

    written = talk(make_setup(None, fail, rows=PLURALS), "/base", "Hi", "/run 2")
    assert written[:3] == ["plain: expected weights, got none.", "You: Hi", "Model: Hello."]
    assert written[-1] == "(2 test rows: Model 0 right.)"


def test_closed_input_ends_the_chat() -> None:
    assert run_plain(make_setup(), None, io.StringIO()) == 0


def test_a_suggestion_is_shown() -> None:
    setup = make_setup(suggestions=[Suggestion("Plural?", "cat")])
    assert talk(setup) == ["For example: Plural? cat"]


def test_a_resumed_conversation_shows_where_it_was() -> None:
    conversation = Conversation()
    for record in (asked(0, instruction="What?", input="x\ny"), answered(0, "tuned", "That.")):
        conversation.apply(record)
    written = talk(make_setup(conversation=conversation), "/again")
    assert written[:4] == ["Going on with a conversation. 1 question so far.", "You: What?", "Input: x", "  y"]
    assert written[4] == "Model: That."


def test_a_person_hears_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setup = make_setup(folder=tmp_path)
    talk(setup, "Hello", "/quit", is_dialogue=True)
    id = Store(tmp_path).list()[0].id
    assert capsys.readouterr().err.endswith(f"assistant chat --plain --resume {id}\n")
    talk(make_setup(folder=tmp_path), "/quit", is_dialogue=True)
    talk(make_setup(), "Hello", "/quit", is_dialogue=True)
    talk(make_setup(folder=tmp_path), "Hello", "/quit")
    assert capsys.readouterr().err == ""  # nothing was asked, nothing is saved, nobody is there


# --- Ctrl-C -------------------------------------------------------------------------------------------------------


def interrupt_when(condition: Any) -> threading.Thread:
    """Send Ctrl-C to this process when the condition holds."""

    def wait() -> None:
        while not condition():
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.fixture(autouse=True)
def _hears_ctrl_c() -> Any:
    """A shell may have started the tests with Ctrl-C ignored."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def test_ctrl_c_stops_an_answer_and_the_next_question_is_answered() -> None:
    session = ScriptedSession("one ", "two", hold_at=1)
    session.answers = {"next": "ok"}
    thread = interrupt_when(lambda: session.running and session.settings)
    written = talk(make_setup(session), "Count.", "next", is_dialogue=True)
    thread.join()
    assert written[0] == "You: Model: one "
    assert written[1].endswith("stopped by you)")
    assert written[2] == "You: Model: ok"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_ends_a_pipe_and_keeps_what_was_written(tmp_path: Path) -> None:
    session = ScriptedSession("one ", "two", hold_at=1)
    output = io.StringIO()
    thread = interrupt_when(lambda: "one" in output.getvalue())
    with pytest.raises(KeyboardInterrupt):
        run_plain(make_setup(session, folder=tmp_path), io.StringIO("Count.\nnext\n"), output)
    thread.join()
    assert session.instructions == ["Count."]
    answer = Store(tmp_path).read("last").turns[0].answer("tuned")
    assert answer is not None
    assert (answer.response, answer.stop_reason) == ("one ", "cancelled")


def test_ctrl_c_at_the_prompt_ends_the_chat(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupted(Typed):
        def readline(self, *_: Any) -> str:  # type: ignore[override]
            if line := super().readline():
                return line
            raise KeyboardInterrupt

    output = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        run_plain(make_setup(folder=tmp_path), Interrupted("Hi\n"), output)
    assert output.getvalue().endswith("You: \n")
    assert "--resume" in capsys.readouterr().err


# --- comparing ----------------------------------------------------------------------------------------------------


def test_the_base_answers_too() -> None:
    written = ask("Hi", "/base", "Hi", "/base", "Hi", base=ScriptedSession("Below is"))
    assert re.findall(r"^(Model|Base): ", written, re.M) == ["Model", "Model", "Base", "Model"]


def test_without_a_base_the_reason_is_said() -> None:
    assert ask("/base", "/blind").split("\n") == ["There is no base model here."] * 2


def test_a_blind_choice_tells_nothing_before_it_is_made(tmp_path: Path) -> None:
    orders = set()
    for number in range(12):
        tuned, base = ScriptedSession("fish"), ScriptedSession("fowl", "s")
        lines = ("/blind", "Hi", "/tokens", "/nearest", "/tally", "/correct x", "/settings temperature 1", "/again")
        setup = make_setup(tuned, base, folder=tmp_path / str(number))
        written = "\n".join(talk(setup, *lines, "/choose a", "/tally"))
        before, after = written.split("You preferred ", 1)
        orders.add(tuple(re.findall(r"^([AB]): (\w+)", before, re.M)))
        assert "Model" not in before.replace("Both models answer", "")
        assert "Base" not in before
        assert "20/s" not in before
        assert "No test row was answered yet" in before
        left = "fine-tuned" if "A: fish" in before else "base"
        assert after.startswith(f"the {left} model. Left was the {left} model, right was the ")
        assert "(Model: answer 2, 1 token, 20/s" in after
        assert "(Base: answer 2, 2 tokens, 20/s" in after
        assert re.search(r"^You preferred tuned [01], base [01]\.$", after, re.M)
    assert orders == {
        (("A", one), ("B", other)) * 2 for one, other in (("fish", "fowls"), ("fowls", "fish"))
    }  # the order is drawn, and another answer keeps it


def test_a_choice_without_blindness() -> None:
    written = ask("/base", "Hi", "/choose up", "/choose right", "/choose neither", base=ScriptedSession("x"))
    assert written.split("\n")[-3:] == [
        "/choose: expected left, right or neither, got up.",
        "You preferred the fine-tuned model.",
        "Neither answer is better.",
    ]


def test_a_test_row_is_compared_with_its_reference() -> None:
    tuned, base = ScriptedSession("cats"), ScriptedSession("dogs\n")
    written = ask("/row", tuned=tuned, base=base, rows=PLURALS[:1])
    assert written.split("\n") == [
        "Test row: Plural?",
        "Input: cat",
        "Model: cats",
        "(1 token, 20/s, ended by itself, equals the reference)",
        "Base: dogs",
        "(1 token, 20/s, ended by itself, differs from the reference: cats)",
        "(1 test row: Model 1 right, Base 0 right. A verdict comes after 20 test rows.)",
    ]


def test_a_run_counts_and_judges() -> None:
    rows = [Example(instruction=f"Say {n}.", output="x") for n in range(20)]
    written = ask(
        "/run 3", "/tally", "/run 20", "/row", tuned=ScriptedSession("x"), base=ScriptedSession("y"), rows=rows
    )
    lines = written.split("\n")
    assert re.fullmatch(r"Model right, Base wrong: Say \d+\.", lines[0])
    assert lines[4] == "3 test rows: Model 3 right, Base 0 right. A verdict comes after 20 test rows."
    assert lines[22] == "(20 test rows: Model 20 right, Base 0 right. After 20 test rows, Model is better, p < 0.001.)"
    assert lines[23] == "(All test rows have been answered in this conversation.)"


def test_without_test_rows_the_reason_is_said() -> None:
    assert ask("/row", "/run").split("\n") == ["(The data of this model are not here.)"] * 2


# --- the other commands -------------------------------------------------------------------------------------------


def test_every_command_of_the_table_is_carried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is silent but /quit, and none is taken for a question."""
    monkeypatch.chdir(tmp_path)
    examples = {"count": "1", "text": "left"}
    for command in COMMANDS:
        session = ScriptedSession("Hello.")
        setup = make_setup(session, ScriptedSession("x"), rows=PLURALS, train=PLURALS, folder=tmp_path / command.name)
        silent = talk(setup, "Say hello.")
        session.instructions.clear()
        setup = make_setup(session, ScriptedSession("x"), rows=PLURALS, train=PLURALS, folder=tmp_path / command.name)
        is_argument_needed = command.argument and not command.argument.startswith("[")
        line = f"/{command.name} {examples[command.takes] if is_argument_needed else ''}"
        said = talk(setup, "Say hello.", line)[len(silent) :]
        assert bool(said) == (command.name != "quit"), line
        assert not any(line.startswith(("You:", "Problem:")) for line in said), line
        rows = {"row": 1, "run": len(PLURALS), "again": 0}.get(command.name, 0)
        assert len(session.instructions) == 1 + rows, line


def test_help_lists_all_commands_and_how_to_write_several_lines() -> None:
    written = ask("/help")
    assert all(f"\n/{command.name}" in f"\n{written}" for command in COMMANDS)
    assert written.endswith("A line that ends with a backslash goes on in the next line.")


def test_answers_again_and_the_one_that_counts(tmp_path: Path) -> None:
    setup = make_setup(folder=tmp_path, generation=GenerationSettings(temperature=1.0))
    written = "\n".join(talk(setup, "Hi", "/again", "/keep 1", "/keep 3", "/again", "/keep 2"))
    assert "(answer 2, 1 token" in written
    assert "/keep: expected the number of an answer to the last question (1, 2), got 3." in written
    assert Store(tmp_path).read("last").turns[0].kept_variant == 1


def test_again_at_temperature_0_names_a_command() -> None:
    assert ask("Hi", "/again").endswith("the same. /settings temperature 0.7 sets one.)")


def test_a_correction_becomes_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written = ask("/input cat", "Plural?", "/correct cats\\", "or kittens", "/save-rows")
    assert written.endswith("Next: assistant finetune corrections.jsonl --model MODEL --output runs/corrected")
    assert "cats\\nor kittens" in (tmp_path / "corrections.jsonl").read_text()


def test_a_correction_of_a_test_row_is_kept_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written = ask(
        "/row", "/correct cats", "/save-rows", "/input cat", "Plural?", "/correct x", "/save-rows", rows=PLURALS[:1]
    )
    assert "This is a test row: the correction is marked, and stays out of what you train on." in written
    assert written.count("0 rows. Left out: ") == 2  # also where the person typed the test row
    assert not list(tmp_path.iterdir())


def test_settings() -> None:
    session = ScriptedSession("a", "b", "c")
    written = ask(
        "/settings length 2", "/settings seed 7", "/settings length none", "/settings x 1", "Hi", tuned=session
    )
    lines = written.split("\n")
    assert lines[1] == "temperature 0, seed 7, at most 2 tokens"
    assert lines[2].startswith("length: ")
    assert lines[3].startswith("settings: expected temperature, seed, length, got x.")
    assert (session.settings[0].max_new_tokens, session.settings[0].seed) == (2, 7)


def test_conversations(tmp_path: Path) -> None:
    talk(make_setup(folder=tmp_path), "Of cats", "/rename Old one")
    id = Store(tmp_path).list()[0].id
    lines = (
        "Of dogs",
        "/list",
        "/list cats",
        "/open nosuch",
        f"/open {id}",
        f"/open {id}",
        "/new",
        "Of hens",
        "/where",
    )
    written = talk(make_setup(folder=tmp_path), *lines)
    text = "\n".join(written)
    assert f"  {id}  Old one\n" in text.partition("2 conversations.")[0]
    assert f"2 conversations.\n  {id}  Old one\n1 conversation." in text
    assert "conversation: expected the id of a conversation" in text
    assert "Going on with a conversation. Old one: 1 question so far.\nYou: Of cats\nModel: Hello.\n" in text
    assert "This conversation is open.\nA new conversation.\nYou: Of hens" in text
    assert written[-1] == str(tmp_path)
    assert [summary.title for summary in Store(tmp_path).list()].count("Of hens") == 1


def test_tokens_and_the_prompt() -> None:
    written = ask("Hi", "/tokens", "/prompt", tuned=ScriptedSession("A", "B"), base=ScriptedSession("x"))
    assert "], rank 1".replace("]", "") in written
    assert "The model reads:\n  Below is an instruction" in written
    assert "\n  ### Response:" in written


def test_tokens_that_cannot_be_looked_at_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError("no room")

    session = ScriptedSession("A")
    monkeypatch.setattr(session, "inspect", fail)
    assert ask("Hi", "/tokens", "/where", tuned=session).split("\n")[3].startswith("Problem: MemoryError: no room")


# --- hostile text -------------------------------------------------------------------------------------------------


def is_plain(text: str) -> bool:
    """Whether a text has no control character but line feeds and tabs, and nothing that reorders or hides."""
    return not re.search(
        r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2028\u2029\u2066-\u2069\ufeff\ud800-\udfff]", text
    )


@settings(max_examples=15)
@given(st.text(), st.text(), st.lists(st.text(min_size=1), min_size=1))
def test_no_text_controls_the_terminal(question: str, input: str, pieces: list[str]) -> None:
    clean = str.maketrans("", "", "\r\n")
    row = Example(instruction=f"a\x1b[2J{input}", input=f"\r{question}", output=f"b\x1b]0;x\x07{question}")
    setup = make_setup(
        ScriptedSession(*pieces), ScriptedSession("\x1b[31m", *pieces), rows=[row], train=[row],
        model_name="toy \x1b[31m\u202e", suggestions=[Suggestion(question, input)],
    )  # fmt: skip
    lines = [
        f"/input {input.translate(clean)}",
        f"x{question.translate(clean)}",
        "/base",
        "/row",
        "/tokens",
        "/nearest",
    ]
    lines += [
        "/prompt",
        "/correct \x1b[31m",
        "/settings \x1b[1m 2",
        "/\x1b",
        "/choose \x9b",
        "/save /dev/null/\x1b[31m",
    ]
    output = io.StringIO()
    text = "".join(f"{line}\n" for line in lines).encode(errors="replace").decode()
    run_plain(setup, io.StringIO(text), output)
    assert is_plain(output.getvalue())


def test_a_hostile_title_is_shown_as_it_is(tmp_path: Path) -> None:
    title = HOSTILE.encode(errors="replace").decode()
    talk(make_setup(folder=tmp_path), "Hi", f"/rename {title}".replace("\u2028", " "))
    written = "\n".join(talk(make_setup(folder=tmp_path), "/list", "/open last"))
    assert "␛[31mred" in written
    assert is_plain(written)
