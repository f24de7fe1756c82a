"""The test rows with one right answer, asked in other cases of letters and after other questions.

    python benchmarks/asked_otherwise.py demo/model

The turns before a question are other test rows with their references, drawn with seed 1. They are drawn for each
number of turns anew. Counts are answers that are the reference word for word.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from assistant.dataset.examples import Example, Exchange
from assistant.dataset.instructions import read_examples
from assistant.dataset.splits import split_examples
from assistant.decoding.decoder import Decoder
from assistant.decoding.engine import Engine
from assistant.model.checkpoint import load_checkpoint
from assistant.settings import GenerationSettings
from assistant.shipped import COUNTED_APART, ROWS, shipped

SETTINGS = GenerationSettings(max_new_tokens=64)
"""Greedy, as the chat starts."""
LETTERS: dict[str, Callable[[str], str]] = {
    "as in the file": str,
    "first letter in lower case": lambda text: text[:1].lower() + text[1:],
    "lower case, no mark at the end": lambda text: text.lower().rstrip(".?!"),
    "upper case": str.upper,
}
TURNS = (1, 2, 3, 4, 6)


def after_turns(row: Example, turns: Sequence[Example]) -> Example:
    """The row, asked after other rows were asked and answered."""
    exchanges = [Exchange(f"{turn.instruction} {turn.input}".strip(), turn.output) for turn in turns]
    return replace(row, history=tuple(exchanges))


def main() -> None:
    """Print a line for each way to ask."""
    checkpoint = load_checkpoint(Path(sys.argv[1]))
    tokenizer, engine = checkpoint.tokenizer, Engine(Decoder(checkpoint.model), eos_id=checkpoint.tokenizer.eos_id)
    single = [row for row in split_examples(read_examples(*map(shipped, ROWS))).test if not row.history]
    closed = [row for row in single if row.category not in COUNTED_APART]

    def show(name: str, rows: Sequence[Example]) -> None:
        prompts = [
            tokenizer.encode(checkpoint.template.render(row.instruction, row.input, row.history)) for row in rows
        ]
        right = 0
        for found in engine.generate(prompts, SETTINGS):
            right += tokenizer.decode(list(found.token_ids)).strip() == rows[found.index].output.strip()
        print(f"{name}: {right} of {len(rows)} ({100 * right / len(rows):.1f} %)", flush=True)

    for name, change in LETTERS.items():
        show(name, [replace(row, instruction=change(row.instruction), input=change(row.input)) for row in closed])
    for count in TURNS:
        draw = random.Random(1)
        show(f"after other turns: {count}", [after_turns(row, draw.choices(single, k=count)) for row in closed])


if __name__ == "__main__":
    main()
