"""All saved conversations: files in one folder of the user, and a bin beside them.

A file is `ID.jsonl`, where the id begins with the time of the first message. There is no index that could disagree with
the files: a list reads them.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG

from pydantic import ValidationError

from assistant.chat.conversation import Conversation, Turn, from_records
from assistant.chat.conversation_file import (
    ConversationFile,
    UnsavedFile,
    move_unopened,
    open_for_writing,
    parse_record,
    parse_records,
    read_conversation_file,
    read_lines,
)
from assistant.chat.inputs import InputHistory
from assistant.chat.records import Asked, Opened, Titled
from assistant.errors import AssistantError, DataError, SettingsError
from assistant.escape import one_line
from assistant.files import DATA_VARIABLE, user_data_folder

SUFFIX = ".jsonl"
BIN, INPUTS_FILE = "bin", "inputs"
LAST = "last"
"""Names the conversation that was changed last, instead of an id."""
LONGEST_TITLE = 200
MOST_FOUND = 200
"""Conversations that a search returns."""
_BEGIN = b'{"kind":"'
_ASKED, _TITLED = b'\n{"kind":"asked",', b'\n{"kind":"titled",'


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """A turn in which the words were found."""

    turn: int
    text: str
    """The question or the answer that contains the first word, from shortly before it, at most 200 characters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """A saved conversation, for a list."""

    id: str
    changed: datetime
    """When the last record was written."""
    title: str = ""
    """The name that the person gave, or else the first question; at most 200 characters."""
    model: str = ""
    """Path of the model's folder, or its name."""
    n_turns: int = 0
    problem: str = ""
    """Why the file cannot be read, as a sentence. Empty if it can."""
    hits: tuple[Hit, ...] = ()
    """The turns that a search found. Without one, the title was found."""


