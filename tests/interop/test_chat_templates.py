"""One rule for conversations: in our prompts, in the Jinja template and in Go's template language."""

from __future__ import annotations

import json
from collections.abc import Sequence

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant.dataset.instructions import Exchange
from assistant.dataset.prompts import TEMPLATES, get_template, recorded_template
from assistant.interop.modelfile import go_template, stop_strings
from tests.conftest import shared_file
from tests.support.ollama_templates import CHATML, TemplateError, execute, parse, render_chat

NAMES = sorted(TEMPLATES)
ODD = ['Say "x" {{ y }}\\n', "It's\n{% x %}", "  both ends \n", "<b>&amp;</b>", "%s %d {0}", "é 😀 \u202e", "`` ` ''"]


def jinja(name: str, messages: Sequence[dict[str, str]]) -> str:
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)  # as transformers sets it
    compiled = environment.from_string(get_template(name).chat_template())
    return compiled.render(messages=list(messages), add_generation_prompt=messages[-1]["role"] == "user")


def chat(*turns: str) -> list[dict[str, str]]:
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": roles[turn[0]], "content": turn[1:]} for turn in turns]


@pytest.mark.parametrize("name", NAMES)
def test_go_template_renders_our_prompt(name: str) -> None:
    template = get_template(name)
    one, two, three, four, five, six, seven = (text.strip() if template.trims else text for text in ODD)
    messages = chat(f"u{one}", f"a{two}", f"u{three}", f"a{four}", f"u{five}")
    expected = template.render(five, history=[Exchange(one, two), Exchange(three, four)])
    assert render_chat(go_template(template), messages) == expected == jinja(name, messages)
    messages = chat(f"s{six}", f"u{seven}")
    assert render_chat(go_template(template), messages) == template.render(f"{six}\n\n{seven}") == jinja(name, messages)


@pytest.mark.parametrize("name", NAMES)
def test_a_blank_line_joins_neighbours_of_one_role(name: str) -> None:
    template = get_template(name)
    messages = chat("sBrief.", "sKind.", "uOne", "uTwo", "a3", "a4", "uFive", "uSix")
    expected = template.render("Five\n\nSix", history=[Exchange("Brief.\n\nKind.\n\nOne\n\nTwo", "3\n\n4")])
    assert render_chat(go_template(template), messages) == expected == jinja(name, messages)


@pytest.mark.parametrize("name", NAMES)
def test_a_later_system_message_precedes_the_next_user_message(name: str) -> None:
    template = get_template(name)
    messages = chat("uOne", "a1", "sNow brief.", "uTwo")
    expected = template.render("Now brief.\n\nTwo", history=[Exchange("One", "1")])
    assert render_chat(go_template(template), messages) == expected == jinja(name, messages)


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
turns = st.tuples(st.sampled_from(["system", "user", "assistant"]), texts)


@settings(max_examples=60)
@given(name=st.sampled_from(NAMES), conversation=st.lists(turns, min_size=1, max_size=8))
def test_jinja_and_go_agree_on_every_conversation(name: str, conversation: list[tuple[str, str]]) -> None:
    trims = get_template(name).trims  # a function that Go's templates do not have
    messages = [{"role": role, "content": text.strip() or "x" if trims else text} for role, text in conversation]
    assert render_chat(go_template(get_template(name)), messages) == jinja(name, messages)


def test_only_the_reply_that_is_asked_for_has_an_opening() -> None:
    thought = "<think>\n\n</think>\n\n"
    system = "<|im_start|>system\nBe {{ kind }}.<|im_end|>\n"
    template = recorded_template("chatml", {"preamble": system, "reply_opening": thought})
    compiled = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(template.chat_template())
    messages = chat("uOne", "a1", "uTwo")
    expected = template.render("Two", history=[Exchange("One", "1")])
    assert expected.count(thought) == 1
    assert render_chat(go_template(template), messages) == expected
    assert compiled.render(messages=messages, add_generation_prompt=True) == expected
    for asked, shown in ((messages, False), (messages[:2], True), (messages[:2], False)):
        assert thought not in compiled.render(messages=asked, add_generation_prompt=shown)
    assert render_chat(go_template(template), messages[:2]).endswith("assistant\n1")


def test_stop_strings_end_a_reply_or_begin_the_next_turn() -> None:
    stops = {name: stop_strings(get_template(name)) for name in NAMES}
    assert stops == {
        "alpaca": ("### Instruction:",),
        "alpaca-stanford": ("### Instruction:",),
        "chatml": ("<|im_end|>",),
        "llama3": ("<|eot_id|>",),
        "phi3": ("<|user|>",),
        "text": (),
    }


# --- the renderer of the tests, held to what real servers said ----------------------------------------------------


@pytest.mark.parametrize("version", ["0.24.0", "0.32.15"])
def test_rendering_is_that_of_the_recorded_servers(version: str) -> None:
    lines = shared_file(f"ollama-transcripts/ollama-{version}.jsonl").read_text(encoding="utf-8").splitlines()
    recorded = {record["name"]: record for record in map(json.loads, lines)}
    exchange = recorded["render only"]
    expected = json.loads(exchange["body"])["_debug_info"]["rendered_template"]
    assert render_chat(CHATML, exchange["request"]["body"]["messages"]) == expected
    exchange = recorded["render without template"]
    template = CHATML if version == "0.32.15" else "{{ .Prompt }}"
    expected = json.loads(exchange["body"])["_debug_info"]["rendered_template"]
    assert render_chat(template, exchange["request"]["body"]["messages"]) == expected
    with pytest.raises(TemplateError) as caught:
        parse(recorded["create bad template"]["request"]["body"]["template"])
    assert f"template error: {caught.value}" in recorded["create bad template"]["body"]


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        ("a {{- .X }}{{/* no */}} b {{ .X -}} c", "ax b xc"),
        ('{{ $a := 1 }}{{ if eq $a 1 }}{{ $a = "z" }}{{ else }}no{{ end }}{{ $a }}', "z"),
        ("{{ range $i, $m := .L }}{{ $i }}={{ $m.R }};{{ end }}", "0=p;1=q;"),
        ("{{ range .L }}{{ .R }}{{ $.X }}{{ end }}{{ range .N }}{{ else }}none{{ end }}", "pxqxnone"),
        ('{{ if and .X (le (len .L) 2) }}y{{ else if .N }}n{{ end }}{{ printf "%s-%s" .X "\\n" }}', "yx-\n"),
        ("{{ if or .N (not .X) }}y{{ else }}n{{ end }}{{ ne 1 2 }}", "ntrue"),
    ],
)
def test_go_language(template: str, rendered: str) -> None:
    assert execute(template, {"X": "x", "L": [{"R": "p"}, {"R": "q"}], "N": []}) == rendered
