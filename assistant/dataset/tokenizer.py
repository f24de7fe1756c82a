"""GPT-2's byte-level BPE as a `tiktoken.Encoding`, built from a model folder's own files: nothing is ever fetched.

`vocab.json` maps tokens to ids and `merges.txt` lists the merges in order; both spell bytes as printable characters.
tiktoken takes a token's id as its merge priority, so ids must rise in the order of the merges, as GPT-2's do and as
the `tokenizers` library writes them.
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

from assistant.errors import CheckpointError

EOS_TOKEN = "<|endoftext|>"
VOCAB_FILE, MERGES_FILE, TOKENIZER_FILE = "vocab.json", "merges.txt", "tokenizer.json"

LONGEST_BLANK = 100_000
"""Characters of white space in a row beyond which a text is cut: ten times as many overflow tiktoken's stack."""
_LONG_BLANK = re.compile(r"(\s{" + str(LONGEST_BLANK) + "})")

# GPT-2's pattern with possessive quantifiers, as tiktoken ships it (tiktoken_ext/openai_public.py).
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """Text to ids and back. `vocab_json` and `merges_txt` are the files' contents, kept to be saved again."""

    encoding: tiktoken.Encoding
    eos_id: int
    vocab_json: str
    merges_txt: str

    @property
    def pad_id(self) -> int:
        """GPT-2 has no padding token; EOS fills, and lengths say where. Two names, one value."""
        return self.eos_id

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return self.encoding.n_vocab

    def encode(self, text: str) -> list[int]:
        """Ids of `text`. A typed `<|endoftext|>` is text like any other."""
        if len(text) < LONGEST_BLANK:
            return self.encoding.encode_ordinary(text)
        pieces = _LONG_BLANK.split(text)
        return [token_id for piece in pieces if piece for token_id in self.encoding.encode_ordinary(piece)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token; empty for an id that the model has and the vocabulary has not."""
        try:
            return self.encoding.decode_single_token_bytes(token_id)
        except KeyError:
            return b""

    def stream_decoder(self) -> StreamDecoder:
        """A decoder for one reply as it comes in."""
        return StreamDecoder(self)


class StreamDecoder:
    """Text of a growing list of tokens. A character that is still incomplete is held back."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The text that this token completes; often empty inside a character."""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def finish(self) -> str:
        """What is left at the end: U+FFFD where the reply was cut inside a character, else nothing."""
        return self._decoder.decode(b"", final=True)


@cache
def byte_characters() -> dict[str, int]:
    """GPT-2's printable stand-in for each of the 256 bytes (openai/gpt-2, `bytes_to_unicode`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def read_tokenizer(folder: str | Path, *, eos_token: str = EOS_TOKEN) -> Tokenizer:
    """The tokenizer of a model folder: from `vocab.json` and `merges.txt`, or else from `tokenizer.json`.

    Raises:
        CheckpointError: a file is missing or damaged, or is no byte-level BPE that tiktoken can run.
    """
    folder = Path(folder)
    vocab_path, merges_path, whole_path = folder / VOCAB_FILE, folder / MERGES_FILE, folder / TOKENIZER_FILE
    if vocab_path.exists() and merges_path.exists():
        return build_tokenizer(_read(vocab_path), _read(merges_path), where=str(folder), eos_token=eos_token)
    if whole_path.exists():
        vocab, merges = _split_tokenizer_json(_read(whole_path), str(whole_path))
        return build_tokenizer(vocab, merges, where=str(whole_path), eos_token=eos_token)
    missing = [path.name for path in (vocab_path, merges_path) if not path.exists()]
    raise CheckpointError(
        f"{folder}: expected a tokenizer, got no {' and no '.join(missing)} (and no {TOKENIZER_FILE}). "
        f"Copy them from the model this one was made of."
    )


def build_tokenizer(vocab_json: str, merges_txt: str, *, where: str, eos_token: str = EOS_TOKEN) -> Tokenizer:
    """A tokenizer from the two files' contents; `where` names their home in error messages."""
    vocab = _parse_vocab(vocab_json, where)
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
                f"{where}/{VOCAB_FILE}: expected ids that rise in the order of the merges, "
                f"got {vocab[token]} for {token!r} after {last_id} for {last_token!r}."
            )
        last_id, last_token = vocab[token], token
        ranks[spelled] = last_id
    used = set(ranks.values())
    specials = {token: token_id for token, token_id in vocab.items() if token_id not in used}
    if eos_token not in specials:
        raise CheckpointError(f"{where}/{VOCAB_FILE}: expected the end-of-text token {eos_token!r}, got none.")
    try:
        encoding = tiktoken.Encoding(where, pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=specials)
    except (OverflowError, UnicodeError) as error:
        raise CheckpointError(f"{where}/{VOCAB_FILE}: expected tokens and ids that fit, got {error}.") from error
    return Tokenizer(encoding=encoding, eos_id=specials[eos_token], vocab_json=vocab_json, merges_txt=merges_txt)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: expected a UTF-8 text file, got {error}.") from error


def _parse_vocab(vocab_json: str, where: str) -> dict[str, int]:
    try:
        vocab: Any = json.loads(vocab_json)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}/{VOCAB_FILE}: expected JSON, got {error}. Is the download complete?") from error
    if not isinstance(vocab, dict) or not all(type(token_id) is int and token_id >= 0 for token_id in vocab.values()):
        raise CheckpointError(f"{where}/{VOCAB_FILE}: expected one object of tokens and their ids.")
    if len(set(vocab.values())) != len(vocab):
        raise CheckpointError(f"{where}/{VOCAB_FILE}: expected a different id for every token, got some twice.")
    return vocab


def _merged_tokens(merges_txt: str, where: str) -> Iterable[tuple[int, str]]:
    """Line number and result of every merge."""
    known = byte_characters()
    for number, line in enumerate(merges_txt.split("\n"), start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.rstrip("\r").split(" ")
        if len(pair) != 2 or not all(pair) or not all(character in known for part in pair for character in part):
            raise CheckpointError(f"{where}/{MERGES_FILE}, line {number}: expected two tokens, got {line[:40]!r}.")
        yield number, pair[0] + pair[1]


def _split_tokenizer_json(text: str, where: str) -> tuple[str, str]:
    """`vocab.json` and `merges.txt` out of the one file that the `tokenizers` library writes."""
    try:
        whole = json.loads(text)
        model = whole["model"]
        vocab = dict(model["vocab"])
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        vocab |= {token["content"]: token["id"] for token in whole.get("added_tokens", [])}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{where}: expected a byte-level BPE of the tokenizers library, got {error!r}."
        ) from error
    return json.dumps(vocab, ensure_ascii=False), "\n".join(["#version: 0.2", *merges, ""])
