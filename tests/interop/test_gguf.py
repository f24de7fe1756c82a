"""GGUF files: what is in them, that a damaged one is never called done, and that llama.cpp answers as we do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch

from assistant.dataset.prompts import get_template
from assistant.dataset.tokenizer import EOS_TOKEN, Tokenizer
from assistant.errors import ExportError
from assistant.interop import gguf as ours
from assistant.interop.gguf import Quantization, export_gguf
from assistant.model import fused
from assistant.model.checkpoint import load_checkpoint
from assistant.shipped import find_model
from tests.support.llama_cpp import Ask, llama_server, next_logprobs
from tests.support.models import tiny_checkpoint

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")


def contents(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The metadata and the tensors of a file."""
    reader = gguf.GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items()}, {t.name: t for t in reader.tensors}


def test_metadata_is_what_llama_cpp_reads(byte_tokenizer: Tokenizer, tmp_path: Path) -> None:
    checkpoint = replace(tiny_checkpoint(byte_tokenizer, n_inner=64, vocab_size=260), name="bücher")
    written = export_gguf(checkpoint, tmp_path / "tiny.gguf", "f16")
    fields, tensors = contents(tmp_path / "tiny.gguf")
    expected = {
        "general.architecture": "gpt2",
        "general.name": "bücher",
        "general.file_type": 1,
        "general.quantization_version": 2,
        "gpt2.context_length": 256,
        "gpt2.embedding_length": 32,
        "gpt2.feed_forward_length": 64,
        "gpt2.block_count": 2,
        "gpt2.attention.head_count": 4,
        "gpt2.attention.layer_norm_epsilon": pytest.approx(1e-5),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.bos_token_id": 256,
        "tokenizer.ggml.eos_token_id": 256,
        "tokenizer.ggml.padding_token_id": 256,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": get_template("alpaca").chat_template(),
    }
    assert {name: fields[name] for name in expected} == expected
    assert fields["tokenizer.ggml.tokens"][32] == "Ġ"
    assert fields["tokenizer.ggml.tokens"][256:] == [EOS_TOKEN, "[PAD257]", "[PAD258]", "[PAD259]"]
    types = gguf.TokenType
    assert fields["tokenizer.ggml.token_type"][255:] == [types.NORMAL, types.CONTROL, *[types.UNUSED] * 3]
    assert "output.weight" not in tensors
    assert (written.n_tensors, written.n_tokens, written.notes) == (len(tensors), 260, ())


