"""What the tests of decoding share: settings, random prompts, and a decoder that counts its work."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence

from torch import Tensor

from assistant.decoding.decoder import Cache, Decoder, PromptChunk
from assistant.decoding.engine import generate
from assistant.decoding.generated import Generated
from assistant.model.gpt import GPT
from assistant.settings import GenerationSettings

GREEDY = GenerationSettings(max_new_tokens=24)
SAMPLED = GenerationSettings(max_new_tokens=24, temperature=1.0, top_k=40, top_p=0.95, seed=7)


def random_prompts(count: int, max_length: int, seed: int = 0) -> list[list[int]]:
    """Prompts of 1 to `max_length` random byte ids."""
    generator = random.Random(seed)
    return [[generator.randrange(256) for _ in range(generator.randint(1, max_length))] for _ in range(count)]


def by_index(results: Iterable[Generated]) -> list[Generated]:
    """Results in the order of their prompts."""
    return sorted(results, key=lambda result: result.index)


def generate_all(
    model: GPT, prompts: list[list[int]], settings: GenerationSettings, *, eos_id: int = 256, batch_size: int = 32
) -> list[Generated]:
    """What `generate` yields for all prompts, in their order."""
    return by_index(generate(model, prompts, settings, eos_id=eos_id, batch_size=batch_size))


def common_tokens(results: Iterable[Generated], count: int) -> list[int]:
    """The ids that occur most often in the results; as EOS, one of them ends rows at many different steps."""
    counts = Counter(token_id for result in results for token_id in result.token_ids)
    return [token_id for token_id, _ in counts.most_common(count)]


class CountingDecoder(Decoder):
    """Counts prefilled tokens and decoding steps."""

    def __init__(self, model: GPT) -> None:
        super().__init__(model, plain=True)
        self.n_prefilled = self.n_steps = 0

    def prefill(
        self,
        chunks: Sequence[PromptChunk],
        cache: Cache,
        needs_logits: Sequence[bool],
        *,
        all_positions: bool = False,
    ) -> Tensor:
        """Count the tokens, and prefill them."""
        self.n_prefilled += sum(len(chunk.input_ids) for chunk in chunks)
        return super().prefill(chunks, cache, needs_logits, all_positions=all_positions)

    def decode_step(self, input_ids: Tensor, cache: Cache) -> Tensor:
        """Count the step, and do it."""
        self.n_steps += 1
        return super().decode_step(input_ids, cache)
