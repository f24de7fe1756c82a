"""The worker: one thread that loads the models and works through a queue of jobs. Reports by events only.

A model answers one caller at a time, so all work with it is in this thread. Jobs of the person come first: a background
run of held-out rows gives way to them at the next token, and goes on after them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from assistant.chat import events
from assistant.chat.events import Event, Post
from assistant.chat.heldout import HeldOut, HeldOutRow
from assistant.chat.records import Answered, AnswerKey, Side
from assistant.chat.tokens import inspect_answer
from assistant.dataset.examples import Exchange
from assistant.decoding.reply import Reply, SessionLike
from assistant.errors import AssistantError
from assistant.settings import GenerationSettings

FLUSH_SECONDS = 1 / 20
"""The shortest time between two `TextArrived` events of an answer, except for the last one."""
ROWS_AT_ONCE = 20
"""Held-out rows of a background run that are decoded together."""
ROOM_FACTOR, ROOM_TOKENS = 2, 16
"""An answer of a background run ends at this many times the tokens of the longest reference, and these more. A longer
one equals no reference, and a base model would write on to its limit on every row."""

LoadModel = Callable[[], SessionLike]


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerJob:
    """Answer one question with one model."""

    key: AnswerKey
    instruction: str
    input: str
    history: tuple[Exchange, ...]
    settings: GenerationSettings
    forced_ids: tuple[int, ...] = ()
    """Tokens that the answer begins with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectJob:
    """Look at the tokens of an answer."""

    key: AnswerKey
    instruction: str
    input: str
    history: tuple[Exchange, ...]
    answer: Answered


@dataclass(frozen=True, kw_only=True, slots=True)
class RowsJob:
    """Answer held-out rows with both models."""

    run: int
    rows: tuple[HeldOutRow, ...]
    settings: GenerationSettings
    with_base: bool


