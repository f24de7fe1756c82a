"""Byte-level BPE, run by tiktoken, which merges the pair with the smallest id first.

A vocabulary whose ids do not increase in the order of its merges is encoded with ranks, and these are replaced by ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import tiktoken

from assistant.dataset.added_tokens import MERGES_FILE, VOCAB_FILE
from assistant.dataset.tokenizer_json import PATTERNS, Pipeline
from assistant.errors import CheckpointError

MAX_BLANK_RUN = 100_000
"""Longer runs of white space, in characters, are split. A run that is ten times longer overflows tiktoken's stack."""
_MAX_BLANK_RUN = re.compile(r"(\s{" + str(MAX_BLANK_RUN) + "})")


@cache
def byte_characters() -> dict[str, int]:
    """Map GPT-2's printable characters to the 256 bytes (openai/gpt-2, `bytes_to_unicode`, inverted)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unprintable = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(unprintable)}


@dataclass(frozen=True)
class BytePairs:
    """Encodes text that has no added tokens in it."""

    encoding: tiktoken.Encoding
    """All tokens with their ids."""
    specials: Mapping[str, int]
    """The tokens that merges do not make, among them the added tokens."""
    ranked: tiktoken.Encoding
    """The tokens that merges make, with their ranks. The same as `encoding` where the ids are ranks."""
    ids: Sequence[int] | None
    """The ids by rank. None where the ids are ranks."""
    missing: bytes
    """Single bytes that the vocabulary lacks. tiktoken panics at them."""
    pattern: str

    def encode(self, text: str) -> list[int]:
        """Encode a text. Bytes that the vocabulary lacks are dropped, as in the `tokenizers` library."""
        if self.missing and len((data := to_utf8(text)).translate(None, self.missing)) != len(data):
            ranks = self._encode_slowly(data.decode())
        elif len(text) < MAX_BLANK_RUN:
            ranks = self.ranked.encode_ordinary(text)
        else:
            pieces = _MAX_BLANK_RUN.split(text)
            ranks = [rank for piece in pieces if piece for rank in self.ranked.encode_ordinary(piece)]
        return ranks if self.ids is None else [self.ids[rank] for rank in ranks]

    def _encode_slowly(self, text: str) -> list[int]:
        """Split a text before bytes are dropped, and merge what is left of each piece, as that library does."""
        from tokenizers import Regex
        from tokenizers.pre_tokenizers import Split

        pieces = Split(Regex(self.pattern), "isolated").pre_tokenize_str(text)
        parts = filter(None, (piece.encode().translate(None, self.missing) for piece, _ in pieces))
        return [rank for part in parts for rank in self.ranked._encode_single_piece(part)]


def build_byte_pairs(
    vocab: Mapping[str, int], merges_txt: str, added: Mapping[str, int], pipeline: Pipeline, where: str
) -> BytePairs:
    """Build the BPE of a vocabulary. Merges make no token of `added`. Raises CheckpointError if a file is damaged."""
    characters = byte_characters()
    merged = list(dict.fromkeys(_merged_tokens(merges_txt, vocab, where)))
    tokens = [*filter(vocab.__contains__, characters), *merged]
    if pipeline.ignore_merges:
        tokens += [token for token in vocab if token not in added and characters.keys() >= set(token)]
    ids = {bytes(characters[character] for character in token): vocab[token] for token in tokens}
    byte_level_ids = set(ids.values())
    specials = {text: token_id for text, token_id in {**vocab, **added}.items() if token_id not in byte_level_ids}
    pattern = PATTERNS[pipeline.split]
    is_ranked = merged == sorted(merged, key=lambda token: vocab[token])
    try:
        encoding = ranked = tiktoken.Encoding(where, pat_str=pattern, mergeable_ranks=ids, special_tokens=specials)
        if not is_ranked:
            ranks = {token: rank for rank, token in enumerate(ids)}
            ranked = tiktoken.Encoding(where, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    except (OverflowError, UnicodeError) as error:
        raise CheckpointError(f"{where}/{VOCAB_FILE}: expected tokens and ids that fit, got {error}.") from error
    missing = bytes(byte for character, byte in characters.items() if character not in vocab)
    by_rank = None if is_ranked else list(ids.values())
    return BytePairs(encoding, specials, ranked, by_rank, missing, pattern)


def _merged_tokens(merges_txt: str, vocab: Mapping[str, int], where: str) -> Iterator[str]:
    """Yield the resulting token of every merge."""
    characters = byte_characters()
    for number, line in enumerate(merges_txt.split("\n"), start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.rstrip("\r").split(" ")
        if len(pair) != 2 or not all(pair) or not all(character in characters for part in pair for character in part):
            raise CheckpointError(f"{where}/{MERGES_FILE}, line {number}: expected two tokens, got {line[:40]!r}.")
        if (token := pair[0] + pair[1]) not in vocab:
            raise CheckpointError(f"{where}/{MERGES_FILE}, line {number}: {token!r} is not in {VOCAB_FILE}.")
        yield token


def to_utf8(text: str) -> bytes:
    """Return a text in UTF-8, as tiktoken reads it: surrogates in pairs, and a lone one as U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