def test_matrices_are_transposed_and_named_for_llama_cpp(byte_tokenizer: Tokenizer, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(byte_tokenizer)
    written = export_gguf(checkpoint, tmp_path / "tiny.gguf", "f32")
    _, tensors = contents(tmp_path / "tiny.gguf")
    state = checkpoint.model.state_dict()
    block = {"attn_norm": "ln_1", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj"}
    block |= {"ffn_norm": "ln_2", "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}
    names = {"token_embd.weight": "transformer.wte.weight", "position_embd.weight": "transformer.wpe.weight"}
    for kind in ("weight", "bias"):
        names[f"output_norm.{kind}"] = f"transformer.ln_f.{kind}"
        for layer in range(2):
            names |= {f"blk.{layer}.{a}.{kind}": f"transformer.h.{layer}.{b}.{kind}" for a, b in block.items()}
    assert tensors.keys() == names.keys()
    for theirs, name in names.items():
        assert torch.equal(torch.from_numpy(tensors[theirs].data.copy()), state[name]), theirs
    assert written.largest_error == 0


def test_attention_scaling_is_folded_into_the_queries(byte_tokenizer: Tokenizer, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(byte_tokenizer, scale_attn_by_inverse_layer_idx=True)
    export_gguf(checkpoint, tmp_path / "m.gguf", "f32")
    _, tensors = contents(tmp_path / "m.gguf")
    weight = checkpoint.model.get_parameter("transformer.h.1.attn.c_attn.weight").detach()
    width = checkpoint.config.n_embd
    written = torch.from_numpy(tensors["blk.1.attn_qkv.weight"].data.copy())
    assert torch.equal(written[:width], weight[:width] / 2)
    assert torch.equal(written[width:], weight[width:])


def test_a_head_of_its_own_is_written(byte_tokenizer: Tokenizer, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(byte_tokenizer, tie_word_embeddings=False)
    export_gguf(checkpoint, tmp_path / "tiny.gguf", "f32")
    _, tensors = contents(tmp_path / "tiny.gguf")
    head = torch.from_numpy(tensors["output.weight"].data.copy())
    assert torch.equal(head, checkpoint.model.lm_head.weight)
    assert not torch.equal(head, checkpoint.model.transformer.wte.weight)


@pytest.mark.parametrize("quantization", get_args(Quantization))
def test_what_llama_cpp_keeps_in_f32_stays_f32(
    quantization: Quantization, byte_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    export_gguf(tiny_checkpoint(byte_tokenizer, n_inner=48), tmp_path / "tiny.gguf", quantization)
    _, tensors = contents(tmp_path / "tiny.gguf")
    for name, tensor in tensors.items():
        is_small = name.endswith("bias") or "norm" in name or name.startswith("position_embd")
        # Rows of 48 are no multiple of a q8_0 block.
        wanted = "f16" if quantization == "q8_0" and name.endswith("ffn_down.weight") else quantization
        assert tensor.tensor_type.name.lower() == ("f32" if is_small else wanted), name


def test_a_name_that_is_not_utf8_is_no_obstacle(byte_tokenizer: Tokenizer, tmp_path: Path) -> None:
    export_gguf(replace(tiny_checkpoint(byte_tokenizer), name="a\udcff"), tmp_path / "tiny.gguf", "q8_0")
    fields, _ = contents(tmp_path / "tiny.gguf")
    assert fields["general.name"] == "a\ufffd"


def test_weights_beyond_float16_are_refused(byte_tokenizer: Tokenizer, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(byte_tokenizer)
    checkpoint.model.state_dict()["transformer.h.0.mlp.c_fc.weight"][3, 5] = 70000.0
    with pytest.raises(ExportError, match=r"blk.0.ffn_up.weight: .* at most 65504 for f16, got 70000. .*bf16 or f32"):
        export_gguf(checkpoint, tmp_path / "tiny.gguf", "f16")
    assert list(tmp_path.iterdir()) == []
    assert export_gguf(checkpoint, tmp_path / "tiny.gguf", "q8_0").largest_error > 1
    assert export_gguf(checkpoint, tmp_path / "tiny.gguf", "f32").largest_error == 0


def test_exact_gelu_is_noted(byte_tokenizer: Tokenizer, tmp_path: Path) -> None:
    written = export_gguf(tiny_checkpoint(byte_tokenizer, activation_function="gelu"), tmp_path / "t.gguf", "f32")
    assert written.notes
    assert "GELU" in written.notes[0]


# --- damage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantization", get_args(Quantization))
@pytest.mark.parametrize("place", [0.05, 0.3, 0.6, 0.97])
def test_a_flipped_byte_is_found(
    place: float, quantization: Quantization, byte_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tiny_checkpoint(byte_tokenizer)
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"kept")
    write = ours._write

    def damage(writer: Any, *rest: Any) -> None:
        write(writer, *rest)
        (temporary,) = tmp_path.glob(".*")
        data = bytearray(temporary.read_bytes())
        data[int(len(data) * place) | 1] ^= 0x40  # an odd place: never the low byte of a 16-bit number
        temporary.write_bytes(data)

    monkeypatch.setattr(ours, "_write", damage)
    with pytest.raises(ExportError, match="expected to read back the model that was written"):
        export_gguf(checkpoint, path, quantization)
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.gguf"]
    assert path.read_bytes() == b"kept"


def test_a_full_disk_is_a_sentence(byte_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = tiny_checkpoint(byte_tokenizer)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1_000_000))
        with pytest.raises(ExportError, match=r"tiny.gguf: expected 17 MB of free space, got 1 MB. Free some space"):
            export_gguf(checkpoint, tmp_path / "tiny.gguf")

    def fill(*_: object) -> None:
        raise OSError("12 requested and 3 written")

    monkeypatch.setattr(ours, "_write", fill)
    with pytest.raises(ExportError, match=r"tiny.gguf: .*12 requested and 3 written"):
        export_gguf(checkpoint, tmp_path / "tiny.gguf")
    assert list(tmp_path.iterdir()) == []


# --- llama.cpp ----------------------------------------------------------------------------------------------------

PIECES = [
    *(
        "Hello",
        " world",
        "it's",
        " we'LL",
        "I'd've",
        " 2024",
        "3.14",
        "1,000",
        "x=1;",
        "\n",
        "\n\n",
        "  ",
        "\t",
        " \n ",
    ),
    *("def f(x):\n    return x", "{'a': [1, 2]}", "<|user|>", "### Instruction:\n", "http://x.y/z?q=1&r=2", "C:\\n"),
    *(
        "é",
        "naïve",
        "e\u0301",
        "日本語",
        "한국어",
        "Здравствуйте",
        "مرحبا",
        "हिन्दी",
        "ไทย",
        "😀",
        "👩\u200d👩\u200d👧",
        "🇩🇪",
        "½",
        "²",
    ),
    *(
        "\u00a0",
        "\u3000",
        "\u2028",
        "\ufeff",
        "\x00",
        "\x7f",
        "\u202e",
        "…",
        "—",
        "“quoted”",
        "''",
        "```",
        "!!!",
        "$%^&*(",
    ),
]


def odd_texts(n: int) -> list[str]:
    generator = torch.Generator().manual_seed(5)

    def draw(limit: int) -> int:
        return int(torch.randint(limit, (1,), generator=generator))

    return ["".join(PIECES[draw(len(PIECES))] for _ in range(1 + draw(12))) for _ in range(n)]


@pytest.fixture(scope="module", params=["random", "pocket"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A checkpoint, and a function that asks llama.cpp, which runs its f32 file."""
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed: make test-oracles")
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    pocket = load_checkpoint(find_model("pocket"))
    checkpoint = pocket
    if request.param == "random":  # a byte-level BPE with merges, and a head of its own
        checkpoint = replace(tiny_checkpoint(pocket.tokenizer, tie_word_embeddings=False, n_inner=96), name="random")
        for name, value in checkpoint.model.state_dict().items():  # random logits that differ clearly
            value.mul_(1.0 if ".ln_" in name else 5.0)
    export_gguf(checkpoint, path, "f32")
    with llama_server(path) as (_, ask):
        yield checkpoint, ask


Served = tuple[Any, Ask]


@pytest.mark.oracle
def test_llama_cpp_has_the_same_token_ids(served: Served) -> None:
    checkpoint, ask = served
    for text in odd_texts(500):
        theirs = ask("/tokenize", content=text, add_special=True, parse_special=False)["tokens"]
        assert theirs == checkpoint.tokenizer.encode(text), repr(text)


@pytest.mark.oracle
def test_llama_cpp_computes_the_same_logits_and_answers(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, ask = served
    monkeypatch.setattr(fused, "supports", lambda _: False)
    options = {"n_predict": 24, "temperature": 0, "n_probs": 20, "return_tokens": True, "cache_prompt": False}
    n_compared = 0
    for text in odd_texts(20):
        ids = checkpoint.tokenizer.encode(checkpoint.template.render(text))
        answer = ask("/completion", prompt=ids, **options)
        # The server reports no probabilities for a token that ends inside a character.
        entries = answer.get("completion_probabilities", ())
        entries = entries if len(entries) == len(answer["tokens"]) else [None] * len(answer["tokens"])
        logprobs = next_logprobs(checkpoint.model, ids, answer["tokens"])
        with monkeypatch.context() as patch:
            patch.setattr("torch.nn.functional.gelu", float16_gelu)
            rounded = next_logprobs(checkpoint.model, ids, answer["tokens"])
        for place, (theirs, entry) in enumerate(zip(answer["tokens"], entries, strict=True)):
            for other in entry["top_logprobs"] if entry else ():
                assert abs(other["logprob"] - rounded[place, other["id"]].item()) < 1e-2, text
                assert abs(other["logprob"] - logprobs[place, other["id"]].item()) < 1e-1, text
                n_compared += 1
            best, second = logprobs[place].topk(2).values.tolist()
            assert theirs == logprobs[place].argmax().item() or best - second < 1e-3, text
    assert n_compared > 1000


GELU = torch.nn.functional.gelu


def float16_gelu(x: torch.Tensor, approximate: str) -> torch.Tensor:
    """llama.cpp reads GELU from a table of float16 numbers (ggml/src/ggml-cpu/vec.h)."""
    rounded = x.half().float()
    tabled = GELU(rounded, approximate=approximate).half().float()
    return torch.where(x <= -10, 0.0, torch.where(x >= 10, x, tabled))


@pytest.mark.oracle
def test_llama_cpp_renders_our_chat_template(served: Served) -> None:
    checkpoint, ask = served
    messages = [
        {"role": role, "content": text} for role, text in [("system", "A"), ("system", "B"), ("user", "é {{ x }}")]
    ]
    rendered = ask("/apply-template", messages=messages)["prompt"]
    assert rendered == checkpoint.template.render("A\n\nB\n\né {{ x }}")
