"""Saved conversations: nothing is lost, nothing is seen by others, and two chats never write one file."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assistant.chat.conversation import from_records
from assistant.chat.conversation_file import ConversationFile
from assistant.chat.records import Kept, Record, RowRun, Titled
from assistant.chat.store import BIN, NoStore, Store
from assistant.errors import DataError, PrerequisiteError, SettingsError
from tests.conftest import REPOSITORY
from tests.support.talks import OPENED, answered, asked, at, chosen, corrected, talk

Damage = Callable[[list[bytes]], list[bytes]]
HOSTILE = "\x1b[31m\u202e[bold] \u2028 ``` \U0001f469\u200d\U0001f680 \x00 \r\n end"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data" / "chats")


def write(store: Store, *records: Record) -> str:
    """Save a conversation and close it. Returns its id."""
    file = store.create(OPENED)
    for record in records:
        file.append(record)
    file.close()
    return file.id


def file_of(store: Store, id: str) -> Path:
    return store.where() / f"{id}.jsonl"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- writing and going on -----------------------------------------------------------------------------------------


def test_what_was_saved_is_what_was_said(store: Store) -> None:
    records: list[Record] = [
        OPENED,
        asked(0, HOSTILE, input=HOSTILE, left="base"),
        answered(0, HOSTILE, stop="cancelled", n_history=1),
        answered(0, "other", side="base"),
        Kept(at=at(1), turn=0, variant=0),
        chosen(0, "base"),
        corrected(0, HOSTILE),
        RowRun(at=at(2), run=0, row="7", instruction="a", reference="b", tuned="c", base=None),
        Titled(at=at(3), title=HOSTILE),
    ]
    id = write(store, *records[1:])
    conversation, file = store.open(id)
    assert conversation == from_records(records)
    assert file.is_saved
    file.append(asked(1, "more"))
    file.close()
    assert store.read(id) == from_records([*records, asked(1, "more")])
    assert file_of(store, id).read_bytes().count(b"\n") == len(records) + 1


def test_a_chat_without_a_question_leaves_nothing(store: Store, tmp_path: Path) -> None:
    file = store.create(OPENED)
    file.append(OPENED)
    file.append(Titled(at=at(0), title="Plans"))
    assert not file.is_saved
    file.close()
    assert list(tmp_path.iterdir()) == []
    assert store.list() == []


def test_every_record_is_on_the_disk_before_append_returns(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    fsync = os.fsync

    def watch(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(os.pread(descriptor, 1_000_000, 0))

    monkeypatch.setattr(os, "fsync", watch)
    file = store.create(OPENED)
    file.append(OPENED)  # the chat records it, too
    file.append(asked(0))
    assert file.path.read_bytes() == synced[-1]
    assert synced[-1].count(b"\n") == 2
    file.append(answered(0))
    assert file.path.read_bytes() == synced[-1]
    assert synced[-1].count(b"\n") == 3


def test_only_this_user_can_read_what_was_said(store: Store, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        id = write(store, asked(0))
        store.inputs().add("typed")
        store.delete(id)
        write(store, asked(0))
    finally:
        os.umask(before)
    for path in (tmp_path / "data").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(data=st.data())
def test_a_kill_at_any_byte_loses_at_most_the_last_record(tmp_path: Path, data: st.DataObject) -> None:
    store = Store(tmp_path)
    records: list[Record] = [OPENED, asked(0, "one\ntwo é"), answered(0, "東京"), asked(1), answered(1)]
    id = write(store, *records[1:])
    content = file_of(store, id).read_bytes()
    first = content.index(b"\n") + 1
    kept = content[: data.draw(st.integers(first, len(content)))]
    file_of(store, id).write_bytes(kept)
    complete = records[: kept.count(b"\n")]
    (summary,) = store.list()
    assert not summary.problem
    conversation, file = store.open(id)
    assert conversation == from_records(complete)
    file.append(Titled(at=at(9), title="after"))
    file.close()
    assert store.read(id) == from_records([*complete, Titled(at=at(9), title="after")])
    file_of(store, id).unlink()


def test_a_line_that_a_power_cut_left_without_its_bytes_is_removed(store: Store) -> None:
    id = write(store, asked(0))
    sound = file_of(store, id).read_bytes()
    file_of(store, id).write_bytes(sound + b"\x00" * 5000 + b"\n")
    conversation, file = store.open(id)
    assert len(conversation.turns) == 1
    file.append(asked(1))
    file.close()
    assert file_of(store, id).read_bytes() == sound + asked(1).model_dump_json().encode() + b"\n"


WRITER = """
import sys
from pathlib import Path
from assistant.chat.store import Store
conversation, file = Store(Path(sys.argv[1])).open(sys.argv[2])
print(len(conversation.turns), flush=True)
sys.stdin.read()
"""


def test_the_second_process_gets_a_sentence_and_the_first_is_not_disturbed(store: Store) -> None:
    id = write(store, asked(0))
    words = [sys.executable, "-c", WRITER, str(store.where()), id]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "1\n"
        before = tree(store.where())
        for attempt in (store.open, store.delete, lambda id: store.rename(id, "x")):
            with pytest.raises(PrerequisiteError, match="one that is open in another"):
                attempt(id)
        assert store.read(id).turns
        assert [summary.n_turns for summary in store.list()] == [1]
        assert tree(store.where()) == before
        other.kill()
    conversation, file = store.open(id)
    file.close()
    assert len(conversation.turns) == 1


def test_one_process_cannot_open_a_conversation_twice_and_a_closed_one_is_free(store: Store) -> None:
    id = write(store, asked(0))
    _, file = store.open(id)
    with pytest.raises(PrerequisiteError):
        store.open(id)
    file.close()
    _, again = store.open(id)
    again.close()


# --- a full disk --------------------------------------------------------------------------------------------------


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A disk with room for some bytes more. The caller sets them."""
    room = {"bytes": 10**9}
    pwrite = os.pwrite

    def write_some(descriptor: int, data: bytes, offset: int) -> int:
        if room["bytes"] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = pwrite(descriptor, data[: room["bytes"]], offset)
        room["bytes"] -= written
        return written

    monkeypatch.setattr(os, "pwrite", write_some)
    return room


