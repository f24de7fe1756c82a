"""Go's text/template as far as chat templates use it, and Ollama's rendering of messages with it.

Supported: text, `{{ field }}`, `{{ $variable }}`, `:=` and `=`, if / else if / else, range, and the functions eq, ne,
lt, le, gt, ge, and, or, not, len, index and printf with `%s`. Trim markers (`{{-`, `-}}`) and comments work as in Go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_ACTION = re.compile(r"\{\{(-\s)?(.*?)(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|`[^`]*`|-?\d+|:=|\$?\.?[A-Za-z_][\w.]*|\$|\.|[(),|=]')
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: bool(a == b),
    "ne": lambda a, b: bool(a != b),
    "lt": lambda a, b: bool(a < b),
    "le": lambda a, b: bool(a <= b),
    "gt": lambda a, b: bool(a > b),
    "ge": lambda a, b: bool(a >= b),
}


class TemplateError(ValueError):
    """The template is invalid. The text is Go's where a transcript has it."""


@dataclass
class _Node:
    """Text, an action, or a block with branches: pairs of a condition (None for else) and its nodes."""

    kind: str
    words: list[str] = field(default_factory=list)
    text: str = ""
    branches: list[tuple[list[str] | None, list[_Node]]] = field(default_factory=list)


def parse(source: str) -> list[_Node]:
    """Parse a template. Raises TemplateError."""
    pieces = _pieces(source)
    nodes, end = _block(pieces)
    if end is not None:
        raise TemplateError(f"template: :1: unexpected {{{{{' '.join(end)}}}}}")
    return nodes


def _pieces(source: str) -> Iterator[str | list[str]]:
    """Yield texts, and actions as lists of words."""
    place, trim = 0, False
    for match in _ACTION.finditer(source):
        text = source[place : match.start()]
        yield _trimmed(text, left=trim, right=bool(match[1]))
        trim, place = bool(match[3]), match.end()
        body = match[2]
        if not body.strip().startswith("/*"):
            yield _words(body)
    rest = source[place:]
    if "{{" in rest:
        raise TemplateError("template: :1: unclosed action")
    yield _trimmed(rest, left=trim, right=False)


def _trimmed(text: str, *, left: bool, right: bool) -> str:
    text = text.lstrip(" \t\r\n") if left else text
    return text.rstrip(" \t\r\n") if right else text


def _words(body: str) -> list[str]:
    words, rest = [], body.strip()
    while rest:
        match = _TOKEN.match(rest)
        if match is None:
            raise TemplateError(f"template: :1: unexpected {rest[0]!r} in action")
        words.append(match[0])
        rest = rest[match.end() :].lstrip()
    return words


def _block(pieces: Iterator[str | list[str]]) -> tuple[list[_Node], list[str] | None]:
    """The nodes up to `else`, `end` or the end of the template, and the words that ended them."""
    nodes: list[_Node] = []
    for piece in pieces:
        if isinstance(piece, str):
            nodes.append(_Node("text", text=piece))
        elif piece and piece[0] in ("else", "end"):
            return nodes, piece
        elif piece and piece[0] in ("if", "range"):
            nodes.append(_branches(piece, pieces))
        else:
            nodes.append(_Node("action", words=piece))
    return nodes, None


def _branches(words: list[str], pieces: Iterator[str | list[str]]) -> _Node:
    node = _Node(words[0])
    condition: list[str] | None = words[1:]
    while True:
        nodes, end = _block(pieces)
        if end is None:
            raise TemplateError("template: :1: unexpected EOF")
        node.branches.append((condition, nodes))
        if end[0] == "end":
            return node
        condition = end[2:] if end[1:2] == ["if"] else None


class _Scope:
    """Variables, innermost scope last. `=` changes the nearest variable of that name."""

    def __init__(self, root: Any) -> None:
        self.frames: list[dict[str, Any]] = [{"$": root}]

    def set(self, name: str, value: Any, *, declare: bool) -> None:
        if declare:
            self.frames[-1][name] = value
            return
        for frame in reversed(self.frames):
            if name in frame:
                frame[name] = value
                return
        raise TemplateError(f'template: :1: undefined variable "{name}"')

    def get(self, name: str) -> Any:
        for frame in reversed(self.frames):
            if name in frame:
                return frame[name]
        raise TemplateError(f'template: :1: undefined variable "{name}"')


def execute(source: str, values: Mapping[str, Any]) -> str:
    """Render a template with these values as its dot. Raises TemplateError."""
    return "".join(_run(parse(source), values, _Scope(values)))


def _run(nodes: Sequence[_Node], dot: Any, scope: _Scope) -> Iterator[str]:
    for node in nodes:
        if node.kind == "text":
            yield node.text
        elif node.kind == "action":
            yield _shown(_assign_or_value(node.words, dot, scope))
        elif node.kind == "if":
            yield from _run_if(node, dot, scope)
        else:
            yield from _run_range(node, dot, scope)


