"""A chat before it begins: which models, which conversation, which data. Reads no weights and imports no torch.

The command line makes a `ChatSetup`; a front begins it. Tests make one with scripted sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from assistant.chat.chat import Chat
from assistant.chat.conversation import Conversation
from assistant.chat.conversation_file import ConversationFile
from assistant.chat.events import DataReady, Post
from assistant.chat.front import Advice, Front
from assistant.chat.inputs import InputHistory
from assistant.chat.models import find_base
from assistant.chat.records import Opened, Side
from assistant.chat.scores import ModelScore, Suggestion, read_score, read_suggestions
from assistant.chat.state import ChatSettings, now
from assistant.chat.store import Store
from assistant.chat.worker import LoadModel, Worker
from assistant.dataset.examples import Example
from assistant.dataset.prompts import recorded_template
from assistant.decoding.reply import SessionLike
from assistant.errors import PrerequisiteError
from assistant.files import shown_path
from assistant.interop.inventory import read_info
from assistant.model.config import ModelInfo
from assistant.settings import EngineSettings
from assistant.shipped import POCKET, shipped


@dataclass(frozen=True, kw_only=True)
class ChatSetup:
    """All that a chat needs to begin."""

    model_name: str
    """What the title shows until the model is loaded."""
    load: Mapping[Side, LoadModel]
    """Loads each model; called in the worker's thread."""
    settings: ChatSettings
    store: Store
    opened: Opened
    conversation: Conversation = field(default_factory=Conversation)
    file: ConversationFile
    inputs: InputHistory = field(default_factory=InputHistory)
    base_name: str = ""
    is_base_given: bool = False
    """Whether the person named the base model. It need not be the one that the model was fine-tuned from."""
    no_base: str = ""
    """Why there is no base model to compare with, as a sentence."""
    score: ModelScore | None = None
    """The newest score of the model."""
    suggestions: tuple[Suggestion, ...] = ()
    read_data: Callable[[], DataReady] | None = None
    folder: Path | None = None
    info: ModelInfo | None = None

    def opened_now(self) -> Opened:
        """Return the first record of another conversation with these models."""
        return self.opened.model_copy(update={"at": now()})

    def begin(self, front: Front, post: Post, advice: Advice = Advice()) -> Chat:  # noqa: B008  a tuple
        """Start the worker, and return the chat. `post` gets the worker's events in its thread."""
        worker = Worker(self.load, post, prepare=self.read_data)
        chat = Chat(
            front=front,
            worker=worker,
            names={side: self.model_name if side == "tuned" else self.base_name for side in self.load},
            conversation=self.conversation,
            file=self.file,
            opened=self.opened,
            settings=self.settings,
            advice=advice,
            test_rows=[Example(instruction=one.instruction, input=one.input, output="") for one in self.suggestions],
        )
        worker.start()
        return chat


def set_up(
    model: Path,
    *,
    settings: ChatSettings,
    engine: EngineSettings,
    base: str | None,
    data: Sequence[Path],
    store: Store,
    resume: str | None,
) -> ChatSetup:
    """Prepare a chat with the model of a folder.

    Raises:
        AssistantError: the record of the model, the base that `base` names, or the conversation cannot be read.
    """
    info = read_info(model)
    load: dict[Side, LoadModel] = {"tuned": _loader(model, engine)}
    base_name, no_base = "", ""
    if base is None and info is not None:  # to find it, its weights are read: that is work for the worker's thread
        base_name = info.base_model
        load["base"] = _base_loader(model, info, engine)
    else:
        found = find_base(model, info, base)
        if base is not None and found.folder is None:
            raise PrerequisiteError(found.reason)
        base_name, no_base = "" if found.folder is None else shown_name(found.folder), found.reason
        if found.folder is not None:
            load["base"] = _loader(found.folder, engine, info)
    opened = Opened(at=now(), model=str(model.absolute()), base=base_name or None)
    conversation, file = (Conversation(), store.create(opened)) if resume is None else store.open(resume)
    return ChatSetup(
        model_name=shown_name(model),
        base_name=base_name,
        is_base_given=base is not None,
        no_base=no_base,
        load=load,
        settings=settings,
        store=store,
        opened=opened,
        conversation=conversation,
        file=file,
        inputs=store.inputs(),
        score=read_score(model),
        suggestions=read_suggestions(model),
        read_data=lambda: read_data(model, info, data),
        folder=model,
        info=info,
    )


def read_data(model: Path, info: ModelInfo | None, data: Sequence[Path]) -> DataReady:
    """Find the held-out rows, and the training rows to search. A problem becomes a sentence, never an error."""
    from assistant.chat.find_rows import find_held_out
    from assistant.chat.nearest import NearestRows

    found = find_held_out(model, info, data)
    return DataReady(held_out=found, nearest=NearestRows(found.train) if found.train else None)


def shown_name(folder: Path) -> str:
    """Return a model's name for the title: `pocket`, or its path, from here if it is below the current folder."""
    if folder.resolve() == shipped(POCKET).resolve():
        return POCKET
    here = Path.cwd()
    is_below = folder.is_absolute() and folder != here and folder.is_relative_to(here)
    return shown_path(folder.relative_to(here) if is_below else folder)


def _loader(folder: Path, engine: EngineSettings, tuned: ModelInfo | None = None) -> LoadModel:
    """Return what loads a model. A base model gets the template of `tuned`, so that both read the same prompt."""

    def load() -> SessionLike:
        from assistant.decoding.session import Session
        from assistant.device import pick_device
        from assistant.model.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(folder, device=pick_device(engine.device))
        if tuned is not None and checkpoint.info is None:
            template = recorded_template(tuned.template.name, tuned.template.texts)
            checkpoint = replace(checkpoint, template=template, is_template_unknown=False)
        return Session(checkpoint, precision=engine.precision, folder=folder)

    return load


def _base_loader(model: Path, info: ModelInfo, engine: EngineSettings) -> LoadModel:
    """Return what finds the base of a model by its record, and loads it."""

    def load() -> SessionLike:
        found = find_base(model, info, None)
        if found.folder is None:
            raise PrerequisiteError(found.reason)
        return _loader(found.folder, engine, info)()

    return load
