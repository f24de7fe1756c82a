"""A small GPT with random weights and a vocabulary of its own, for those who have no pretrained one at hand."""

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
from assistant.dataset.prompts import DEFAULT_TEMPLATE, Template, get_template, render_example
from assistant.dataset.tokenizer import EOS_TOKEN, Tokenizer, build_tokenizer
from assistant.model.checkpoint import Checkpoint
from assistant.model.config import ModelConfig
from assistant.model.gpt import GPT

WITHOUT_SPACE = 0.57
"""Share of what is learnt that goes to pieces of words; the rest are the same with a space before them."""
_SPACE = "\u0120"
"""How GPT-2's vocabulary spells a space."""
_SPACE_OF_A_WORD = Regex(r" (?=\S)")


def new_checkpoint(
    examples: Sequence[Example], config: ModelConfig, *, seed: int, name: str, template: str = DEFAULT_TEMPLATE
) -> Checkpoint:
    """An untrained model whose byte-level BPE is learnt from `examples` as they are rendered for training.

    The vocabulary has at most `config.vocab_size` tokens, fewer where the text gives no more merges; the model is as
    large as the vocabulary then is.
    """
    tokenizer = train_tokenizer(examples, get_template(template), vocab_size=config.vocab_size)
    ids = {"bos_token_id": tokenizer.eos_id, "eos_token_id": tokenizer.eos_id}
    config = ModelConfig.model_validate(config.model_dump() | ids | {"vocab_size": tokenizer.vocab_size})
    model = GPT(config).eval()
    model.initialise(seed)
    return Checkpoint(model=model, tokenizer=tokenizer, template=get_template(template), info=None, name=name)


def train_tokenizer(examples: Sequence[Example], template: Template, *, vocab_size: int) -> Tokenizer:
    """GPT-2's kind of BPE with at most `vocab_size` tokens, the last of them EOS, as in GPT-2.

    A word is cut the same way wherever it stands. GPT-2's own merges cut a word behind a space otherwise than at the
    start of a line, and to say the second as the first a model must know how each is spelled: much to ask of a small
    one. Here merges are learnt on words without their space, which then joins the commonest first pieces.
    """
    texts = [render_example(template, example) + example.output for example in examples]
    learner = BpeTokenizer(BPE())
    learner.pre_tokenizer = Sequential([Split(_SPACE_OF_A_WORD, "isolated"), ByteLevel(add_prefix_space=False)])
    alphabet = ByteLevel.alphabet()
    pieces = max(0, int((vocab_size - len(alphabet)) * WITHOUT_SPACE))
    trainer = BpeTrainer(
        vocab_size=len(alphabet) + pieces, initial_alphabet=alphabet, show_progress=False, special_tokens=[]
    )
    learner.train_from_iterator(texts, trainer)
    model = json.loads(learner.to_str())["model"]
    vocab: dict[str, int] = model["vocab"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    for piece in _first_pieces(learner, texts)[: max(0, vocab_size - 1 - len(vocab))]:
        merges.append(f"{_SPACE} {piece}")
        vocab[_SPACE + piece] = len(vocab)
    vocab[EOS_TOKEN] = len(vocab)
    vocab_json = json.dumps(vocab, ensure_ascii=False)
    return build_tokenizer(vocab_json, "\n".join(["#version: 0.2", *merges, ""]), where="new tokenizer")


def _first_pieces(learner: BpeTokenizer, texts: Sequence[str]) -> list[str]:
    """What words that stand behind a space begin with, the commonest first."""
    words = Counter(word for text in texts for word in re.findall(r"(?<= )[^\W\d_]+|(?<= )\d+|(?<= )[^\w\s]+", text))
    counts = Counter[str]()
    for word, count in words.items():
        counts[learner.encode(word).tokens[0]] += count
    return sorted(counts, key=lambda piece: (-counts[piece], piece))
