"""Makes the questions and answers of the instruction set, without their phrasing: one maker for each category.

All answers of a category have the same form, for every phrasing, so that exact match is a fair metric.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from data.lexicon import clauses
from data.lexicon import relations as rel
from data.lexicon.clauses import DAYS, MONTHS, Slots
from data.lexicon.draw import Draw
from data.lexicon.english import expand, sentence, with_article
from data.lexicon.tables import clear_others, table


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """The question and the answer of one row."""

    phrasing: str
    """Category of the phrasings that fit the question."""
    slots: Slots
    """Values for the slots of the phrasing."""
    answer: str
    keys: tuple[str, ...]
    """The subjects of the question. Rows that share a key share a group."""


Maker = Callable[[Draw], Question]


# --- questions about one row of a table ---------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Pattern:
    """A category whose answers state one row of a table in a fixed form."""

    slots_of: Callable[[Draw], Slots]
    answer: str
    asked: Mapping[str, str]
    """For each slot of the phrasings, the slot of the row with its value."""
    keys: tuple[str, ...]
    """Slots of the row that are the question's keys."""

    def question(self, name: str, draw: Draw) -> Question:
        """Return a question about the next row."""
        row = self.slots_of(draw)
        return Question(
            phrasing=name,
            slots={slot: row[source] for slot, source in self.asked.items()},
            answer=expand(self.answer, row, draw.rng),
            keys=tuple(without_article(row[key]) for key in self.keys),
        )


def _continents(draw: Draw) -> Slots:
    return dict(draw.card("continents", table("countries")))  # A separate pack from that of the capitals.


def _spelling(draw: Draw) -> Slots:
    row = rel.spelling(draw)
    return row | {"word": row["right"].lower()}


PATTERNS = {
    "opposites": Pattern(
        slots_of=rel.opposites, answer="The opposite of {a} is {b}.", asked={"word": "a"}, keys=("a", "b")
    ),
    "synonyms": Pattern(
        slots_of=rel.synonyms, answer="A synonym for {a} is {b}.", asked={"word": "a"}, keys=("a", "b")
    ),
    "plurals": Pattern(slots_of=rel.plurals, answer="The plural of {a} is {b}.", asked={"word": "a"}, keys=("a",)),
    "past_tense": Pattern(
        slots_of=rel.past_tense, answer="The past tense of {base} is {past}.", asked={"word": "base"}, keys=("base",)
    ),
    "capitals": Pattern(
        slots_of=rel.countries,
        answer="The capital of {country} is {capital}.",
        asked={"country": "country"},
        keys=("country",),
    ),
    "continents": Pattern(
        slots_of=_continents, answer="{^country} is in {continent}.", asked={"country": "country"}, keys=("country",)
    ),
    "animal_young": Pattern(
        slots_of=rel.animal_young,
        answer="A young {animal} is called {a_young}.",
        asked={"animal": "animal", "a_animal": "an_animal"},
        keys=("animal",),
    ),
    "colours": Pattern(slots_of=rel.colours, answer="{^thing} is {colour}.", asked={"thing": "thing"}, keys=("thing",)),
    "chemical_symbols": Pattern(
        slots_of=rel.elements,
        answer="The chemical symbol for {element} is {symbol}.",
        asked={"element": "element"},
        keys=("element",),
    ),
    "spelling": Pattern(
        slots_of=_spelling,
        answer='The correct spelling is "{right}".',
        asked={"misspelling": "wrong", "either": "either"},
        keys=("word",),
    ),
    "simile": Pattern(
        slots_of=rel.simile,
        answer="As {adjective} as {ending}.",
        asked={"adjective": "adjective"},
        keys=("adjective",),
    ),
    "rhymes": Pattern(
        slots_of=rel.rhymes, answer="A word that rhymes with {a} is {b}.", asked={"word": "a"}, keys=("a", "b")
    ),
    "definitions": Pattern(
        slots_of=rel.definitions,
        answer="{^phrase} is {definition}.",
        asked={"word": "word", "a_word": "phrase"},
        keys=("word",),
    ),
    "jobs": Pattern(slots_of=rel.jobs, answer="{^job} {does}.", asked={"does": "does"}, keys=("job",)),
}


# --- questions that combine several values ------------------------------------------------------------------------


def comparatives(draw: Draw) -> Question:
    row, form = rel.comparatives(draw), draw.rng.choice(["comparative", "superlative"])
    return Question(
        phrasing=f"{form}s",
        slots={"word": row["a"]},
        answer=f"The {form} of {row['a']} is {row['c' if form == 'comparative' else 's']}.",
        keys=(row["a"],),
    )


def unit_conversion(draw: Draw) -> Question:
    row = rel.units(draw)
    quantity, converted = row["quantity"], row["converted"]
    return Question(
        phrasing="unit_conversion",
        slots={"quantity": quantity, "unit": converted.split(" ", 1)[1]},
        answer=f"{quantity} equals {converted}.",
        keys=(pair_key(quantity, converted),),
    )


def comparison(draw: Draw) -> Question:
    row = rel.comparison(draw)
    a, b = draw.rng.sample([row["greater"], row["lesser"]], 2)
    return Question(
        phrasing="comparison",
        slots={"adjective": row["comparative"], "a": a, "b": b},
        answer=sentence(f"{row['greater']} is {row['comparative']} than {row['lesser']}"),
        keys=(pair_key(a, b),),
    )


def sorting(draw: Draw) -> Question:
    name = draw.rng.choice(["sorting", "sorting", "sorting_numbers"])
    row = rel.sorting(draw) if name == "sorting" else rel.numbers(draw)
    return Question(phrasing=name, slots={"items": row["mixed"]}, answer=row["sorted"], keys=(row["sorted"],))


