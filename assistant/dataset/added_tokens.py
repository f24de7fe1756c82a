"""Tokens that a model folder adds to its byte-level BPE: which files name them, and how they are matched in a text.

transformers reads them from `tokenizer.json` or `tokenizer_config.json`, and older versions from `added_tokens.json`
and `special_tokens_map.json`. This module does the same. Special tokens are never matched in a text.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from assistant.dataset.tokenizer_json import Pipeline, read_pipeline
from assistant.errors import CheckpointError

TOKENIZER_FILE, TOKENIZER_CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"
ADDED_TOKENS_FILE, SPECIAL_TOKENS_FILE = "added_tokens.json", "special_tokens_map.json"
VOCAB_FILE, MERGES_FILE = "vocab.json", "merges.txt"
EXTRA_TOKENIZER_FILES = (TOKENIZER_FILE, ADDED_TOKENS_FILE, SPECIAL_TOKENS_FILE, VOCAB_FILE, MERGES_FILE)
"""Files that only some tokenizers have, and that change how texts are tokenized."""
EOS_TOKEN = "<|endoftext|>"

# transformers' names for tokens with a purpose, in the order in which it adds those that the vocabulary lacks.
_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_SPECIAL_LISTS = ("additional_special_tokens", "extra_special_tokens")
_OLD_SEPARATORS = "\x1c\x1d\x1e\x1f"
"""White space for Python, but not for the `tokenizers` library."""


@dataclass(frozen=True, kw_only=True)
class AddedToken:
    """A token that is matched as a whole, before the BPE. The fields are those of the `tokenizers` library."""

    content: str
    special: bool = False
    """Special tokens get their ids from the program, never from a text."""
    single_word: bool = False
    """Only match where no letter or digit is next to it."""
    lstrip: bool = False
    """Also match the white space before it."""
    rstrip: bool = False
    normalized: bool = True
    """Match after all tokens without this flag."""


@dataclass(frozen=True)
class AddedTokens:
    """The added tokens of a tokenizer with their ids, and the contents of the files that name them."""

    ids: Mapping[str, int]
    tokens: Sequence[AddedToken]
    eos_token: str
    config: Mapping[str, Any]
    """`tokenizer_config.json`; empty if there is no such file."""
    files: Mapping[str, str]
    """Contents of the other files, by name."""
    pipeline: Pipeline = field(default_factory=Pipeline)

    @cached_property
    def _patterns(self) -> dict[bool, tuple[re.Pattern[str], dict[str, AddedToken]]]:
        """A pattern and its tokens for `normalized` or not. Empty if a text never matches."""
        patterns = {}
        for normalized in (False, True):
            spell = self.pipeline.normalize if normalized else str
            tokens = [token for token in self.tokens if token.normalized is normalized and token.content]
            found = {spell(token.content): token for token in tokens}
            if found and not all(token.special for token in self.tokens):
                longest_first = sorted(found, key=len, reverse=True)
                patterns[normalized] = (re.compile("|".join(map(re.escape, longest_first))), found)
        return patterns

    def split(self, text: str) -> list[tuple[str | int, str]]:
        """Return the pieces of a text in order: the ids of added tokens, and the texts between them, normalized.

        With each comes the text that it covers. That of an id includes the white space that the token swallows.
        """
        pieces = [
            (piece if isinstance(piece, int) else self.pipeline.normalize(piece), covered)
            for piece, covered in self._match([(text, text)], normalized=False)
        ]
        return self._match(pieces, normalized=True)

    def _match(self, pieces: list[tuple[str | int, str]], *, normalized: bool) -> list[tuple[str | int, str]]:
        if normalized not in self._patterns:
            return pieces
        pattern, found = self._patterns[normalized]
        return [
            part
            for piece, covered in pieces
            for part in ([(piece, covered)] if isinstance(piece, int) else self._split(piece, pattern, found))
        ]

    @property
    def is_never_matched(self) -> bool:
        """Whether no text has an added token in it."""
        return not self._patterns

    def _split(
        self, text: str, pattern: re.Pattern[str], found: Mapping[str, AddedToken]
    ) -> Iterator[tuple[str | int, str]]:
        done = 0
        for match in pattern.finditer(text):
            token, (start, end) = found[match.group()], match.span()
            if token.special or (token.single_word and _touches_word(text, start, end)):
                continue
            if token.lstrip:
                start = max(start, done)
                while start > done and _is_blank(text[start - 1]):
                    start -= 1
            while token.rstrip and _is_blank(text[end : end + 1]):
                end += 1
            if done < start:
                yield text[done:start], text[done:start]
            yield self.ids[token.content], text[start:end]
            done = end
        if done < len(text):
            yield text[done:], text[done:]


def _is_blank(character: str) -> bool:
    return character.isspace() and character not in _OLD_SEPARATORS


def _touches_word(text: str, start: int, end: int) -> bool:
    return _is_word(text[start - 1 : start]) or _is_word(text[end : end + 1])


def _is_word(character: str) -> bool:
    return bool(character) and (
        character.isalpha()
        or unicodedata.category(character) in {"Mn", "Mc", "Me", "Nd", "Nl", "Pc"}
        or character in "\u200c\u200d"
    )


def read_added_tokens(folder: Path, vocab: Mapping[str, int]) -> AddedTokens:
    """Read the tokens that a folder adds to `vocab`. A folder without such files adds none.

    Raises:
        CheckpointError: a file is damaged, ids contradict each other, or texts would be changed before tokenization.
    """
    texts = {
        name: read_text(folder / name)
        for name in (TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, ADDED_TOKENS_FILE, SPECIAL_TOKENS_FILE)
        if (folder / name).is_file()
    }
    contents = {name: parse_object(text, folder / name) for name, text in texts.items()}
    config = contents.get(TOKENIZER_CONFIG_FILE, {})
    try:
        listed = _listed_tokens(contents)
        named, eos_token = _named_tokens(contents)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{folder}: expected added tokens as transformers writes them, got {error!r} in {' or '.join(texts)}. "
            f"Copy these files from the base model again."
        ) from error
    pipeline = read_pipeline(contents.get(TOKENIZER_FILE, {}), config, str(folder))
    ids, tokens = _number(folder, vocab, listed, named)
    texts.pop(TOKENIZER_CONFIG_FILE, None)
    if not pipeline.is_gpt2:  # transformers rebuilds the steps for GPT2Tokenizer, its default for GPT-2
        texts |= {name: read_text(folder / name) for name in (VOCAB_FILE, MERGES_FILE) if (folder / name).is_file()}
        config = config or {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos_token}
    return AddedTokens(
        ids=ids, tokens=tokens, eos_token=eos_token or EOS_TOKEN, config=config, files=texts, pipeline=pipeline
    )


def read_text(path: Path) -> str:
    """Read a file of a tokenizer.

    Raises:
        CheckpointError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: expected a UTF-8 text file, got {error}.") from error