class Store:
    """The conversations in a folder. Nothing is written, and no folder created, before there is something to keep.

    Args:
        folder: By default `chats` in the data folder of the user; `ASSISTANT_DATA_DIR` names another data folder.

    Raises:
        SettingsError: the user has no home directory, and no folder is given.
    """

    def __init__(self, folder: Path | None = None) -> None:
        if folder is None:
            home = user_data_folder()
            if home is None:
                raise SettingsError(
                    f"conversations: expected a home directory to keep them in, got none. "
                    f"Name a folder in {DATA_VARIABLE}, or chat with --no-save."
                )
            folder = home / "chats"
        self._folder = folder
        self._open_files: dict[str, ConversationFile] = {}
        self._summaries: dict[Path, tuple[tuple[int, int, int], Summary]] = {}
        """What was read of each file, by its path, with the state of the file at that time."""

    def where(self) -> Path:
        """Return the folder of the conversations. It may not exist yet."""
        return self._folder

    def inputs(self) -> InputHistory:
        """Return the history of what the person typed in all chats."""
        return InputHistory(self._folder / INPUTS_FILE)

    # --- one conversation -----------------------------------------------------------------------------------------

    def create(self, opened: Opened) -> ConversationFile:
        """Return the writer of a new conversation, with its first record. The file appears with the first question."""
        time = opened.at.astimezone().strftime("%Y-%m-%d-%H%M%S")
        file = ConversationFile(self._folder / f"{time}-{secrets.token_hex(3)}{SUFFIX}")
        file.append(opened)
        self._open_files[file.id] = file
        return file

    def open(self, id: str) -> tuple[Conversation, ConversationFile]:
        """Return a conversation to go on with, and its writer. `last` is the one that was changed last.

        Raises:
            SettingsError: there is no conversation of this name.
            DataError: its file is damaged.
            PrerequisiteError: another chat has it open.
        """
        records, file = open_for_writing(self._path(id))
        self._open_files[file.id] = file
        return from_records(records), file

    def read(self, id: str) -> Conversation:
        """Return a conversation, also while a chat has it open. Raises SettingsError or DataError, as `open`."""
        return from_records(read_conversation_file(self._path(id)))

    def model_of(self, id: str) -> str:
        """Return the model that talked: the path of its folder, or its name. Raises as `read`."""
        path = self._path(id)
        summary = self._summary(path)
        if summary.problem:
            raise DataError(summary.problem)
        return summary.model

    def rename(self, id: str, title: str) -> None:
        """Name a conversation. Raises as `open`, or DataError if the name cannot be saved."""
        path = self._path(id)
        record = Titled(at=datetime.now(UTC).replace(microsecond=0), title=title)
        file = self._open_files.get(path.stem)
        if file is not None and file.is_open:
            file.append(record)
            return
        _, file = open_for_writing(path)
        try:
            file.append(record)
        finally:
            file.close()

    def delete(self, id: str) -> Path:
        """Move a conversation to the bin, and return its new path.

        Raises:
            SettingsError: there is no conversation of this name.
            DataError: its file cannot be moved.
            PrerequisiteError: a chat has it open.
        """
        path = self._path(id)
        target = self._folder / BIN / path.name
        move_unopened(path, target)
        return target

    def restore(self, id: str) -> Path:
        """Move a conversation out of the bin again, and return its path. Raises as `delete`."""
        path = _find(self._folder / BIN, id, "in the bin")
        target = self._folder / path.name
        move_unopened(path, target)
        return target

    # --- all conversations ----------------------------------------------------------------------------------------

    def list(self) -> Sequence[Summary]:
        """Return all conversations, the one that was changed last first. A damaged file is listed with its problem."""
        return _newest_first([self._summary(path) for path in _paths(self._folder)])

    def search(self, text: str) -> Sequence[Summary]:
        """Return the newest conversations with all words of the text in their name, or in one turn.

        A word counts inside a longer one, and in small or capital letters. The words of a turn are those of its
        question, its answers and its correction. Damaged files are left out.
        """
        words = text.casefold().split()
        found: list[Summary] = []
        for path in _paths(self._folder):
            hits = _search_file(path, self._summary(path), words)
            found += [] if hits is None else [replace(self._summary(path), hits=hits)]
            if len(found) == MOST_FOUND:
                break
        return _newest_first(found)

    def _summary(self, path: Path) -> Summary:
        try:
            status = path.stat()
        except OSError:  # another chat moved it away
            return summarise(path)
        state = (status.st_mtime_ns, status.st_size, status.st_ino)
        known = self._summaries.get(path)
        if known is None or known[0] != state:
            known = (state, summarise(path))
            self._summaries[path] = known
        return known[1]

    def _path(self, id: str) -> Path:
        if id == LAST:
            problem = ""
            for path in _paths(self._folder):
                summary = self._summary(path)
                if not summary.problem:
                    return path
                problem = problem or summary.problem
            if problem:
                raise DataError(f"conversations: expected one that can be read, got damaged files only. {problem}")
        return _find(self._folder, id, f"of {self._folder}")


class NoStore(Store):
    """Reads conversations, and writes nothing: for `--no-save`."""

    def inputs(self) -> InputHistory:
        """Return a history that is forgotten at the end."""
        return InputHistory()

    def create(self, opened: Opened) -> ConversationFile:
        """Return a writer that writes nothing."""
        del opened
        return UnsavedFile()

    def open(self, id: str) -> tuple[Conversation, ConversationFile]:
        """Return a conversation, and a writer that writes nothing. Raises as `read`."""
        return self.read(id), UnsavedFile()

    def rename(self, id: str, title: str) -> None:
        """Refuse: nothing is changed."""
        del title
        raise _not_saving(id)

    def delete(self, id: str) -> Path:
        """Refuse: nothing is changed."""
        raise _not_saving(id)

    def restore(self, id: str) -> Path:
        """Refuse: nothing is changed."""
        raise _not_saving(id)


def summarise(path: Path) -> Summary:
    """Return what a list shows of a file.

    Reads all of it, but parses only the lines that it needs: damage inside another line shows when the file is opened.
    """
    try:
        changed = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError:
        changed = datetime.fromtimestamp(0, UTC)
    try:
        data = read_lines(path)
        return _summary_of_lines(data, path.stem) or _summary_of_records(data, path)
    except AssistantError as error:
        return Summary(id=path.stem, changed=changed, problem=str(error))