class Worker:
    """Owns the models. Every method may be called in any thread, and returns at once.

    Args:
        load: Returns the loaded model of each side; called in the worker's thread, in this order.
        post: Gets each event in the worker's thread. It must not block.
        prepare: Work to do after the models are loaded; it returns the event to post.
    """

    def __init__(
        self, load: Mapping[Side, LoadModel], post: Post, *, prepare: Callable[[], Event | None] | None = None
    ) -> None:
        self._load, self._post, self._prepare = dict(load), post, prepare
        self._sessions: dict[Side, SessionLike] = {}
        self._change = threading.Condition()
        self._loads: deque[Side] = deque(self._load)
        self._jobs: deque[AnswerJob | InspectJob] = deque()
        self._runs: deque[RowsJob] = deque()
        self._current: AnswerKey | None = None
        self._stopped: set[AnswerKey] = set()
        self._stopped_runs: set[int] = set()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, daemon=True, name="chat worker")

    # --- called by the front --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread. It is a daemon: nothing can interrupt loading, so the program must not wait for it."""
        self._thread.start()

    def submit(self, job: AnswerJob | InspectJob | RowsJob) -> None:
        """Add a job to the queue."""
        with self._change:
            if isinstance(job, RowsJob):
                self._runs.append(job)
            else:
                if isinstance(job, AnswerJob):
                    self._stopped.discard(job.key)  # an answer of another conversation may have had this name
                self._jobs.append(job)
            self._change.notify()

    def stop(self, key: AnswerKey) -> None:
        """Stop an answer. One that has not begun ends with no text."""
        with self._change:
            self._stopped.add(key)

    def stop_run(self, run: int) -> None:
        """Stop a background run. Rows that are answered already stay."""
        with self._change:
            self._stopped_runs.add(run)

    def load_again(self, side: Side) -> None:
        """Try once more to load a model."""
        with self._change:
            self._loads.append(side)
            self._change.notify()

    def close(self) -> None:
        """End the thread as soon as it notices. Posts nothing from now on."""
        with self._change:
            self._is_closed = True
            self._change.notify()

    def has_ended(self, *, within: float) -> bool:
        """Wait for the end of the thread after `close`, at most `within` seconds. Return whether it has ended.

        If it has not, the interpreter must not shut down: it aborts while a thread is inside torch.
        """
        if self._thread.is_alive():
            self._thread.join(within)
        return not self._thread.is_alive()

    # --- the thread -----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (job := self._next_job()) is not None:
            match job:
                case AnswerJob():
                    self._attempt(partial(self._answer, job), partial(events.AnswerFailed, key=job.key))
                case InspectJob():
                    self._attempt(partial(self._inspect, job), events.TokensFailed)
                case RowsJob():
                    self._attempt(partial(self._answer_rows, job), partial(events.RunEnded, run=job.run))
                case side:
                    self._attempt(partial(self._load_model, side), partial(events.ModelFailed, side=side))
            if self._prepare is not None and not self._loads and not self._is_closed:
                prepare, self._prepare = self._prepare, None
                self._attempt(prepare, lambda problem: events.DataReady(held_out=HeldOut(problem=problem)))

    def _next_job(self) -> AnswerJob | InspectJob | RowsJob | Side | None:
        with self._change:
            while not self._is_closed:
                if self._loads:
                    return self._loads.popleft()
                if self._jobs:
                    return self._jobs.popleft()
                if self._runs:
                    return self._runs.popleft()
                self._change.wait()
            return None

    def _attempt(self, work: Callable[[], Event | None], failed: Callable[..., Event]) -> None:
        """Do some work, and report the event that it returns. An error becomes `failed(problem=...)`."""
        try:
            event = work()
        except BaseException as error:  # noqa: BLE001  also SystemExit: without a report the chat would wait forever
            event = failed(problem=describe_error(error))
        if event is not None:
            self._report(event)

    def _report(self, event: Event) -> None:
        if not self._is_closed:
            self._post(event)

    def _load_model(self, side: Side) -> Event:
        session = self._sessions[side] = self._load[side]()
        return events.ModelReady(side=side, card=_card(session))

    def _session(self, side: Side) -> SessionLike:
        session = self._sessions.get(side)
        if session is None:
            raise AssistantError(f"the {side} model: expected it to be loaded, got none. Load it again.")
        return session

    def _answer(self, job: AnswerJob) -> Event:
        text = _TextBatch(job.key, self._report)

        def should_stop() -> bool:
            return job.key in self._stopped or self._is_closed

        self._report(events.AnswerStarted(key=job.key))
        try:
            reply = self._session(job.key.side).reply(
                job.instruction,
                input=job.input,
                history=job.history,
                settings=job.settings,
                on_text=text.add,
                should_stop=should_stop,
                forced_ids=job.forced_ids,
            )
        finally:
            text.flush()
        return events.AnswerFinished(
            key=job.key,
            reply=reply,
            settings=job.settings,
            n_history=len(job.history) - reply.n_forgotten,
            n_forced=len(job.forced_ids),
        )

    # --- background runs ------------------------------------------------------------------------------------------

    def _answer_rows(self, job: RowsJob) -> Event | None:
        """Answer some rows of a run, and queue the others again. Return the end of the run after the last rows."""
        rows = job.rows[:ROWS_AT_ONCE]
        tuned = self._replies("tuned", rows, job)
        base = self._replies("base", rows, job) if job.with_base and len(tuned) == len(rows) else {}
        answered = base if job.with_base else tuned
        for id in [row.id for row in rows if row.id in answered]:
            self._report(events.RowAnswered(run=job.run, row=id, tuned=tuned[id], base=base.get(id)))
        left = tuple(row for row in job.rows if row.id not in answered)
        if not left or job.run in self._stopped_runs:
            return events.RunEnded(run=job.run)
        with self._change:
            self._runs.appendleft(replace(job, rows=left))
        return None

    def _replies(self, side: Side, rows: Sequence[HeldOutRow], job: RowsJob) -> dict[str, Reply]:
        """The complete replies of a model. Fewer than there are rows, if the run has to give way or is stopped."""

        def should_stop() -> bool:
            return bool(self._jobs) or job.run in self._stopped_runs or self._is_closed

        examples = [row.example for row in rows]
        session = self._session(side)
        longest = max(len(session.tokenizer.encode(example.output)) for example in examples)
        limit = min(job.settings.max_new_tokens, ROOM_FACTOR * longest + ROOM_TOKENS)
        settings = job.settings.model_copy(update={"max_new_tokens": limit})
        found: dict[str, Reply] = {}
        for index, reply in session.replies(examples, settings, should_stop=should_stop):
            if isinstance(reply, Exception):
                raise reply
            if reply.stop_reason != "cancelled":
                found[rows[index].id] = reply
        return found

    # --- tokens ---------------------------------------------------------------------------------------------------

    def _inspect(self, job: InspectJob) -> Event:
        """Look at tokens under the model that wrote them, and under the base model if the tuned one did.

        Raises:
            AssistantError: the prompt is another one now.
        """
        session = self._session(job.key.side)
        base = self._sessions.get("base") if job.key.side == "tuned" else None
        _, prompt_ids = session.encode_prompt(job.instruction, input=job.input, history=job.history)
        if (n_then := job.answer.n_prompt_tokens) and n_then != len(prompt_ids):  # 0: not recorded
            raise AssistantError(
                f"tokens: expected the prompt of {n_then} tokens that was answered, got {len(prompt_ids)} tokens. "
                f"The turns before it were changed since. Answer it again to see its tokens."
            )
        return events.TokensReady(key=job.key, tokens=inspect_answer(session, base, job.answer, prompt_ids))


def describe_error(error: BaseException) -> str:
    """Describe an error in one sentence for the screen.

    The project's own errors already are sentences. For other errors, the type comes first.
    """
    if isinstance(error, AssistantError):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


class _TextBatch:
    """Collects pieces of text and posts them together, so that a fast model does not flood the screen."""

    def __init__(self, key: AnswerKey, post: Post) -> None:
        self._key, self._post = key, post
        self._pieces: list[str] = []
        self._n_pieces = 0
        self._flushed_at = float("-inf")

    def add(self, piece: str) -> None:
        """Add a piece, and flush if the last flush was at least `FLUSH_SECONDS` ago."""
        self._pieces.append(piece)
        self._n_pieces += 1
        if time.monotonic() - self._flushed_at >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Post all collected text."""
        text = "".join(self._pieces)
        self._pieces.clear()
        self._flushed_at = time.monotonic()
        if text:
            self._post(events.TextArrived(key=self._key, text=text, n_pieces=self._n_pieces))


def _card(session: SessionLike) -> events.ModelCard:
    return events.ModelCard(
        name=session.name,
        folder=None if session.folder is None else Path(session.folder),
        n_parameters=session.n_parameters,
        context_length=session.context_length,
        template=session.template,
        template_note=session.template_note,
        tokenizer=session.tokenizer,
        info=session.info,
    )