@pytest.mark.parametrize("room", [0, 1, 300, 500])
def test_what_does_not_fit_on_the_disk_is_written_when_there_is_room(
    store: Store, full: dict[str, int], room: int
) -> None:
    records: list[Record] = [OPENED, asked(0), answered(0, "long " * 100), asked(1), answered(1)]
    file = store.create(OPENED)
    assert not file.is_saved
    full["bytes"] = room
    problems = []
    for record in records[1:4]:
        try:
            file.append(record)
        except DataError as error:
            problems.append(str(error))
    sentence = f"{file.path}: expected to save the conversation, got No space left on device. Make room"
    assert problems
    assert all(problem.startswith(sentence) for problem in problems)
    complete = file.path.read_bytes()
    assert complete == b"" or complete.endswith(b"}\n")
    full["bytes"] = 10**9
    file.append(records[4])
    assert store.read(file.id) == from_records(records)


def test_a_disk_that_stays_full_is_reported_at_the_end_and_leaves_no_empty_file(
    store: Store, full: dict[str, int]
) -> None:
    full["bytes"] = 0
    file = store.create(OPENED)
    with pytest.raises(DataError, match="No space left"):
        file.append(asked(0))
    assert store.list() == []
    with pytest.raises(DataError, match="No space left"):
        file.close()
    assert not file.path.exists()


LIMITED = """
import resource, sys
from pathlib import Path
from assistant.chat.store import Store
from assistant.errors import DataError
from tests.support.talks import talk
store = Store(Path(sys.argv[1]))
first, *others = talk(40)
file = store.create(first)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
failures = 0
for record in others:
    try:
        file.append(record)
    except DataError as error:
        failures += 1
print(failures, file.path.stat().st_size)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
file.close()
"""


def test_a_real_limit_on_the_size_of_files_loses_nothing_either(store: Store) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(store.where())], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    failures, size = map(int, done.stdout.split())
    assert failures > 0
    assert 0 < size <= 4096
    (summary,) = store.list()
    assert store.read(summary.id) == from_records(talk(40))


def test_a_folder_that_cannot_be_created_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    file = Store(tmp_path / "file" / "chats").create(OPENED)
    with pytest.raises(DataError, match="expected to save the conversation, got"):
        file.append(asked(0))


# --- the list -----------------------------------------------------------------------------------------------------


