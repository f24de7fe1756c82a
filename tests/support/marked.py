"""Small tokenizers that have the markers of our templates, and chat templates as models have them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from assistant.dataset.added_tokens import MERGES_FILE, VOCAB_FILE
from assistant.dataset.prompts import TEMPLATES
from assistant.dataset.tokenizer import Tokenizer, build_tokenizer, read_tokenizer
from assistant.dataset.tokenizer_json import pre_tokenizer

MARKERS = tuple(dict.fromkeys(marker for template in TEMPLATES.values() for marker in template.markers))
BOS = "<|begin_of_text|>"
SPLITS = {"smollm2": "smollm", "qwen2.5": "qwen2", "qwen3": "qwen2", "llama3.2": "llama-bpe"}
_BUILT: dict[tuple[int, str | None], Tokenizer] = {}

_CHATML = (
    "{% for turn in messages %}{{ '<|im_start|>' ~ turn.role ~ '\n' ~ turn.content ~ '<|im_end|>\n' }}{% endfor %}"
)
_ASKED = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
CHAT_TEMPLATES = {
    "smollm2": "{% if messages[0].role != 'system' %}<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n{% endif %}" + _CHATML + _ASKED,
    "qwen2.5": "{%- if messages[0].role != 'system' %}{{ '<|im_start|>system\n' }}"
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n{% endif %}" + _CHATML + _ASKED,
    "qwen3": _CHATML
    + _ASKED
    + "{% if add_generation_prompt and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}",
    "llama3.2": "{{ bos_token }}{% set date = date_string if date_string is defined else '26 Jul 2024' %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: ' ~ date }}"
    "{{ '\n\n<|eot_id|>' }}{% for turn in messages %}{{ '<|start_header_id|>' ~ turn.role ~ '<|end_header_id|>\n\n' }}"
    "{{ turn.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
}
"""What the instruct models' own chat templates render for texts of users and models without tools, in our words."""


def with_markers(tokenizer: Tokenizer, *, first_token: str | None = None) -> Tokenizer:
    """Return the tokenizer with all markers added. `first_token` is put before every text."""
    key = (id(tokenizer), first_token)
    if key not in _BUILT:
        files = tokenizer.files()
        vocab = json.loads(files[VOCAB_FILE])
        vocab |= {marker: len(vocab) + index for index, marker in enumerate(MARKERS)}
        built = build_tokenizer(json.dumps(vocab), files[MERGES_FILE], where="marked")
        _BUILT[key] = with_bos(built, first_token)
    return _BUILT[key]


def with_bos(tokenizer: Tokenizer, first_token: str | None) -> Tokenizer:
    """Return the tokenizer with a token that it puts before every text, or with none."""
    bos_id = None if first_token is None else tokenizer.special_id(first_token)
    added = tokenizer.added
    return replace(tokenizer, added=replace(added, pipeline=replace(added.pipeline, bos_id=bos_id)))


def save_both(folder: Path, tokenizer: Tokenizer, name: str) -> tuple[Tokenizer, Any]:
    """Write a tokenizer with markers and one of `CHAT_TEMPLATES`. Return it as we and as transformers read it.

    It has the tokens of `tokenizer`, and splits texts as the model of that name does.
    """
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as FastTokenizer
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    files = tokenizer.files()
    merges = [(first, second) for first, second in (line.split(" ") for line in files[MERGES_FILE].splitlines()[1:])]
    plain = FastTokenizer(BPE(json.loads(files[VOCAB_FILE]), merges))
    plain.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in MARKERS])
    plain.add_tokens([AddedToken(text, normalized=False) for text in ("<think>", "</think>")])
    content = json.loads(plain.to_str())
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": pre_tokenizer(SPLITS[name])}
    content["normalizer"] = {"type": "NFC"} if name.startswith("qwen") else None
    if name == "llama3.2":
        bos = {"id": BOS, "ids": [plain.token_to_id(BOS)], "tokens": [BOS]}
        text = {"Sequence": {"id": "A", "type_id": 0}}
        single = [{"SpecialToken": {"id": BOS, "type_id": 0}}, text]
        pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
        steps = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": {BOS: bos}}
        content["post_processor"] = steps
    fast = FastTokenizer.from_str(json.dumps(content))
    bos_token = BOS if name == "llama3.2" else None
    theirs = PreTrainedTokenizerFast(tokenizer_object=fast, eos_token="<|endoftext|>", bos_token=bos_token)
    theirs.chat_template = CHAT_TEMPLATES[name]
    theirs.save_pretrained(folder)
    return read_tokenizer(folder), theirs
