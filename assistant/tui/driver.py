"""What a terminal sends: keys, or text. Pasted text never becomes keys, whatever is in it.

Knows Textual's driver and its parser, and nothing of the chat.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import time
from codecs import getincrementaldecoder
from collections.abc import Callable, Generator, Iterable, Iterator

from textual import constants, events
from textual._xterm_parser import BRACKETED_PASTE_END, BRACKETED_PASTE_START, XTermParser
from textual.drivers.linux_driver import LinuxDriver
from textual.message import Message

PASTE_SILENCE_S = 2.0
"""A paste without its end is over after this time without input."""
PASTE_LIMIT_S = 60.0
"""A paste without its end is over after this time, also while input arrives."""
PASTE_CHARACTERS = 1 << 20
"""A longer paste arrives in pieces of about this size, so that one without its end does not fill the memory."""

READ_BYTES = 4096
JOINED_BYTES = 1 << 16
LONG_READ_BYTES = 512
"""Nobody types this much at once: what follows a read of this size within `JOIN_S` belongs to it."""
JOIN_S = 0.01
POLL_S = 0.05

ACTING_KEYS = ("\r", "\x11")
"""Enter sends and ctrl+q quits. With more text after them in one read, they are part of a pasted text."""
SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.|.)?", re.DOTALL)
"""One key in the code of a terminal: CSI, SS3, or ESC before a character."""
REPORT = re.compile(r"\x1b\[(?:[IO]|\?\d+;\d+\$y|48;[\d:;]+t|<(?:3[2-9]|[45]\d|6[0-3]);-?\d+;-?\d+[Mm])")
"""What a terminal reports by itself, at any time: focus, modes, its size, a moved mouse."""


class PasteParser(XTermParser):
    """Turns what a terminal sends into keys, mouse events and pastes.

    A bracketed paste is all text from its start to its end. An end inside a pasted text is told from the real one only
    if both arrive together. Text before an end without a start is the rest of a paste that seemed to be over.

    A terminal without bracketed paste sends a pasted text like keys. If one read has an acting key with more text after
    it, everything up to the last character of the text is a paste, and a closing Enter is a key.

    Args:
        debug: Whether to write `keys.log`.
        clock: Returns the time in seconds.
    """

    def __init__(self, debug: bool = False, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held = ""
        """The end of the input, which may be the beginning of a marker."""
        self._paste: str | None = None
        """The open paste so far. None outside of a paste."""
        self._opened_at = self._fed_at = 0.0
        super().__init__(debug)

    def feed(self, data: str) -> Iterator[Message]:
        """Take one read's text and yield what it means. An empty text ends the input."""
        self._fed_at = self._clock()
        if not data:
            yield from self._close_paste()
            yield from self._release()
            yield from super().feed("")
            return
        rest = self._held + data
        self._held = ""
        while rest:
            rest = yield from (self._feed_keys(rest) if self._paste is None else self._feed_paste(rest))

    def tick(self) -> Iterator[Message]:
        """Yield what the time that has passed since the last read means."""
        now = self._clock()
        if self._held and now - self._fed_at >= constants.ESCAPE_DELAY:
            yield from self._release()
        is_silent = now - self._fed_at >= PASTE_SILENCE_S
        if self._paste is not None and (is_silent or now - self._opened_at >= PASTE_LIMIT_S):
            yield from self._close_paste()
        yield from super().tick()

    # These two take a text and return the part of it that they leave.

    def _feed_keys(self, data: str) -> Generator[Message, None, str]:
        start, end = data.find(BRACKETED_PASTE_START), data.find(BRACKETED_PASTE_END)
        if end >= 0 and (start < 0 or end < start):
            if end:
                yield events.Paste(data[:end])
            return data[end + len(BRACKETED_PASTE_END) :]
        if start >= 0:
            yield from self._read_keys(data[:start], before_paste=True)
            yield from self._finish_key()
            self._paste, self._opened_at = "", self._clock()
            return data[start + len(BRACKETED_PASTE_START) :]
        held = _length_of_opening(data)
        yield from self._read_keys(data[: len(data) - held])
        self._held = data[len(data) - held :]
        return ""

    def _feed_paste(self, data: str) -> Generator[Message, None, str]:
        text = (self._paste or "") + data
        end = text.find(BRACKETED_PASTE_END, max(0, len(self._paste or "") - len(BRACKETED_PASTE_END)))
        if end < 0:
            self._paste = text
            if len(text) >= PASTE_CHARACTERS:
                kept = len(text) - _length_of_opening(text)
                self._paste = text[kept:]
                yield events.Paste(text[:kept])
            return ""
        end = _last_end(text, end)
        self._paste = text[:end]
        yield from self._close_paste()
        return text[end + len(BRACKETED_PASTE_END) :]

    def _read_keys(self, data: str, *, before_paste: bool = False) -> Iterable[Message]:
        size = _length_of_burst(data, before_paste=before_paste)
        burst, rest = data[:size], data[size:]
        for report in REPORT.findall(burst):
            yield from super().feed(report)
        if text := REPORT.sub("", burst):
            yield from self._finish_key()
            yield events.Paste(text)
        if rest:
            yield from super().feed("\r" if rest == "\r\n" else rest)

    def _close_paste(self) -> Iterable[Message]:
        text, self._paste = self._paste, None
        if text:
            yield events.Paste(text)

    def _release(self) -> Iterable[Message]:
        held, self._held = self._held, ""
        if held:
            yield from super().feed(held)
            yield from self._finish_key()

    def _finish_key(self) -> Iterable[Message]:
        """Yield the key whose code has begun, as if its time was over."""
        if self._timeout_time is not None:
            self._timeout_time = 0.0
            yield from super().tick()


