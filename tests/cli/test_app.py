"""The `assistant` command, from its words to its output. Tests of signals and pipes start a new process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from assistant.cli.app import app
from assistant.cli.console import print_json
from assistant.dataset.instructions import Example, dump_rows
from assistant.dataset.tokenizer import Tokenizer
from assistant.model.checkpoint import load_checkpoint
from tests.conftest import REPOSITORY
from tests.support.commands import FINETUNE, assistant, invoke, start, wait_for_steps
from tests.support.models import save_tiny
from tests.support.ollama_double import OllamaDouble


def test_a_finetuned_model_answers_like_transformers(folder: Path) -> None:
    done = assistant("finetune", "rows.json", "--model", "base", "--output", "out", *FINETUNE, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["best_validation_loss"] < result["first_validation_loss"]
    assert "34 training rows, 2 validation rows, 10 steps, float32 on cpu." in done.stderr
    assert "Next: assistant chat out" in done.stderr
    assert "Traceback" not in done.stderr
    assert (folder / "out" / "loss.png").exists()

    asked = assistant("ask", "out", "Say red once.", "--temperature", "0", "--max-new-tokens", "12", "--json")
    reply = json.loads(asked.stdout)
    assert reply.keys() >= {"prompt", "prompt_token_ids", "response", "token_ids", "stop_reason"}
    assert reply["prompt"].endswith("### Instruction:\nSay red once.\n\n### Response:\n")

    from transformers import AutoModelForCausalLM

    hf_model = AutoModelForCausalLM.from_pretrained(folder / "out").eval()
    ids = torch.tensor([reply["prompt_token_ids"]])
    tokens = hf_model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)[0].tolist()
    expected = tokens[ids.shape[1] :]
    assert reply["token_ids"] == (expected[: expected.index(256)] if 256 in expected else expected)

    plain = invoke("ask", "out", "--max-new-tokens", "12", text="Say red once.\n")
    assert plain.stdout == reply["response"] + "\n"


@pytest.mark.usefixtures("folder")
def test_ask_applies_every_decoding_option() -> None:
    words = ["ask", "base", "Say", "--max-new-tokens", "8"]
    plain = json.loads(invoke(*words, "--json").stdout)
    assert plain["logprobs"] is None
    scored = json.loads(invoke(*words, "--json", "--logprobs", "2").stdout)
    assert [token["token_id"] for token in scored["logprobs"]][:8] == plain["token_ids"]
    first = scored["logprobs"][0]
    assert first["text"] == first["likeliest"][0]["text"]
    assert first["logprob"] == first["likeliest"][0]["logprob"] < 0
    assert len(first["likeliest"]) == 2

    stop = plain["response"][2:4]
    cut = json.loads(invoke(*words, "--json", "--stop", "not there", "--stop", stop).stdout)
    assert cut["stop_reason"] == "stop"
    assert cut["response"] == plain["response"].partition(stop)[0]
    assert invoke(*words, "--stop", stop).stdout == cut["response"] + "\n"
    other = json.loads(invoke(*words, "--json", "--repetition-penalty", "5").stdout)
    assert other["token_ids"] != plain["token_ids"]
    coldest = json.loads(invoke(*words, "--json", "--temperature", "2", "--min-p", "1").stdout)
    assert coldest["token_ids"] == plain["token_ids"]

    assert "note: --logprobs does nothing without --json." in invoke(*words, "--logprobs", "2").stderr
    wrong = invoke(*words, "--min-p", "2", "--repetition-penalty", "0", "--stop", "", "--logprobs", "-1")
    assert wrong.exit_code == 2
    for sentence in (
        "--min-p: expected less than or equal to 1, got 2.0.",
        "--repetition-penalty: expected greater than 0, got 0.0.",
        "--stop: expected at least 1 character, got ''.",
        "--logprobs: expected greater than or equal to 0, got -1.",
    ):
        assert sentence in wrong.stderr


@pytest.mark.usefixtures("folder")
def test_ask_uses_the_training_template_and_refuses_a_changed_one() -> None:
    done = invoke("finetune", "rows.json", "-m", "base", "-o", "out", *FINETUNE, "--template", "phi3")
    assert done.exit_code == 0, done.stderr
    reply = json.loads(invoke("ask", "out", "Say", "--input", "red", "--max-new-tokens", "1", "--json").stdout)
    assert reply["prompt"] == "<|user|>\nSay\nred\n<|assistant|>:\n"
    path = Path("out/assistant.json")
    info = (
        path.read_text().replace('"<|user|>\\n"', '"<|human|>\\n"').replace('"fingerprint": "3a', '"fingerprint": "4b')
    )
    path.write_text(info)
    refused = invoke("ask", "out", "Say")
    assert refused.exit_code == 1
    assert "They differ in token 3 of the prompt: 'h' in training, 'u' now." in refused.stderr


@pytest.mark.parametrize("more", [[], ["--lora", "--learning-rate", "0.01"]])
def test_a_killed_and_interrupted_run_resumes_to_the_same_weights(folder: Path, more: list[str]) -> None:
    """SIGKILL first, then SIGINT. The weights equal those of a run without interruptions."""
    signals = [signal.SIGKILL, signal.SIGINT]
    words = ["finetune", "rows.json", "-m", "base", *FINETUNE, "--max-steps", "90", "--batch-size", "2", *more]
    whole = invoke(*words, "-o", "whole")
    assert whole.exit_code == 0, whole.stderr
    words += ["--save-every", "0.05"]
    steps = 10
    for number, signal_number in enumerate(signals):
        process = start(*words, "-o", "parts", *(["--resume"] if number else []))
        wait_for_steps(folder / "parts" / "metrics.jsonl", steps, process)
        process.send_signal(signal_number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == (130 if signal_number == signal.SIGINT else -signal.SIGKILL), errors
        if signal_number == signal.SIGINT:
            assert "The same command with --resume continues from there." in errors
            assert load_checkpoint(folder / "parts").info is not None
        steps += 20
    assert invoke(*words, "-o", "parts").exit_code == 2  # needs --resume or --overwrite
    resumed = invoke(*words, "-o", "parts", "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    for name in ("model.safetensors", "last/model.safetensors"):
        assert (folder / "parts" / name).read_bytes() == (folder / "whole" / name).read_bytes()
    for other in (["--split", "book"], ["--split-seed", "7"], ["-m", "parts"]):
        assert invoke(*words, *other, "-o", "parts", "--resume").exit_code == 2
    again = invoke(*words, "-o", "parts", "--resume", "--json")
    assert "finished already" in again.stderr
    assert json.loads(again.stdout)["steps"] == 90


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["finetune", "rows.json", "-m", "nowhere", "-o", "out"], 1, "nowhere: expected a model folder"),
        (["finetune", "nothing.json", "-m", "base", "-o", "out"], 1, "got no such file"),
        (["finetune", "bad.json", "-m", "base", "-o", "out"], 1, 'bad.json, row 17: "output" is missing'),
        (["finetune", "rows.json", "-m", "base", "-o", "base"], 2, "expected a new or empty folder"),
        (["finetune", "rows.json", "-m", "base", "-o", "out", "--epochs", "0"], 2, "--epochs: expected greater than"),
        (["finetune", "rows.json", "-m", "base", "-o", "out", "--lora", "--lora-modules", "head"], 2, "--lora-modules"),
        (["finetune", "rows.json", "-m", "base", "-o", "out", "--template", "x"], 2, "expected one of alpaca"),
        (["finetune", "rows.json", "-m", "base", "-o", "out", "--device", "tpu"], 2, "device: expected one of auto"),
        (
            ["finetune", "long.json", "-m", "base", "-o", "out", "--too-long", "error", "--split", "book"],
            1,
            "expected at most 256",
        ),
        (["ask", "base", "x" * 400], 1, "which leaves the model no room to answer"),
        (["ask", "base", "  "], 2, "instruction: expected some text"),
        (["ask", "base", "x", "--temperature", "-1"], 2, "--temperature: expected greater than or equal to 0"),
        (["ask", "./nowhere", "Hi"], 1, "nowhere: expected a model folder, got no such folder"),
        (["ask", "Just a question?"], 1, "Run `assistant demo` first"),
        (["ask", "Please explain this to me. " * 12], 1, "Run `assistant demo` first"),
        (["ask", "tuned"], 1, "tuned: expected a model folder, got no such folder"),
        (["ask", "base", "x", "--device", "meta"], 2, "device: expected one of auto"),
        (
            ["finetune", "rows.json", "-m", "base", "-o", "out", "--max-grad-norm", "inf"],
            2,
            "--max-grad-norm: expected",
        ),
        (["finetune", "rows.json", "-m", "base", "-o", "out", "--resume", "--overwrite"], 2, "without --overwrite"),
        (
            ["finetune", "rows.json", "-m", "base", "-o", "out", "--max-length", "999"],
            2,
            "--max-length: expected at most",
        ),
        (
            ["finetune", "rows.json", "-m", "base", "-o", "out", "--test-share", "0.7", "--validation-share", "0.3"],
            2,
            "expected less than 1 together, got 0.7 and 0.3",
        ),
        (["finetune", "text.jsonl", "-m", "base", "-o", "out"], 1, "text.jsonl, row 1: expected an instruction"),
        (["demo", "--seed", "-5"], 2, "--seed: expected"),
        (["demo", "--seed", str(10**23)], 2, "--seed: expected"),
        (["chat"], 1, "Run `assistant demo` first"),
        (["data", "split", "bad.json", "-o", "parts"], 1, "row 17"),
        (["doctor", "--host", "a b"], 2, "--host: expected an address"),
    ],
)
def test_a_mistake_gives_one_error_sentence_and_writes_nothing(
    folder: Path,
    examples: list[Example],
    words: list[str],
    code: int,
    sentence: str,
) -> None:
    rows = json.loads(dump_rows(examples))
    (folder / "long.json").write_text(json.dumps([{"instruction": "x" * 500, "output": "y"}, *rows]))
    del rows[16]["output"]
    (folder / "bad.json").write_text(json.dumps(rows))
    (folder / "text.jsonl").write_text('{"text": "Once upon a time."}\n')
    done = invoke(*words, text="some text")
    assert done.exit_code == code
    errors = done.stderr
    assert errors.startswith("error: ")
    assert sentence in errors
    assert not (folder / "out").exists()


def test_finetune_on_plain_text_then_ask_continues_a_text(folder: Path) -> None:
    texts = [f"Once, {number} times, there was a number that grew and grew. " * 8 for number in range(20)]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    words = ["--template", "text", "--train-on", "all", "--test-share", "0", "--max-steps", "2"]
    done = invoke("finetune", "text.jsonl", "-m", "base", "-o", "read", *words, "--json")
    assert done.exit_code == 0, done.stderr
    assert "38 training rows, 2 validation rows" in done.stderr  # over 400 bytes fill two rows of 256
    steps = [json.loads(line) for line in (folder / "read" / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < step["tokens"] - step["supervised_tokens"] <= 8 for step in steps)  # first tokens are not targets
    said = json.loads(invoke("ask", "read", "Once, 3", "--max-new-tokens", "3", "--json").stdout)
    assert said["prompt"] == "Once, 3"


def test_warnings_name_the_rows_that_are_too_long(folder: Path, examples: list[Example]) -> None:
    rows = json.loads(dump_rows(examples))
    rows += [{"instruction": "Say", "input": "x" * 3000, "output": "y"}, {"instruction": "Say", "output": "y" * 3000}]
    (folder / "long.json").write_text(json.dumps(rows))
    words = ["finetune", "long.json", "-m", "base", "-o", "out", *FINETUNE, "--split", "book", "--max-steps", "1"]
    done = invoke(*words)
    assert done.exit_code == 0, done.stderr
    assert "Shortened the user's text of 1 rows that do not fit into 256 positions: long.json, row 41." in done.stderr
    assert "Left out 1 rows that do not fit into 256 positions: long.json, row 42." in done.stderr


def test_data_split_writes_three_files_and_does_not_overwrite_them(folder: Path) -> None:
    found = invoke("data", "split", "rows.json", "-o", "parts", "--json")
    assert json.loads(found.stdout)["rows"] == {"train": 34, "validation": 2, "test": 4}
    assert len(json.loads((folder / "parts" / "test.json").read_text())) == 4
    again = invoke("data", "split", "rows.json", "-o", "parts")
    assert again.exit_code == 2
    assert "Add --overwrite" in again.stderr


def test_doctor_says_how_to_start_a_missing_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    found = invoke("doctor")
    assert found.exit_code == 0
    assert "--  ollama server" in found.stdout
    assert "`ollama serve`" in found.stdout
    as_json = json.loads(invoke("doctor", "--json").stdout)
    assert as_json["ollama server"]["ok"] is False
    assert as_json["torch"]["ok"] is True


def test_the_help_of_every_command_has_an_example() -> None:
    for words in (["demo"], ["chat"], ["ask"], ["finetune"], ["doctor"], ["data", "split"], ["data", "check"]):
        found = invoke(*words, "--help")
        assert "Example:" in found.stdout, words
    assert invoke("--version").stdout.startswith("assistant 0.")


def test_errors_contain_no_escape_sequences(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a\\u001b[2J": 1}')
    done = invoke("data", "split", str(tmp_path / "x.json"), "-o", str(tmp_path / "\x1b[2J"))
    assert done.exit_code == 1
    assert "\x1b" not in done.stderr


def test_a_closed_pipe_gives_no_traceback(folder: Path) -> None:
    command = f"{sys.executable} -m assistant ask {folder / 'base'} 'Say red once.' --json | true"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, env=environment)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_resume_refuses_another_model(folder: Path, byte_tokenizer: Tokenizer) -> None:
    save_tiny(folder / "other", byte_tokenizer)
    words = ["finetune", "rows.json", "-o", "out", *FINETUNE, "--save-every", "0"]
    process = start(*words, "-m", "base", "--max-steps", "500")
    wait_for_steps(folder / "out" / "metrics.jsonl", 3, process)
    process.kill()
    process.communicate()
    refused = invoke(*words, "-m", "other", "--max-steps", "500", "--resume")
    assert refused.exit_code == 2
    assert "expected to resume with the model base, got other" in refused.stderr


@pytest.mark.usefixtures("folder")
def test_overwrite_refuses_a_folder_that_contains_the_model() -> None:
    assert invoke("finetune", "rows.json", "-m", "base", "-o", "out", "--max-steps", "1").exit_code == 0
    done = invoke("finetune", "rows.json", "-m", "out/last", "-o", "out", "--overwrite")
    assert done.exit_code == 2
    assert "expected another folder than the one that --model out/last is in" in done.stderr
    assert Path("out/last/model.safetensors").exists()
    assert invoke("finetune", "rows.json", "-m", "out", "-o", "out", "--max-steps", "1", "--overwrite").exit_code == 0


@pytest.mark.usefixtures("folder")
def test_standard_input_must_be_utf8_text() -> None:
    done = CliRunner().invoke(app, ["ask", "base"], input=b"caf\xe9")
    assert (done.exit_code, done.stderr) == (
        1,
        "error: standard input: expected UTF-8, got unexpected end of data at byte 3. Convert it.\n",
    )
    command = f"{sys.executable} -m assistant ask base <&-"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    closed = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, env=environment)
    assert closed.returncode == 2
    assert closed.stderr.startswith("error: instruction: expected some text")


def test_doctor_shows_no_escape_sequences_from_a_server() -> None:
    with OllamaDouble(models=("evil\x1b[2J:latest",)) as double:
        found = invoke("doctor", "--host", double.url)
    assert "evil" in found.stdout
    assert "\x1b" not in found.stdout


def test_json_is_ascii_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for terminal, shown in ((True, '"\\u009b31m"'), (False, '"\x9b31m"')):
        monkeypatch.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal)
        print_json({"a": "\x9b31m"})
        assert shown in capsys.readouterr().out


def test_two_deterministic_runs_give_the_same_bytes(folder: Path) -> None:
    """Each run has its own process, because the option changes all of torch."""
    for name in ("one", "two"):
        options = ("--deterministic", "--max-steps", "3", "--precision", "bfloat16", "--epochs", "1")
        done = assistant("finetune", "rows.json", "-m", "base", "-o", name, *options)
        assert done.returncode == 0, done.stderr
    assert (folder / "one" / "model.safetensors").read_bytes() == (folder / "two" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("word", "message"), [("--plan", "expected one process"), ("--shard", "does nothing without")])
@pytest.mark.usefixtures("folder")
def test_plan_needs_one_process_and_shard_needs_two(monkeypatch: pytest.MonkeyPatch, word: str, message: str) -> None:
    if word == "--plan":
        monkeypatch.setenv("WORLD_SIZE", "2")
    result = invoke("finetune", "rows.json", "-m", "base", "-o", "run", *FINETUNE, "--max-steps", "1", word)
    assert message in result.stderr
    assert result.exit_code == (2 if word == "--plan" else 0)
