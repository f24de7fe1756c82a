"""Prompt templates: the only module that knows the text around an instruction.

Training, chat, evaluation and export all render their prompts here. The response header is part of the prompt, so the
model generates only the answer, and training and generation use the same prompt. Texts are concatenated and never
formatted: braces and percent signs in an instruction have no meaning. Only a template's own texts become markers, which
are special tokens of a model; what a person wrote stays text, also where it spells a marker.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from assistant.dataset.examples import Exchange
from assistant.errors import SettingsError

PartKind = Literal[
    "preamble", "history", "instruction header", "instruction", "input header", "input", "response header"
]
"""What a part of a prompt is, in the order in which they stand there."""
_BELOW = "Below is an instruction that describes a task"
_WRITE = "Write a response that appropriately completes the request.\n\n"
_LLAMA3_SYSTEM = (
    "<|start_header_id|>system<|end_header_id|>\n\n"
    "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
)


class Marker(str):
    """A special token in a prompt. It is encoded as its id, apart from the texts around it."""

    __slots__ = ()


Pieces = tuple[str, ...]
"""A prompt or a part of it: texts and markers in order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """The constant texts of a prompt. Each turn of a conversation repeats all of them except the preamble."""

    name: str
    preamble: str = ""
    preamble_with_input: str = ""
    instruction_header: str = ""
    input_header: str
    response_header: str = ""
    turn_separator: str
    reply_opening: str = ""
    """Begins the reply that is asked for, but no reply of the history."""
    markers: tuple[str, ...] = ()
    """Texts that are special tokens where they stand in the other fields."""
    end_of_turn: str = ""
    """The marker that ends a reply. Empty: the tokenizer's EOS ends it."""
    trims: bool = False
    """Whether white space at both ends of a person's or a model's text is left out."""

    @property
    def texts(self) -> dict[str, str]:
        """The texts by field. A field of later versions is there only if it has a text, so old fingerprints hold."""
        texts = {key: value for key, value in asdict(self).items() if isinstance(value, str) and key != "name"}
        return {key: text for key, text in texts.items() if text or key not in ("reply_opening", "end_of_turn")}

    @property
    def fingerprint(self) -> str:
        """16 hex digits that depend on every text of the template, but not on its name."""
        return hashlib.sha256(json.dumps(self.texts, sort_keys=True).encode()).hexdigest()[:16]

    def render(self, instruction: str, input: str = "", history: Sequence[Exchange] = ()) -> str:
        """Return the whole prompt, up to and including the response header."""
        return "".join(self.pieces(instruction, input, history))

    def pieces(self, instruction: str, input: str = "", history: Sequence[Exchange] = ()) -> Pieces:
        """Return the whole prompt as texts and markers."""
        return join_pieces(piece for _, part in self.named_parts(instruction, input, history) for piece in part)

    def named_parts(
        self, instruction: str, input: str = "", history: Sequence[Exchange] = ()
    ) -> list[tuple[PartKind, Pieces]]:
        """Return the prompt in its parts, each with its kind: one for each exchange of the history.

        Constant texts that are empty in this template are left out, and so are those of an empty input.
        """
        input = self._trimmed(input)
        parts: list[tuple[PartKind, Pieces]] = [
            ("preamble", self.split(self.preamble_with_input if input else self.preamble)),
            *(("history", self.exchange(turn)) for turn in history),
            ("instruction header", self.split(self.instruction_header)),
            ("instruction", (self._trimmed(instruction),)),
        ]
        if input:
            parts += [("input header", self.split(self.input_header)), ("input", (input,))]
        parts.append(("response header", self.split(self.response_header + self.reply_opening)))
        return [(kind, pieces) for kind, pieces in parts if pieces]

    def exchange(self, turn: Exchange) -> Pieces:
        """Return an exchange of the history as it stands in the prompt."""
        asked = (*self.split(self.instruction_header), self._trimmed(turn.user))
        answered = (*self.split(self.response_header), self._trimmed(turn.assistant))
        return join_pieces((*asked, *answered, *self.split(self.turn_separator)))

    def split(self, text: str) -> Pieces:
        """Split a text of the template, never a person's, at its markers."""
        pattern = "|".join(map(re.escape, self.markers)) or "$^"
        pieces = filter(None, re.split(f"({pattern})", text))
        return tuple(Marker(piece) if piece in self.markers else piece for piece in pieces)

    def _trimmed(self, text: str) -> str:
        return text.strip() if self.trims else text

    def chat_template(self, bos_token: str = "") -> str:
        """Return the template as Jinja text for Hugging Face's `tokenizer_config.json`.

        Chat messages have no input field, so the Jinja text has none. A blank line joins neighbours of one role. System
        messages precede the next user message. `assistant.interop.modelfile.go_template` is the same in Go's language.
        `bos_token` is the text of the token that the tokenizer puts first, which Hugging Face leaves to the Jinja text.
        """
        content = "message['content'] | trim" if self.trims else "message['content']"
        opening = ""
        if self.reply_opening:
            opening = "{%- if next == 'end' -%}{{- " + json.dumps(self.reply_opening) + " -}}{%- endif -%}"
        return (
            "{%- set state = namespace(system='', separator='', role='') -%}"
            "{{- " + json.dumps(bos_token + self.preamble) + " -}}"
            "{%- for message in messages -%}"
            "{%- if message['role'] == 'system' -%}"
            "{%- if state.system -%}{%- set state.system = state.system + '\\n\\n' -%}{%- endif -%}"
            "{%- set state.system = state.system + message['content'] -%}"
            "{%- elif message['role'] == 'user' -%}"
            "{%- if state.role == 'user' -%}{{- '\\n\\n' -}}"
            "{%- else -%}{{- state.separator + " + json.dumps(self.instruction_header) + " -}}{%- endif -%}"
            "{%- if state.system -%}{{- state.system + '\\n\\n' -}}{%- endif -%}"
            "{%- set state.system = '' -%}"
            "{%- set state.separator = '' -%}"
            "{{- " + content + " -}}"
            "{%- set next = 'end' if loop.last else messages[loop.index]['role'] -%}"
            "{%- if next != 'user' and (next != 'end' or add_generation_prompt) -%}"
            "{{- " + json.dumps(self.response_header) + " -}}" + opening + "{%- endif -%}"
            "{%- else -%}"
            "{%- if state.role == 'assistant' -%}{{- '\\n\\n' -}}{%- else -%}{{- state.separator -}}{%- endif -%}"
            "{{- " + content + " -}}"
            "{%- set state.separator = " + json.dumps(self.turn_separator) + " -%}"
            "{%- endif -%}"
            "{%- set state.role = message['role'] -%}"
            "{%- endfor -%}"
        )


