"""The signals that ask a command to save and end."""

from __future__ import annotations

import signal

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a job scheduler or `kill`, and a terminal that closes. They all ask a command to save and end."""
SAME_REQUEST_S = 1.0
"""Signals within this time are one request: shells, `timeout` and torchrun deliver the same one twice."""