def _summary_of_lines(data: bytes, id: str) -> Summary | None:
    """Return the summary of a file whose lines look as this program writes them. None if one looks different."""
    n_lines = data.count(b"\n")
    if not data.startswith(_BEGIN) or data.count(b"}\n" + _BEGIN) != n_lines - 1 or not data.endswith(b"}\n"):
        return None
    try:
        opened = parse_record(data[: data.index(b"\n")])
        last = parse_record(data[data.rfind(b"\n", 0, -1) + 1 : -1])
        places = [place + 1 for place in (data.find(_ASKED), data.rfind(_TITLED)) if place >= 0]
        titles = [parse_record(data[place : data.index(b"\n", place)]) for place in places]
    except ValidationError:
        return None
    if not isinstance(opened, Opened):
        return None
    title = ""
    for record in titles:
        if isinstance(record, Asked):
            title = record.instruction
        elif isinstance(record, Titled):
            title = record.title or title
    return Summary(
        id=id,
        changed=last.at,
        title=title[:LONGEST_TITLE],
        model=opened.model,
        n_turns=data.count(_ASKED),
    )


def _summary_of_records(data: bytes, path: Path) -> Summary:
    records = parse_records(data, path)
    conversation = from_records(records)
    first = conversation.turns[0].question.instruction if conversation.turns else ""
    return Summary(
        id=path.stem,
        changed=records[-1].at,
        title=(conversation.title or first)[:LONGEST_TITLE],
        model=conversation.opened.model if conversation.opened is not None else "",
        n_turns=len(conversation.turns),
    )


def _search_file(path: Path, summary: Summary, words: Sequence[str]) -> tuple[Hit, ...] | None:
    """Return the turns with the words. None if neither a turn nor the name has all of them."""
    try:
        data = read_lines(path)
        text = data.decode(errors="replace").casefold()
        if not all(word in text for word in words if _is_plain(word)):
            return None
        conversation = from_records(parse_records(data, path))
    except AssistantError:
        return None
    hits = tuple(hit for turn in conversation.turns if (hit := _hit(turn, words)) is not None)
    title = summary.title.casefold()
    return hits if hits or all(word in title for word in words) else None


def _is_plain(word: str) -> bool:
    """Whether a file that contains the word has these characters one after the other: JSON escapes some."""
    return word.isprintable() and '"' not in word and "\\" not in word


def _hit(turn: Turn, words: Sequence[str]) -> Hit | None:
    question = turn.question
    texts = [question.instruction, question.input, turn.correction or ""]
    texts += [answer.response for answers in turn.answers.values() for answer in answers]
    folded = [text.casefold() for text in texts]
    if not words or not all(any(word in text for text in folded) for word in words):
        return None
    text, place = next((text, low.index(words[0])) for text, low in zip(texts, folded, strict=True) if words[0] in low)
    return Hit(turn=turn.number, text=text[max(0, place - 40) :][:LONGEST_TITLE])


def _paths(folder: Path) -> list[Path]:
    """The conversations in a folder, the file that was written last first. Empty files are none."""
    times: dict[Path, int] = {}
    for path in folder.glob(f"[!.]*{SUFFIX}"):
        with suppress(OSError):  # another chat moved it away
            status = path.stat()
            if S_ISREG(status.st_mode) and status.st_size:
                times[path] = status.st_mtime_ns
    return sorted(times, key=lambda path: times[path], reverse=True)


def _newest_first(summaries: Sequence[Summary]) -> list[Summary]:
    return sorted(summaries, key=lambda summary: (summary.changed, summary.id), reverse=True)


def _find(folder: Path, id: str, place: str) -> Path:
    """Return the file of a conversation: by its id, or by the beginning of one id.

    Raises:
        SettingsError: there is none, or several begin so.
    """
    paths = {path.stem: path for path in _paths(folder)}
    matches = [id] if id in paths else [name for name in paths if id and name.startswith(id)]
    if len(matches) == 1:
        return paths[matches[0]]
    if not paths:
        raise SettingsError(f"conversation: expected the id of a conversation {place}, got none: there is none yet.")
    got = f"{one_line(id)!r}, which {len(matches)} begin with" if matches else repr(one_line(id))
    raise SettingsError(
        f"conversation: expected the id of a conversation {place}, got {got}. "
        f"/list in the chat lists all conversations."
    )


def _not_saving(id: str) -> SettingsError:
    return SettingsError(
        f"--no-save: expected to change no saved conversation, got {one_line(id)!r}. Start the chat without it."
    )
