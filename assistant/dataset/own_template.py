"""Which of our templates a model's own chat template is: both render the same prompts of probe conversations."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from assistant.dataset import jinja_process
from assistant.dataset.added_tokens import TOKENIZER_CONFIG_FILE
from assistant.dataset.examples import Exchange
from assistant.dataset.prompts import DEFAULT_TEMPLATE, TEMPLATES, Template, get_template
from assistant.dataset.tokenizer import Tokenizer

JINJA_FILE = "chat_template.jinja"
PROBES: tuple[tuple[str, ...], ...] = (
    ("Sort b, a.",),
    ("One", "1", "Two"),
    (" \n{{ x }} {% if %} <b>'\"\\\n\n", " é😀\n ", "Two\n"),
    ("One", "1\n\n2", "Two", "- 3", "Three"),
    ("system", "user", "assistant"),
)
"""Conversations: texts of the user and replies in turn, the last by the user."""


def own_template(folder: Path, tokenizer: Tokenizer) -> Template:
    """Return our template that renders what a model folder's chat template renders, or the default.

    It has the system text of the chat template, and what a reply without thinking begins with. A date is the one that
    the chat template has where it cannot ask for today's. Only templates with markers are compared.
    """
    chat_template = read_chat_template(folder)
    tokens = tokenizer.encoding.special_tokens_set
    known = [t for t in TEMPLATES.values() if t.markers and t.end_of_turn in chat_template and tokens >= {*t.markers}]
    rendered = _render(chat_template, tokenizer) if known else []
    special = {token.content for token in tokenizer.added.tokens if token.special}
    for template in known if rendered else ():
        asked = template.instruction_header + PROBES[0][0] + template.response_header
        preamble, _, opening = rendered[0].partition(asked)
        own = replace(template, preamble=preamble, preamble_with_input=preamble, reply_opening=opening)
        expected = [own.render(last, "", [*map(Exchange, turns[::2], turns[1::2])]) for *turns, last in PROBES]
        if rendered == expected and not any(map((preamble + opening).count, special.difference(own.markers))):
            return own
    return get_template(DEFAULT_TEMPLATE)


def is_unknown_template(folder: Path, tokenizer: Tokenizer, own: Template) -> bool:
    """Whether a base model's folder has a chat template, but `own`, what `own_template` returned, is not it."""
    chat_template = read_chat_template(folder)  # that of our default is written for models without one
    return bool(chat_template) and not own.markers and chat_template != own.chat_template(tokenizer.bos_token)


def read_chat_template(folder: Path) -> str:
    """Return the chat template of a model folder. Empty if there is none that can be read."""
    with suppress(OSError, ValueError, TypeError, LookupError, StopIteration, RecursionError):
        if (folder / JINJA_FILE).is_file():
            return (folder / JINJA_FILE).read_text(encoding="utf-8")
        found = json.loads((folder / TOKENIZER_CONFIG_FILE).read_text(encoding="utf-8-sig"))["chat_template"]
        if isinstance(found, list):  # templates by name, as older versions of transformers wrote them
            found = next(entry["template"] for entry in found if entry["name"] == "default")
        return found if isinstance(found, str) else ""
    return ""


def _render(chat_template: str, tokenizer: Tokenizer) -> list[str]:
    """Return the prompts of the probes, without the token that the tokenizer puts first. Empty if that fails."""
    bos_token = tokenizer.added.config.get("bos_token") or ""
    tokens = {"bos_token": bos_token.get("content") if isinstance(bos_token, dict) else bos_token}
    flags = {"tools": None, "add_generation_prompt": True, "enable_thinking": False}
    roles = ("user", "assistant")
    chats = [[{"role": roles[n % 2], "content": text} for n, text in enumerate(probe)] for probe in PROBES]
    asked = json.dumps([chat_template, chats, {"eos_token": tokenizer.added.eos_token, **tokens, **flags}])
    command = [sys.executable, "-I", jinja_process.__file__]
    with suppress(OSError, subprocess.SubprocessError, ValueError):
        done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=30, check=True)
        return [text.removeprefix(tokenizer.bos_token) for text in json.loads(done.stdout)]
    return []
