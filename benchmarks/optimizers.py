"""Measures how many facts a small GPT knows after one pass over half a million tokens.

    python benchmarks/optimizers.py muon 8e-3 4 8

The arguments are optimizer, learning rate, layers and batch size. The text is pages of four relations of the lexicon:
about 1,450 facts, each stated about 28 times. The model knows a fact if every token of its answer is the most likely
one. The run uses one thread, so that two settings can run side by side on two cores.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from assistant.dataset.encode import EncodedExample, encode_examples
from assistant.dataset.instructions import Example
from assistant.dataset.prompts import get_template
from assistant.dataset.tokenizer import Tokenizer, read_tokenizer
from assistant.model.config import GPTConfig
from assistant.model.gpt import GPT
from assistant.settings import FinetuneSettings
from assistant.shipped import find_model
from assistant.training.collate import collate
from assistant.training.loss import summed_loss
from assistant.training.optimizer import build_optimizers, learning_rate
from benchmarks.facts import share_known
from data.lexicon.corpus import fact
from data.lexicon.draw import Draw
from data.lexicon.tables import table

RELATIONS = ("opposites", "capitals", "animal_young", "elements")
TOKENS, SENTENCES, REPORTS = 500_000, 12, 5


def make_pages(tokenizer: Tokenizer) -> list[EncodedExample]:
    """Return pages of sentences with half a million tokens in all."""
    draw, pages, count = Draw(11), list[EncodedExample](), 0
    while count < TOKENS:
        text = " ".join(fact(draw, draw.rng.choice(RELATIONS)) for _ in range(SENTENCES))
        page = Example(instruction=text, output="", is_text=True)
        pages += encode_examples([page], get_template("text"), tokenizer, max_length=256).rows[:1]
        count += len(pages[-1].input_ids)
    return pages


def questions() -> Iterator[tuple[str, str]]:
    """Yield the beginning of a statement, and its only right continuation."""
    for row in table("opposites")[:100]:
        yield f"The opposite of {row['word']} is", f" {row['opposite']}"
    for row in table("countries")[:100]:
        yield f"The capital of {row['country']} is", f" {row['capital']}"
    for row in table("elements")[:90]:
        yield f"The chemical symbol for {row['element']} is", f" {row['symbol']}"


def main(optimizer: str, rate: str, n_layer: str, batch_size: str) -> None:
    """Train once, and print the loss and the share of known facts on the way."""
    torch.set_num_threads(1)
    tokenizer = read_tokenizer(find_model("pocket"))
    settings = FinetuneSettings.model_validate(
        {"optimizer": optimizer, "learning_rate": float(rate), "batch_size": int(batch_size)}
    )
    model = GPT(GPTConfig(n_layer=int(n_layer), n_head=4, n_embd=256, n_positions=256, vocab_size=tokenizer.vocab_size))
    model.initialise(1)
    optimizers, pages = build_optimizers(model, settings), make_pages(tokenizer)
    total = len(pages) // settings.batch_size
    started, tokens, losses = time.perf_counter(), 0, list[float]()
    for step in range(1, total + 1):
        rows = pages[(step - 1) * settings.batch_size : step * settings.batch_size]
        batch = collate(rows, pad_id=tokenizer.pad_id, train_on="all")
        loss = summed_loss(model, batch, torch.bfloat16) / batch.n_targets
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for each in optimizers:
            for group in each.param_groups:
                group["lr"] = learning_rate(step, total, settings)
            each.step()
            each.zero_grad()
        tokens, losses = tokens + batch.n_tokens, [*losses[-19:], loss.item()]
        if step % (total // REPORTS) == 0:
            speed = tokens / (time.perf_counter() - started)
            known = 100 * share_known(model, tokenizer, list(questions()))
            print(
                f"step {step}/{total}: loss {sum(losses) / len(losses):.3f}, {known:.0f} % known, {speed:,.0f} tokens/s"
            )


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit("expected: optimizer, learning rate, layers, batch size. For example: muon 8e-3 4 8")
    main(*sys.argv[1:])