def parse_object(text: str, path: Path | str) -> dict[str, Any]:
    """Parse a file of one JSON object. Raises CheckpointError if it is anything else."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON, got {error}. Copy the file from the original again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(content).__name__}.")
    return content


def _listed_tokens(contents: Mapping[str, dict[str, Any]]) -> dict[int, AddedToken]:
    """The tokens that come with ids. `added_tokens_decoder` in the configuration overrides the other files."""
    decoder = contents.get(TOKENIZER_CONFIG_FILE, {}).get("added_tokens_decoder")
    if decoder is not None:
        return {int(token_id): _token(fields) for token_id, fields in decoder.items()}
    tokens: dict[int, AddedToken] = {}
    for content, token_id in contents.get(ADDED_TOKENS_FILE, {}).items():
        tokens[_id(token_id)] = AddedToken(content=content)
    for fields in contents.get(TOKENIZER_FILE, {}).get("added_tokens") or []:
        tokens[_id(fields["id"])] = _token(fields)
    return tokens


def _named_tokens(contents: Mapping[str, dict[str, Any]]) -> tuple[list[str], str | None]:
    """The texts of the tokens with a purpose, in transformers' order, and EOS, or None if no file names it."""
    config = dict(contents.get(TOKENIZER_CONFIG_FILE, {}))
    if "added_tokens_decoder" not in config:
        config |= contents.get(SPECIAL_TOKENS_FILE, {})
    named = [_text(config[name]) for name in _SPECIAL_NAMES if config.get(name) is not None]
    for name in _SPECIAL_LISTS:
        values = config.get(name) or []
        named += [_text(value) for value in (values.values() if isinstance(values, dict) else values)]
    eos_token = config.get("eos_token")
    return list(dict.fromkeys(named)), None if eos_token is None else _text(eos_token)


def _token(fields: dict[str, Any]) -> AddedToken:
    flags = ("special", "single_word", "lstrip", "rstrip", "normalized")
    return AddedToken(content=_text(fields), **{name: bool(fields[name]) for name in flags if name in fields})


def _text(value: Any) -> str:
    text = value["content"] if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise TypeError(f"{str(text)[:40]!r}, which is not a text")
    return text


def _id(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{str(value)[:40]!r}, which is not an id")
    return value


def _number(
    folder: Path, vocab: Mapping[str, int], listed: Mapping[int, AddedToken], named: Sequence[str]
) -> tuple[dict[str, int], list[AddedToken]]:
    """The ids of all added tokens, and the tokens: those of the files, then special ones that have no id yet."""
    ids: dict[str, int] = {}
    tokens: dict[str, AddedToken] = {}
    owners = {token_id: text for text, token_id in vocab.items()}
    next_id = max(vocab.values(), default=-1) + 1
    for token_id, token in sorted(listed.items()):
        if owners.get(token_id, token.content) != token.content or vocab.get(token.content, token_id) != token_id:
            raise CheckpointError(
                f"{folder}: expected one id for each token, got {token.content!r} as {token_id}, which is "
                f"{owners.get(token_id, 'free')!r} in the vocabulary. Do the tokenizer's files belong together?"
            )
        if token_id > next_id:
            raise CheckpointError(
                f"{folder}: expected added tokens whose ids follow the vocabulary's, got {token_id} for "
                f"{token.content!r} where {next_id} comes next. transformers would give it another id."
            )
        next_id = max(next_id, token_id + 1)
        ids[token.content], tokens[token.content] = token_id, token
    for text in named:
        if text not in ids:
            ids[text] = vocab.get(text, next_id)
            next_id = max(next_id, ids[text] + 1)
        previous = tokens.get(text, AddedToken(content=text, normalized=False))
        tokens[text] = replace(previous, special=True)
    return ids, list(tokens.values())
