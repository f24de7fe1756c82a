"""A judge at work: asks about many rows, at one or several servers, and stores every attempt before the next question.

Rows with equal questions are asked about once. A row that fails goes to the back of the queue. The work ends when
nothing is left, when no server answers, or when the judge gives nothing usable for its first rows. Does not know which
rows need a judge.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol

from assistant.errors import AssistantError, JudgeError
from evaluation.answers.folder import ResponseRecord
from evaluation.answers.records import now
from evaluation.judging.calls import ServerFacts, on_one_line
from evaluation.judging.hosts import Host, Reply, spread
from evaluation.judging.judge import Asked, BaseJudge, Judge
from evaluation.judging.judgement import TRANSIENT, Attempt, JudgeIdentity, Reason
from evaluation.judging.ledger import JudgeLine, Judgement, Purpose, Source
from evaluation.judging.rubric import Material
from evaluation.judging.verdict_cache import Verdicts

FIRST_ROWS = 5
"""If the judge gives nothing usable for this many rows at first, it is not asked about the others."""


class Ledger(Protocol):
    """What gets every attempt: `assistant.jsonl.AppendOnly`, or an object that keeps none."""

    def append(self, records: Iterable[JudgeLine | Judgement], *, sync: bool = True) -> None: ...
    def sync(self) -> None: ...


class NoLedger:
    """Keeps no attempt: for questions that belong to no answers folder."""

    def append(self, records: Iterable[JudgeLine | Judgement], *, sync: bool = True) -> None:
        """Keep nothing."""

    def sync(self) -> None:
        """Do nothing."""


ADVICE: dict[Reason, str] = {
    "unparsable": "Try a larger judge, or one that follows instructions better.",
    "incomplete": "Try another judge: this one does not come to an end.",
    "timeout": "Raise --timeout, or try a smaller judge.",
    "truncated": "Raise --num-ctx, or choose a judge with a longer context.",
}
"""What to try when the judge fails at its first rows. Any other reason: the server's log."""


class Row(NamedTuple):
    """A row to ask about, and what for."""

    purpose: Purpose
    record: ResponseRecord


class JudgeStep(NamedTuple):
    """Progress of the judge. The first step comes before the model is loaded and has no outcome."""

    done: int
    total: int
    outcome: Judgement | None


class NoAnswerError(JudgeError):
    """A server does not answer any more."""


@dataclass(eq=False, slots=True)
class Task(Generic[Asked]):
    """One question, and all rows that it answers."""

    hash: str
    asked: Asked
    rows: list[Row] = field(default_factory=list)
    n_failures: int = 0


def make_tasks(judge: Judge, rows: Iterable[Row]) -> list[Task[Material]]:
    """Return the questions about these rows, in order. Rows with equal questions share one."""
    tasks: dict[str, Task[Material]] = {}
    for row in rows:
        material = material_of(row.record)
        question = judge.question(material).hash
        tasks.setdefault(question, Task(question, material)).rows.append(row)
    return list(tasks.values())


def material_of(record: ResponseRecord) -> Material:
    """Return the texts of a row that the judge sees."""
    return Material(
        instruction=record.instruction,
        input=record.input,
        reference=record.reference,
        response=record.response or "",
        history=record.history,
        questions=() if record.reference else record.rubric,
    )


# --- servers ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def connected(judge: BaseJudge[Any]) -> AsyncIterator[tuple[list[Host], list[str]]]:
    """Connect to all servers, and close the connections at the end.

    Yields the servers that can be asked, and a sentence about each other one.

    Raises:
        AssistantError: no server can be asked, or two servers have different models under the judge's name.
    """
    clients = [judge.make_client(url) for url in judge.settings.urls]
    try:
        results = await asyncio.gather(*(client.connect() for client in clients), return_exceptions=True)
        hosts = []
        faults: list[AssistantError] = []
        for client, result in zip(clients, results, strict=True):
            if isinstance(result, ServerFacts):
                hosts.append(Host(client=client, facts=result))
            elif isinstance(result, AssistantError):
                faults.append(result)
            else:
                raise result
        if not hosts:
            raise faults[0]
        _check_same_model(judge, hosts)
        yield hosts, [f"one server is left out. {fault}" for fault in faults]
    finally:
        for client in clients:
            await client.close()


