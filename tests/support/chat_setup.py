"""A chat's setup with scripted sessions in place of models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from assistant.chat.conversation import Conversation
from assistant.chat.events import DataReady
from assistant.chat.heldout import HeldOut, HeldOutRow
from assistant.chat.nearest import NearestRows
from assistant.chat.records import Opened, Side
from assistant.chat.scores import Suggestion
from assistant.chat.setup import ChatSetup
from assistant.chat.state import ChatSettings, now
from assistant.chat.store import NoStore, Store
from assistant.chat.worker import LoadModel
from assistant.dataset.examples import Example
from assistant.settings import GenerationSettings
from tests.support.scripted_session import ScriptedSession

SessionSource = ScriptedSession | Callable[[], ScriptedSession]
"""A session, or a function that loads one."""


def make_setup(
    tuned: SessionSource | None = None,
    base: SessionSource | None = None,
    *,
    rows: Sequence[Example] = (),
    train: Sequence[Example] = (),
    conversation: Conversation | None = None,
    folder: Path | None = None,
    suggestions: Sequence[Suggestion] = (),
    model_name: str = "toy",
    **settings: Any,
) -> ChatSetup:
    """Return a setup. `folder` keeps the conversations; without one nothing is saved."""
    load: dict[Side, LoadModel] = {"tuned": _loader(tuned or ScriptedSession("Hello."))}
    if base is not None:
        load["base"] = _loader(base)
    opened = Opened(at=now(), model=model_name)
    store = NoStore() if folder is None else Store(folder)
    settings.setdefault("generation", GenerationSettings(max_new_tokens=4096))
    return ChatSetup(
        model_name=model_name,
        base_name="" if base is None else "plain",
        no_base="" if base is not None else "There is no base model here.",
        load=load,
        settings=ChatSettings(**settings),
        store=store,
        opened=opened,
        conversation=conversation or Conversation(),
        file=store.create(opened),
        inputs=store.inputs(),
        suggestions=tuple(suggestions),
        read_data=lambda: _data(rows, train),
    )


def _loader(source: SessionSource) -> LoadModel:
    return (lambda: source) if isinstance(source, ScriptedSession) else source


def _data(rows: Sequence[Example], train: Sequence[Example]) -> DataReady:
    nearest = NearestRows(train) if train else None
    if not rows:
        return DataReady(held_out=HeldOut(problem="The data of this model are not here."), nearest=nearest)
    numbered = tuple(HeldOutRow(id=f"id{n}", example=row) for n, row in enumerate(rows))
    return DataReady(held_out=HeldOut(rows=numbered), nearest=nearest)
