"""What each way to keep the weights changes: of the tokens, of the perplexity, of greedy answers to the test rows.

    assistant demo && python benchmarks/precision.py demo/model data/instructions.json

Tokens and perplexity are those of the test rows' reference answers, each read behind its prompt; a token differs where
another one is the likeliest. Everything is compared with plain float32, one row at a time.
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
from assistant.decoding.decoder import Cache, Decoder, Piece
from assistant.decoding.engine import Engine, build_engine
from assistant.model.checkpoint import Checkpoint, load_checkpoint
from assistant.settings import DecodePrecision, GenerationSettings

PRECISIONS: tuple[DecodePrecision, ...] = ("auto", "float32", "float16", "bfloat16", "int8")
LONGEST = 64


def answer_logits(engine: Engine, row: EncodedExample) -> Tensor:
    """Logits (T, V) that predict the T tokens of a row's answer, EOS among them."""
    decoder = engine.decoder
    ids = row.input_ids[:-1]
    cache = Cache(decoder.config, rows=1, slots=len(ids), device=decoder.device)
    with torch.inference_mode():
        return decoder.read([Piece(0, ids)], cache, [True], is_every=True)[row.prompt_length - 1 :]


def compare(checkpoint: Checkpoint, rows: list[EncodedExample], precision: DecodePrecision) -> list[str]:
    """The cells of a precision's line."""
    eos_id = checkpoint.tokenizer.eos_id
    plain = Engine(Decoder(checkpoint.model, is_chosen=False), eos_id=eos_id)
    other = build_engine(checkpoint.model, eos_id=eos_id, precision=precision)
    n_tokens = n_other = n_answers = 0
    losses = [0.0, 0.0]
    settings = GenerationSettings(max_new_tokens=LONGEST)
    for row in rows:
        targets = torch.tensor(row.input_ids[row.prompt_length :])
        logits = [answer_logits(engine, row) for engine in (plain, other)]
        n_tokens += len(targets)
        n_other += int((logits[0].argmax(-1) != logits[1].argmax(-1)).sum())
        for place, one in enumerate(logits):
            losses[place] += torch.nn.functional.cross_entropy(one, targets, reduction="sum").item()
        prompt = row.input_ids[: row.prompt_length]
        answers = [next(engine.generate([prompt], settings)).token_ids for engine in (plain, other)]
        n_answers += answers[0] != answers[1]
    perplexities = [math.exp(loss / n_tokens) for loss in losses]
    return [
        precision,
        f"{100 * n_other / n_tokens:.2f} %",
        f"{perplexities[1] - perplexities[0]:+.4f}",
        f"{n_answers} of {len(rows)}",
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="Folder of a fine-tuned GPT-2.")
    parser.add_argument("data", type=Path, help="The instruction file it was made with.")
    parser.add_argument("--rows", type=int, help="Test rows, all where not given.")
    options = parser.parse_args()
    checkpoint = load_checkpoint(options.model)
    test = split_examples(read_examples(options.data)).test[: options.rows]
    length = checkpoint.config.context_length
    rows = list(encode_examples(test, checkpoint.template, checkpoint.tokenizer, max_length=length).rows)
    print("| weights | tokens that differ | perplexity | answers that differ |\n| --- | --- | --- | --- |")
    for precision in PRECISIONS:
        print(f"| {' | '.join(compare(checkpoint, rows, precision))} |", flush=True)


if __name__ == "__main__":
    main()
