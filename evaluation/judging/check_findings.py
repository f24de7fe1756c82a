"""What a check of a judge shows: its figures, a level, the reasons, and what to try next. Does not ask anybody."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from assistant.settings import Frozen
from evaluation.judging.judge_options import JudgeOptions
from evaluation.judging.judgement import JudgeIdentity, full_name
from evaluation.judging.pairwise import PositionFlips
from evaluation.judging.repeatability import Repeatability
from evaluation.judging.rubric import MethodName
from evaluation.judging.trust import Level, Trust
from evaluation.next_command import DEFAULT_JUDGE, N_LABELS, Advice

AMBER_SD = 5.0
RED_SD = 20.0
"""Points that a score may lie from its item's mean. 20 are one step of the scale from 0 to 5."""


class PairFindings(Frozen):
    """What the judge said about references and references of other rows."""

    flips: PositionFlips
    reference_won: int
    """Pairs in which the row's own reference won in both orders."""
    unscored: int
    """Pairs without a valid answer in at least one order."""


class JudgeCheck(Frozen):
    """What a check found."""

    judge: JudgeIdentity
    judge_fingerprint: str
    urls: tuple[str, ...]
    method: str
    rows: int
    """Rows with a reference that the items were drawn from."""
    level: Level
    sentence: str
    reasons: tuple[str, ...]
    """Sentences, the most important first. Empty if the level is green."""
    trust: Trust
    """From the control items alone."""
    repeatability: Repeatability
    pairs: PairFindings
    questions: int
    """Questions that were asked now."""
    reused: int
    """Questions whose verdict was known from earlier runs."""
    unscored: int
    """Questions without a valid verdict, also of those that were asked again."""
    seconds_each: float | None
    """Mean seconds of a question about a response. None if none was asked."""


def conclude(
    *, trust: Trust, repeated: Repeatability, pairs: PairFindings, judge: JudgeIdentity, **facts: Any
) -> JudgeCheck:
    """Return the check with its level: that of the control items, or a worse one by what else was seen."""
    too_noisy = repeated.sd is not None and repeated.sd >= RED_SD
    more = [*_repeat_reasons(repeated), *_pair_reasons(pairs)]
    level = trust.level
    if too_noisy:
        level = "red"
    elif more and level == "green":
        level = "amber"
    # The reason for the colour comes first.
    reasons = (*more, *trust.reasons) if too_noisy and trust.level != "red" else (*trust.reasons, *more)
    return JudgeCheck(
        judge=judge,
        judge_fingerprint=judge.fingerprint,
        level=level,
        sentence=_sentence(judge.model, level, trust, reasons),
        reasons=reasons,
        trust=trust,
        repeatability=repeated,
        pairs=pairs,
        **facts,
    )


def _repeat_reasons(repeated: Repeatability) -> list[str]:
    reasons = []
    if repeated.sd is None:
        reasons.append("No question has two scores, so nobody knows whether it repeats itself.")
    elif repeated.sd >= AMBER_SD:
        reasons.append(
            f"It does not repeat itself: asked again, its scores differ by up to {repeated.largest:.0f} points "
            f"(standard deviation {repeated.sd:.1f})."
        )
    if 10 * repeated.missing > repeated.verdicts + repeated.missing:
        reasons.append(f"Asked again, {repeated.missing} of its verdicts were not valid.")
    return reasons


def _pair_reasons(pairs: PairFindings) -> list[str]:
    flips = pairs.flips
    if not flips.n + pairs.unscored:
        return ["The rows allow no pairs, so nobody knows whether the place of a response decides."]
    reasons = []
    if 4 * flips.flips > flips.n:
        reasons.append(
            f"In {flips.flips} of {flips.n} pairs the place of a response decided, not the response. Its scores do "
            f"not depend on places, but do not let it choose between two runs."
        )
    elif 2 * pairs.reference_won < flips.n:
        reasons.append(
            f"It preferred the reference to another row's reference in only {pairs.reference_won} of {flips.n} pairs. "
            f"Do not let it choose between two runs."
        )
    if 4 * pairs.unscored > flips.n + pairs.unscored:
        reasons.append(f"It gave no valid answer on {pairs.unscored} of {flips.n + pairs.unscored} pairs.")
    return reasons


def _sentence(model: str, level: Level, trust: Trust, reasons: Sequence[str]) -> str:
    if level == "green":
        return (
            f"Judge {model} is green: it called {trust.tpr.right} of {trust.tpr.n} references right and "
            f"{trust.tnr.right} of {trust.tnr.n} wrong responses wrong, obeyed no order, and repeats its scores."
        )
    if level == "amber":
        return f"Judge {model} is amber: use its scores with care. {reasons[0]}"
    return f"Judge {model} is red: do not trust its scores. {reasons[0]}"


def next_steps(level: Level, asked: JudgeOptions) -> tuple[Advice, ...]:
    """Return commands that are worth trying after a check of this level."""
    if level == "green":
        words = ["evaluation", "score", "runs/answers", *asked.words()]
        return (Advice(command=shlex.join(words), purpose="score answers with it"),)
    other: MethodName = "quick" if asked.method != "quick" else "explain"
    steps = []
    if asked.prompt is None:
        words = asked.model_copy(update={"method": other}).words()
        steps.append(Advice(command=shlex.join(["evaluation", "check-judge", *words]), purpose="ask it another way"))
    if asked.judge is not None and asked.api == "ollama" and full_name(asked.judge) != full_name(DEFAULT_JUDGE):
        words = asked.model_copy(update={"judge": DEFAULT_JUDGE}).words()
        steps.append(Advice(command=shlex.join(["evaluation", "check-judge", *words]), purpose="try another judge"))
    else:
        label = f"evaluation label runs/answers --count {N_LABELS}"
        steps.append(Advice(command=label, purpose=f"score {N_LABELS} rows yourself"))
    return tuple(steps)
