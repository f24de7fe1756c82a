"""Runs the `assistant` command as the two processes of one run, as torchrun does: `python -m tests.support.two_ranks`.

torchrun and its two processes each take seconds to import torch. Here one process imports it, and forks the two.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

import matplotlib.figure  # noqa: F401 - imported before the fork
import torch._dynamo  # noqa: F401 - imported before the fork

import assistant.cli.job  # noqa: F401 - imported before the fork
from assistant.cli.app import main


def run_ranks() -> int:
    """Run the command of `sys.argv` on two ranks. Returns 0, or the exit status of the first rank that failed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    ranks = set[int]()
    for rank in ("0", "1"):
        process = os.fork()
        if process == 0:
            os.environ |= {"RANK": rank, "LOCAL_RANK": rank}
            main()
        ranks.add(process)
    failed = 0
    while ranks:
        process, status = os.wait()
        ranks.remove(process)
        if status and not failed:
            failed = os.waitstatus_to_exitcode(status)
            for other in ranks:  # it waits for the failed one
                os.kill(other, signal.SIGKILL)
    return failed


if __name__ == "__main__":
    sys.exit(run_ranks())
