"""GPT-2's byte-level BPE as a `tiktoken.Encoding`, built only from a model folder's files, without downloads.

`vocab.json` maps tokens to ids. `merges.txt` lists the merges in order. Both spell bytes as printable characters.
`tokenizer.json` holds both; as in transformers it has precedence. `added_tokens` says which other files count.
tiktoken uses a token's id as its merge priority, so ids must increase in the order of the merges. GPT-2's ids do, and
so do those that the `tokenizers` library writes.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import tiktoken

from assistant.dataset.added_tokens import EOS_TOKEN as EOS_TOKEN
from assistant.dataset.added_tokens import (
    TOKENIZER_FILE,
    AddedTokens,
    read_added_tokens,
    read_text,
)
from assistant.errors import CheckpointError

VOCAB_FILE, MERGES_FILE = "vocab.json", "merges.txt"
CONFIG_FILE, GENERATION_FILE = "config.json", "generation_config.json"

MAX_BLANK_RUN = 100_000
"""Longer runs of white space, in characters, are split. A run that is ten times longer overflows tiktoken's stack."""
_MAX_BLANK_RUN = re.compile(r"(\s{" + str(MAX_BLANK_RUN) + "})")

# GPT-2's pattern with possessive quantifiers, as in tiktoken (tiktoken_ext/openai_public.py).
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """Converts text to token ids and back. `vocab_json` and `merges_txt` are the contents of the files, for saving."""

    encoding: tiktoken.Encoding
    eos_id: int
    """The token that ends a text in training."""
    eos_ids: tuple[int, ...]
    """All tokens that end a reply, `eos_id` among them, in the order of the model's configuration."""
    vocab_json: str
    merges_txt: str
    added: AddedTokens
    bos_id: int | None = None
    """The token that the tokenizer's file puts before every text. GPT-2 has none. `encode` does not add it."""

    @property
    def pad_id(self) -> int:
        """The id for padding. GPT-2 has no padding token, so this is EOS; only lengths tell padding from EOS."""
        return self.eos_id

    def special_id(self, text: str) -> int | None:
        """Return the id of a token that is no result of merges, for example of a template's marker, or None."""
        return self.encoding.encode_single_token(text) if text in self.encoding.special_tokens_set else None

    @property
    def vocab_size(self) -> int:
        """The largest id plus one."""
        return self.encoding.n_vocab

    def encode(self, text: str) -> list[int]:
        """Encode a text. `<|endoftext|>` and other special tokens inside it are ordinary text.

        Added tokens that are not special are matched, as in transformers with `split_special_tokens=True`.
        """
        ids: list[int] = []
        for piece in self.added.split(text):
            ids += [piece] if isinstance(piece, int) else self._encode_ordinary(piece)
        return ids

    def encode_with_sizes(self, text: str) -> tuple[list[int], list[int]]:
        """Encode a text; return the ids, and the number of bytes of UTF-8 that each of them covers, in two lists.

        The sizes add up to `utf8_length(text)`.
        """
        ids: list[int] = []
        sizes: list[int] = []
        for piece, covered in self.added.split_with_texts(text):
            if isinstance(piece, int):
                ids.append(piece)
                sizes.append(utf8_length(covered))
            else:
                piece_ids = self._encode_ordinary(piece)
                ids += piece_ids
                sizes += [len(self.token_bytes(token_id)) for token_id in piece_ids]
        return ids, sizes

    def _encode_ordinary(self, text: str) -> list[int]:
        if len(text) < MAX_BLANK_RUN:
            return self.encoding.encode_ordinary(text)
        pieces = _MAX_BLANK_RUN.split(text)
        return [token_id for piece in pieces if piece for token_id in self.encoding.encode_ordinary(piece)]

    @property
    def eos_token(self) -> str:
        """The text of `eos_id`."""
        return self.decode([self.eos_id])

    def files(self) -> dict[str, str]:
        """The contents of the tokenizer's files by name, as they were read. `tokenizer_config.json` is not among them.

        `vocab.json` and `merges.txt` are always among them.
        """
        return {VOCAB_FILE: self.vocab_json, MERGES_FILE: self.merges_txt, **self.added.files}

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids. Bytes that are not UTF-8 become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of one token. Empty for an id that is not in the vocabulary but may be in the model."""
        try:
            return self.encoding.decode_single_token_bytes(token_id)
        except KeyError:
            return b""

    def stream_decoder(self) -> StreamDecoder:
        """Return a decoder for the tokens of one reply."""
        return StreamDecoder(self)


class StreamDecoder:
    """Decodes tokens one by one. Holds back a character until all of its bytes have come."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """Return the text that this token completes. Empty if a character is still incomplete."""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def finish(self) -> str:
        """Return the rest at the end: U+FFFD if the last character is incomplete, otherwise an empty text."""
        return self._decoder.decode(b"", final=True)


def utf8_length(text: str) -> int:
    """Return the bytes of a text in UTF-8, as tiktoken reads it: surrogates in pairs, and a lone one as U+FFFD."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return len(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode())


