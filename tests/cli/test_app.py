"""The commands of `assistant` as a person types them: `ask` and its options, and mistakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
from typer.testing import CliRunner

from assistant import __version__
from assistant.cli.app import app
from assistant.dataset.instructions import Example, dump_rows
from tests.conftest import REPOSITORY
from tests.support.commands import FINETUNE, assistant, invoke


def test_a_finetuned_model_answers_like_transformers(folder: Path) -> None:
    done = invoke("finetune", "rows.json", "--model", "base", "--output", "out", *FINETUNE, "--json")
    assert done.exit_code == 0, done.stderr
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
        (["ask", "./nowhere", "Hi"], 1, "model ./nowhere: expected a model folder or the name of a model"),
        (["ask", "Just a question?"], 1, "Run `assistant demo` first"),
        (["ask", "Please explain this to me. " * 12], 1, "Run `assistant demo` first"),
        (["ask", "tuned"], 1, "model tuned: expected a model folder or the name of a model"),
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


def names(command: Any, *words: str) -> Iterator[tuple[str, ...]]:
    """The names of every command below `command`, such as `("data", "split")`."""
    for name, below in getattr(command, "commands", {}).items():
        yield from names(below, *words, name)
    if not hasattr(command, "commands"):
        yield words


@pytest.mark.parametrize("words", names(typer.main.get_command(app)), ids=" ".join)
def test_the_help_of_every_command_has_an_example(words: tuple[str, ...]) -> None:
    assert f"Example: assistant {' '.join(words)}" in invoke(*words, "--help").stdout


def test_version() -> None:
    assert invoke("--version").stdout == f"assistant {__version__}\n"


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
