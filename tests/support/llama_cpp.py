"""llama.cpp's server in this process, as an oracle that reads GGUF files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch

from assistant.decoding.reply import Reply

Ask: TypeAlias = Callable[..., Any]
"""Posts a question to a route of the server, with the fields of its body. Returns the JSON answer."""


@contextmanager
def llama_server(
    path: Path, *, n_ctx: int = 256, n_threads: int = 1, alias: str | None = None
) -> Iterator[tuple[str, Ask]]:
    """Serve a GGUF file: everything in float32 but the weights, as far as llama.cpp can. Yields the address, and `ask`.

    `alias` is the model's name in the server's list. Needs the package `xllamacpp`.
    """
    import httpx
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    if alias is not None:
        parameters.model_alias = {alias}
    parameters.n_ctx, parameters.n_parallel, parameters.warmup, parameters.verbosity = n_ctx, 1, False, -1
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32  # its default is float16
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it rounds, too
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = n_threads
    server = xllamacpp.Server(parameters)
    with httpx.Client(base_url=server.listening_address, trust_env=False, timeout=120) as client:

        def ask(route: str, **body: Any) -> Any:
            return client.post(route, json=body).raise_for_status().json()

        yield server.listening_address, ask
    del server


def next_logprobs(model: Any, prompt: list[int], tokens: list[int]) -> torch.Tensor:
    """Log-probabilities (T, V) of the T tokens after a prompt, by a model of ours in float32."""
    with torch.no_grad():
        hidden = model(torch.tensor([prompt + tokens]))[0, len(prompt) - 1 : -1]
        return torch.as_tensor(model.head(hidden).log_softmax(-1))


def differences(model: Any, replies: Sequence[Reply], ask: Ask, *, eos_id: int) -> dict[int, float]:
    """Ask llama.cpp for the greedy answers to the same prompts, and compare the tokens.

    Returns, for each reply that differs, how far our two best tokens lie apart where the two part, in nats.
    """
    gaps = {}
    for number, reply in enumerate(replies):
        prompt, ours = list(reply.prompt_token_ids), [*reply.token_ids, *[eos_id] * (reply.stop_reason == "eos")]
        options = {"n_predict": len(ours), "temperature": 0, "return_tokens": True, "cache_prompt": False}
        theirs = ask("/completion", prompt=prompt, **options)["tokens"]
        if theirs != ours:
            place = next((n for n, pair in enumerate(zip(ours, theirs, strict=False)) if len({*pair}) > 1), 0)
            best, second = next_logprobs(model, prompt, ours)[place].topk(2).values.tolist()
            gaps[number] = best - second
    return gaps


def check_gaps(gaps: dict[int, float], quantization: str) -> None:
    """Fail unless `differences` are none. A file with rounded weights may turn one near tie."""
    print(f"{quantization}: {len(gaps)} answers differ, with gaps of {gaps}")
    assert len(gaps) <= (quantization != "f32")
    assert max(gaps.values(), default=0) < 1e-2