@cache
def byte_characters() -> dict[str, int]:
    """Map GPT-2's printable characters to the 256 bytes (openai/gpt-2, `bytes_to_unicode`, inverted)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unprintable = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(unprintable)}


def read_tokenizer(folder: str | Path) -> Tokenizer:
    """Read the tokenizer of a model folder: from `tokenizer.json`, or else from `vocab.json` and `merges.txt`.

    The tokens that end a reply are those that transformers' `generate` stops at: `eos_token_id` of
    `generation_config.json`, or else of `config.json`. Without either, it is the tokenizer's `eos_token`.

    Raises:
        CheckpointError: a file is missing or damaged, or it is not a byte-level BPE that tiktoken can run.
    """
    folder = Path(folder)
    vocab_path, merges_path, tokenizer_path = folder / VOCAB_FILE, folder / MERGES_FILE, folder / TOKENIZER_FILE
    if tokenizer_path.exists():
        vocab_json, merges_txt = _split_tokenizer_json(read_text(tokenizer_path), str(tokenizer_path))
        where = str(tokenizer_path)
    elif vocab_path.exists() and merges_path.exists():
        vocab_json, merges_txt, where = read_text(vocab_path), read_text(merges_path), str(folder)
    else:
        missing = [path.name for path in (vocab_path, merges_path) if not path.exists()]
        raise CheckpointError(
            f"{folder}: expected a tokenizer, got no {' and no '.join(missing)} (and no {TOKENIZER_FILE}). "
            f"Copy them from the base model."
        )
    added = read_added_tokens(folder, _parse_vocab(vocab_json, where))
    return build_tokenizer(vocab_json, merges_txt, where=where, added=added, eos_ids=_read_eos_ids(folder))


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds the files of a tokenizer."""
    return (folder / TOKENIZER_FILE).is_file() or all((folder / name).is_file() for name in (VOCAB_FILE, MERGES_FILE))


def build_tokenizer(
    vocab_json: str,
    merges_txt: str,
    *,
    where: str,
    added: AddedTokens | None = None,
    eos_ids: Sequence[int] = (),
) -> Tokenizer:
    """Build a tokenizer from the contents of the two files. `where` names their folder in error messages.

    `eos_ids` are the tokens that end a reply. In training a text ends by the tokenizer's EOS if that is one of them,
    else by the first that the tokenizer knows.

    Raises:
        CheckpointError: the files are damaged, or they are not a byte-level BPE that tiktoken can run.
    """
    vocab = _parse_vocab(vocab_json, where)
    ranks = _ranks(vocab, merges_txt, where)
    added = added or AddedTokens({}, (), EOS_TOKEN, {}, {})
    byte_level_ids = set(ranks.values())
    specials = {
        text: token_id for text, token_id in (vocab | dict(added.ids)).items() if token_id not in byte_level_ids
    }
    eos_id = specials.get(added.eos_token)
    if eos_id is None or (eos_ids and eos_id not in eos_ids):
        known = byte_level_ids | set(specials.values())
        eos_id = next((token_id for token_id in eos_ids if token_id in known), eos_id)
    if eos_id is None:
        raise CheckpointError(f"{where}/{VOCAB_FILE}: expected the end-of-text token {added.eos_token!r}, got none.")
    try:
        encoding = tiktoken.Encoding(where, pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=specials)
    except (OverflowError, UnicodeError) as error:
        raise CheckpointError(f"{where}/{VOCAB_FILE}: expected tokens and ids that fit, got {error}.") from error
    return Tokenizer(
        encoding=encoding,
        eos_id=eos_id,
        eos_ids=tuple(dict.fromkeys(eos_ids if eos_id in eos_ids else [*eos_ids, eos_id])),
        vocab_json=vocab_json,
        merges_txt=merges_txt,
        added=added,
    )


