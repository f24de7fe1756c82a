"""What the fronts say of an answer, in one line."""

from __future__ import annotations

from assistant.chat.records import Answered


def describe_end(answer: Answered, *, is_short: bool = False) -> str:
    """Describe an ended answer: tokens, speed, why it ended, and the seed if tokens were sampled.

    The short form is for narrow columns: without speed, and without what is usual.
    """
    count = len(answer.token_ids)
    parts = [f"{count} token" if count == 1 else f"{count} tokens"]
    if count and answer.seconds > 0 and not is_short:
        parts.append(f"{count / answer.seconds:.0f}/s")
    if not is_short or answer.stop_reason != "eos" or not answer.response.strip():
        parts.append(describe_stop(answer))
    if answer.n_history:
        parts.append(f"with {answer.n_history} earlier turns" if answer.n_history > 1 else "with 1 earlier turn")
    if answer.n_forgotten:
        parts.append(f"oldest turns that did not fit: {answer.n_forgotten}")
    if answer.n_forced:
        parts.append(f"first {answer.n_forced} tokens given by you")
    if answer.settings.temperature > 0:
        parts.append(f"seed {answer.settings.seed}, temperature {answer.settings.temperature:g}")
    return " · ".join(parts)


def describe_stop(answer: Answered) -> str:
    """Say why an answer ended."""
    if answer.stop_reason == "eos":
        return "ended by itself" if answer.response.strip() else "ended without text"
    if answer.stop_reason == "stop":
        return "ended at a stop string"
    if answer.stop_reason == "cancelled":
        return "stopped by you"
    if len(answer.token_ids) >= answer.settings.max_new_tokens:
        return "ran to the limit"
    return "filled the context"
