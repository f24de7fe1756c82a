"""The record of the template that a model was trained with, and its comparison with today's template of that name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from assistant.dataset.encode import encode_pieces
from assistant.dataset.prompts import TEMPLATES, Template, recorded_template
from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import CheckpointError
from assistant.model.config import ModelInfo, TemplateRecord


def template_record(template: Template) -> TemplateRecord:
    """The record of a template for `assistant.json`."""
    return TemplateRecord(name=template.name, fingerprint=template.fingerprint, texts=template.texts)


def trained_template(info: ModelInfo, tokenizer: Tokenizer, folder: Path) -> Template:
    """The template that the model was trained with. Raise CheckpointError if it is unknown or has changed since."""
    if info.template.name not in TEMPLATES:
        raise CheckpointError(
            f"{folder}: expected one of the templates {', '.join(sorted(TEMPLATES))}, got {info.template.name!r}. "
            f"Use the version of this project that trained the model."
        )
    template = recorded_template(info.template.name, info.template.texts)
    check_same_template(template, info.template, tokenizer, where=str(folder))
    return template


def check_same_template(template: Template, trained: TemplateRecord, tokenizer: Tokenizer, *, where: str) -> None:
    """Raise CheckpointError, with the first token that differs, if a model was trained with another template."""
    if template.fingerprint == trained.fingerprint:
        return
    raise CheckpointError(
        f"{where}: expected the template it was trained with ({trained.name}, {trained.fingerprint}), "
        f"got {template.name}, {template.fingerprint}. They differ in {_difference(template, trained, tokenizer)}."
    )


def _difference(template: Template, trained: TemplateRecord, tokenizer: Tokenizer) -> str:
    """The first token in which two templates' prompts differ, or "their texts" if there is none."""
    try:
        texts: dict[str, Any] = dict(trained.texts)
        trained_template = replace(template, name=trained.name, **texts)
    except TypeError:  # a version of the project with other fields wrote the texts
        return "their texts"
    for input_text in ("", "I"):
        old, new = (encode_pieces(t.pieces("Q", input_text), tokenizer) for t in (trained_template, template))
        index = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
        if index < max(len(old), len(new)):
            in_training, now = (repr(tokenizer.decode(ids[index : index + 1])) for ids in (old, new))
            return f"token {index + 1} of the prompt: {in_training} in training, {now} now"
    return "their texts"