def _check_same_model(judge: BaseJudge[Any], hosts: Sequence[Host]) -> None:
    for host in hosts[1:]:
        if host.facts.digest != hosts[0].facts.digest:
            raise JudgeError(
                f"judge: expected the same {judge.settings.model!r} at all servers, got {hosts[0].facts.digest[:12]} "
                f"at {hosts[0].client.url} and {host.facts.digest[:12]} at {host.client.url}. "
                f"Pull the same version, or leave out one --host."
            )


# --- the work -----------------------------------------------------------------------------------------------------


class JudgeWork(Generic[Asked]):
    """The questions of one run, and what became of them.

    Args:
        judge: The judge.
        hosts: Its servers, connected.
        ledger: Gets every attempt at once.
        verdicts: Gets every score, for other runs. None if they must not replace those that it has.
        n_scored: How many rows this judge has scored before.
        on_step: Called after each row.
    """

    def __init__(
        self,
        judge: BaseJudge[Asked],
        hosts: Sequence[Host],
        ledger: Ledger,
        verdicts: Verdicts | None,
        *,
        n_scored: int,
        on_step: Callable[[JudgeStep], None],
    ) -> None:
        self.judge = judge
        self.hosts = hosts
        self.identity: JudgeIdentity = judge.identity(hosts[0].facts)
        self.seconds: list[float] = []
        """Seconds of every answered question."""
        self._ledger = ledger
        self._verdicts = verdicts
        self._n_scored = n_scored
        self._on_step = on_step
        self._unusable: dict[Task[Asked], Attempt] = {}
        self._n_unreachable = 0
        self._done = self._total = 0
        self._n_written = self._n_synced = 0
        self._sync = asyncio.Lock()

    async def ask_all(self, tasks: Sequence[Task[Asked]]) -> None:
        """Ask all questions.

        Raises:
            AssistantError: no server can be asked any more, or the judge fails at its first rows.
        """
        self._total = sum(len(task.rows) for task in tasks)
        self._on_step(JudgeStep(done=0, total=self._total, outcome=None))
        if not tasks:
            return
        try:
            remaining = await spread(
                self.hosts,
                tasks,
                start=self._load,
                ask=self._ask,
                parallel=self.judge.settings.parallel,
                no_answer=lambda host: NoAnswerError(f"judge: {host.client.url} does not answer any more."),
            )
        except BaseExceptionGroup as group:
            raise _first_leaf(group) from None
        if remaining:
            self._give_up(remaining)

    async def _load(self, host: Host) -> None:
        host.context = self.judge.context(await host.client.load())

    async def _ask(self, host: Host, task: Task[Asked]) -> Reply:
        """Ask one question once, and store what came of it."""
        version = host.facts.version
        tried = await self.judge.ask(host.client, task.asked, context=host.context, server_version=version)
        outcome = tried.attempts[-1]
        again = tried.retries > task.n_failures
        attempts = [attempt.model_copy(update={"final": False}) for attempt in tried.attempts[:-1]]
        attempts.append(outcome.model_copy(update={"final": False}) if again else outcome)
        await self._store(task, attempts)
        first = not task.n_failures
        task.n_failures += outcome.unscored in TRANSIENT
        if outcome.seconds:
            self.seconds.append(sum(attempt.seconds for attempt in attempts))
        if not again:
            self._n_unreachable += len(task.rows) * (outcome.unscored == "unreachable")
            self._step(task, attempts[-1])
        self._check_first_rows(task, outcome)
        unreachable = outcome.unscored == "unreachable"
        return Reply(again=again, unreachable=unreachable, answered=tried.answered, first=first)

    async def _store(self, task: Task[Asked], attempts: Sequence[Attempt]) -> None:
        self._ledger.append(judgements_of(task, self.identity, attempts), sync=False)
        if self._verdicts is not None:
            self._verdicts.add(self.identity.fingerprint, attempts[-1:])
        self._n_written += 1
        written = self._n_written
        # A disk takes milliseconds. Other questions go on meanwhile, and those that wait share the next sync.
        async with self._sync:
            if written > self._n_synced:
                n_written = self._n_written
                await asyncio.to_thread(self._ledger.sync)
                self._n_synced = n_written

    def _step(self, task: Task[Asked], outcome: Attempt) -> None:
        for row in task.rows:
            self._done += 1
            judgement = judgement_of(row, self.identity, outcome)
            self._on_step(JudgeStep(done=self._done, total=self._total, outcome=judgement))

    def _check_first_rows(self, task: Task[Asked], outcome: Attempt) -> None:
        """Raise JudgeError if the judge gave nothing usable for its first rows."""
        if outcome.score is not None:
            self._n_scored += 1
        elif outcome.unscored not in {"too_long", "unreachable"}:
            self._unusable[task] = outcome
        if self._n_scored or len(self._unusable) < FIRST_ROWS:
            return
        reasons = Counter(attempt.unscored for attempt in self._unusable.values())
        commonest = reasons.most_common(1)[0][0]
        words = next(attempt.detail for attempt in self._unusable.values() if attempt.unscored == commonest)
        advice = ADVICE.get(commonest or "server_error", "See the server's log.")
        raise JudgeError(
            f"judge: expected verdicts from {self.judge.settings.model!r}, got none for the first "
            f"{len(self._unusable)} rows ({', '.join(f'{reason} {count}' for reason, count in reasons.items())}): "
            f"{on_one_line(words).rstrip('.')}. {advice}"
        )

    def _give_up(self, remaining: Sequence[Task[Asked]]) -> None:
        """Raise the error of a run whose servers have all failed."""
        faults = [host.fault for host in self.hosts if host.fault is not None]
        for fault in faults:
            if not isinstance(fault, NoAnswerError):
                raise fault
        not_asked = Attempt(unscored="unreachable", detail="not asked: the server was unreachable", final=False)
        self._ledger.append(
            judgement
            for task in remaining
            if not task.n_failures
            for judgement in judgements_of(task, self.identity, [not_asked])
        )
        n_rows = sum(len(task.rows) for task in remaining) + self._n_unreachable
        start = "Start the server (ollama serve)" if self.judge.settings.api == "ollama" else "Start the server"
        raise JudgeError(
            f"judge: expected answers from {', '.join(host.client.url for host in self.hosts)}, got none for the last "
            f"{n_rows} {'row' if n_rows == 1 else 'rows'}. {start} and give the same command again; "
            f"it asks only for the missing rows."
        )


