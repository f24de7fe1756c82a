"""A chat before it begins: models, base, data, conversation. And its answers are those of `evaluation respond`."""

from __future__ import annotations

import queue
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from assistant.chat.chat import Chat
from assistant.chat.events import Event, ModelReady
from assistant.chat.setup import ChatSetup, read_data, set_up, shown_name
from assistant.chat.state import ChatSettings
from assistant.chat.store import NoStore, Store
from assistant.dataset.examples import Example, Exchange
from assistant.dataset.tokenizer import Tokenizer
from assistant.decoding.session import Session
from assistant.errors import PrerequisiteError, SettingsError
from assistant.model.checkpoint import load_info
from assistant.settings import EngineSettings, GenerationSettings
from assistant.shipped import POCKET, shipped
from evaluation.answers.responses import answer
from tests.support.chat_front import RecordingFront
from tests.support.commands import FINETUNE, invoke
from tests.support.models import save_tiny

GREEDY = GenerationSettings(max_new_tokens=12)
PATIENCE_SECONDS = 20.0


def setup_of(model: str, **options: Any) -> ChatSetup:
    """What `assistant chat MODEL` makes."""
    given: dict[str, Any] = {
        "settings": ChatSettings(generation=GREEDY), "engine": EngineSettings(), "base": None, "data": (),
        "store": NoStore(), "resume": None,
    }  # fmt: skip
    return set_up(Path(model), **(given | options))


class Talk:
    """A begun chat. `until` handles the events."""

    def __init__(self, setup: ChatSetup) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.threads: set[str] = set()
        self.front = RecordingFront()
        self.chat: Chat = setup.begin(self.front, self._post)
        self.until_idle()

    def _post(self, event: Event) -> None:
        if isinstance(event, ModelReady):
            self.threads.add(threading.current_thread().name)
        self.events.put(event)

    def until_idle(self) -> None:
        chat = self.chat
        while (
            "loading" in (chat.state("tuned"), chat.state("base"))
            or not chat.has_read_data
            or chat.open_answers
            or chat.waiting
            or not all(run.has_ended for run in chat.runs.values())
        ):
            chat.handle(self.events.get(timeout=PATIENCE_SECONDS))

    def ask(self, instruction: str, input: str = "") -> str:
        self.chat.send(instruction, input)
        self.until_idle()
        found = self.chat.conversation.turns[-1].answer("tuned")
        assert found is not None, self.front.problems
        return found.response

    def close(self) -> None:
        self.chat.close()
        assert self.chat.worker.has_ended(within=PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, byte_tokenizer: Tokenizer) -> Path:
    """A folder with `base`, `rows.json` and the model `out` that was trained on them."""
    from assistant.dataset.instructions import dump_rows

    place = tmp_path_factory.mktemp("tuned")
    save_tiny(place / "base", byte_tokenizer)
    words = ("red", "blue", "green", "gold", "pink", "grey", "black", "white", "brown", "teal")
    rows = [
        Example(instruction=f"Say {word} {how}.", output=f"{word.upper()}") for word in words for how in ("it", "so")
    ]
    (place / "rows.json").write_text(dump_rows(rows))
    words_ = ("--model", str(place / "base"), "--output", str(place / "out"), *FINETUNE, "--template", "phi3")
    done = invoke("finetune", str(place / "rows.json"), *words_)
    assert done.exit_code == 0, done.output
    return place


# --- models -------------------------------------------------------------------------------------------------------


def test_the_base_is_found_and_loaded_in_the_workers_thread(tuned: Path) -> None:
    setup = setup_of(str(tuned / "out"))
    assert (setup.base_name, setup.no_base, setup.is_base_given) == ("base", "", False)
    talk = Talk(setup)
    assert talk.threads == {"chat worker"}
    base = talk.chat.card("base")
    assert base is not None
    assert base.folder == tuned / "base"
    assert base.info is None
    assert base.template.name == "phi3"  # both read the same prompt
    talk.close()


def test_a_base_that_has_gone_is_a_sentence(tuned: Path, tmp_path: Path) -> None:
    shutil.copytree(tuned / "out", tmp_path / "out")
    record = tmp_path / "out" / "assistant.json"
    record.write_text(record.read_text().replace(str(tuned / "base"), "/nowhere").replace('"base"', '"gone"'))
    for path in (tmp_path / "out").glob("assistant.json"):
        assert load_info(path.parent) is not None
    talk = Talk(setup_of(str(tmp_path / "out")))
    assert talk.chat.state("tuned") == "ready"
    assert not talk.chat.has_base
    assert "gone" in talk.chat.load_problem("base")
    assert talk.front.problems == []  # it is said when the person asks for the base
    talk.close()


def test_a_base_model_has_no_base(tuned: Path) -> None:
    setup = setup_of(str(tuned / "base"))
    assert list(setup.load) == ["tuned"]
    assert "is a base model, so there is nothing to compare it with." in setup.no_base


def test_a_named_base_is_used_or_refused(tuned: Path) -> None:
    setup = setup_of(str(tuned / "base"), base=str(tuned / "out"))
    assert (list(setup.load), setup.is_base_given) == (["tuned", "base"], True)
    with pytest.raises(PrerequisiteError, match="--base: model nosuch: expected a model folder"):
        setup_of(str(tuned / "out"), base="nosuch")


