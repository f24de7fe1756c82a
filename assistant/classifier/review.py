"""The book's `classify_review`, for our classifiers and for the book's own `GPTModel`."""

from __future__ import annotations

from typing import Any

import torch

from assistant.classifier.model_folder import Classifier
from assistant.dataset.tokenizer import Tokenizer
from assistant.model.gpt import GPTClassifier

SPAM = 1
"""The label that is called "spam"."""


def classify_review(
    text: str,
    model: Any,
    tokenizer: Any,
    device: torch.device | str,
    max_length: int | None = None,
    pad_token_id: int | None = None,
) -> str:
    """Return "spam" if the likeliest label of a text is label 1, else "not spam", as the book's function does.

    `model` is a `Classifier`, its `model`, or the book's `GPTModel`, on `device`. `tokenizer` is the classifier's, or
    tiktoken's. A text is cut to `max_length` tokens, at most the model's context.

    The book's model reads the label at the end of padding up to `max_length`, and without one at the last token of the
    text. Our classifiers read it as in their training, so padding matters only for those with the reading `padded`.
    `pad_token_id` is the end of text of the tokenizer by default.

    Raises:
        ValueError: the text has no token.
    """
    if isinstance(model, Classifier):
        max_length = model.max_length if max_length is None else max_length
        model = model.model
    is_ours = isinstance(model, GPTClassifier)
    context_length = model.config.context_length if is_ours else model.pos_emb.weight.shape[0]
    padded_to = max_length
    if is_ours:
        padded_to = None if model.padded_to is None else max_length or model.padded_to
    longest = min(length for length in (max_length, padded_to, context_length) if length is not None)
    ids = _encode(text, tokenizer)[:longest]
    if padded_to is not None:
        pad_id = _end_of_text(tokenizer) if pad_token_id is None else pad_token_id
        ids += [pad_id] * (longest - len(ids))
    if not ids:
        raise ValueError("classify_review: expected a text with at least one character, got an empty one.")
    model.eval()
    with torch.inference_mode():
        out = model(torch.tensor([ids], device=device))[:, -1]
        logits = model.head(out) if is_ours else out
    return "spam" if int(logits.argmax(dim=-1)) == SPAM else "not spam"


def _encode(text: str, tokenizer: Any) -> list[int]:
    """The ids of a text. What looks like a special token in it is ordinary text."""
    if isinstance(tokenizer, Tokenizer) or not hasattr(tokenizer, "encode_ordinary"):
        return list(tokenizer.encode(text))
    return list(tokenizer.encode_ordinary(text))


def _end_of_text(tokenizer: Any) -> int:
    return int(tokenizer.pad_id if isinstance(tokenizer, Tokenizer) else tokenizer.eot_token)
