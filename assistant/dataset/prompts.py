"""Prompt templates: the only module that knows the text around an instruction.

Training, chat, evaluation and export all render their prompts here. The response header is part of the prompt, so the
model generates only the answer, and training and generation use the same prompt. Texts are concatenated and never
formatted: braces and percent signs in an instruction have no meaning.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

from assistant.dataset.examples import Example, Exchange
from assistant.errors import SettingsError

PartKind = Literal[
    "preamble", "history", "instruction header", "instruction", "input header", "input", "response header"
]
"""What a part of a prompt is, in the order in which they stand there."""
_BELOW = "Below is an instruction that describes a task"
_WRITE = "Write a response that appropriately completes the request.\n\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """The constant texts of a prompt. Each turn of a conversation repeats all of them except the preamble."""

    name: str
    preamble: str
    preamble_with_input: str
    instruction_header: str
    input_header: str
    response_header: str
    turn_separator: str

    @property
    def fingerprint(self) -> str:
        """16 hex digits that depend on every text of the template, but not on its name."""
        texts = {key: value for key, value in asdict(self).items() if key != "name"}
        return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()[:16]

    def render(self, instruction: str, input: str = "", history: Sequence[Exchange] = ()) -> str:
        """Return the whole prompt, up to and including the response header."""
        return "".join(text for _, text in self.named_parts(instruction, input, history))

    def named_parts(
        self, instruction: str, input: str = "", history: Sequence[Exchange] = ()
    ) -> list[tuple[PartKind, str]]:
        """Return the prompt in its parts, each with its kind: one for each exchange of the history.

        Constant texts that are empty in this template are left out, and so are those of an empty input.
        """
        parts: list[tuple[PartKind, str]] = [("preamble", self.preamble_with_input if input else self.preamble)]
        parts += [("history", self.exchange(turn)) for turn in history]
        parts.append(("instruction header", self.instruction_header))
        parts.append(("instruction", instruction))
        if input:
            parts += [("input header", self.input_header), ("input", input)]
        parts.append(("response header", self.response_header))
        return [(kind, text) for kind, text in parts if text or kind == "instruction"]

    def exchange(self, turn: Exchange) -> str:
        """Return an exchange of the history as it stands in the prompt."""
        return self.instruction_header + turn.user + self.response_header + turn.assistant + self.turn_separator

    def parts(self, instruction: str, input: str = "", history: Sequence[Exchange] = ()) -> PromptParts:
        """Return the prompt in three parts. Only the user's last text may be truncated."""
        before = self.preamble_with_input if input else self.preamble
        for turn in history:
            before += self.exchange(turn)
        before += self.instruction_header
        if input:
            return PromptParts(before + instruction + self.input_header, input, self.response_header)
        return PromptParts(before, instruction, self.response_header)

    def chat_template(self) -> str:
        """Return the template as Jinja text for Hugging Face's `tokenizer_config.json`.

        Chat messages have no input field, so the Jinja text has none. A blank line joins neighbours of one role. System
        messages precede the next user message. `assistant.interop.modelfile.go_template` is the same in Go's language.
        """
        quoted = {name: json.dumps(value) for name, value in asdict(self).items()}
        preamble, instruction_header = quoted["preamble"], quoted["instruction_header"]
        response_header, turn_separator = quoted["response_header"], quoted["turn_separator"]
        return (
            "{%- set state = namespace(system='', separator='', role='') -%}"
            "{{- " + preamble + " -}}"
            "{%- for message in messages -%}"
            "{%- if message['role'] == 'system' -%}"
            "{%- if state.system -%}{%- set state.system = state.system + '\\n\\n' -%}{%- endif -%}"
            "{%- set state.system = state.system + message['content'] -%}"
            "{%- elif message['role'] == 'user' -%}"
            "{%- if state.role == 'user' -%}{{- '\\n\\n' -}}"
            "{%- else -%}{{- state.separator + " + instruction_header + " -}}{%- endif -%}"
            "{%- if state.system -%}{{- state.system + '\\n\\n' -}}{%- endif -%}"
            "{%- set state.system = '' -%}"
            "{%- set state.separator = '' -%}"
            "{{- message['content'] -}}"
            "{%- set next = 'end' if loop.last else messages[loop.index]['role'] -%}"
            "{%- if next != 'user' and (next != 'end' or add_generation_prompt) -%}"
            "{{- " + response_header + " -}}{%- endif -%}"
            "{%- else -%}"
            "{%- if state.role == 'assistant' -%}{{- '\\n\\n' -}}{%- else -%}{{- state.separator -}}{%- endif -%}"
            "{{- message['content'] -}}"
            "{%- set state.separator = " + turn_separator + " -%}"
            "{%- endif -%}"
            "{%- set state.role = message['role'] -%}"
            "{%- endfor -%}"
        )


TEXT_TEMPLATE = "text"


class PromptParts(NamedTuple):
    """The user's last text, and the text before and after it. Joined, they are the prompt."""

    before: str
    user_text: str
    after: str


TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        # rasbt/LLMs-from-scratch, ch07. The book's prompt ends before the response header; ours includes it.
        Template(
            name="alpaca",
            preamble=f"{_BELOW}. {_WRITE}",
            preamble_with_input=f"{_BELOW}. {_WRITE}",
            instruction_header="### Instruction:\n",
            input_header="\n\n### Input:\n",
            response_header="\n\n### Response:\n",
            turn_separator="\n\n",
        ),
        # tatsu-lab/stanford_alpaca: it has a second preamble for instructions with an input.
        Template(
            name="alpaca-stanford",
            preamble=f"{_BELOW}. {_WRITE}",
            preamble_with_input=f"{_BELOW}, paired with an input that provides further context. {_WRITE}",
            instruction_header="### Instruction:\n",
            input_header="\n\n### Input:\n",
            response_header="\n\n### Response:\n",
            turn_separator="\n\n",
        ),
        # Plain text, as in pretraining: the template adds nothing.
        Template(
            name=TEXT_TEMPLATE,
            preamble="",
            preamble_with_input="",
            instruction_header="",
            input_header="\n\n",
            response_header="",
            turn_separator="\n\n",
        ),
        # The book's exercise 7.1. To GPT-2 the markers are ordinary text.
        Template(
            name="phi3",
            preamble="",
            preamble_with_input="",
            instruction_header="<|user|>\n",
            input_header="\n",
            response_header="\n<|assistant|>:\n",
            turn_separator="\n",
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


def render_example(template: Template, example: Example) -> str:
    """Return the prompt of an example. Training and generation use the same one."""
    return template.render(example.instruction, example.input, example.history)
