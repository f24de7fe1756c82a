"""Templates, compared with literal prompts, the book's code and Hugging Face's Jinja renderer."""

from __future__ import annotations

import jinja2
import pytest

from assistant.dataset.instructions import Exchange
from assistant.dataset.prompts import TEMPLATES, get_template
from assistant.errors import SettingsError

BELOW = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
PAIRED = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)


@pytest.mark.parametrize(
    ("name", "input_text", "prompt"),
    [
        ("alpaca", "", f"{BELOW}\n\n### Instruction:\nSort.\n\n### Response:\n"),
        ("alpaca", "b, a", f"{BELOW}\n\n### Instruction:\nSort.\n\n### Input:\nb, a\n\n### Response:\n"),
        ("alpaca-stanford", "", f"{BELOW}\n\n### Instruction:\nSort.\n\n### Response:\n"),
        ("alpaca-stanford", "b, a", f"{PAIRED}\n\n### Instruction:\nSort.\n\n### Input:\nb, a\n\n### Response:\n"),
        ("phi3", "", "<|user|>\nSort.\n<|assistant|>:\n"),
        ("phi3", "b, a", "<|user|>\nSort.\nb, a\n<|assistant|>:\n"),
    ],
)
def test_render_gives_the_literal_prompt(name: str, input_text: str, prompt: str) -> None:
    template = get_template(name)
    assert template.render("Sort.", input_text) == prompt
    assert template.pieces("Sort.", input_text) == (prompt,)


def test_conversation_repeats_the_headers_but_not_the_preamble() -> None:
    prompt = get_template("alpaca").render("And Italy?", history=[Exchange("Capital of France?", "Paris.")])
    assert prompt == (
        f"{BELOW}\n\n### Instruction:\nCapital of France?\n\n### Response:\nParis."
        f"\n\n### Instruction:\nAnd Italy?\n\n### Response:\n"
    )


def test_braces_and_percent_signs_have_no_meaning() -> None:
    text = "{0} {instruction} %s {{ config }} {% for x in y %}"
    assert text in get_template("alpaca").render(text)


def test_alpaca_is_the_book_prompt_with_the_response_header() -> None:
    ch07 = pytest.importorskip("llms_from_scratch.ch07", reason="the book's package is not installed")
    for instruction, text in (("Sort.", "b, a"), ("Say hi.", "")):
        prompt = get_template("alpaca").render(instruction, text)
        book_prompt = ch07.format_input({"instruction": instruction, "input": text})
        assert prompt == book_prompt + "\n\n### Response:\n"


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_chat_template_renders_the_same_prompt(name: str) -> None:
    template = get_template(name)
    history = [Exchange('Say "x" {{ y }}\\n', "It's\n{% x %}"), Exchange("Two", "2")]
    messages = [{"role": "system", "content": "Brief."}]
    for exchange in history:
        messages += [{"role": "user", "content": exchange.user}, {"role": "assistant", "content": exchange.assistant}]
    messages.append({"role": "user", "content": "Three"})
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)  # The settings of transformers.
    rendered = environment.from_string(template.chat_template()).render(messages=messages, add_generation_prompt=True)
    with_system = [Exchange("Brief.\n\n" + history[0].user, history[0].assistant), history[1]]
    assert rendered == template.render("Three", history=with_system)


def test_fingerprints_are_fixed() -> None:
    # A changed template breaks the models that were trained with it. Add a template with a new name instead.
    assert {name: template.fingerprint for name, template in TEMPLATES.items()} == {
        "alpaca": "66c04b6342e8fd94",
        "alpaca-stanford": "e91aa0d9d1d913d8",
        "chatml": "80642ace2ced1c6c",
        "llama3": "9ca5fd7d94a22d11",
        "phi3": "3a6197bf905c9fe6",
        "text": "a40c884be7535069",
    }


def test_unknown_template_is_refused() -> None:
    names = "alpaca, alpaca-stanford, chatml, llama3, phi3, text"
    with pytest.raises(SettingsError, match=f"expected one of {names}, got 'llama'"):
        get_template("llama")
