"""A model's texts for Ollama: its template in Go's language, its parameters, its Modelfile and its name."""

from __future__ import annotations

import json
import re
from pathlib import Path

from assistant.dataset.prompts import Template
from assistant.errors import SettingsError
from assistant.files import shown_path
from assistant.settings import GenerationSettings

Parameters = dict[str, int | float | list[str]]


def go_template(template: Template) -> str:
    """Return a template in Go's template language, over `.Messages`.

    It renders what `Template.chat_template` renders, except that Go has no function that trims a text. The server joins
    neighbours of one role before it renders, and puts the tokenizer's first token before the prompt.
    """
    header, response, preamble, opening = map(
        _literal, (template.instruction_header, template.response_header, template.preamble, template.reply_opening)
    )
    asked = ('{{ $asked := "" }}', "{{ $asked = .Role }}", f'{{{{ if eq $asked "user" }}}}{opening}{{{{ end }}}}')
    declared, noted, opened = asked if opening else ("", "", "")
    return (
        f'{declared}{{{{ $system := "" }}}}{{{{ $separator := "" }}}}'
        f"{preamble}"
        f"{{{{ range .Messages }}}}{noted}"
        '{{ if eq .Role "system" }}'
        r'{{ if $system }}{{ $system = printf "%s\n\n%s" $system .Content }}{{ else }}{{ $system = .Content }}{{ end }}'
        '{{ else if eq .Role "user" }}'
        f"{{{{ $separator }}}}{header}{{{{ if $system }}}}{{{{ $system }}}}\n\n{{{{ end }}}}"
        '{{ $system = "" }}{{ $separator = "" }}'
        f"{{{{ .Content }}}}{response}"
        "{{ else }}"
        "{{ $separator }}{{ .Content }}"
        f"{{{{ $separator = {json.dumps(template.turn_separator)} }}}}"
        f"{{{{ end }}}}{{{{ end }}}}{opened}"
    )


def _literal(text: str) -> str:
    """A text of the template that Go copies as it is."""
    return text.replace("{{", '{{ "{{" }}')


def stop_strings(template: Template) -> tuple[str, ...]:
    """The texts that end a reply or begin the user's next turn. An answer that reaches one has run on."""
    header = template.end_of_turn or template.instruction_header.strip()
    return (header,) if header else ()


def ollama_parameters(settings: GenerationSettings, template: Template, context_length: int) -> Parameters:
    """Return all sampling parameters, so that no default of the server has a part in an answer.

    The values mean what `assistant ask` does with the same settings. The seed is cut to 31 bits.
    """
    penalty = settings.repetition_penalty
    parameters: Parameters = {
        "num_ctx": context_length,
        "num_predict": min(settings.max_new_tokens, context_length),
        "temperature": settings.temperature,
        "top_k": settings.top_k or 0,  # 0 keeps all tokens
        "top_p": 1.0 if settings.top_p is None else settings.top_p,
        "min_p": settings.min_p or 0.0,
        "repeat_penalty": penalty,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": settings.seed & 0x7FFFFFFF,
    }
    if penalty != 1.0:
        parameters["repeat_last_n"] = -1  # ours counts all tokens, the server's default counts 64
    stop = [*dict.fromkeys((*settings.stop, *stop_strings(template)))]
    if stop:
        parameters["stop"] = stop  # a list: the server accepts a text here and then fails every request
    return parameters


def modelfile(gguf: str, template: Template, parameters: Parameters) -> str:
    """Return the Modelfile for `ollama create`. `gguf` is the file's name, in the Modelfile's folder.

    Raises:
        SettingsError: a text cannot be written in a Modelfile, which has no escapes.
    """
    lines = [f"FROM ./{gguf}", f"TEMPLATE {_quoted(go_template(template))}"]
    for name, value in parameters.items():
        values = [_quoted(text) for text in value] if isinstance(value, list) else [value]
        lines += [f"PARAMETER {name} {value}" for value in values]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    if '"""' in text or text.startswith('"') or text.endswith('"'):
        raise SettingsError(
            f"--stop: expected a text that a Modelfile can hold, got {text!r}. Leave out the double quotes at its ends."
        )
    return f'"""{text}"""' if "\n" in text or '"' in text else f'"{text}"'


def model_name(name: str) -> str:
    """Return a name that Ollama accepts, from a folder's name."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._") or "model"


def check_name(name: str) -> None:
    """Raise SettingsError for a name that no server accepts."""
    part = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
    if not re.fullmatch(rf"({part}(:[0-9]+)?/)?({part}/)?{part}(:{part})?", name):
        raise SettingsError(
            f"--name: expected a model name such as mine or mine:v2, got {name!r}. "
            f"Use letters, digits, dots, hyphens and underscores."
        )


def modelfile_path(gguf: Path) -> Path:
    """The Modelfile's path beside a GGUF file: `mine.gguf` has `mine.Modelfile`.

    Raises:
        SettingsError: Ollama drops the characters of the name that cannot be printed.
    """
    if not gguf.name.isprintable():
        raise SettingsError(f"--output: expected a file name that can be printed, got {shown_path(gguf)!r}.")
    return gguf.with_suffix(".Modelfile")
