"""Measure what each storage of the weights changes: likeliest tokens, perplexity, and greedy answers.

    assistant demo && python benchmarks/precision.py demo/model data/instructions.json

Tokens and perplexity are those of the test rows' reference answers, each after its prompt. A token differs if another
token is the likeliest. The reference is float32 with plain kernels, one row at a time.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from torch import Tensor

from assistant.dataset.encode import EncodedExample, encode_examples
from assistant.dataset.instructions import read_examples
from assistant.dataset.splits import split_examples
from assistant.decoding.decoder import Cache, Decoder, PromptChunk
from assistant.decoding.engine import Engine, build_engine
from assistant.model.checkpoint import Checkpoint, load_checkpoint
from assistant.settings import DecodePrecision, GenerationSettings

PRECISIONS: tuple[DecodePrecision, ...] = ("auto", "float32", "float16", "bfloat16", "int8")
MAX_NEW_TOKENS = 64


def answer_logits(engine: Engine, row: EncodedExample) -> Tensor:
    """Return the logits (T, V) that predict the T tokens of a row's answer, including EOS."""
    decoder = engine.decoder
    input_ids = row.input_ids[:-1]
    cache = Cache(decoder.config, rows=1, slots=len(input_ids), device=decoder.device, dtype=decoder.cache_dtype)
    with torch.inference_mode():
        logits = decoder.prefill([PromptChunk(0, input_ids)], cache, [True], all_positions=True)
    return logits[row.prompt_length - 1 :]


def compare(checkpoint: Checkpoint, rows: list[EncodedExample], precision: DecodePrecision) -> list[str]:
    """Compare a precision with the reference; return the cells of its line in the table."""
    eos_id = checkpoint.tokenizer.eos_id
    reference = Engine(Decoder(checkpoint.model, plain=True), eos_id=eos_id)
    compared = build_engine(checkpoint.model, eos_id=eos_id, precision=precision)
    n_tokens = n_different_tokens = n_different_answers = 0
    losses = [0.0, 0.0]
    settings = GenerationSettings(max_new_tokens=MAX_NEW_TOKENS)
    for row in rows:
        targets = torch.tensor(row.input_ids[row.prompt_length :])
        logits = [answer_logits(engine, row) for engine in (reference, compared)]
        n_tokens += len(targets)
        n_different_tokens += int((logits[0].argmax(-1) != logits[1].argmax(-1)).sum())
        for index, engine_logits in enumerate(logits):
            losses[index] += torch.nn.functional.cross_entropy(engine_logits, targets, reduction="sum").item()
        prompt = row.input_ids[: row.prompt_length]
        answers = [next(engine.generate([prompt], settings)).token_ids for engine in (reference, compared)]
        n_different_answers += answers[0] != answers[1]
    perplexities = [math.exp(loss / n_tokens) for loss in losses]
    return [
        precision,
        f"{100 * n_different_tokens / n_tokens:.2f} %",
        f"{perplexities[1] - perplexities[0]:+.4f}",
        f"{n_different_answers} of {len(rows)}",
    ]


def main() -> None:
    """Print a table with a line for each precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="Folder of a fine-tuned GPT-2.")
    parser.add_argument("data", type=Path, help="The instruction file it was trained on.")
    parser.add_argument("--rows", type=int, help="Number of test rows; all by default.")
    options = parser.parse_args()
    checkpoint = load_checkpoint(options.model)
    test = split_examples(read_examples(options.data)).test[: options.rows]
    max_length = checkpoint.config.context_length
    rows = list(encode_examples(test, checkpoint.template, checkpoint.tokenizer, max_length=max_length).rows)
    print("| weights | tokens that differ | perplexity | answers that differ |\n| --- | --- | --- | --- |")
    for precision in PRECISIONS:
        print(f"| {' | '.join(compare(checkpoint, rows, precision))} |", flush=True)


if __name__ == "__main__":
    main()
