"""The double as a program, to try a judge by hand."""

from __future__ import annotations

import argparse
import contextlib
import threading
from collections.abc import Sequence

from tests.support.ollama_double import OllamaDouble, hashed_verdict


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve hashed verdicts until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.ollama_double", description=main.__doc__)
    parser.add_argument("--port", type=int, default=11434, help="0 chooses a free port (default: %(default)s)")
    parser.add_argument("--model", action="append", help="an installed model; may be repeated (llama3.1)")
    parser.add_argument("--load-seconds", type=float, default=0.0, help="duration of a cold load")
    options = parser.parse_args(arguments)
    with OllamaDouble(
        options.model or ("llama3.1",),
        port=options.port,
        default=hashed_verdict,
        load_seconds=options.load_seconds,
    ) as double:
        print(double.url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
