"""Templates with markers, against transformers' `apply_chat_template` on small tokenizers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant.chat.events import ModelCard
from assistant.chat.prompt_parts import PromptLayout
from assistant.dataset.encode import encode_examples, encode_pieces, for_template
from assistant.dataset.examples import Example, Exchange
from assistant.dataset.own_template import own_template
from assistant.dataset.prompts import TEMPLATES, Marker, Template, get_template, recorded_template
from assistant.dataset.tokenizer import Tokenizer, read_tokenizer
from assistant.errors import SettingsError
from assistant.shipped import shipped
from tests.support.marked import BOS, CHAT_TEMPLATES, MARKERS, save_both, with_bos, with_markers

PLAIN = [name for name in sorted(TEMPLATES) if not TEMPLATES[name].markers]
PIECES = (
    *("a", " the", "9", "123", "\n", "\n\n", "  ", ".", ":\n", "\u00e9", "e\u0301", "\U0001f600", "user\n", "<think>"),
    *("{{ x }}", "<|", "'S"),
)
texts = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
hostile = st.lists(st.sampled_from([*MARKERS, "<|endoftext|>", "a", "\n", " "]), max_size=6).map("".join)


class Model(NamedTuple):
    """A tokenizer and a template as we and as transformers read them."""

    folder: Path
    tokenizer: Tokenizer
    template: Template
    theirs: Any


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    pytest.importorskip("transformers")
    found = {}
    for name in CHAT_TEMPLATES:
        folder = tmp_path_factory.mktemp(name)
        tokenizer, theirs = save_both(folder, read_tokenizer(shipped("pocket")), name)
        found[name] = Model(folder, tokenizer, own_template(folder, tokenizer), theirs)
    return found


def their_ids(model: Model, messages: list[dict[str, str]], **changes: Any) -> list[int]:
    options = {"enable_thinking": False, "date_string": "26 Jul 2024", **changes}
    ids = model.theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False, **options)
    assert isinstance(ids, list)
    return ids


def chat(instruction: str, history: list[Exchange]) -> list[dict[str, str]]:
    messages = []
    for turn in history:
        messages += [{"role": "user", "content": turn.user}, {"role": "assistant", "content": turn.assistant}]
    return [*messages, {"role": "user", "content": instruction}]


def test_a_chat_templates_system_text_and_opening_are_found(models: dict[str, Model]) -> None:
    found = {name: (model.template.name, model.template.reply_opening) for name, model in models.items()}
    assert found == {
        "smollm2": ("chatml", ""),
        "qwen2.5": ("chatml", ""),
        "qwen3": ("chatml", "<think>\n\n</think>\n\n"),
        "llama3.2": ("llama3", ""),
    }
    assert models["smollm2"].template.render("Hi", "b, a", [Exchange("One", "1")]) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nOne<|im_end|>\n<|im_start|>assistant\n1<|im_end|>\n"
        "<|im_start|>user\nHi\n\nb, a<|im_end|>\n<|im_start|>assistant\n"
    )
    assert models["qwen3"].template.render("Hi", "", [Exchange("One", "1")]) == (
        "<|im_start|>user\nOne<|im_end|>\n<|im_start|>assistant\n1<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert models["llama3.2"].template == get_template("llama3")


@pytest.mark.parametrize("name", sorted(CHAT_TEMPLATES))
@settings(max_examples=25)
@given(instruction=texts, history=st.lists(st.builds(Exchange, texts, texts), max_size=3))
def test_prompts_have_the_ids_of_transformers(
    name: str, instruction: str, history: list[Exchange], models: dict[str, Model]
) -> None:
    model = models[name]
    ids = encode_pieces(model.template.pieces(instruction, "", history), model.tokenizer)
    messages = chat(instruction, history)
    assert ids == their_ids(model, messages)
    written = model.template.chat_template(BOS if model.tokenizer.bos_id is not None else "")
    if all(message["content"].strip() for message in messages):
        assert ids == their_ids(model, messages, chat_template=written)


@pytest.mark.parametrize("name", sorted(CHAT_TEMPLATES))
@settings(max_examples=25)
@given(instruction=texts | hostile, history=st.lists(st.builds(Exchange, texts, hostile), max_size=3))
def test_the_exact_prompt_of_the_chat_has_these_ids(
    name: str, instruction: str, history: list[Exchange], models: dict[str, Model]
) -> None:
    _, tokenizer, template, _ = models[name]
    shape: dict[str, Any] = {"name": "m", "folder": None, "n_parameters": 1, "context_length": 9999, "info": None}
    layout = PromptLayout(ModelCard(template=template, tokenizer=tokenizer, **shape))
    for length in range(len(history) + 1):
        exact = layout.lay_out(instruction, input="I", history=history[:length], max_new_tokens=9)
        assert list(exact.token_ids) == encode_pieces(template.pieces(instruction, "I", history[:length]), tokenizer)
        assert exact.text == template.render(instruction, "I", history[:length])


@pytest.mark.parametrize("name", sorted(CHAT_TEMPLATES))
@settings(max_examples=25)
@given(
    instruction=hostile,
    input=hostile.filter(str.strip),
    history=st.lists(st.builds(Exchange, hostile, hostile), max_size=2),
)
def test_a_persons_text_never_becomes_a_marker(
    name: str, instruction: str, input: str, history: list[Exchange], models: dict[str, Model]
) -> None:
    _, tokenizer, template, _ = models[name]
    harmless = template.pieces("x", "x", [Exchange("x", "x")] * len(history))
    ids = encode_pieces(template.pieces(instruction, input, history), tokenizer)
    special = {tokenizer.special_id(marker) for marker in MARKERS}
    expected = [token_id for token_id in encode_pieces(harmless, tokenizer) if token_id in special]
    assert [token_id for token_id in ids if token_id in special] == expected
    bos = "" if tokenizer.bos_id is None else BOS
    assert tokenizer.decode(ids) == bos + template.render(instruction, input, history)


@pytest.mark.parametrize("name", sorted(CHAT_TEMPLATES))
def test_a_row_ends_with_the_end_of_the_turn(name: str, models: dict[str, Model]) -> None:
    _, tokenizer, template, _ = models[name]
    end_id = tokenizer.special_id(template.end_of_turn)
    example = Example(
        instruction="word" + " word" * 79, output="Hi <|im_end|><|eot_id|>", history=(Exchange("One", "1"),)
    )
    (row,) = encode_examples([example], template, tokenizer, max_length=999).rows
    assert row.input_ids[row.prompt_length :] == (*tokenizer.encode(example.output), end_id)
    prompt = template.pieces(example.instruction, "", example.history)
    assert row.input_ids[: row.prompt_length] == tuple(encode_pieces(prompt, tokenizer))
    shorter = encode_examples([example], template, tokenizer, max_length=len(row.input_ids) - 31)
    assert shorter.truncated == (example,)
    cut = template.pieces("word " * 49 + "word", "", example.history)
    assert shorter.rows[0].input_ids == (*encode_pieces(cut, tokenizer), *row.input_ids[row.prompt_length :])
    ours = for_template(tokenizer, template)
    assert (ours.eos_id, ours.eos_ids) == (end_id, (*tokenizer.eos_ids, end_id))


def test_a_tokenizer_without_the_marker_is_refused(byte_tokenizer: Tokenizer) -> None:
    rows = [Example(instruction="Hi", output="Ho")]
    with pytest.raises(SettingsError, match=r"token <\|im_start\|>, got a tokenizer without it. Use --template alpaca"):
        encode_examples(rows, get_template("chatml"), byte_tokenizer, max_length=99)


@pytest.mark.parametrize("name", PLAIN)
@settings(max_examples=25)
@given(
    instruction=texts | hostile,
    input=texts | hostile,
    history=st.lists(st.builds(Exchange, texts, hostile), max_size=2),
)
def test_templates_without_markers_are_encoded_as_one_text(
    name: str, instruction: str, input: str, history: list[Exchange], byte_tokenizer: Tokenizer
) -> None:
    template, tokenizer = get_template(name), with_markers(byte_tokenizer)
    prompt = template.preamble_with_input if input else template.preamble
    for turn in history:
        prompt += template.instruction_header + turn.user + template.response_header + turn.assistant
        prompt += template.turn_separator
    prompt += template.instruction_header + instruction
    prompt += template.input_header + input + template.response_header if input else template.response_header
    pieces = template.pieces(instruction, input, history)
    assert template.render(instruction, input, history) == prompt
    assert not any(isinstance(piece, Marker) for piece in pieces)
    assert encode_pieces(pieces, tokenizer) == tokenizer.encode(prompt)
    with_bos = with_markers(byte_tokenizer, first_token=BOS)
    assert encode_pieces(pieces, with_bos) == [with_bos.bos_id, *tokenizer.encode(prompt)]
    assert for_template(tokenizer, template) == tokenizer


def test_a_record_keeps_the_system_text(models: dict[str, Model]) -> None:
    for model in models.values():
        assert recorded_template(model.template.name, model.template.texts) == model.template
    assert len({model.template.fingerprint for model in models.values()}) == len(models)
    assert recorded_template("alpaca", {"preamble": "Other."}) == get_template("alpaca")


SMOLLM2 = CHAT_TEMPLATES["smollm2"]
OTHERS = {
    "endless": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "doubling": "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "large": "{{ 'a' * 10 ** 11 }}",
    "escape": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "change": "{{ messages.append(messages[0]) }}",
    "file": "{% include '/etc/hostname' %}",
    "deep": "{{ " + "(" * 10_000,
    "other role": SMOLLM2.replace("turn.role ~", "turn.role ~ 's' ~"),
    "other text": SMOLLM2.replace("turn.content", "turn.content | upper"),
    "other token": CHAT_TEMPLATES["qwen3"].replace("<think>", "<|eot_id|>"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_chat_template_is_not_ours_and_comes_to_an_end(
    name: str, tmp_path: Path, models: dict[str, Model]
) -> None:
    (tmp_path / "chat_template.jinja").write_text("{# <|im_end|> #}" + OTHERS[name])
    assert own_template(tmp_path, models["qwen3"].tokenizer) == get_template("alpaca")


def test_a_first_token_of_the_chat_template_alone_is_a_marker(models: dict[str, Model]) -> None:
    folder, tokenizer, template, _ = models["llama3.2"]
    without = with_bos(tokenizer, None)
    own = own_template(folder, without)
    assert own.preamble == BOS + template.preamble
    assert encode_pieces(own.pieces("Hi"), without) == encode_pieces(template.pieces("Hi"), tokenizer)
    other = replace(tokenizer.added, config={"bos_token": "<|endoftext|>"})
    assert own_template(folder, replace(without, added=other)).name == "alpaca"  # it has no marker of that name


def test_a_tokenizer_needs_the_markers(models: dict[str, Model], byte_tokenizer: Tokenizer) -> None:
    assert own_template(models["smollm2"].folder, byte_tokenizer) == get_template("alpaca")
    assert own_template(models["smollm2"].folder / "no", byte_tokenizer) == get_template("alpaca")


def test_every_place_of_a_chat_template_is_read(models: dict[str, Model], tmp_path: Path) -> None:
    _, tokenizer, template, _ = models["smollm2"]
    text = CHAT_TEMPLATES["smollm2"]
    named = [{"name": "tool_use", "template": "?"}, {"name": "default", "template": text}]
    for content in (text, named):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": content}))
        assert own_template(tmp_path, tokenizer) == template
    for broken in ("{", "[]", "{}", '{"chat_template": 1}', '{"chat_template": [{}]}', '{"chat_template": []}'):
        (tmp_path / "tokenizer_config.json").write_text(broken)
        assert own_template(tmp_path, tokenizer) == get_template("alpaca")
