"""A lock that is given in order of arrival, which `threading.Lock` does not promise."""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType


class FairLock:
    """First come, first served; used with `with`. A thread that takes it twice gets a RuntimeError, not a long wait."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._taken = False
        self._owner: int | None = None
        self._waiting: deque[threading.Event] = deque()

    @property
    def n_waiting(self) -> int:
        """How many threads stand in line, the one that has the lock not among them."""
        return len(self._waiting)

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._guard:
            if self._owner == me:
                raise RuntimeError(
                    "lock: expected to be taken once, but this thread has it already. Finish that first."
                )
            if not self._taken:
                self._taken, self._owner = True, me
                return
            called = threading.Event()
            self._waiting.append(called)
        try:
            called.wait()
        except BaseException:  # Ctrl-C while waiting: leave the line, or hand on what has just been given
            with self._guard:
                if called.is_set():
                    self._hand_on()
                else:
                    self._waiting.remove(called)
            raise
        self._owner = me

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._guard:
            self._owner = None
            self._hand_on()

    def _hand_on(self) -> None:
        """Call the next in line. The lock stays taken meanwhile, so that nobody who comes now can overtake."""
        if self._waiting:
            self._waiting.popleft().set()
        else:
            self._taken = False
