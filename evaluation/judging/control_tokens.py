"""Makes control tokens of chat templates harmless in the texts of a row. Does not know what the texts are for.

A server parses a model's special tokens anywhere in a prompt, so `<|im_end|>` in a response would end the turn. Every
family of models has its own tokens, and a new family has new ones. So they are found by their shape:

- a bracket next to a bar: `<|im_end|>`, `<｜User｜>`, `[|assistant|]`, `<turn|>`
- a word in angle brackets: `<bos>`, `</think>`, `<start_of_turn>`, `<<SYS>>`, `<seed:eos>`
- a word in square brackets that looks like a constant: `[INST]`, `[/INST]`, `[gMASK]`, `[control_8]`, `[unused1]`
- rare shapes: `>>QUESTION<<` (Falcon), `]~b]` (MiniMax), `|||EMAIL_ADDRESS|||` (OLMo)

A blank at each end breaks the token, and a person or a judge can still read it: `< bos >`. HTML elements such as `<b>`
keep their form, except those that are control tokens of some family, such as `<s>`. Ordinary text has none of the
shapes: `a < b`, `[1]`, `x[i]`, `[Name]`, `<a href="x">`.
"""

from __future__ import annotations

import re

# Tokenizers that normalise a text first turn the full-width and small forms of brackets into the common ones.
_LESS, _GREATER, _OPEN, _CLOSE, _BAR = "<＜﹤", ">＞﹥", r"\[［", r"\]］", "|｜"

_HTML_NAMES = (
    "a abbr address article aside b blockquote body br button canvas caption center cite code col colgroup dd del "
    "details dfn dialog div dl dt em fieldset figcaption figure font footer form h1 h2 h3 h4 h5 h6 head header hr html "
    "i iframe img input ins kbd label legend li link main map mark meta meter nav ol optgroup option p param picture "
    "pre progress q samp script section select small span strike strong style sub sup svg table tbody td template "
    "textarea tfoot th thead time title tr tt u ul var wbr"
)
HTML = frozenset(_HTML_NAMES.split())
"""Elements that keep their form. `s`, `image`, `mask`, `audio`, `video`, `summary` and `object` are tokens of some
model, and so they are not in the list."""

_BESIDE_BAR = re.compile(
    f"(?<=[{_LESS}{_OPEN}])(?=[{_BAR}])"  # <|  [|
    f"|(?<=[{_BAR}])(?=[{_GREATER}{_CLOSE}])"  # |>  |]
    r"|(?<=[|｜]{3})(?=\w)|(?<=\w)(?=[|｜]{3})"  # |||WORD|||
)
_ANGLE = re.compile(f"(?<=[{_LESS}])([^\\s{_LESS}{_GREATER}]+)(?=[{_GREATER}])")
_SQUARE = re.compile(
    f"(?<=[{_OPEN}])("
    r"/\w+"  # [/INST]
    r"|(?=\w*(?:[A-Z]{2}|_|[A-Za-z]{3}[0-9]))[\w/:.-]+"  # [INST] [gMASK] [control_8] [unused1]
    f")(?=[{_CLOSE}])"
)
_RARE = re.compile(r"(?<=>>)(\w+)(?=<<)|(?<=[\]\[])(\w?~!?\w?)(?=[\]\[])")
_HTML_TAG = re.compile(r"/?([a-z][a-z0-9]*)/?")  # <PRE> is a token of Code Llama, <pre> is not

SHAPES = tuple(pattern.pattern for pattern in (_BESIDE_BAR, _ANGLE, _SQUARE, _RARE))
"""The patterns, for the fingerprint of a judge."""


def neutralise_tokens(text: str) -> str:
    """Put blanks into everything that looks like a control token. A text without such shapes is returned unchanged.

    Blanks are all that is added, and none of the shapes contains a blank, so no step makes a new token.
    """
    text = _BESIDE_BAR.sub(" ", text)
    text = _ANGLE.sub(_spaced_unless_html, text)
    text = _SQUARE.sub(_spaced, text)
    return _RARE.sub(_spaced, text)


def _spaced(match: re.Match[str]) -> str:
    return f" {match.group()} "


def _spaced_unless_html(match: re.Match[str]) -> str:
    tag = _HTML_TAG.fullmatch(match.group())
    return match.group() if tag and tag[1] in HTML else _spaced(match)