def test_names_in_the_title(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown_name(shipped(POCKET)) == "pocket"
    assert shown_name(tmp_path / "runs" / "mine") == "runs/mine"
    assert shown_name(Path("runs/mine")) == "runs/mine"
    assert shown_name(Path("/elsewhere/mine")) == "/elsewhere/mine"
    assert shown_name(tmp_path) == str(tmp_path)


# --- conversation and data ----------------------------------------------------------------------------------------


def test_a_conversation_goes_on(tuned: Path, tmp_path: Path) -> None:
    store = Store(tmp_path)
    talk = Talk(setup_of(str(tuned / "out"), store=store))
    talk.ask("Say red it.")
    talk.close()
    setup = setup_of(str(tuned / "out"), store=store, resume="last")
    assert [turn.question.instruction for turn in setup.conversation.turns] == ["Say red it."]
    talk = Talk(setup)
    talk.ask("Say blue it.")
    talk.close()
    assert [turn.question.instruction for turn in store.read("last").turns] == ["Say red it.", "Say blue it."]
    with pytest.raises(SettingsError, match="conversation: expected the id"):
        setup_of(str(tuned / "out"), store=store, resume="nosuch")


def test_the_data_are_read_or_the_reason_is_told(tuned: Path, tmp_path: Path) -> None:
    found = read_data(tuned / "out", load_info(tuned / "out"), ())
    assert found.nearest is not None
    assert len(found.held_out.rows) == 2
    assert {row.example for row in found.held_out.rows}.isdisjoint(found.held_out.train)
    (tmp_path / "bad.json").write_text("{")
    for data in (tmp_path / "bad.json", tmp_path / "nosuch.json", tmp_path):
        nothing = read_data(tuned / "out", load_info(tuned / "out"), (data,))
        assert not nothing.held_out.rows
        assert nothing.held_out.problem
    assert read_data(tuned / "base", None, ()).held_out.problem.startswith("A base model has no test rows.")


# --- the answers are those of `evaluation respond` ----------------------------------------------------------------

ODD = (
    Example(instruction="Say red it.", output="x"),
    Example(instruction="Say red it.", input="blue", output="x"),
    Example(instruction="  Say\tred \n\n it. \n", input=" blue ", output="x"),
    Example(instruction="Say red it.", input="\nblue\n", output="x"),
    Example(instruction="Say red it.\n\n### Input:\nblue", output="x"),
    Example(instruction="\u00e9\u200d<|endoftext|> \u2028", input="\x1b[31m", output="x"),
    Example(instruction="x" * 30, input="y", output="x"),
    Example(instruction="And blue?", output="x", history=(Exchange("Say red it.", "RED"), Exchange(" a ", "\nb"))),
)


def respond(folder: Path, examples: tuple[Example, ...], into: Path) -> list[str]:
    """The responses of `evaluation respond`, in the order of the rows."""
    into.mkdir()
    session = Session.load(folder)
    records = answer(session, examples, into, GREEDY, batch_size=4, reference_bits=False)
    by_row = {record.id: record for record in records}
    from assistant.dataset.examples import row_ids

    return [str(by_row[id].response) for id in row_ids(examples)]


@pytest.mark.parametrize("model", ["out", "base"])
def test_the_chat_answers_like_respond(tuned: Path, tmp_path: Path, model: str) -> None:
    from assistant.chat.heldout import HeldOutRow

    expected = respond(tuned / model, ODD, tmp_path / "run")
    assert len(set(expected)) > 3
    talk = Talk(setup_of(str(tuned / model)))
    typed = [talk.ask(row.instruction, row.input) for row in ODD if not row.history]
    assert typed == [response for row, response in zip(ODD, expected, strict=True) if not row.history]
    rows = tuple(HeldOutRow(id=str(number), example=row) for number, row in enumerate(ODD))
    talk.chat._rows = {row.id: row for row in rows}
    for row in rows:
        talk.chat.send(row.example.instruction, row.example.input, row)
    talk.until_idle()
    dealt = [turn.answers["tuned"][0].response for turn in talk.chat.conversation.turns[-len(rows) :]]
    assert dealt == expected
    talk.close()


def test_a_run_answers_like_respond(tuned: Path, tmp_path: Path) -> None:
    talk = Talk(setup_of(str(tuned / "out")))
    examples = tuple(row.example for row in talk.chat.held_out.rows)
    expected = dict(
        zip((row.instruction for row in examples), respond(tuned / "out", examples, tmp_path / "run"), strict=True)
    )
    talk.chat.run_rows(20)
    talk.until_idle()
    assert {row.instruction: row.tuned for row in talk.chat.conversation.rows} == expected
    talk.close()


def test_a_broken_record_is_a_problem_of_the_model(tuned: Path, tmp_path: Path) -> None:
    shutil.copytree(tuned / "out", tmp_path / "out")
    (tmp_path / "out" / "assistant.json").write_text("{")
    talk = Talk(setup_of(str(tmp_path / "out")))
    assert talk.chat.state("tuned") == "failed"
    assert "assistant.json" in talk.chat.load_problem("tuned")
    talk.close()