def _ranks(vocab: dict[str, int], merges_txt: str, where: str) -> dict[bytes, int]:
    """The ids of the single bytes and of the merged tokens."""
    characters = byte_characters()
    ranks: dict[bytes, int] = {}
    for character, byte in characters.items():
        if character not in vocab:
            raise CheckpointError(f"{where}/{VOCAB_FILE}: expected all 256 bytes, got none for 0x{byte:02x}.")
        ranks[bytes([byte])] = vocab[character]
    last_id, last_token = -1, ""
    for line_number, token in _merged_tokens(merges_txt, where):
        if token not in vocab:
            raise CheckpointError(f"{where}/{MERGES_FILE}, line {line_number}: {token!r} is not in {VOCAB_FILE}.")
        spelled = bytes(characters[character] for character in token)
        if spelled in ranks:
            continue
        if vocab[token] <= last_id:
            raise CheckpointError(
                f"{where}/{VOCAB_FILE}: expected ids that increase in the order of the merges, "
                f"got {vocab[token]} for {token!r} after {last_id} for {last_token!r}."
            )
        last_id, last_token = vocab[token], token
        ranks[spelled] = last_id
    return ranks


def _read_eos_ids(folder: Path) -> list[int]:
    """The `eos_token_id` of a model folder, as a list. Ids that the model cannot produce are left out."""
    contents = [_read_object(folder / name) for name in (GENERATION_FILE, CONFIG_FILE)]
    for content in contents:
        value = content.get("eos_token_id")
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if not all(type(token_id) is int for token_id in ids):
            raise CheckpointError(
                f"{folder}: expected eos_token_id as an id or a list of ids, got {str(value)[:40]!r} in {CONFIG_FILE} "
                f"or {GENERATION_FILE}. Correct it."
            )
        vocab_size = contents[-1].get("vocab_size")
        return [
            token_id for token_id in ids if token_id >= 0 and not (type(vocab_size) is int and token_id >= vocab_size)
        ]
    return []


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one if there is no such file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: expected JSON, got {error}. Copy the file from the original again.") from error
    return content if isinstance(content, dict) else {}


def _parse_vocab(vocab_json: str, where: str) -> dict[str, int]:
    try:
        vocab: Any = json.loads(vocab_json)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}/{VOCAB_FILE}: expected JSON, got {error}. Is the download complete?") from error
    if not isinstance(vocab, dict) or not all(type(token_id) is int and token_id >= 0 for token_id in vocab.values()):
        raise CheckpointError(f"{where}/{VOCAB_FILE}: expected one object of tokens and their ids.")
    if len(set(vocab.values())) != len(vocab):
        raise CheckpointError(f"{where}/{VOCAB_FILE}: expected a different id for every token, got some ids twice.")
    return vocab


def _merged_tokens(merges_txt: str, where: str) -> Iterable[tuple[int, str]]:
    """Yield the line number and the resulting token of every merge."""
    characters = byte_characters()
    for number, line in enumerate(merges_txt.split("\n"), start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.rstrip("\r").split(" ")
        if len(pair) != 2 or not all(pair) or not all(character in characters for part in pair for character in part):
            raise CheckpointError(f"{where}/{MERGES_FILE}, line {number}: expected two tokens, got {line[:40]!r}.")
        yield number, pair[0] + pair[1]


def _split_tokenizer_json(text: str, where: str) -> tuple[str, str]:
    """Convert the `tokenizers` library's `tokenizer.json` to the contents of `vocab.json` and `merges.txt`."""
    try:
        tokenizer = json.loads(text)
        model = tokenizer["model"]
        vocab = dict(model["vocab"])
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        vocab |= {token["content"]: token["id"] for token in tokenizer.get("added_tokens") or []}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{where}: expected a byte-level BPE of the tokenizers library, got {error!r}."
        ) from error
    return json.dumps(vocab, ensure_ascii=False), "\n".join(["#version: 0.2", *merges, ""])
