"""The templates against their written-out text, and against Hugging Face's renderer."""

from __future__ import annotations

import jinja2
import pytest

from assistant.dataset.instructions import Example, Exchange
from assistant.dataset.prompts import TEMPLATES, get_template, render_example
from assistant.errors import SettingsError

BELOW = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
PAIRED = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)


@pytest.mark.parametrize(
    ("name", "input_text", "text"),
    [
        ("alpaca", "", f"{BELOW}\n\n### Instruction:\nSort.\n\n### Response:\n"),
        ("alpaca", "b, a", f"{BELOW}\n\n### Instruction:\nSort.\n\n### Input:\nb, a\n\n### Response:\n"),
        ("alpaca-stanford", "", f"{BELOW}\n\n### Instruction:\nSort.\n\n### Response:\n"),
        ("alpaca-stanford", "b, a", f"{PAIRED}\n\n### Instruction:\nSort.\n\n### Input:\nb, a\n\n### Response:\n"),
        ("phi3", "", "<|user|>\nSort.\n<|assistant|>:\n"),
        ("phi3", "b, a", "<|user|>\nSort.\nb, a\n<|assistant|>:\n"),
    ],
)
def test_written_out(name: str, input_text: str, text: str) -> None:
    template = get_template(name)
    assert template.render("Sort.", input_text) == text
    assert "".join(template.parts("Sort.", input_text)) == text
    assert template.parts("Sort.", input_text).user_text == (input_text or "Sort.")


def test_a_conversation_repeats_the_turn_not_the_preamble() -> None:
    text = get_template("alpaca").render("And Italy?", history=[Exchange("Capital of France?", "Paris.")])
    assert text == (
        f"{BELOW}\n\n### Instruction:\nCapital of France?\n\n### Response:\nParis."
        f"\n\n### Instruction:\nAnd Italy?\n\n### Response:\n"
    )


def test_text_is_joined_never_formatted() -> None:
    hostile = "{0} {instruction} %s {{ config }} {% for x in y %}"
    assert hostile in get_template("alpaca").render(hostile)


def test_the_books_prompt() -> None:
    ch07 = pytest.importorskip("llms_from_scratch.ch07", reason="the book's package is not installed")
    for entry in ({"instruction": "Sort.", "input": "b, a"}, {"instruction": "Say hi.", "input": ""}):
        ours = render_example(get_template("alpaca"), Example(**entry, output="x"))
        assert ours == ch07.format_input(entry) + "\n\n### Response:\n"


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_chat_template_renders_the_same(name: str) -> None:
    template = get_template(name)
    history = [Exchange('Say "x" {{ y }}\\n', "It's\n{% x %}"), Exchange("Two", "2")]
    messages = [{"role": "system", "content": "Brief."}]
    for exchange in history:
        messages += [{"role": "user", "content": exchange.user}, {"role": "assistant", "content": exchange.assistant}]
    messages.append({"role": "user", "content": "Three"})
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)  # as transformers sets it up
    rendered = environment.from_string(template.chat_template()).render(messages=messages, add_generation_prompt=True)
    with_system = [Exchange("Brief.\n\n" + history[0].user, history[0].assistant), history[1]]
    assert rendered == template.render("Three", history=with_system)


def test_fingerprints_differ_and_stay() -> None:
    # A changed text makes models trained with the old one unusable: change it only under a new name.
    assert {name: template.fingerprint for name, template in TEMPLATES.items()} == {
        "alpaca": "66c04b6342e8fd94",
        "alpaca-stanford": "e91aa0d9d1d913d8",
        "phi3": "3a6197bf905c9fe6",
        "text": "a40c884be7535069",
    }


def test_unknown_template() -> None:
    with pytest.raises(SettingsError, match="expected one of alpaca, alpaca-stanford, phi3, text, got 'llama'"):
        get_template("llama")