def join_pieces(pieces: Iterable[str]) -> Pieces:
    """Join texts that are neighbours, so that they are encoded as one text. Empty texts are left out."""
    joined: list[str] = []
    for piece in filter(None, pieces):
        if joined and not isinstance(piece, Marker) and not isinstance(joined[-1], Marker):
            joined[-1] += piece
        else:
            joined.append(piece)
    return tuple(joined)


TEXT_TEMPLATE = "text"
# rasbt/LLMs-from-scratch, ch07. The book's prompt ends before the response header; ours includes it.
_ALPACA = Template(
    name="alpaca",
    preamble=f"{_BELOW}. {_WRITE}",
    preamble_with_input=f"{_BELOW}. {_WRITE}",
    instruction_header="### Instruction:\n",
    input_header="\n\n### Input:\n",
    response_header="\n\n### Response:\n",
    turn_separator="\n\n",
)
TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        _ALPACA,
        # tatsu-lab/stanford_alpaca: it has a second preamble for instructions with an input.
        replace(
            _ALPACA,
            name="alpaca-stanford",
            preamble_with_input=f"{_BELOW}, paired with an input that provides further context. {_WRITE}",
        ),
        # Plain text, as in pretraining: the template adds nothing.
        Template(name=TEXT_TEMPLATE, input_header="\n\n", turn_separator="\n\n"),
        # The book's exercise 7.1. To GPT-2 the markers are ordinary text.
        Template(
            name="phi3",
            instruction_header="<|user|>\n",
            input_header="\n",
            response_header="\n<|assistant|>:\n",
            turn_separator="\n",
        ),
        # SmolLM2, Qwen2.5 and Qwen3 Instruct. The model's own chat template says which system text comes first.
        Template(
            name="chatml",
            instruction_header="<|im_start|>user\n",
            input_header="\n\n",
            response_header="<|im_end|>\n<|im_start|>assistant\n",
            turn_separator="<|im_end|>\n",
            markers=("<|im_start|>", "<|im_end|>"),
            end_of_turn="<|im_end|>",
        ),
        # Llama 3.2 Instruct, with the date that its own template has where it cannot ask for today's.
        Template(
            name="llama3",
            preamble=_LLAMA3_SYSTEM,
            preamble_with_input=_LLAMA3_SYSTEM,
            instruction_header="<|start_header_id|>user<|end_header_id|>\n\n",
            input_header="\n\n",
            response_header="<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
            turn_separator="<|eot_id|>",
            markers=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
            end_of_turn="<|eot_id|>",
            trims=True,
        ),
    )
}
DEFAULT_TEMPLATE = "alpaca"


def get_template(name: str) -> Template:
    """Return a template by its name.

    Raises:
        SettingsError: there is no such template. The message lists the valid names.
    """
    if name not in TEMPLATES:
        raise SettingsError(f"template: expected one of {', '.join(sorted(TEMPLATES))}, got {name!r}.")
    return TEMPLATES[name]


def recorded_template(name: str, texts: Mapping[str, str]) -> Template:
    """Return a template by its name. In one with markers, the recorded texts say what precedes turns and a reply."""
    template = get_template(name)
    free = ("preamble", "preamble_with_input", "reply_opening") if template.markers else ()
    own: dict[str, Any] = {key: texts[key] for key in free if key in texts}
    return replace(template, **own)