def test_the_list_has_titles_models_turns_and_times_newest_first(store: Store) -> None:
    long = write(store, *talk(3)[1:])
    named = write(store, asked(0, "A question"), Titled(at=at(1), title="Old"), Titled(at=at(200), title="Plans"))
    row = write(store, RowRun(at=at(100), run=0, row="7", instruction="a", reference="b", tuned="c", base="d"))
    unnamed = write(store, asked(0, 'Is "kind":"asked" a word?\n' * 20), Titled(at=at(50), title=""))
    summaries = store.list()
    assert [summary.id for summary in summaries] == [named, row, unnamed, long]
    assert [summary.n_turns for summary in summaries] == [1, 0, 1, 3]
    assert [summary.title for summary in summaries] == [
        "Plans", "", ("Is \"kind\":\"asked\" a word?\n" * 20)[:200], "Question 0?"
    ]  # fmt: skip
    assert [summary.changed for summary in summaries] == [at(200), at(100), at(50), at(2)]
    assert {summary.model for summary in summaries} == {"/models/mine"}
    assert not any(summary.problem for summary in summaries)


@pytest.mark.parametrize(
    ("damage", "row"),
    [
        (lambda lines: [lines[0], lines[1][:40], *lines[2:]], "row 2"),
        (lambda lines: [b"\x00" * 50, *lines[1:]], "row 1"),
        (lambda lines: lines[1:], "row 1"),
        (lambda lines: [lines[0], b"", *lines[1:]], "row 2"),
        (lambda lines: [lines[0].replace(b'"format":1', b'"format":2'), *lines[1:]], "row 1"),
        (lambda lines: [lines[0], b'{"kind":"sung","at":"2026-01-01T00:00:00Z"}', *lines[1:]], "row 2"),
    ],
)
def test_a_damaged_file_is_listed_with_its_problem_and_stays_as_it_is(store: Store, damage: Damage, row: str) -> None:
    sound = write(store, asked(0))
    id = write(store, *talk(3)[1:])
    path = file_of(store, id)
    path.write_bytes(b"\n".join(damage(path.read_bytes().split(b"\n"))))
    before = path.read_bytes()
    problems = {summary.id: summary.problem for summary in store.list()}
    assert problems[sound] == ""
    if b"sung" not in before:  # a list does not parse the lines between
        assert f"{path}, {row}" in problems[id]
    for attempt in (store.open, store.read):
        with pytest.raises(DataError, match=f"{row}: expected"):
            attempt(id)
    assert path.read_bytes() == before
    assert store.search("Question") == []
    if b"sung" not in before:
        assert store.open("last")[1].id == sound


def test_other_files_in_the_folder_are_no_conversations(store: Store) -> None:
    id = write(store, asked(0))
    (store.where() / "notes.txt").write_text("x")
    (store.where() / ".hidden.jsonl").write_text("x")
    (store.where() / "folder.jsonl").mkdir()
    (store.where() / "empty.jsonl").write_text("")
    os.mkfifo(store.where() / "pipe.jsonl")
    (store.where() / "gone.jsonl").symlink_to("nowhere")
    assert [summary.id for summary in store.list()] == [id]


@pytest.mark.parametrize("id", ["", "..", "../secret", "/etc/passwd", "bin/x", "none", "\x1b[31m", "a\x00b"])
def test_a_name_that_is_none_is_refused(store: Store, id: str) -> None:
    write(store, asked(0))
    (store.where().parent / "secret.jsonl").write_text(OPENED.model_dump_json() + "\n")
    for attempt in (store.open, store.read, store.delete, store.restore, store.model_of):
        with pytest.raises(SettingsError, match="conversation: expected the id") as refused:
            attempt(id)
        assert str(refused.value).isprintable()


def test_the_beginning_of_an_id_and_last_name_a_conversation(store: Store) -> None:
    ids = ["2026-03-01-120000-aaaaaa", "2026-03-01-120000-bbbbbb"]
    for id in ids:
        file_of(store, write(store, asked(0))).rename(file_of(store, id))
    os.utime(file_of(store, ids[0]), (2e9, 2e9))
    assert store.open("last")[1].id == ids[0]
    assert store.open(ids[1][:-1])[1].id == ids[1]
    assert store.model_of("last") == "/models/mine"
    with pytest.raises(SettingsError, match="which 2 begin with"):
        store.read("20")


# --- renaming, the bin, searching ---------------------------------------------------------------------------------