# --- lines of the ledger ------------------------------------------------------------------------------------------


def judge_line(identity: JudgeIdentity, hosts: Sequence[Host]) -> JudgeLine:
    """Return the line that begins a judge's work in a ledger."""
    url = ", ".join(host.client.url for host in hosts)
    return JudgeLine(fingerprint=identity.fingerprint, identity=identity, url=url, created=now())


def take_over(
    tasks: Sequence[Task[Asked]], known: Mapping[str, Attempt], identity: JudgeIdentity, ledger: Ledger
) -> list[Task[Asked]]:
    """Store the verdicts that other runs have on some questions. Returns the other questions."""
    for task in tasks:
        if task.hash in known:
            ledger.append(judgements_of(task, identity, [known[task.hash]]))
    return [task for task in tasks if task.hash not in known]


def judgements_of(task: Task[Any], identity: JudgeIdentity, attempts: Iterable[Attempt]) -> Iterator[Judgement]:
    """Yield the ledger lines of all rows of a question."""
    for attempt in attempts:
        for row in task.rows:
            yield judgement_of(row, identity, attempt)


def judgement_of(row: Row, identity: JudgeIdentity, attempt: Attempt, *, source: Source | None = None) -> Judgement:
    """Return the ledger line of one attempt at a row. A score comes from the judge, unless there is a `source`."""
    return Judgement(
        **attempt.model_dump(),
        id=row.record.id,
        response_hash=row.record.response_hash,
        fingerprint=identity.fingerprint,
        purpose=row.purpose,
        source=source or (None if attempt.score is None else "judge"),
        created=now(),
    )


def _first_leaf(error: BaseException) -> BaseException:
    """Return the first exception that a group of exceptions holds."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