def _run_if(node: _Node, dot: Any, scope: _Scope) -> Iterator[str]:
    scope.frames.append({})
    for condition, nodes in node.branches:
        if condition is None or _value(condition, dot, scope):
            yield from _run(nodes, dot, scope)
            break
    scope.frames.pop()


def _run_range(node: _Node, dot: Any, scope: _Scope) -> Iterator[str]:
    words = node.branches[0][0] or []
    names: list[str] = []
    if ":=" in words:
        at = words.index(":=")
        names, words = [word for word in words[:at] if word != ","], words[at + 1 :]
    items = _value(words, dot, scope) or []
    for number, item in enumerate(items):
        scope.frames.append(dict(zip(names, (number, item) if len(names) == 2 else (item,), strict=False)))
        yield from _run(node.branches[0][1], item, scope)
        scope.frames.pop()
    if not items and len(node.branches) > 1:
        yield from _run(node.branches[1][1], dot, scope)


def _assign_or_value(words: list[str], dot: Any, scope: _Scope) -> Any:
    if len(words) > 2 and words[1] in (":=", "="):
        scope.set(words[0], _value(words[2:], dot, scope), declare=words[1] == ":=")
        return ""
    return _value(words, dot, scope)


def _value(words: list[str], dot: Any, scope: _Scope) -> Any:
    """The value of a call or an operand."""
    operands, rest = _operands(words, dot, scope)
    assert not rest, words
    return _call(operands)


def _operands(words: list[str], dot: Any, scope: _Scope) -> tuple[list[Any], list[str]]:
    """The operands up to a closing bracket, evaluated, and the words after it."""
    operands: list[Any] = []
    while words:
        word, words = words[0], words[1:]
        if word == ")":
            return operands, words
        if word == "(":
            inner, words = _operands(words, dot, scope)
            operands.append(_call(inner))
        else:
            operands.append(_operand(word, dot, scope))
    return operands, []


@dataclass(frozen=True)
class _Function:
    name: str


def _operand(word: str, dot: Any, scope: _Scope) -> Any:
    if word.startswith('"'):
        return json.loads(word)
    if word.startswith("`"):
        return word[1:-1]
    if re.fullmatch(r"-?\d+", word):
        return int(word)
    if word in ("true", "false", "nil"):
        return {"true": True, "false": False, "nil": None}[word]
    if word.startswith("$"):
        name, _, path = word.partition(".")
        return _fields(scope.get(name), path)
    if word.startswith("."):
        return _fields(dot, word[1:])
    if word in _OPERATORS or word in ("and", "or", "not", "len", "index", "printf"):
        return _Function(word)
    raise TemplateError(f'template: :1: function "{word}" not defined')


def _fields(value: Any, path: str) -> Any:
    for name in filter(None, path.split(".")):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _call(operands: list[Any]) -> Any:
    head, *rest = operands
    if not isinstance(head, _Function):
        return head
    name = head.name
    if name in _OPERATORS:
        return any(_OPERATORS[name](rest[0], other) for other in rest[1:])
    if name == "and":
        return next((value for value in rest if not value), rest[-1])
    if name == "or":
        return next((value for value in rest if value), rest[-1])
    if name == "printf":
        assert rest[0].count("%") == rest[0].count("%s") == len(rest) - 1, rest
        return rest[0] % tuple(rest[1:])
    return {"not": lambda: not rest[0], "len": lambda: len(rest[0]), "index": lambda: rest[0][rest[1]]}[name]()


def _shown(value: Any) -> str:
    if value is None:
        return "<no value>"
    return str(value).lower() if isinstance(value, bool) else str(value)


# --- Ollama -------------------------------------------------------------------------------------------------------


def collate(messages: Sequence[Mapping[str, Any]]) -> tuple[str, list[dict[str, str]]]:
    """Join neighbours of one role with a blank line. Return all system texts, joined, and the messages."""
    joined: list[dict[str, str]] = []
    for message in messages:
        role, content = str(message.get("role") or ""), str(message.get("content") or "")
        if joined and joined[-1]["Role"] == role:
            joined[-1]["Content"] += f"\n\n{content}"
        else:
            joined.append({"Role": role, "Content": content})
    systems = [str(message.get("content") or "") for message in messages if message.get("role") == "system"]
    return "\n\n".join(systems), joined


def render_chat(template: str, messages: Sequence[Mapping[str, Any]]) -> str:
    """The prompt that the server makes of a chat, in the form over `.Messages` or in the older one."""
    system, joined = collate(messages)
    if ".Messages" in template:
        return execute(template, {"System": system, "Messages": joined})
    if ".Response" not in template:
        template += "{{ .Response }}"
    rendered, system, prompt = "", "", ""
    for message in joined:
        if message["Role"] == "system":
            system = message["Content"]
        elif message["Role"] == "user":
            prompt = message["Content"]
        else:
            rendered += execute(template, {"System": system, "Prompt": prompt, "Response": message["Content"]})
            system = prompt = ""
    before_response, _, _ = template.partition("{{ .Response }}")
    return rendered + execute(before_response, {"System": system, "Prompt": prompt, "Response": ""})


CHATML = "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
"""What the engine applies to a GGUF file that has no template."""
