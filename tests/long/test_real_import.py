"""SmolLM2's GGUF file as a model here: its weights, token ids and answers are those of other programs that read it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from assistant.dataset.tokenizer import read_tokenizer
from assistant.decoding.reply import Reply
from assistant.decoding.session import Session
from assistant.interop.gguf import Quantization, export_gguf
from assistant.model.checkpoint import load_checkpoint
from assistant.settings import GenerationSettings
from tests.conftest import REPOSITORY
from tests.support.commands import invoke
from tests.support.families import instruction_texts, odd_texts
from tests.support.llama_cpp import Ask, check_gaps, differences, llama_server
from tests.support.real_weights import smollm2, use_llama_cpp

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

N_TEXTS = 20_000
GREEDY = GenerationSettings(temperature=0.0, max_new_tokens=48)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder that `assistant import` makes of the GGUF file."""
    folder = tmp_path_factory.mktemp("smollm2") / "base"
    done = invoke("import", str(smollm2()), "--output", str(folder), "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["parameters"] == 134_515_008
    return folder


@pytest.fixture(scope="module")
def transformers_model() -> Any:
    """The same file, opened by transformers."""
    from transformers import AutoModelForCausalLM

    path = smollm2()
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def session(base: Path) -> Session:
    """The imported model, which answers in float32."""
    return Session.load(base, precision="float32")


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """llama.cpp with the file as it came."""
    use_llama_cpp()
    with llama_server(smollm2()) as (_, ask):
        yield ask


@pytest.fixture(scope="module")
def replies(session: Session) -> list[Reply]:
    """Our answers to twenty of the shipped instructions, in the model's own template."""
    rows = json.loads((REPOSITORY / "data" / "instructions.json").read_text(encoding="utf-8"))
    asked = rows[:: len(rows) // 20][:20]
    return [session.reply(row["instruction"], input=row.get("input", ""), settings=GREEDY) for row in asked]


def test_the_weights_are_those_that_transformers_reads(base: Path, transformers_model: Any) -> None:
    from safetensors.torch import load_file

    ours = load_file(base / "model.safetensors")
    theirs = transformers_model.state_dict()
    assert set(theirs) - set(ours) == {"lm_head.weight"}  # tied
    assert len(ours) == 272
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_the_greedy_answers_are_those_of_transformers(
    session: Session, replies: list[Reply], transformers_model: Any
) -> None:
    eos_id = session.tokenizer.eos_id
    for reply in replies:
        prompt = torch.tensor([reply.prompt_token_ids])
        options = {"max_new_tokens": GREEDY.max_new_tokens, "do_sample": False, "eos_token_id": eos_id}
        found = transformers_model.generate(
            prompt, attention_mask=torch.ones_like(prompt), pad_token_id=eos_id, **options
        )
        theirs = found[0, prompt.shape[1] :].tolist()
        assert [*reply.token_ids, *[eos_id] * (reply.stop_reason == "eos")] == theirs, reply.prompt
    assert sum(reply.stop_reason == "eos" for reply in replies) > 5


def test_the_token_ids_are_those_of_the_tokenizers_library_and_of_llama_cpp(base: Path, ask: Ask) -> None:
    """Where the vocabulary lacks a byte, the two differ: only the library merges what stood beside the byte."""
    from tokenizers import Tokenizer as Library

    ours = read_tokenizer(base)
    library = Library.from_file(str(base / "tokenizer.json"))
    library.encode_special_tokens = True
    assert len(ours.byte_pairs.missing) == 21
    n_different = 0
    for text in [*instruction_texts(), *odd_texts(N_TEXTS)]:
        ids = ours.encode(text)
        assert ids == library.encode(text, add_special_tokens=False).ids, repr(text)
        theirs = ask("/tokenize", content=text, add_special=False, parse_special=False)["tokens"]
        if ids != theirs:
            n_different += 1
            assert {*ours.byte_pairs.missing} & {*text.encode()}, repr(text)
    assert n_different < N_TEXTS / 50


@pytest.mark.parametrize("quantization", ["f32", "f16"])
def test_llama_cpp_answers_the_same_from_our_file(
    tmp_path: Path, base: Path, replies: list[Reply], quantization: Quantization
) -> None:
    use_llama_cpp()
    checkpoint = load_checkpoint(base)
    export_gguf(checkpoint, tmp_path / "model.gguf", quantization)
    with llama_server(tmp_path / "model.gguf", n_ctx=1024) as (_, ask):
        gaps = differences(checkpoint.model, replies, ask, eos_id=checkpoint.tokenizer.eos_id)
    check_gaps(gaps, quantization)
