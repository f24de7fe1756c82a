"""Minimal English grammar for the corpus and the instruction set: articles, capitals, and the forms of an action."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_ALTERNATIVES = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\^?)(\w+)\}")
# Words whose first sound is not the one that their first letter suggests.
_VOWEL_SOUND = ("hour", "honest", "heir", "honour")
_CONSONANT_SOUND = ("uni", "use", "euro", "ewe", "one", "once", "ukulele", "uranium", "usual", "utensil", "eucalyptus")


def with_article(noun: str) -> str:
    """Put `a` or `an` before a noun or adjective, by its first sound as far as the spelling shows it."""
    lower = noun.lower()
    vowel = lower[:1] in "aeiou" and not (lower.startswith(_CONSONANT_SOUND) and not lower.startswith("unin"))
    return f"{'an' if vowel or lower.startswith(_VOWEL_SOUND) else 'a'} {noun}"


def capitalised(text: str) -> str:
    """Return the text with a capital first letter."""
    return text[:1].upper() + text[1:]


def choose(template: str, rng: random.Random) -> str:
    """Choose from each `[one|of|these]` of a template."""
    return _ALTERNATIVES.sub(lambda match: rng.choice(match[1].split("|")), template)


def expand(template: str, slots: Mapping[str, str], rng: random.Random) -> str:
    """Fill a template. First choose from each `[one|of|these]`, then fill each `{slot}` or `{^slot}`.

    `{^slot}` capitalises the value. `\\n` becomes a line end. Values are never treated as templates.
    """
    filled = _SLOT.sub(
        lambda match: capitalised(slots[match[2]]) if match[1] else slots[match[2]], choose(template, rng)
    )
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
    """A noun phrase, as it is inside a sentence."""

    text: str
    plural: bool

    @classmethod
    def parse(cls, cell: str) -> Phrase:
        """Parse a cell of a table. An asterisk at the end marks a plural."""
        return cls(text=cell.rstrip("*"), plural=cell.endswith("*"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Action:
    """A subject, a verb and its complement, in the forms that grammar tasks need. Clauses have no full stop."""

    subject: Phrase
    base: str
    third: str
    past: str
    rest: str
    """The words after the verb: an object, a place, or the complement of `be`."""
    participle: str = ""
    patient: Phrase | None = None
    """The object, if the sentence has a passive form."""

    def clause(self, tense: str) -> str:
        """Return the statement: `the dog chases the ball`, or `the dog chased the ball` in the past."""
        return f"{self.subject.text} {self._verb(tense)} {self.rest}"

    def _verb(self, tense: str) -> str:
        if self.base == "be":
            return _be(self.subject, tense)
        if tense == "past":
            return self.past
        return self.base if self.subject.plural else self.third

    def question(self, tense: str) -> str:
        """Return the yes-or-no question with its question mark: `Does the dog chase the ball?`"""
        if self.base == "be":
            return capitalised(f"{_be(self.subject, tense)} {self.subject.text} {self.rest}?")
        helper = "did" if tense == "past" else "do" if self.subject.plural else "does"
        return capitalised(f"{helper} {self.subject.text} {self.base} {self.rest}?")

    def passive(self, tense: str) -> str:
        """Return the passive statement: `the ball is chased by the dog`.

        Raises:
            ValueError: the action has no patient.
        """
        if self.patient is None:
            raise ValueError(f"passive: expected an action with a patient, got {self.clause(tense)!r}.")
        return f"{self.patient.text} {_be(self.patient, tense)} {self.participle} by {self.subject.text}"


def _be(subject: Phrase, tense: str) -> str:
    if tense == "past":
        return "were" if subject.plural else "was"
    return "are" if subject.plural else "is"


def sentence(clause: str) -> str:
    """Make a sentence from a clause: a capital and a full stop."""
    return capitalised(clause) + "."


def choose_other(rng: random.Random, values: Sequence[str], *excluded: str) -> str:
    """Return a random value that is not excluded."""
    while (value := rng.choice(values)) in excluded:
        pass
    return value
