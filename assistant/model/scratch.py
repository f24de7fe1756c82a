"""A new GPT with random weights and its own vocabulary, for training without a pretrained model.

This module trains the tokenizer and builds the untrained model. It writes no files.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence

from tokenizers import Regex
from tokenizers import Tokenizer as BpeTokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as Sequential
from tokenizers.trainers import BpeTrainer

from assistant.dataset.instructions import Example
from assistant.dataset.prompts import DEFAULT_TEMPLATE, Template, get_template
from assistant.dataset.tokenizer import EOS_TOKEN, Tokenizer, build_tokenizer
from assistant.model.checkpoint import Checkpoint
from assistant.model.config import GPTConfig, ModelConfig
from assistant.model.gpt import GPT

SHARE_WITHOUT_SPACE = 0.57
"""Share of the learnt tokens that are pieces of words without a space. The rest are such pieces with a space first."""
_SPACE = "\u0120"
"""GPT-2's spelling of a space in a vocabulary."""
_SPACE_BEFORE_WORD = Regex(r" (?=\S)")


def new_checkpoint(
    examples: Sequence[Example], config: ModelConfig, *, seed: int, name: str, template: str = DEFAULT_TEMPLATE
) -> Checkpoint:
    """Build an untrained model and train its byte-level BPE on `examples`, rendered as for training.

    The vocabulary has at most `config.vocab_size` tokens, and fewer if the text has no more pairs to merge. The model's
    `vocab_size` is the size of this vocabulary.
    """
    tokenizer = train_tokenizer(examples, get_template(template), vocab_size=config.vocab_size)
    ids = {"bos_token_id": tokenizer.eos_id, "eos_token_id": tokenizer.eos_id}
    config = GPTConfig.model_validate(config.model_dump() | ids | {"vocab_size": tokenizer.vocab_size})
    model = GPT(config).eval()
    model.initialise(seed)
    return Checkpoint(model=model, tokenizer=tokenizer, template=get_template(template), info=None, name=name)


def train_tokenizer(examples: Sequence[Example], template: Template, *, vocab_size: int) -> Tokenizer:
    """Train a BPE like GPT-2's with at most `vocab_size` tokens. The last token is EOS, as in GPT-2.

    A word is split into the same pieces after a space and at the start of a line. GPT-2's own merges split it in two
    ways, so a model must learn how both are spelled, which is hard for a small model. Here the merges are learnt on
    words without their space. Then the space is merged with the most frequent first pieces of words.
    """
    texts = [template.render(row.instruction, row.input, row.history) + row.output for row in examples]
    bpe = BpeTokenizer(BPE())
    bpe.pre_tokenizer = Sequential([Split(_SPACE_BEFORE_WORD, "isolated"), ByteLevel(add_prefix_space=False)])
    alphabet = ByteLevel.alphabet()
    n_pieces = max(0, int((vocab_size - len(alphabet)) * SHARE_WITHOUT_SPACE))
    trainer = BpeTrainer(
        vocab_size=len(alphabet) + n_pieces, initial_alphabet=alphabet, show_progress=False, special_tokens=[]
    )
    bpe.train_from_iterator(texts, trainer)
    trained = json.loads(bpe.to_str())["model"]
    vocab: dict[str, int] = trained["vocab"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in trained["merges"]]
    for piece in _first_pieces(bpe, texts)[: max(0, vocab_size - 1 - len(vocab))]:
        merges.append(f"{_SPACE} {piece}")
        vocab[_SPACE + piece] = len(vocab)
    vocab[EOS_TOKEN] = len(vocab)
    vocab_json = json.dumps(vocab, ensure_ascii=False)
    return build_tokenizer(vocab_json, "\n".join(["#version: 0.2", *merges, ""]), where="new tokenizer")


def _first_pieces(bpe: BpeTokenizer, texts: Sequence[str]) -> list[str]:
    """First pieces of the words that follow a space, the most frequent first."""
    word_counts = Counter(
        word for text in texts for word in re.findall(r"(?<= )[^\W\d_]+|(?<= )\d+|(?<= )[^\w\s]+", text)
    )
    piece_counts = Counter[str]()
    for word, count in word_counts.items():
        piece_counts[bpe.encode(word).tokens[0]] += count
    return sorted(piece_counts, key=lambda piece: (-piece_counts[piece], piece))
