"""A byte-level BPE as a `tiktoken.Encoding`, built only from a model folder's files, without downloads.

`vocab.json` maps tokens to ids. `merges.txt` lists the merges in order. Both spell bytes as printable characters, and
both are split as GPT-2's. `tokenizer.json` holds both and says how a text is split; as in transformers it has
precedence. `added_tokens` says which other files count.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import tiktoken

from assistant.dataset.added_tokens import EOS_TOKEN as EOS_TOKEN
from assistant.dataset.added_tokens import (
    MERGES_FILE,
    TOKENIZER_FILE,
    VOCAB_FILE,
    AddedTokens,
    parse_object,
    read_added_tokens,
    read_text,
)
from assistant.dataset.byte_pairs import BytePairs, build_byte_pairs, to_utf8
from assistant.dataset.byte_pairs import byte_characters as byte_characters
from assistant.dataset.tokenizer_json import split_tokenizer_json
from assistant.errors import CheckpointError

CONFIG_FILE, GENERATION_FILE = "config.json", "generation_config.json"


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """Converts text to token ids and back. `vocab_json` and `merges_txt` are the contents of the files, for saving."""

    byte_pairs: BytePairs
    eos_id: int
    """The token that ends a text in training."""
    eos_ids: tuple[int, ...]
    """All tokens that end a reply, `eos_id` among them, in the order of the model's configuration."""
    vocab_json: str
    merges_txt: str
    added: AddedTokens

    @property
    def encoding(self) -> tiktoken.Encoding:
        """All tokens with their ids."""
        return self.byte_pairs.encoding

    @property
    def bos_id(self) -> int | None:
        """The token that the tokenizer's file puts before every text. GPT-2 has none. `encode` does not add it."""
        return self.added.pipeline.bos_id

    @property
    def bos_token(self) -> str:
        """The text of `bos_id`. Empty without one."""
        return "" if self.bos_id is None else self.decode([self.bos_id])

    @property
    def pad_id(self) -> int:
        """The id for padding. GPT-2 has no padding token, so this is EOS; only lengths tell padding from EOS."""
        return self.eos_id

    def special_id(self, text: str) -> int | None:
        """Return the id of a special or added token, such as a template's marker. None if the tokenizer lacks it."""
        return self.byte_pairs.specials.get(text)

    @property
    def vocab_size(self) -> int:
        """The largest id plus one."""
        return self.encoding.n_vocab

    def encode(self, text: str) -> list[int]:
        """Encode a text. `<|endoftext|>` and other special tokens inside it are ordinary text.

        Added tokens that are not special are matched, as in transformers with `split_special_tokens=True`.
        """
        ids: list[int] = []
        for piece, _ in self.added.split(text):
            ids += [piece] if isinstance(piece, int) else self.byte_pairs.encode(piece)
        return ids

    def encode_with_sizes(self, text: str) -> tuple[list[int], list[int]]:
        """Encode a text; return the ids, and the number of bytes of UTF-8 that each of them covers, in two lists.

        The sizes add up to `utf8_length(text)`. Where a text is normalized or loses bytes, they are shares of it.
        """
        ids: list[int] = []
        sizes: list[int] = []
        for piece, covered in self.added.split(text):
            if isinstance(piece, int):
                ids.append(piece)
                sizes.append(utf8_length(covered))
            else:
                piece_ids = self.byte_pairs.encode(piece)
                ids += piece_ids
                sizes += [len(self.token_bytes(token_id)) for token_id in piece_ids]
        covered_bytes, n_bytes = sum(sizes), utf8_length(text)
        if covered_bytes != n_bytes and covered_bytes:
            ends = [end * n_bytes // covered_bytes for end in accumulate(sizes, initial=0)]
            sizes = [end - start for start, end in pairwise(ends)]
        return ids, sizes

    def files(self) -> dict[str, str]:
        """The contents of the tokenizer's files by name, as they were read. `tokenizer_config.json` is not among them.

        For GPT-2, `vocab.json` and `merges.txt` are always among them.
        """
        pair = {VOCAB_FILE: self.vocab_json, MERGES_FILE: self.merges_txt} if self.added.pipeline.is_gpt2 else {}
        return {**pair, **self.added.files}

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
    return len(to_utf8(text))


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
        vocab_json, merges_txt = split_tokenizer_json(read_text(tokenizer_path), str(tokenizer_path))
        where = str(tokenizer_path)
    elif vocab_path.exists() and merges_path.exists():
        if (family := str(_read_object(folder / CONFIG_FILE).get("model_type", "gpt2"))[:40]) != "gpt2":
            raise CheckpointError(
                f'{folder}: expected {TOKENIZER_FILE} or "model_type": "gpt2", got {family!r} with {VOCAB_FILE} and '
                f"{MERGES_FILE}, which do not say how a text is split. Copy {TOKENIZER_FILE} from the base model."
            )
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
    added = added or AddedTokens({}, (), EOS_TOKEN, {}, {})
    byte_pairs = build_byte_pairs(vocab, merges_txt, added.ids, added.pipeline, where)
    if byte_pairs.missing and (TOKENIZER_FILE not in added.files or added.pipeline.unk_token):
        raise CheckpointError(
            f"{where}/{VOCAB_FILE}: expected all 256 bytes, got none for 0x{byte_pairs.missing[0]:02x}. "
            f"Is the file complete?"
        )
    eos_id = byte_pairs.specials.get(added.eos_token)
    if eos_id is None or (eos_ids and eos_id not in eos_ids):
        known = {*vocab.values(), *added.ids.values()}
        eos_id = next((token_id for token_id in eos_ids if token_id in known), eos_id)
    if eos_id is None:
        raise CheckpointError(f"{where}/{VOCAB_FILE}: expected the end-of-text token {added.eos_token!r}, got none.")
    return Tokenizer(
        byte_pairs=byte_pairs,
        eos_id=eos_id,
        eos_ids=tuple(dict.fromkeys(eos_ids if eos_id in eos_ids else [*eos_ids, eos_id])),
        vocab_json=vocab_json,
        merges_txt=merges_txt,
        added=added,
    )


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
    return parse_object(read_text(path), path) if path.is_file() else {}


def _parse_vocab(vocab_json: str, where: str) -> dict[str, int]:
    vocab = parse_object(vocab_json, f"{where}/{VOCAB_FILE}")
    if not all(type(token_id) is int and token_id >= 0 for token_id in vocab.values()):
        raise CheckpointError(f"{where}/{VOCAB_FILE}: expected one object of tokens and their ids.")
    if len(set(vocab.values())) != len(vocab):
        raise CheckpointError(f"{where}/{VOCAB_FILE}: expected a different id for every token, got some ids twice.")
    return vocab
