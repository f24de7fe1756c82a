"""A small GPT with random weights and a vocabulary of its own, for those who have no pretrained one at hand."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tokenizers import Tokenizer as BpeTokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from assistant.checkpoint import Checkpoint
from assistant.config import ModelConfig
from assistant.instructions import Example
from assistant.model import GPT
from assistant.prompts import DEFAULT_TEMPLATE, Template, get_template, render_example
from assistant.tokenizer import EOS_TOKEN, Tokenizer, build_tokenizer


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
    """GPT-2's kind of BPE with at most `vocab_size` tokens, the last of them EOS, as in GPT-2."""
    learner = BpeTokenizer(BPE())
    learner.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=vocab_size - 1, initial_alphabet=ByteLevel.alphabet(), show_progress=False, special_tokens=[]
    )
    learner.train_from_iterator((render_example(template, e) + e.output for e in examples), trainer)
    model = json.loads(learner.to_str())["model"]
    vocab = model["vocab"] | {EOS_TOKEN: len(model["vocab"])}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    vocab_json = json.dumps(vocab, ensure_ascii=False)
    return build_tokenizer(vocab_json, "\n".join(["#version: 0.2", *merges, ""]), where="new tokenizer")