def classification(draw: Draw) -> Question:
    row = draw.row("classes")
    others = draw.rng.sample(clear_others(row["class"]), 2)
    first, second, third = (with_article(name) for name in draw.rng.sample([row["class"], *others], 3))
    return Question(
        phrasing="classification",
        slots={"member": row["member_phrase"], "options": f"{first}, {second} or {third}"},
        answer=sentence(f"{row['member_phrase']} is {with_article(row['class'])}"),
        keys=(row["member"],),
    )


def odd_one_out(draw: Draw) -> Question:
    row = rel.odd_one_out(draw)
    key = ", ".join(sorted(row["mixed"].split(", ")))
    return Question(
        phrasing="odd_one_out",
        slots={"items": row["mixed"]},
        answer=f"The odd one out is {row['odd']}.",
        keys=(key, f"odd: {row['odd']}"),
    )


def general_knowledge(draw: Draw) -> Question:
    row = draw.row("facts")
    return Question(
        phrasing="general_knowledge", slots={"question": row["question"]}, answer=row["fact"], keys=(row["fact"],)
    )


def arithmetic(draw: Draw) -> Question:
    row = rel.arithmetic(draw)
    name = {"plus": "plus", "minus": "minus", "times": "times", "divided by": "divided"}[row["op"]]
    return Question(
        phrasing=f"arithmetic_{name}",
        slots={"a": row["a"], "b": row["b"]},
        answer=f"{row['a']} {row['op']} {row['b']} is {row['c']}.",
        keys=(sum_key(row["a"], row["op"], row["b"]),),
    )


def calendar(draw: Draw) -> Question:
    unit, names = draw.rng.choice([("day", DAYS), ("month", MONTHS)])
    direction, step = draw.rng.choice([("after", 1), ("before", -1)])
    position = draw.rng.randrange(len(names))
    given, neighbour = names[position], names[(position + step) % len(names)]
    return Question(
        phrasing=f"{unit}_{direction}",
        slots={unit: given},
        answer=f"The {unit} {direction} {given} is {neighbour}.",
        keys=(pair_key(given, neighbour),),
    )


# --- questions about sentences ------------------------------------------------------------------------------------


def active_to_passive(draw: Draw) -> Question:
    action, tense = clauses.transitive(draw), clauses.any_tense(draw)
    return _about("active_to_passive", action.base, sentence(action.clause(tense)), sentence(action.passive(tense)))


def statement_to_question(draw: Draw) -> Question:
    action, tense = clauses.any_action(draw), clauses.any_tense(draw)
    base = action.base if action.base != "be" else f"be {action.rest}"
    return _about("statement_to_question", base, sentence(action.clause(tense)), action.question(tense))


def tense_change(draw: Draw) -> Question:
    action = clauses.any_action(draw)
    base = action.base if action.base != "be" else f"be {action.rest}"
    present, past = sentence(action.clause("present")), sentence(action.clause("past"))
    if draw.rng.random() < 0.5:
        return _about("to_past", base, present, past)
    return _about("to_present", base, past, present)


def grammar_correction(draw: Draw) -> Question:
    row = clauses.grammar(draw)
    return _about("grammar_correction", f"grammar: {row['right']}", row["wrong"], row["right"])


def punctuation(draw: Draw) -> Question:
    row = clauses.punctuation(draw)
    return _about("punctuation", f"punctuation: {row['right']}", row["raw"], row["right"])


def _about(phrasing: str, key: str, given: str, answer: str) -> Question:
    return Question(phrasing=phrasing, slots={"sentence": given}, answer=answer, keys=(key,))


# --- all categories -----------------------------------------------------------------------------------------------

MAKERS: Mapping[str, Maker] = {
    maker.__name__: maker
    for maker in (
        comparatives, unit_conversion, comparison, sorting, classification, odd_one_out, general_knowledge, arithmetic,
        calendar, active_to_passive, statement_to_question, tense_change, grammar_correction, punctuation,
    )
}  # fmt: skip
CATEGORIES = (
    "opposites", "synonyms", "plurals", "past_tense", "comparatives", "capitals", "continents", "animal_young",
    "colours", "chemical_symbols", "spelling", "unit_conversion", "comparison", "sorting", "classification",
    "odd_one_out", "simile", "rhymes", "definitions", "jobs", "general_knowledge", "arithmetic", "calendar",
    "active_to_passive", "statement_to_question", "tense_change", "grammar_correction", "punctuation",
)  # fmt: skip
"""All categories, in the order in which their rows are made."""


def make_question(category: str, draw: Draw) -> Question:
    """Return a random question of a category."""
    if category in PATTERNS:
        return PATTERNS[category].question(category, draw)
    return MAKERS[category](draw)


# --- keys ---------------------------------------------------------------------------------------------------------


def bare(phrase: str) -> str:
    """Return a noun phrase in lower case, without its article."""
    return without_article(phrase.lower())


def without_article(phrase: str) -> str:
    """Return a noun phrase without its article."""
    return re.sub(r"^(an?|the) ", "", phrase)


def pair_key(first: str, second: str) -> str:
    """Return a key for two things that does not depend on their order."""
    return " / ".join(sorted((bare(first), bare(second))))


def sum_key(a: str, op: str, b: str) -> str:
    """Return a key for a sum: the same for 3 plus 4, 4 plus 3, 7 minus 4 and 7 minus 3."""
    sign = "plus" if op in ("plus", "minus") else "times"
    if op == "minus":
        return f"sum: {sign} {sorted((int(a) - int(b), int(b)))}"
    if op == "divided by":
        return f"sum: {sign} {sorted((int(a) // int(b), int(b)))}"
    return f"sum: {sign} {sorted((int(a), int(b)))}"
