"""What both fronts offer beyond asking: choices, corrections, files, settings, the nearest row, the exact prompt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assistant.chat.actions import (
    change_setting,
    choose,
    correct,
    exact_prompt,
    keep,
    nearest_words,
    order_of,
    other_model,
    save,
    set_setting,
    settings_words,
)
from assistant.chat.chat import Chat
from assistant.chat.conversation import Turn, from_records
from assistant.chat.events import DataReady
from assistant.chat.heldout import HeldOut, HeldOutRow
from assistant.chat.nearest import NearestRows
from assistant.chat.records import Asked, Opened
from assistant.chat.state import ChatSettings, now
from assistant.dataset.examples import Example
from assistant.errors import SettingsError
from assistant.settings import GenerationSettings
from tests.support.chat_front import ChatBench, open_bench
from tests.support.scripted_session import ScriptedSession

ROWS = (Example(instruction="Plural?", input="cat", output="cats"), Example(instruction="Name a hue.", output="Red."))


def ask(bench: ChatBench, *questions: str) -> tuple[Chat, Turn]:
    for question in questions:
        bench.chat.send(question)
    bench.until_idle()
    return bench.chat, bench.chat.conversation.turns[-1]


@pytest.fixture
def bench() -> ChatBench:
    """A chat with both models, whose data are not here."""
    bench = open_bench(ScriptedSession("fish"), ScriptedSession("fowl"), beside=True)
    bench.chat.handle(DataReady(held_out=HeldOut(problem="There are no data.")))
    return bench


# --- choices and corrections --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "chosen"),
    [("left", "base"), ("a", "base"), ("A", "base"), ("RIGHT", "tuned"), ("b", "tuned"), ("neither", None)],
)
def test_a_choice_is_recorded(bench: ChatBench, which: str, chosen: str | None) -> None:
    """The base stands left where no blind choice drew the sides."""
    chat, turn = ask(bench, "Hi")
    said = choose(chat, turn, which)
    assert turn.choice is not None
    assert (None if turn.choice.chosen is None else turn.choice.chosen.side) == chosen
    assert ("You preferred" in said) == (chosen is not None)
    assert "Left was" not in said


def test_a_blind_choice_is_told_who_was_who() -> None:
    chat, turn = ask(open_bench(ScriptedSession("fish"), ScriptedSession("fowl"), blind=True), "Hi")
    left, _ = order_of(turn)
    assert choose(chat, turn, "left").startswith(
        "You preferred the fine-tuned model. Left was the fine-tuned model, right was the base model."
        if left == "tuned"
        else "You preferred the base model. Left was the base model, right was the fine-tuned model."
    )


def test_another_answer_in_a_blind_choice_is_written_in_the_order_of_the_first() -> None:
    """Else the order would tell which model is which."""
    for seed in range(8):
        bench = open_bench(
            ScriptedSession("fish"), ScriptedSession("fowl"), blind=True, generation=GenerationSettings(temperature=1)
        )
        bench.chat._draw.seed(seed)
        chat, turn = ask(bench, "Hi")
        chat.again(turn.number)
        bench.until_idle()
        sides = [key.side for key in bench.front.texts]
        assert sides[:2] == sides[2:] == list(order_of(turn))


def test_what_is_no_choice_is_refused(bench: ChatBench) -> None:
    chat, turn = ask(bench, "Hi")
    assert choose(chat, turn, "\x1b[31m").endswith("got ␛[31m.")
    chat.settings.beside = False
    chat, turn = ask(bench, "Hi")
    assert choose(chat, turn, "left") == "There are no two answers to choose from. /base lets both models answer."
    assert turn.choice is None


def test_a_variant_is_kept(bench: ChatBench) -> None:
    bench.chat.settings.generation = GenerationSettings(temperature=1)
    chat, turn = ask(bench, "Hi")
    chat.again(turn.number)
    bench.until_idle()
    assert keep(chat, turn, 1) == "Answer 1 counts now."
    assert turn.kept_variant == 0
    for number in (0, 3, 10**6):
        assert f"(1, 2), got {number}." in keep(chat, turn, number)
    assert turn.kept_variant == 0


def test_a_correction(bench: ChatBench) -> None:
    chat, turn = ask(bench, "Hi")
    assert "/save-rows" in correct(chat, turn, "Hello.")
    assert turn.final_text == "Hello."
    bench.give_rows(*ROWS)
    chat.deal()
    bench.until_idle()
    assert "stays out of what you train on" in correct(chat, chat.conversation.turns[-1], "x")
    chat.settings.blind = True
    chat, turn = ask(bench, "Hi")
    assert correct(chat, turn, "x") == "Choose first: /choose left, right or neither."
    assert turn.correction is None


# --- files --------------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, and the home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path


def test_files_get_free_names_and_replace_nothing(bench: ChatBench, here: Path) -> None:
    chat, turn = ask(bench, "Hi")
    correct(chat, turn, "Hello.")
    choose(chat, turn, "left")
    assert save(chat, "save", "") == "Written to conversation.md."
    assert save(chat, "save", "") != "Written to conversation.md."
    rows = save(chat, "save-rows", "")
    assert (
        rows
        == "corrections.jsonl: 1 row. Next: assistant finetune corrections.jsonl --model MODEL --output runs/corrected"
    )
    assert json.loads((here / "corrections.jsonl").read_text())["output"] == "Hello."
    assert "Next: assistant prefer pairs.jsonl --model MODEL --output runs/preferred" in save(chat, "save-pairs", "")
    assert (here / "pairs.jsonl").read_text().count("\n") == 2
    before = (here / "corrections.jsonl").read_text()
    assert "corrections.jsonl: expected" in save(chat, "save-rows", "corrections.jsonl")
    assert (here / "corrections.jsonl").read_text() == before


def test_a_name_may_begin_with_the_home_folder(bench: ChatBench, here: Path) -> None:
    chat, _ = ask(bench, "Hi")
    save(chat, "save", "~/talk.md")
    assert (here / "home" / "talk.md").exists()


def test_nothing_to_save_is_said(bench: ChatBench, here: Path) -> None:
    chat, _ = ask(bench, "Hi")
    assert save(chat, "save-rows", "") == "0 rows."
    assert save(chat, "save-pairs", "") == "0 pairs."
    (here / "file").touch()
    assert save(chat, "save", "file/talk.md").startswith("file: expected a folder")
    assert sorted(path.name for path in here.iterdir()) == ["file", "home"]


def test_test_rows_stay_out_also_where_they_were_typed(bench: ChatBench, here: Path) -> None:
    bench.give_rows(*ROWS)
    chat, turn = ask(bench, "Name a hue.")
    correct(chat, turn, "Red.")
    assert save(chat, "save-rows", "").startswith("0 rows. Left out: 1 on test rows")
    assert not (here / "corrections.jsonl").exists()


def test_rows_are_written_only_when_the_test_rows_are_known(here: Path) -> None:
    bench = open_bench(ScriptedSession("fish"))
    chat, turn = ask(bench, "Name a hue.")
    correct(chat, turn, "Red.")
    for what in ("save-rows", "save-pairs"):
        assert save(chat, what, "") == (
            "The test rows are not known yet, and must stay out of the file. Try again in a moment."
        )
    bench.chat.handle(DataReady(held_out=HeldOut(problem="Other data are asked.", tests=ROWS)))
    assert save(chat, "save-rows", "").startswith("0 rows. Left out: 1 on test rows")
    assert sorted(path.name for path in here.iterdir()) == ["home"]


# --- settings, the prompt, the nearest row ------------------------------------------------------------------------


def test_settings_change_one_at_a_time() -> None:
    settings = ChatSettings(generation=GenerationSettings())
    for name, value in (("temperature", "0.5"), ("length", "7"), ("seed", "3")):
        settings.generation, settings.seed = change_setting(settings, name, value)
    assert settings_words(settings) == "temperature 0.5 · seed 3 · at most 7 tokens"
    settings.generation, settings.seed = change_setting(settings, "seed", "")
    assert settings_words(settings) == "temperature 0.5 · a new seed for each answer · at most 7 tokens"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("temperature", "-1", "temperature: expected greater than or equal to 0, got"),
        ("temperature", "warm", "temperature: expected"),
        ("temperature", "", "temperature: expected"),
        ("length", "0", "length: expected"),
        ("top-k", "1", "settings: expected temperature, seed, length, got top-k."),
    ],
)
def test_wrong_settings_are_refused_by_their_own_names(name: str, value: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        change_setting(ChatSettings(generation=GenerationSettings()), name, value)


def test_the_exact_prompt_of_a_question(bench: ChatBench) -> None:
    bench.chat.send("Hi", "there")
    bench.until_idle()
    prompt = exact_prompt(bench.chat, bench.chat.conversation.turns[0])
    assert prompt is not None
    assert prompt.text == bench.chat.card("tuned").template.render("Hi", "there", ())  # type: ignore[union-attr]


def test_the_nearest_row(bench: ChatBench) -> None:
    chat, turn = ask(bench, "Name a colour.")
    assert nearest_words(chat, turn) == ""
    train = (Example(instruction="Name a\x1b colour.", output="fish"), Example(instruction="Plural?", output="x"))
    held_out = HeldOut(rows=tuple(HeldOutRow(id=str(n), example=row) for n, row in enumerate(ROWS)), train=train)
    chat.handle(DataReady(held_out=held_out, nearest=NearestRows(train)))
    words = nearest_words(chat, turn)
    assert "· the same answer  Name a␛ colour. → fish" in words
    chat, turn = ask(bench, "Zzz")
    assert nearest_words(chat, turn) == "nearest training row  none shares a word" or "%" in nearest_words(chat, turn)


def test_nothing_tells_the_models_of_a_blind_choice_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = open_bench(ScriptedSession("fish"), ScriptedSession("fowl"), blind=True)
    monkeypatch.setattr(Chat, "has_learnt_conversations", property(lambda _: True))
    chat, turn = ask(bench, "Name a colour.")
    train = (Example(instruction="Name a colour.", output="fish"),)
    chat.handle(DataReady(held_out=HeldOut(), nearest=NearestRows(train)))
    assert nearest_words(chat, turn) == ""
    assert chat.hides_history
    choose(chat, turn, "left")
    assert "the same answer" in nearest_words(chat, turn)
    assert not chat.hides_history


def test_a_conversation_of_another_model_is_named() -> None:
    asked = Asked(at=now(), turn=0, instruction="Hi")
    opened = Opened(at=now(), model="/models/old\x1b[2J")
    assert other_model(from_records([opened, asked]), "/models/new") == (
        "So far /models/old␛[2J answered here. Now /models/new does."
    )
    assert other_model(from_records([opened, asked]), opened.model) == ""
    assert other_model(from_records([opened]), "/models/new") == ""


def test_a_setting_is_changed_or_the_mistake_is_named() -> None:
    settings = ChatSettings(generation=GenerationSettings(max_new_tokens=7))
    assert set_setting(settings, "temperature 0.5").startswith("temperature 0.5 ")
    assert set_setting(settings, "seed 4") == "temperature 0.5 · seed 4 · at most 7 tokens"
    assert "expected temperature, seed, length" in set_setting(settings, "speed 9")
    assert settings.seed == 4
