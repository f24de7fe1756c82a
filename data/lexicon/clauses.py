"""Random sentences and their forms: active and passive, statement and question, present and past, right and wrong.

Their subjects, verbs and objects are rows of tables, combined at each call.
"""

from __future__ import annotations

from data.lexicon.draw import Draw
from data.lexicon.english import Action, Phrase, sentence
from data.lexicon.tables import split_cell

Slots = dict[str, str]
"""Values for the slots of a frame."""

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip


def transitive(draw: Draw) -> Action:
    """Return an action with an object: somebody does something to something."""
    row = draw.row("transitive")
    agent = Phrase.parse(draw.rng.choice(split_cell(row["agents"])))
    patient = Phrase.parse(draw.rng.choice(split_cell(row["patients"])))
    return Action(
        subject=agent,
        base=row["base"],
        third=row["third"],
        past=row["past"],
        rest=patient.text,
        participle=row["participle"],
        patient=patient,
    )


def intransitive(draw: Draw) -> Action:
    """Return an action without an object: somebody does something somewhere."""
    row = draw.row("intransitive")
    subject = Phrase.parse(draw.rng.choice(split_cell(row["subjects"])))
    rest = draw.rng.choice(split_cell(row["complements"]))
    return Action(subject=subject, base=row["base"], third=row["third"], past=row["past"], rest=rest)


def state(draw: Draw) -> Action:
    """Return a state: somebody is something, or somewhere."""
    row = draw.row("states")
    subject = Phrase.parse(draw.rng.choice(split_cell(row["subjects"])))
    return Action(
        subject=subject, base="be", third="is", past="was", rest=draw.rng.choice(split_cell(row["complements"]))
    )


def any_action(draw: Draw) -> Action:
    """Return a random transitive or intransitive action, or a state."""
    return draw.rng.choice([transitive, intransitive, intransitive, state])(draw)


def any_tense(draw: Draw) -> str:
    return draw.rng.choice(["present", "past"])


def passive(draw: Draw) -> Slots:
    action, tense = transitive(draw), any_tense(draw)
    return {
        "active": sentence(action.clause(tense)),
        "passive": sentence(action.passive(tense)),
        "active_clause": action.clause(tense),
        "passive_clause": action.passive(tense),
    }


def question(draw: Draw) -> Slots:
    action, tense = any_action(draw), any_tense(draw)
    clause = action.clause(tense)
    return {"statement": sentence(clause), "clause": clause, "question": action.question(tense)}


def tense(draw: Draw) -> Slots:
    action = any_action(draw)
    present, past = action.clause("present"), action.clause("past")
    return {
        "present": sentence(present),
        "past": sentence(past),
        "present_clause": present,
        "past_clause": past,
    }


def punctuation(draw: Draw) -> Slots:
    if draw.rng.random() < 0.4:
        return dict(draw.row("punctuation"))
    action, when = any_action(draw), any_tense(draw)
    right = draw.rng.choice([sentence(action.clause(when)), action.question(when)])
    ending = draw.rng.choice(["", f" in {draw.rng.choice(MONTHS)}", f" on {draw.rng.choice(DAYS)}"])
    right = right[:-1] + ending + right[-1]
    return {"raw": right[:-1].lower() if draw.rng.random() < 0.85 else right.upper(), "right": right}


def grammar(draw: Draw) -> Slots:
    if draw.rng.random() < 0.5:
        return dict(draw.row("grammar"))
    action = any_action(draw)
    if action.base == "be":
        verb = action.clause("present").removeprefix(action.subject.text).split()[0]
        wrong_verb = {"is": "are", "are": "is"}[verb]
        return {
            "right": sentence(action.clause("present")),
            "wrong": sentence(f"{action.subject.text} {wrong_verb} {action.rest}"),
        }
    wrong_verb = action.third if action.subject.plural else action.base
    wrong = f"{action.subject.text} {wrong_verb} {action.rest}"
    return {"right": sentence(action.clause("present")), "wrong": sentence(wrong)}


def narrative(draw: Draw) -> Slots:
    a, b = any_action(draw).clause("past"), any_action(draw).clause("past")
    return {"clause_a": a, "clause_b": b, "sentence_a": sentence(a), "sentence_b": sentence(b)}