def _length_of_opening(text: str) -> int:
    """The length of the longest end of the text that may be the beginning of a marker."""
    markers = (BRACKETED_PASTE_START, BRACKETED_PASTE_END)
    lengths = range(min(len(text), len(BRACKETED_PASTE_START) - 1), 0, -1)
    return next((n for n in lengths if any(marker.startswith(text[-n:]) for marker in markers)), 0)


def _last_end(text: str, end: int) -> int:
    """The place of the last end before the next start, given the place of the first end."""
    start = text.find(BRACKETED_PASTE_START, end)
    return max(end, text.rfind(BRACKETED_PASTE_END, end, start if start >= 0 else len(text)))


def _length_of_burst(text: str, *, before_paste: bool = False) -> int:
    """The length of the part of a read that is pasted text and not keys. 0 for ordinary keys."""
    plain = SEQUENCE.sub(lambda match: "\x1b" * len(match[0]), text)
    acting = [place for place, sign in enumerate(plain) if sign in ACTING_KEYS]
    if not acting:
        return 0
    last = next((place for place in range(len(plain) - 1, -1, -1) if plain[place].isprintable()), -1)
    if before_paste:  # the bracketed paste is the text that follows
        last = max(last, acting[-1])
    return last + 1 if acting[0] <= last else 0


class PasteDriver(LinuxDriver):
    """Textual's driver for a terminal, with `PasteParser` for its parser.

    Bytes that are not UTF-8 become U+FFFD. Textual's own driver ends the program with an error at the first one.
    """

    def run_input_thread(self) -> None:
        """Read the terminal until the program closes it. Runs in its own thread."""
        parser = PasteParser(self._debug)
        decode = getincrementaldecoder("utf-8")(errors="replace").decode
        with selectors.SelectSelector() as selector:
            selector.register(self.fileno, selectors.EVENT_READ)
            while not self.exit_event.is_set():
                if selector.select(POLL_S):
                    data = _read_together(self.fileno, selector)
                    if not data:
                        # The terminal has gone, so nobody can press a key any more.
                        os.kill(os.getpid(), signal.SIGHUP)
                        return
                    if text := decode(data):
                        self._process_all(parser.feed(text))
                self._process_all(parser.tick())
        for _ in parser.feed(""):  # what is not complete now never will be
            pass

    def _process_all(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self.process_message(message)


def _read_together(fileno: int, selector: selectors.BaseSelector) -> bytes:
    """Read what has arrived. A long text arrives in pieces, which belong together. Empty if the terminal has gone."""
    try:
        data = os.read(fileno, READ_BYTES)
        while LONG_READ_BYTES <= len(data) < JOINED_BYTES and selector.select(JOIN_S):
            more = os.read(fileno, READ_BYTES)
            if not more:
                break
            data += more
    except OSError:
        return b""
    return data
