"""A double of an Ollama server for tests: real HTTP on loopback, scripted answers, and a journal of the requests.

It follows Ollama v0.30 and later, as far as a judge needs it. The test scripts what the models answer:

    with OllamaDouble(models=("llama3.1:latest",)) as double:
        double.enqueue(busy(), verdict(4))              # for the next chat and generate requests, in order
        double.default = lambda body: verdict(3)        # for all other requests
        ollama.Client(host=double.url).chat("llama3.1", [{"role": "user", "content": "Score this."}])
        assert [body["options"] for body in double.chat()] == ...

Requests that fail validation take nothing from the queue. Requests that only load the model (no messages, or an empty
prompt) have a queue of their own, `enqueue_load`.

By hand: python -m tests.support.ollama_double --port 11434 --model llama3.1
"""

from tests.support.ollama_double.behaviours import (
    Answer,
    Behaviour,
    Cut,
    Failure,
    Hang,
    NoDone,
    Scripted,
    Stream,
    StreamError,
    Truncated,
    blank,
    busy,
    hashed_verdict,
    html,
    load_failed,
    missing_model,
    runner_died,
    token,
    too_long,
    too_long_nested,
    unauthorized,
    verdict,
)
from tests.support.ollama_double.double import OllamaDouble
from tests.support.ollama_double.records import InstalledModel, RecordedRequest
from tests.support.ollama_double.wire import JsonObject, prompt_of

__all__ = [
    "Answer",
    "Behaviour",
    "Cut",
    "Failure",
    "Hang",
    "InstalledModel",
    "JsonObject",
    "NoDone",
    "OllamaDouble",
    "RecordedRequest",
    "Scripted",
    "Stream",
    "StreamError",
    "Truncated",
    "blank",
    "busy",
    "hashed_verdict",
    "html",
    "load_failed",
    "missing_model",
    "prompt_of",
    "runner_died",
    "token",
    "too_long",
    "too_long_nested",
    "unauthorized",
    "verdict",
]
