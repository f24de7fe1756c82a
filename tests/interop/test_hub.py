"""`assistant pull`, against a server that speaks the hub's protocol."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest
from huggingface_hub import constants, snapshot_download

from assistant.errors import AssistantError, CheckpointError, PrerequisiteError, SettingsError
from assistant.hub_cache import KNOWN_MODELS, cache_folder, file_name, find_pulled, recorded_name
from assistant.interop import hub as hub_module
from assistant.interop import transfer
from assistant.interop.hub import PulledModel
from assistant.interop.transfer import HubFile
from assistant.model.checkpoint import load_checkpoint
from assistant.shipped import find_model
from tests.conftest import REPOSITORY as CHECKOUT
from tests.interop.conftest import REPOSITORY
from tests.support.commands import invoke
from tests.support.hub_double import Cut, HubDouble, Send, Slow, Status, use_hub

WEIGHTS = "model.safetensors"
UNNEEDED = {"README.md", "tf_model.h5", "pytorch_model.bin"}


class Heard:
    """An observer that keeps what it hears."""

    def __init__(self) -> None:
        self.missing: int | None = None
        self.notes: list[str] = []
        self.done: dict[str, int] = {}

    def on_plan(self, repository: str, commit: str, files: tuple[HubFile, ...], missing: int) -> None:
        del repository, commit, files
        self.missing = missing

    def on_bytes(self, file: HubFile, done: int) -> None:
        assert done <= file.size
        self.done[file.name] = done

    def on_note(self, text: str) -> None:
        self.notes.append(text)


def pull(name: str = "gpt2", heard: Heard | None = None) -> PulledModel:
    return hub_module.pull(name, heard or Heard())


def refusal(kind: type[AssistantError], name: str = "gpt2") -> str:
    with pytest.raises(kind) as caught:
        pull(name)
    return str(caught.value)


def blobs(cache: Path, *, end: str = "") -> list[Path]:
    return [path for path in cache.rglob("blobs/*") if path.name.endswith(end)]


def test_a_pulled_model_is_whole_pinned_and_found_by_its_name(
    hub: HubDouble, cache: Path, tiny_files: dict[str, bytes]
) -> None:
    heard = Heard()
    model = pull(heard=heard)
    commit = hub.repositories[REPOSITORY].refs["main"]
    assert model.commit == commit
    assert model.folder == cache / "models--openai-community--gpt2" / "snapshots" / commit
    assert {path.name: path.read_bytes() for path in model.folder.iterdir()} == tiny_files
    assert model.downloaded == heard.missing == sum(map(len, tiny_files.values()))
    assert heard.done == {name: len(body) for name, body in tiny_files.items()}
    assert (cache / "models--openai-community--gpt2" / "refs" / "main").read_text() == commit
    assert find_model("gpt2") == find_model(REPOSITORY) == find_model(f"gpt2@{commit[:8]}") == model.folder
    assert load_checkpoint(find_model("gpt2")).name == recorded_name(model.folder) == f"{REPOSITORY}@{commit[:12]}"
    assert find_model(f"{REPOSITORY}@{commit[:12]}") == model.folder
    assert file_name(model.folder) == "gpt2"


def test_huggingface_hub_itself_finds_the_model_offline(hub: HubDouble, cache: Path) -> None:
    del hub
    model = pull()
    assert Path(snapshot_download(REPOSITORY, cache_dir=cache, local_files_only=True)) == model.folder


def test_config_is_first_and_weights_last(hub: HubDouble) -> None:
    pull()
    gets = [request.path for request in hub.journal if request.method == "GET" and "/resolve/" in request.path]
    fetched = [path.rpartition("/")[2] for path in gets]
    assert fetched[0] == "config.json"
    assert fetched[-1] == WEIGHTS
    assert not UNNEEDED & set(fetched)


def test_a_second_pull_downloads_nothing_and_a_new_commit_only_what_changed(
    hub: HubDouble, tiny_files: dict[str, bytes]
) -> None:
    first = pull()
    assert pull().downloaded == 0
    changed = json.dumps(json.loads(tiny_files["config.json"]) | {"note": 1}).encode()
    hub.add(REPOSITORY, tiny_files | {"config.json": changed})
    second = pull()
    assert second.downloaded == len(changed)
    assert find_model("gpt2") == second.folder != first.folder
    assert find_model(f"gpt2@{first.commit}") == first.folder


def test_a_branch_and_a_tag_with_a_slash(hub: HubDouble, tiny_files: dict[str, bytes]) -> None:
    hub.add(REPOSITORY, tiny_files, branch="refs/pr/1")
    model = pull("gpt2@refs/pr/1")
    assert model.name == "gpt2@refs/pr/1"
    assert find_model("gpt2@refs/pr/1") == model.folder


def test_works_offline_afterwards(hub: HubDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    model, heard = pull(), Heard()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    requests = len(hub.journal)
    again = hub_module.pull("gpt2", heard)
    assert (again.folder, again.commit, again.downloaded) == (model.folder, model.commit, 0)
    assert "cannot be reached" in heard.notes[0]
    assert len(hub.journal) == requests


def test_offline_names_the_folder_to_fill_by_hand(
    cache: Path, tiny_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    text = refusal(PrerequisiteError)
    folder = cache / "models--openai-community--gpt2" / "snapshots" / "by-hand"
    assert "got offline mode. Unset HF_HUB_OFFLINE" in text
    assert f"into the folder {folder}" in text
    folder.mkdir(parents=True)
    for name in ("config.json", WEIGHTS, "vocab.json", "merges.txt"):
        assert name in text
        (folder / name).write_bytes(tiny_files[name])
    assert load_checkpoint(find_model("gpt2")).config.n_layer == 2


def test_no_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_hub("http://127.0.0.1:9", monkeypatch)
    assert "expected to reach http://127.0.0.1:9, got no connection" in refusal(PrerequisiteError)
    assert not cache.exists()


# --- cuts ---------------------------------------------------------------------------------------------------------


def test_a_cut_download_goes_on_within_a_pull(hub: HubDouble, tiny_files: dict[str, bytes]) -> None:
    hub.faults[WEIGHTS] = [Cut(1000), Cut(0), Cut(500), Status(503)]
    heard = Heard()
    model = pull(heard=heard)
    assert (model.folder / WEIGHTS).read_bytes() == tiny_files[WEIGHTS]
    starts = [request.headers.get("range") for request in hub.gets(WEIGHTS)]
    assert starts == [None, "bytes=1000-", "bytes=1000-", "bytes=1500-", "bytes=1500-"]
    assert len(heard.notes) == 4


def test_a_download_that_is_cut_too_often_is_resumed_by_the_next_pull(
    hub: HubDouble, cache: Path, tiny_files: dict[str, bytes]
) -> None:
    hub.faults[WEIGHTS] = [Cut(1000), *[Cut(0)] * (transfer.MAX_ATTEMPTS - 1)]
    text = refusal(PrerequisiteError)
    assert f"expected {len(tiny_files[WEIGHTS]):,} bytes, got 1,000 before the download was cut" in text
    assert text.endswith("it resumes here.")
    assert [path.stat().st_size for path in blobs(cache, end=".incomplete")] == [1000]
    assert find_pulled("gpt2") is None  # config.json is there, the weights are not
    with pytest.raises(PrerequisiteError, match=r"got an incomplete download. Run: assistant pull gpt2"):
        find_model("gpt2")
    heard = Heard()
    model = pull(heard=heard)
    assert heard.missing == model.downloaded == len(tiny_files[WEIGHTS]) - 1000
    assert hub.gets(WEIGHTS)[-1].headers["range"] == "bytes=1000-"
    assert (model.folder / WEIGHTS).read_bytes() == tiny_files[WEIGHTS]
    assert not blobs(cache, end=".incomplete")


def test_ctrl_c_keeps_what_has_arrived(hub: HubDouble, cache: Path, tiny_files: dict[str, bytes]) -> None:
    hub.faults[WEIGHTS] = [Cut(2000)]

    class Impatient(Heard):
        def on_note(self, text: str) -> None:
            raise KeyboardInterrupt(text)

    with pytest.raises(KeyboardInterrupt):
        hub_module.pull("gpt2", Impatient())
    assert [path.stat().st_size for path in blobs(cache, end=".incomplete")] == [2000]
    assert pull().downloaded == len(tiny_files[WEIGHTS]) - 2000


def test_a_server_without_ranges_starts_the_file_again(hub: HubDouble, tiny_files: dict[str, bytes]) -> None:
    hub.ranges = False
    hub.faults[WEIGHTS] = [Cut(1000)]
    assert (pull().folder / WEIGHTS).read_bytes() == tiny_files[WEIGHTS]


def test_a_slow_server_is_waited_for(hub: HubDouble, tiny_files: dict[str, bytes]) -> None:
    hub.faults[WEIGHTS] = [Slow(0.02, 5)]
    assert (pull().folder / WEIGHTS).read_bytes() == tiny_files[WEIGHTS]


def test_a_server_that_stalls_is_asked_again(
    hub: HubDouble, tiny_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    hub.faults[WEIGHTS] = [Slow(0.6, 1)]
    heard = Heard()
    assert (pull(heard=heard).folder / WEIGHTS).read_bytes() == tiny_files[WEIGHTS]
    assert len(heard.notes) == 1


# --- damage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "vocab.json"])
def test_wrong_bytes_are_discarded(hub: HubDouble, cache: Path, tiny_files: dict[str, bytes], name: str) -> None:
    body = bytearray(tiny_files[name])
    body[len(body) // 2] ^= 1
    hub.faults[name] = [Send(bytes(body))]
    text = refusal(CheckpointError)
    assert text.startswith(f"{REPOSITORY}/{name}: expected bytes with the hash")
    assert "The file was discarded" in text
    assert not blobs(cache, end=".incomplete")
    assert bytes(body) not in {path.read_bytes() for path in blobs(cache)}
    assert (pull().folder / name).read_bytes() == tiny_files[name]


def test_more_bytes_than_announced_are_discarded(hub: HubDouble, cache: Path, tiny_files: dict[str, bytes]) -> None:
    hub.faults[WEIGHTS] = [Send(tiny_files[WEIGHTS] + b"!")]
    assert "got more. The file was discarded" in refusal(CheckpointError)
    assert pull().commit
    assert not blobs(cache, end=".incomplete")


def test_wrong_bytes_of_an_earlier_attempt_do_not_survive(hub: HubDouble, cache: Path) -> None:
    hub.faults[WEIGHTS] = [Send(b"x" * 1000), *[Cut(0)] * transfer.MAX_ATTEMPTS]
    refusal(PrerequisiteError)
    assert "hash" in refusal(CheckpointError)
    assert not blobs(cache, end=".incomplete")
    pull()


# --- refusals -----------------------------------------------------------------------------------------------------


def test_no_such_repository(hub: HubDouble, cache: Path) -> None:
    del hub
    text = refusal(PrerequisiteError, "me/nothing")
    assert "expected a repository at" in text
    assert "a private repository needs HF_TOKEN" in text
    assert not cache.exists()


def test_no_such_revision(hub: HubDouble) -> None:
    text = refusal(PrerequisiteError, "gpt2@v9")
    assert "expected a branch, tag or commit, got no 'v9' there" in text
    assert f"{hub.url}/{REPOSITORY}/commits/main" in text


@pytest.mark.parametrize("code", [401, 403])
def test_gated(hub: HubDouble, code: int) -> None:
    hub.head_fault = Status(code, "GatedRepo")
    text = refusal(PrerequisiteError)
    assert "accept its conditions, and set HF_TOKEN" in text
    assert f"{hub.url}/{REPOSITORY}" in text


@pytest.mark.parametrize(
    ("code", "advice"), [(401, "Set HF_TOKEN"), (403, "ask for access"), (429, "too many"), (500, "Try again later")]
)
def test_other_statuses(hub: HubDouble, code: int, advice: str) -> None:
    hub.api_fault = Status(code)
    text = refusal(PrerequisiteError)
    assert f"status {code}" in text
    assert advice in text


def test_a_login_page_is_not_the_hub(hub: HubDouble) -> None:
    hub.api_fault = Send(b"<html>Please log in</html>")
    assert "whether your network asks for a login" in refusal(PrerequisiteError)


@pytest.mark.parametrize("sha", ["../../../x", "", "main", "A" * 40])
def test_a_commit_that_is_not_one(hub: HubDouble, cache: Path, sha: str) -> None:
    hub.api_fault = Send(json.dumps({"id": REPOSITORY, "sha": sha, "siblings": []}).encode())
    assert "expected a commit" in refusal(PrerequisiteError)
    assert not cache.exists()


@pytest.mark.parametrize("name", ["", "a b", "../x", "/etc", "a/b/c", "a--b", "gpt2@", "gpt2@../x", "gpt2@/x", "a/.b"])
def test_what_is_not_a_name(cache: Path, name: str) -> None:
    assert "OWNER/NAME" in refusal(SettingsError, name)
    assert not cache.exists()


@pytest.mark.parametrize("config", [b'{"model_type": "bloom"}', b"[]", b"{", b'"gpt2"', b"\xff"])
def test_another_model_is_refused_before_its_weights(
    hub: HubDouble, cache: Path, tiny_files: dict[str, bytes], config: bytes
) -> None:
    hub.add("me/other", tiny_files | {"config.json": config})
    assert "config.json: expected" in refusal(CheckpointError, "me/other")
    assert not hub.gets(WEIGHTS)
    assert not (cache / "models--me--other").exists()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"README.md"}, "expected a model with config.json"),
        ({"adapter_config.json"}, "It holds an adapter only"),
        ({"config.json", "vocab.json", "merges.txt"}, "expected model.safetensors or pytorch_model.bin"),
        ({"config.json", "model.safetensors"}, "expected a tokenizer"),
    ],
)
def test_repositories_that_lack_files(hub: HubDouble, files: set[str], expected: str) -> None:
    hub.add("me/part", dict.fromkeys(files, b"{}"))
    assert expected in refusal(CheckpointError, "me/part")


def test_too_little_room(hub: HubDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage())
    text = refusal(PrerequisiteError)
    assert "of free disk space for openai-community/gpt2, got 0.0 MB" in text
    assert "HF_HUB_CACHE" in text
    assert not hub.gets(WEIGHTS)


class _Usage:
    free = 100


def test_a_disk_that_fills_up(hub: HubDouble, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = transfer._stream

    def full(found: Any, file: HubFile, target: IO[bytes], *rest: Any) -> Any:
        if file.name == WEIGHTS:
            raise OSError(errno.ENOSPC, "No space left on device")
        return stream(found, file, target, *rest)

    monkeypatch.setattr(transfer, "_stream", full)
    assert "got a full disk" in refusal(PrerequisiteError)
    monkeypatch.undo()
    assert find_pulled("gpt2") is None
    del hub, cache


def test_two_pulls_of_one_file_do_not_mix(hub: HubDouble, cache: Path) -> None:
    hub.faults[WEIGHTS] = [Cut(1000), *[Cut(0)] * transfer.MAX_ATTEMPTS]
    refusal(PrerequisiteError)
    (partial,) = blobs(cache, end=".incomplete")
    with transfer._only_writer(partial, "x"):
        assert "got another one at work" in refusal(PrerequisiteError)


# --- forms --------------------------------------------------------------------------------------------------------


def test_shards_and_pickles(hub: HubDouble, tiny_files: dict[str, bytes]) -> None:
    rest = {name: body for name, body in tiny_files.items() if name != WEIGHTS}
    shards = {f"model-0000{n}-of-00002.safetensors": b"%d" % n for n in (1, 2)}
    hub.add("me/shards", rest | shards | {"model.safetensors.index.json": b"{}", "pytorch_model.bin": b"pt"})
    model = pull("me/shards")
    names = {path.name for path in model.folder.iterdir()}
    assert names == {*rest, *shards, "model.safetensors.index.json"}
    assert find_model("me/shards") == model.folder
    (model.folder / "model-00002-of-00002.safetensors").unlink()
    assert find_pulled("me/shards") is None
    hub.add("me/pickle", rest | {"pytorch_model.bin": b"pt"})
    assert {path.name for path in pull("me/pickle").folder.iterdir()} == {*rest, "pytorch_model.bin"}


def test_a_server_that_lists_no_sizes(hub: HubDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support import hub_double

    monkeypatch.setattr(hub_double._Handler, "_sibling", lambda _self, name, _body, _blobs: {"rfilename": name})
    assert pull().downloaded > 0
    del hub


def test_a_renamed_repository(hub: HubDouble) -> None:
    hub.renamed["me/old"] = REPOSITORY
    assert pull("me/old").repository == "me/old"
    assert find_pulled("me/old") is not None


def test_the_token_goes_to_the_hub_and_not_to_its_storage(hub: HubDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    pull()
    sent: dict[bool, set[str | None]] = {False: set(), True: set()}
    for request in hub.journal:
        sent[request.path.startswith("/cdn/")].add(request.headers.get("authorization"))
    assert sent == {False: {"Bearer hf_secret"}, True: {None}}


# --- the command --------------------------------------------------------------------------------------------------


def test_the_command_in_a_pipe(hub: HubDouble) -> None:
    done = invoke("pull", "gpt2")
    assert done.exit_code == 0, done.output
    commit = hub.repositories[REPOSITORY].refs["main"]
    assert f"{REPOSITORY} at commit {commit}" in done.stdout
    assert "Next: assistant finetune mine.json --model gpt2" in done.stderr
    assert "model.safetensors: " in done.stderr


def test_the_command_for_scripts_and_another_process(hub: HubDouble, cache: Path) -> None:
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "0"}
    words = [sys.executable, "-m", "assistant", "pull", "gpt2", "--json"]
    run = subprocess.run(
        words, capture_output=True, text=True, check=True, env=environment | {"PYTHONPATH": str(CHECKOUT)}
    )
    record = json.loads(run.stdout)
    assert record["commit"] == hub.repositories[REPOSITORY].refs["main"]
    assert set(record) == {"name", "repository", "revision", "commit", "folder", "files", "bytes", "downloaded_bytes"}
    assert "Traceback" not in run.stderr
    answer = invoke("ask", "gpt2", "Hello", "--max-new-tokens", "2")
    assert answer.exit_code == 0, answer.output


@pytest.mark.parametrize(
    "command",
    [
        ("finetune", "rows.json", "--output", "runs/x", "--model"),
        ("prefer", "rows.json", "--output", "runs/x", "--model"),
        ("data", "show", "rows.json", "--model"),
        ("data", "check", "rows.json", "--model"),
        ("chat",),
        ("ask",),
    ],
)
def test_every_command_says_how_to_pull(folder: Path, cache: Path, command: tuple[str, ...]) -> None:
    rows = (folder / "rows.json").read_text()
    Path("rows.json").write_text(rows)
    done = invoke(*command, "gpt2", *(["Hello"] if command == ("ask",) else []))
    assert done.exit_code == 1
    expected = "model gpt2: expected a folder or a pulled model, got neither. Run: assistant pull gpt2"
    assert expected in done.stderr
    assert not cache.exists()


# --- names and the cache ------------------------------------------------------------------------------------------


def test_a_path_wins_over_a_name(hub: HubDouble, tiny_files: dict[str, bytes]) -> None:
    del hub
    model = pull()
    Path("gpt2").mkdir()
    assert find_model("gpt2") == model.folder  # an empty folder is not a model
    Path("gpt2/config.json").write_bytes(tiny_files["config.json"])
    assert find_model("gpt2") == Path("gpt2")


def test_paths_stay_paths(cache: Path) -> None:
    del cache
    Path("runs").mkdir()
    for name in ("other", "runs/mine", "./gpt2", "/nowhere/gpt2", "a" * 5000, "a b", ""):
        assert find_model(name) == Path(name)
    with pytest.raises(PrerequisiteError, match="run: assistant pull me/mine"):
        find_model("me/mine")


def test_the_old_name_in_the_cache_is_found(cache: Path, tiny_files: dict[str, bytes]) -> None:
    folder = cache / "models--gpt2" / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    for name, body in tiny_files.items():
        (folder / name).write_bytes(body)
    assert find_model("gpt2") == folder


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"HF_HOME": "~/hf"},
        {"HF_HOME": "$HOME/hf", "XDG_CACHE_HOME": "/x"},
        {"XDG_CACHE_HOME": "/x"},
        {"HUGGINGFACE_HUB_CACHE": "/old"},
        {"HUGGINGFACE_HUB_CACHE": "/old", "HF_HUB_CACHE": "~/new"},
    ],
)
@pytest.mark.oracle
def test_the_cache_is_the_librarys(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HOME", "XDG_CACHE_HOME", "HUGGINGFACE_HUB_CACHE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    spec = importlib.util.find_spec("huggingface_hub.constants")
    assert spec is not None
    assert spec.loader is not None
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    assert str(cache_folder()) == fresh.HF_HUB_CACHE


def test_known_names() -> None:
    assert KNOWN_MODELS["gpt2-xl"] == "openai-community/gpt2-xl"
    assert KNOWN_MODELS["smollm2-135m"] == "HuggingFaceTB/SmolLM2-135M"
