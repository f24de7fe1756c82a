"""The little grammar that the generator and the instruction set need: articles, capitals, actions in four forms."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_ALTERNATIVES = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\^?)(\w+)\}")
_AN_ALTHOUGH = ("hour", "honest", "heir", "honour")
_A_ALTHOUGH = ("uni", "use", "euro", "ewe", "one", "once", "ukulele", "uranium", "usual", "utensil", "eucalyptus")


def with_article(noun: str) -> str:
    """`a` or `an` before a noun or adjective, by its sound as far as the spelling tells."""
    lower = noun.lower()
    vowel = lower[:1] in "aeiou" and not (lower.startswith(_A_ALTHOUGH) and not lower.startswith("unin"))
    return f"{'an' if vowel or lower.startswith(_AN_ALTHOUGH) else 'a'} {noun}"


def capitalised(text: str) -> str:
    """The text with its first letter as a capital."""
    return text[:1].upper() + text[1:]


def expand(template: str, slots: Mapping[str, str], rng: random.Random) -> str:
    """Fill a template: `[one|of|these]` first, then `{slot}`, or `{^slot}` with a capital. `\\n` is a line end."""
    chosen = _ALTERNATIVES.sub(lambda found: rng.choice(found[1].split("|")), template)
    filled = _SLOT.sub(lambda found: capitalised(slots[found[2]]) if found[1] else slots[found[2]], chosen)
    return filled.replace("\\n", "\n").strip()


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """A first name with its pronouns."""

    name: str
    he: str
    him: str
    his: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Phrase:
    """A noun phrase as it stands inside a sentence."""

    text: str
    plural: bool

    @classmethod
    def parse(cls, cell: str) -> Phrase:
        """From a table's cell, where a trailing asterisk marks a plural."""
        return cls(text=cell.rstrip("*"), plural=cell.endswith("*"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Action:
    """Something that is said of a subject, in the forms that grammar tasks are about. Clauses have no full stop."""

    subject: Phrase
    base: str
    third: str
    past: str
    rest: str
    """What follows the verb: an object, a place, a complement of `be`."""
    participle: str = ""
    patient: Phrase | None = None
    """The object, where the sentence can be turned into the passive."""

    def clause(self, tense: str) -> str:
        """`the dog chases the ball`, or `the dog chased the ball` for the past."""
        return f"{self.subject.text} {self._verb(tense)} {self.rest}"

    def _verb(self, tense: str) -> str:
        if self.base == "be":
            return _be(self.subject, tense)
        if tense == "past":
            return self.past
        return self.base if self.subject.plural else self.third

    def question(self, tense: str) -> str:
        """The yes-or-no question, with its mark: `Does the dog chase the ball?`"""
        if self.base == "be":
            return capitalised(f"{_be(self.subject, tense)} {self.subject.text} {self.rest}?")
        helper = "did" if tense == "past" else "do" if self.subject.plural else "does"
        return capitalised(f"{helper} {self.subject.text} {self.base} {self.rest}?")

    def passive(self, tense: str) -> str:
        """`the ball is chased by the dog`. Only where there is a patient."""
        if self.patient is None:
            raise ValueError(f"passive: expected an action with a patient, got {self.clause(tense)!r}.")
        return f"{self.patient.text} {_be(self.patient, tense)} {self.participle} by {self.subject.text}"


def _be(subject: Phrase, tense: str) -> str:
    if tense == "past":
        return "were" if subject.plural else "was"
    return "are" if subject.plural else "is"


def sentence(clause: str) -> str:
    """A clause as a sentence."""
    return capitalised(clause) + "."


def choose_other(rng: random.Random, values: Sequence[str], *taken: str) -> str:
    """One of the values that is none of those taken."""
    while (value := rng.choice(values)) in taken:
        pass
    return value