def test_a_conversation_is_renamed_also_while_this_chat_has_it_open(store: Store) -> None:
    id = write(store, asked(0))
    store.rename(id, "First")
    _, file = store.open(id)
    assert store.list()[0].title == "First"
    store.rename(id, "Second")
    file.append(asked(1))
    file.close()
    assert (store.list()[0].title, store.read(id).title) == ("Second", "Second")


def test_the_bin_gives_back_what_was_thrown_away(store: Store) -> None:
    id = write(store, *talk(2)[1:])
    content = file_of(store, id).read_bytes()
    binned = store.delete(id)
    assert (store.list(), binned.parent.name, binned.stem) == ([], BIN, id)
    assert binned.read_bytes() == content
    assert store.search("Question") == []
    store.restore(id)
    assert file_of(store, id).read_bytes() == content
    assert not binned.exists()


def test_nothing_is_replaced_in_the_bin_or_by_what_comes_out_of_it(store: Store) -> None:
    id = write(store, asked(0))
    store.delete(id)
    file_of(store, id).write_text(OPENED.model_dump_json() + "\n")
    before = tree(store.where())
    for attempt in (store.delete, store.restore):
        with pytest.raises(DataError, match="already there"):
            attempt(id)
    assert tree(store.where()) == before


def test_search_finds_words_in_questions_answers_corrections_and_names(store: Store) -> None:
    first = write(
        store,
        asked(0, "Where is the Straße?", input="In Köln"),
        answered(0, 'He said "north\\south"\nand left.'),
        asked(1, "Nothing here"),
        answered(1, "The base knows Lima", side="base"),
        corrected(1, "Peru"),
    )
    second = write(store, asked(0, "köln and north"), Titled(at=at(500), title="Trip to Rome"))

    def found(text: str) -> list[tuple[str, list[int]]]:
        return [(summary.id, [hit.turn for hit in summary.hits]) for summary in store.search(text)]

    assert found("STRASSE") == [(first, [0])]
    assert found("north köln") == [(second, [0]), (first, [0])]
    assert found('"north\\south"') == [(first, [0])]
    assert found("lima peru") == [(first, [1])]
    assert found("here") == [(first, [0, 1])]
    assert found("rome") == [(second, [])]
    assert found("lima köln") == []
    assert store.search("left.")[0].hits[0].text.endswith("and left.")
    assert len(store.search(" ")) == 2


# --- without saving -----------------------------------------------------------------------------------------------


def test_no_save_writes_nothing_and_still_reads(store: Store, tmp_path: Path) -> None:
    id = write(store, *talk(2)[1:])
    before = tree(tmp_path)
    unsaved = NoStore(store.where())
    file = unsaved.create(OPENED)
    conversation, resumed = unsaved.open(id)
    assert len(conversation.turns) == 2
    for one in (file, resumed):
        one.append(asked(2))
        one.close()
        assert (one.is_saved, one.id) == (False, "")
    unsaved.inputs().add("typed")
    for attempt in (unsaved.delete, unsaved.restore, lambda id: unsaved.rename(id, "x")):
        with pytest.raises(SettingsError, match="--no-save"):
            attempt(id)
    assert [summary.id for summary in unsaved.search("Question")] == [id]
    assert tree(tmp_path) == before


def test_the_folder_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ASSISTANT_DATA_DIR", str(tmp_path / "here"))
    assert Store().where() == tmp_path / "here" / "chats"
    monkeypatch.delenv("ASSISTANT_DATA_DIR")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert Store().where() == tmp_path / "xdg" / "instruction-assistant" / "chats"
    monkeypatch.setattr("assistant.chat.store.user_data_folder", lambda: None)
    with pytest.raises(SettingsError, match="ASSISTANT_DATA_DIR, or chat with --no-save"):
        Store()


def test_a_writer_of_a_new_file_never_writes_into_another(tmp_path: Path) -> None:
    (tmp_path / "taken.jsonl").write_text("precious")
    file = ConversationFile(tmp_path / "taken.jsonl")
    with pytest.raises(DataError, match="File exists"):
        file.append(asked(0))
    assert (tmp_path / "taken.jsonl").read_text() == "precious"


def test_last_names_the_damage_where_no_conversation_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "2026-01-01-000000-abcd.jsonl").write_text('{"kind": "asked"\n{"kind"\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"damaged files only.*2026-01-01-000000-abcd"):
        Store(tmp_path).open("last")
    with pytest.raises(SettingsError, match="there is none yet"):
        Store(tmp_path / "empty").open("last")
