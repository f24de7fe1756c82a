"""Conversations: the messages of chat files, as plain turns, and the exchanges that they make."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

from assistant.dataset.columns import is_empty
from assistant.dataset.examples import Exchange
from assistant.errors import DataError

# Tuples: a file may hold a list where a name belongs, and a set refuses to look for one.
_TOOL_ROLES = ("tool", "function", "function_call", "tool_call", "observation", "ipython")
_ROLES = {"human": "user", "gpt": "assistant", "developer": "system"}
_KEYS = {
    "role": (("role", "from"), ("content", "value")),
    "from": (("from", "role"), ("value", "content")),
}
"""For each form, the keys of a message, each with the key that the other form uses for it."""
_TEXT_PARTS = ("text", "input_text", "output_text")


class UnusableRow(Exception):
    """A sound row that holds more than text, such as tool calls. The argument is what it holds."""


class Turn(NamedTuple):
    """One message of a conversation. `role` is system, user or assistant."""

    role: str
    text: str


def plain_messages(value: Any, role_key: str, text_key: str, unused: dict[str, Any], field_name: str) -> Any:
    """Return messages with the roles and keys that the models expect, and their content as text.

    `unused` receives the other fields of the messages, with their values. A value that is not a list, and a message
    that is not an object, are returned as they are: the caller's validation refuses them.

    Raises:
        UnusableRow: a message calls a tool, is one's answer, or has content that is not text.
    """
    if not isinstance(value, list):
        return value
    return [
        _plain_message(message, role_key, text_key, unused, field_name) if isinstance(message, dict) else message
        for message in value
    ]


def _plain_message(
    message: dict[str, Any], role_key: str, text_key: str, unused: dict[str, Any], field_name: str
) -> dict[str, Any]:
    keys = {key: next((name for name in (key, other) if name in message), key) for key, other in _KEYS[role_key]}
    role, content = message.get(keys[role_key]), message.get(keys[text_key])
    if role in _TOOL_ROLES or not is_empty(message.get("tool_calls")) or message.get("function_call"):
        raise UnusableRow("tool calls")
    for name, inner in message.items():
        if name not in keys.values() and not is_empty(inner):
            unused[f"{field_name}.{name}"] = inner
    plain: dict[str, Any] = {}
    if role is not None:
        plain[role_key] = _ROLES.get(role, role) if isinstance(role, str) else role
    if keys[text_key] in message:
        plain[text_key] = _joined_parts(content) if isinstance(content, list) else content
    return plain


def _joined_parts(parts: list[Any]) -> Any:
    """Return the text of content parts. Raises UnusableRow if one is not text."""
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and isinstance(part.get("text"), str) and part.get("type", "text") in _TEXT_PARTS:
            texts.append(part["text"])
        else:
            kind = part.get("type") if isinstance(part, dict) else None
            raise UnusableRow(f"parts that are not text ({str(kind)[:40]})" if kind else "parts that are not text")
    return "".join(texts)


def exchanges_of(turns: Sequence[Turn], where: str, field_name: str) -> list[Exchange]:
    """Return the exchanges of a conversation. A system message opens the user's message after it.

    Neighbours of one role are joined with a blank line, as the chat templates and Ollama do.

    Raises:
        DataError: the turns are not user and assistant in turn.
    """
    joined = groupby(turns, key=lambda turn: turn.role)
    turns = [Turn(role, "\n\n".join(turn.text for turn in group)) for role, group in joined]
    roles = [turn.role for turn in turns if turn.role != "system"]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2) or turns[-1].role == "system":
        if roles and turns[-1].role == "system":
            roles.append("system")
        raise DataError(
            f'{where}: "{field_name}" must be user and assistant in turn, ending with assistant '
            f"(a system message may come first), got {', '.join(roles) or 'only a system message'}."
        )
    exchanges: list[Exchange] = []
    texts: list[str] = []
    for turn in turns:
        if turn.role == "assistant":
            exchanges.append(Exchange("\n\n".join(texts), turn.text))
            texts = []
        else:
            texts.append(turn.text)
    return exchanges
