"""The double as a program, to try a judge by hand."""

from __future__ import annotations

import argparse
import contextlib
import threading
from collections.abc import Sequence
from dataclasses import replace

from tests.support.ollama_double import OllamaDouble, hashed_verdict


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve hashed verdicts until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.ollama_double", description=main.__doc__)
    parser.add_argument("--port", type=int, default=11434, help="0 chooses a free port (default: %(default)s)")
    parser.add_argument("--model", action="append", help="an installed model; may be repeated (llama3.1)")
    parser.add_argument("--load-seconds", type=float, default=0.0, help="duration of a cold load")
    parser.add_argument("--answer-seconds", type=float, default=0.0, help="duration of an answer")
    parser.add_argument("--parallel", type=int, default=1, help="answers at a time")
    options = parser.parse_args(arguments)
    with OllamaDouble(
        options.model or ("llama3.1",),
        port=options.port,
        default=lambda body: replace(hashed_verdict(body), delay=options.answer_seconds),
        load_seconds=options.load_seconds,
        num_parallel=options.parallel,
    ) as double:
        print(double.url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
