"""Keys of the chat: variants, selecting, copying, and the screens that open over the conversation."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from textual.widgets import Input, OptionList, Static

from assistant.chat.conversation import Conversation
from assistant.chat.setup import ChatSetup
from assistant.chat.store import BIN, Store
from assistant.dataset.examples import Example
from assistant.settings import GenerationSettings
from assistant.tui.correction import CorrectionScreen
from assistant.tui.foot import Foot
from assistant.tui.growth_view import GrowthScreen
from assistant.tui.prompt_view import PromptScreen
from assistant.tui.sessions import SessionsScreen
from assistant.tui.settings_form import SettingsForm
from assistant.tui.token_view import TokenScreen
from assistant.tui.turn_view import TurnView
from tests.support.chat_driver import ChatDriver, async_test, open_chat, text_of
from tests.support.scripted_session import ScriptedSession, TokenSession

WARM = GenerationSettings(max_new_tokens=64, temperature=0.7)


async def ask(chat: ChatDriver, *texts: str) -> None:
    """Send messages, and wait for their answers."""
    for text in texts:
        count = len(chat.chat.conversation.turns)
        await chat.send(text)
        await chat.until(lambda: len(chat.chat.conversation.turns) > count and chat.idle)  # noqa: B023


# --- variants -----------------------------------------------------------------------------------------------------


@async_test
async def test_variants_have_their_own_seeds_and_the_shown_one_counts() -> None:
    session = ScriptedSession("ok")
    async with open_chat(session, generation=WARM) as chat:
        await ask(chat, "hello")
        session.pieces = ("second",)
        await chat.press("ctrl+r")
        await chat.until(lambda: len(session.settings) == 2 and chat.idle)
        seeds = [settings.seed for settings in session.settings]
        assert seeds[0] != seeds[1]
        words = f"2/2 · 1 token · 20/s · ended by itself · seed {seeds[1]}, temperature 0.7"
        assert chat.texts(".answer") == [f"second\n{words}"]
        await chat.press("left")
        assert chat.texts(".answer")[0].startswith(f"ok\n1/2 kept · 1 token · 20/s · ended by itself · seed {seeds[0]}")
        assert chat.chat.conversation.turns[0].final_text == "ok"
        session.pieces = ("third",)
        await chat.press("ctrl+r")
        await chat.until(lambda: len(session.settings) == 3 and chat.idle)
        assert chat.texts(".answer")[0].startswith("third\n3/3 · ")  # the newest stays on the screen
        assert chat.chat.conversation.turns[0].final_text == "ok"  # but another one counts
        await chat.press("right")
        assert chat.texts(".answer")[0].startswith("ok\n1/3 kept")
        await chat.send("/keep 2")
        assert chat.texts(".answer")[0].startswith("second\n2/3 kept")


@async_test
async def test_text_that_arrives_belongs_to_its_variant_only() -> None:
    session = ScriptedSession("one ", "two ", "three", hold_at=2)
    async with open_chat(session, generation=WARM, every_piece=True) as chat:
        session.gate.set()
        await ask(chat, "hello")
        session.gate.clear()
        await chat.press("ctrl+r")
        await chat.until(lambda: chat.texts(".answer") == ["one two \nwriting …"])
        session.gate.set()
        await chat.press("left")
        await chat.until_idle()
        assert chat.texts(".answer")[0].startswith(("one two three\n1/2 kept", "one two three\n2/2"))


@async_test
async def test_at_temperature_0_again_says_that_nothing_would_change() -> None:
    session = ScriptedSession("ok")
    async with open_chat(session) as chat:
        await ask(chat, "hello")
        await chat.press("ctrl+r")
        assert chat.notice == "At temperature 0 the answer would be the same. f2 sets a temperature."
    assert len(session.instructions) == 1


# --- selecting, editing, copying ----------------------------------------------------------------------------------


@async_test
async def test_a_turn_is_selected_edited_and_sent_again() -> None:
    session = ScriptedSession("ok")
    async with open_chat(session) as chat:
        await ask(chat, "first", "second", "third")
        await chat.press("ctrl+up", "ctrl+up")
        (selected,) = chat.screen.query("TurnView.-selected")
        assert text_of(selected.query_one(".question")) == "first"
        await chat.press("ctrl+down")
        (selected,) = chat.screen.query("TurnView.-selected")
        assert text_of(selected.query_one(".question")) == "second"
        await chat.press("enter")
        assert chat.prompt.instruction == "second"
        await chat.press("!", "enter")
        await chat.until(lambda: len(session.instructions) == 4 and chat.idle)
        assert not chat.screen.query("TurnView.-selected")
        await chat.press("alt+e")
        assert chat.prompt.instruction == "second!"
    assert session.instructions == ["first", "second", "third", "second!"]


@async_test
async def test_a_click_selects_a_turn() -> None:
    async with open_chat() as chat:
        await ask(chat, "first", "second")
        await chat.pilot.pause()  # until the answer is laid out, the turns move
        await chat.pilot.click(chat.screen.query(TurnView).first())
        await chat.until(lambda: chat.screen.query("TurnView.-selected"))
        assert chat.screen.selected == 0


@async_test
async def test_copy_takes_the_original_text_and_then_its_code_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMUX", raising=False)
    answer = "\x1b[2Jone\n```python\nx = 1\n```\n~~~\ny\n~~~\n"
    async with open_chat(ScriptedSession(answer)) as chat:
        written: list[str] = []
        await chat.press("ctrl+y")
        assert chat.app.clipboard == ""
        await ask(chat, "hello")
        assert chat.app._driver is not None
        monkeypatch.setattr(chat.app._driver, "write", written.append)
        for text, name in [(answer, "the answer"), ("x = 1", "code block 1 of 2"), ("y", "code block 2 of 2")]:
            await chat.press("ctrl+y")
            assert chat.app.clipboard == text
            assert chat.notice.startswith(f"Sent {name} to your terminal's clipboard.")
            assert f"\x1b]52;c;{base64.b64encode(text.encode()).decode()}\a" in "".join(written)
        await chat.press("ctrl+y")
        assert chat.app.clipboard == answer


# --- tokens and the exact prompt ----------------------------------------------------------------------------------


@async_test
async def test_tokens_are_shown_and_the_answer_goes_on_from_another_one() -> None:
    session = TokenSession("yes indeed")
    async with open_chat(session) as chat:
        await ask(chat, "hello")
        await chat.press("f3")
        await chat.until(lambda: isinstance(chat.app.screen, TokenScreen))
        assert text_of(chat.app.screen.query_one("#token-text")).startswith("yes indeed")
        first = session.tokenizer.decode(session.tokenizer.encode("yes indeed")[:1])
        assert f"token 1 of {len(session.tokenizer.encode('yes indeed')) + 1} “{first}” · 50 % · rank 1" in text_of(
            chat.app.screen.query_one("#token-detail")
        )
        await chat.press("right", "down", "down", "enter")
        await chat.until(lambda: len(chat.chat.conversation.turns[0].answers["tuned"]) == 2 and chat.idle)
        assert chat.app.screen is chat.screen
        detail = session.inspect([], session.tokenizer.encode("yes indeed"), with_eos=False)[1]
        begin = f"{first}{detail.likeliest[2].text}"
        assert chat.texts(".answer")[0].startswith(f"{begin}yes indeed\n2/2 · ")
        assert "first 2 tokens given by you" in chat.texts(".answer")[0]


@async_test
async def test_the_exact_prompt_is_what_the_session_encodes() -> None:
    session = ScriptedSession("ok")
    async with open_chat(session, size=(100, 60)) as chat:
        await chat.press("f4")
        assert chat.notice == "Type something first, and wait for the model."
        await chat.press(*"Sum it", "tab", *"1 2")
        await chat.press("f4")
        await chat.until(lambda: isinstance(chat.app.screen, PromptScreen))
        prompt, ids = session.encode_prompt("Sum it", input="1 2")
        assert text_of(chat.app.screen.query_one("#prompt-text")) == prompt
        assert f"{len(ids)}  of 256 tokens; {256 - len(ids)} are left" in text_of(chat.app.screen)
        assert f"{len(ids)}/256 tokens" in chat.state
        await chat.press("i")
        assert [int(one) for one in text_of(chat.app.screen.query_one("#prompt-text")).split()] == ids
        await chat.press("escape", "enter")
        await chat.until(lambda: session.instructions and chat.idle)
        await chat.press("f4")
        await chat.until(lambda: isinstance(chat.app.screen, PromptScreen))
        assert text_of(chat.app.screen.query_one("#prompt-text")) == prompt


# --- settings -----------------------------------------------------------------------------------------------------


@async_test
async def test_the_settings_form_changes_the_next_answer() -> None:
    session = ScriptedSession("one ", "two ", "three")
    async with open_chat(session) as chat:
        await chat.press("f2")
        await chat.until(lambda: isinstance(chat.app.screen, SettingsForm))
        form = chat.app.screen
        form.query_one("#temperature", Input).value = "hot"
        await chat.press("enter")
        assert text_of(form.query_one("#settings-problem")).startswith("Temperature: ")
        for name, value in [("temperature", "0.5"), ("seed", "7"), ("max_new_tokens", "2")]:
            form.query_one(f"#{name}", Input).value = value
        await chat.press("enter", "enter")  # typed twice: the form closes once
        await chat.until(lambda: chat.app.screen is chat.screen)
        assert chat.notice == "temperature 0.5 · seed 7 · at most 2 tokens"
        await ask(chat, "hello")
        assert "ran to the limit · seed 7, temperature 0.5" in chat.texts(".answer")[0]
        await chat.press("f2")
        await chat.until(lambda: isinstance(chat.app.screen, SettingsForm))
        chat.app.screen.query_one("#seed", Input).value = "8"
        await chat.press("escape")
        await chat.until(lambda: chat.app.screen is chat.screen)
        assert chat.chat.settings.seed == 7


# --- correction ---------------------------------------------------------------------------------------------------


@async_test
async def test_a_correction_stands_under_the_answer_and_is_saved(tmp_path: Path) -> None:
    async with open_chat(ScriptedSession("A wrong one."), folder=tmp_path) as chat:
        await chat.press("f6")
        assert chat.notice == "There is no answer to correct."
        await ask(chat, "hello")
        await chat.press("f6")
        await chat.until(lambda: isinstance(chat.app.screen, CorrectionScreen))
        for _ in "A wrong one.":
            await chat.press("backspace")
        await chat.press(*"A right", "ctrl+j", *"one.", "enter", "enter")  # the second Enter comes too late
        await chat.until(lambda: chat.app.screen is chat.screen)
        assert chat.texts(".foot") == ["corrected  A right\none."]
        (saved,) = Store(tmp_path).list()
        turn = Store(tmp_path).read(saved.id).turns[0]
    assert (turn.correction, turn.final_text) == ("A right\none.", "A right\none.")


# --- Markdown, growth, nearest ------------------------------------------------------------------------------------


@async_test
async def test_markdown_is_a_key_away_and_keeps_the_text() -> None:
    text = "### Instruction book:\n\n**bold** <b>tag</b>\n\n```python\nx = 1\n```\n"
    async with open_chat(ScriptedSession(text), size=(80, 40)) as chat:
        await ask(chat, "hello")
        note = "1 token · 20/s · ended by itself"
        assert chat.texts(".answer") == [f"{text}\n{note}"]
        await chat.press("f8")
        await chat.until(lambda: "bold <b>tag</b>" in chat.visible())
        assert "###" not in chat.visible()
        assert note in chat.visible()
        await ask(chat, "again")
        await chat.until(lambda: chat.visible().count("bold <b>tag</b>") == 2)
        await chat.press("f8")
        assert chat.texts(".answer") == [f"{text}\n{note}"] * 2


@async_test
async def test_how_the_model_learnt_is_shown_row_by_row(tmp_path: Path) -> None:
    def sample(instruction: str, response: str) -> dict[str, str]:
        return {
            "instruction": instruction,
            "input": "",
            "reference": "Yes.",
            "response": response,
            "stop_reason": "eos",
        }

    lines = [
        {"step": step, "validation_loss": loss, "samples": [sample("Is it?", one), sample("Was it?", "No.")]}
        for step, loss, one in [(0, 3.25, "Perhaps."), (50, 1.5, "Yes.")]
    ]
    (tmp_path / "validation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    async with open_chat() as chat:
        await chat.press("f9")
        assert chat.notice == "A model without a record of its training has no steps to show."
        chat.screen.setup = with_folder(chat.screen.setup, tmp_path)
        await chat.press("f9")
        await chat.until(lambda: isinstance(chat.app.screen, GrowthScreen))
        steps = text_of(chat.app.screen.query_one("#growth-steps")).splitlines()[1:]
        assert [line.split() for line in steps] == [["0", "3.250", "✗", "Perhaps."], ["50", "1.500", "✓", "Yes."]]
        await chat.press("right")
        assert "validation row 2 of 2\n❯ Was it?" in text_of(chat.app.screen)
        await chat.press("escape")
        await chat.until(lambda: chat.app.screen is chat.screen)


def with_folder(setup: ChatSetup, folder: Path) -> ChatSetup:
    """Return the setup with another model folder."""
    return ChatSetup(**{**vars(setup), "folder": folder})


@async_test
async def test_the_nearest_training_row_stands_under_each_answer() -> None:
    train = [
        Example(instruction="What is a calf?", input="", output="A young cow."),
        Example(instruction="Sum.", input="", output="3"),
    ]
    async with open_chat(ScriptedSession("A young cow."), train=train) as chat:
        await ask(chat, "What is a calf?")
        assert "nearest" not in chat.visible()
        await chat.press("f10")
        assert "100 % alike · the same answer  What is a calf? → A young cow." in " ".join(chat.texts(".foot"))
        await chat.press("f10")
        assert "nearest" not in " ".join(widget for widget in chat.texts("TurnView"))
    async with open_chat() as chat:
        await chat.press("f10")
        assert chat.notice == "The training rows of this model are not known here."


# --- conversations ------------------------------------------------------------------------------------------------


async def open_list(chat: ChatDriver) -> OptionList:
    """Open the list of conversations."""
    await chat.press("ctrl+o")
    await chat.until(lambda: isinstance(chat.app.screen, SessionsScreen))
    return chat.app.screen.query_one(OptionList)


def listed(options: OptionList) -> list[str]:
    """The titles in the list."""
    return [str(option.prompt)[14:].partition("  ")[0] for option in options.options]


@async_test
async def test_conversations_are_listed_searched_renamed_binned_and_gone_on_with(tmp_path: Path) -> None:
    for text in ("What is a calf?", "Sum 1 and 2"):
        async with open_chat(ScriptedSession("It is."), folder=tmp_path) as chat:
            await ask(chat, text)
    session = ScriptedSession("New.")
    async with open_chat(session, folder=tmp_path) as chat:
        await ask(chat, "here")
        options = await open_list(chat)
        note = chat.app.screen.query_one("#session-note", Static)
        assert sorted(listed(options)) == ["Sum 1 and 2", "What is a calf?", "here"]
        assert text_of(note) == "3 conversations."
        await chat.press(*"calf")
        await chat.until(lambda: listed(options) == ["What is a calf?"])
        await chat.press("f2")
        await chat.press(*"Young animals", "enter")
        await chat.until(lambda: "Young animals" in listed(options))
        await chat.press(*"young")
        await chat.until(lambda: listed(options) == ["Young animals"])
        await chat.press("delete")
        await chat.until(lambda: not options.option_count)
        assert text_of(note) == "It is in the bin. ctrl+z takes it out again."
        assert [one.title for one in Store(tmp_path / BIN).list()] == ["Young animals"]
        await chat.press("ctrl+z")
        await chat.until(lambda: listed(options) == ["Young animals"])
        await chat.press("enter", "enter")
        await chat.until(lambda: chat.app.screen is chat.screen and chat.texts(".question") == ["What is a calf?"])
        assert chat.texts(".answer") == ["It is.\n1 token · 20/s · ended by itself"]
        await ask(chat, "And a foal?")
        options = await open_list(chat)
        current = next(index for index, one in enumerate(options.options) if "open now" in str(one.prompt))
        options.highlighted = current
        await chat.press("delete")
        assert text_of(chat.app.screen.query_one("#session-note")) == "This is the conversation that is open. It stays."
    titles = {one.title: one.n_turns for one in Store(tmp_path).list()}
    assert titles == {"here": 1, "Sum 1 and 2": 1, "Young animals": 2}


@async_test
async def test_a_conversation_that_another_chat_has_open_is_not_changed(tmp_path: Path) -> None:
    async with open_chat(folder=tmp_path) as other:
        await ask(other, "theirs")
        async with open_chat(folder=tmp_path) as chat:
            options = await open_list(chat)
            for keys in (["delete"], ["f2", "x", "enter"]):
                for key in keys:
                    await chat.press(key)
                note = chat.app.screen.query_one("#session-note")
                await chat.until(lambda: "open in another" in text_of(note))  # noqa: B023
            assert listed(options) == ["theirs"]
            await chat.press("enter")
            await chat.until(lambda: "open in another" in chat.notice)
            assert chat.texts(".question") == []


@async_test
async def test_a_resumed_conversation_is_shown_with_its_runs() -> None:
    rows = [Example(instruction=f"Say {n}.", input="", output="It is.") for n in range(3)]
    conversation = Conversation()
    async with open_chat(ScriptedSession("It is."), rows=rows, conversation=conversation) as chat:
        await ask(chat, "hello")
        await chat.press("f5")
        await chat.until(lambda: chat.chat.runs and chat.idle)
    async with open_chat(conversation=conversation) as chat:
        assert chat.texts(".question") == ["hello"]
        assert chat.texts("RunCard")[0].startswith("3 test rows · tuned 3 ✓\n")
        assert chat.texts("#tally")[0].startswith("3 held-out rows")


@async_test
async def test_a_new_conversation_begins_empty_and_the_one_before_is_kept(tmp_path: Path) -> None:
    async with open_chat(folder=tmp_path) as chat:
        await ask(chat, "first")
        await chat.send("/new")
        await chat.until(lambda: not chat.screen.query(TurnView))
        assert chat.screen.query_one("Welcome").display
        await ask(chat, "second")
    assert sorted(one.title for one in Store(tmp_path).list()) == ["first", "second"]


@async_test
async def test_another_conversation_waits_for_the_answer() -> None:
    session = ScriptedSession("one ", "two", hold_at=1)
    async with open_chat(session) as chat:
        await chat.send("first")
        await chat.until(lambda: session.running)
        for command in ("/new", "/open last"):
            await chat.send(command)
            assert chat.notice == "Wait for the answer, or stop it with esc."
        assert chat.texts(".question") == ["first"]


# --- nothing is lost --------------------------------------------------------------------------------------------------


@async_test
async def test_a_draft_is_recalled_in_the_next_chat(tmp_path: Path) -> None:
    async with open_chat(folder=tmp_path) as chat:
        chat.prompt.set("half a\nquestion", "its input")
        await chat.press("ctrl+q")
    async with open_chat(folder=tmp_path) as chat:
        await chat.press("up")
        assert (chat.prompt.instruction, chat.prompt.input) == ("half a\nquestion", "its input")


@async_test
async def test_a_long_notice_is_shown_to_its_end() -> None:
    async with open_chat(size=(60, 20)) as chat:
        await chat.send("/nothing")
        last = "Two slashes send a message that begins with one."
        await chat.until(lambda: last in " ".join(chat.visible().split()))
        chat.screen.query_one(Foot).end_notice()
        await chat.until(lambda: chat.screen.query_one(Foot).size.height == 1)
        assert last not in " ".join(chat.visible().split())


@async_test
async def test_the_open_conversation_is_renamed_and_not_opened_again(tmp_path: Path) -> None:
    async with open_chat(folder=tmp_path) as chat:
        await ask(chat, "hello")
        options = await open_list(chat)
        await chat.press("f2")
        await chat.until(lambda: "Type the new name" in text_of(chat.app.screen.query_one("#session-note")))
        await chat.press(*"mine", "enter")
        await chat.until(lambda: listed(options) == ["mine"])
        assert chat.chat.conversation.title == "mine"
        await chat.press("enter")
        await chat.until(lambda: chat.app.screen is chat.screen)
        assert chat.notice == "This conversation is open."
        assert chat.texts(".question") == ["hello"]


@async_test
async def test_a_search_shows_where_the_words_stand(tmp_path: Path) -> None:
    async with open_chat(ScriptedSession("It is a platypus."), folder=tmp_path) as chat:
        await ask(chat, "Which animal?")
        options = await open_list(chat)
        await chat.press(*"platyp")
        await chat.until(lambda: "“It is a platypus.”" in str(options.options[0].prompt))
        assert listed(options) == ["Which animal?"]
