"""Fills the slots of frames: one function for each relation, which returns a random fact.

Most facts are rows of a table. Some are combined at each call, such as lists to sort and passive sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from data.lexicon import clauses
from data.lexicon.clauses import DAYS, MONTHS, Slots
from data.lexicon.draw import Draw
from data.lexicon.english import capitalised, choose_other, with_article
from data.lexicon.tables import Row, clear_others, members, split_cell, table

SORTED_CLASSES = ("fruit", "vegetable", "mammal", "bird", "tool", "colour", "drink", "musical instrument", "flower")
ONSETS: tuple[str, ...] = (
    *"bcdfghjklmnprstvwz", "bl", "br", "ch", "cl", "cr", "dr", "fl", "gr", "pl", "sh", "sl", "sp", "st", "th", "tr"
)  # fmt: skip
CODAS: tuple[str, ...] = (
    *"bdgklmnprstxy", "ck", "lk", "ll", "mp", "nd", "ng", "nt", "rd", "rn", "sh", "st", "th", "er", "le"
)  # fmt: skip
RARE_WORD_COLUMNS = (
    ("nouns", "plural"), ("verbs", "base"), ("countries", "country"), ("elements", "element"),
    ("animals", "animal"), ("adjectives", "adjective"), ("spellings", "correct"), ("opposites", "word"),
)  # fmt: skip
EVERYDAY = {
    "how": ("how to {topic}", "How does one {topic}?"),
    "why": ("for a reason why {topic}", "Is there a reason why {topic}?"),
    "what": ("about {topic}", "What should one know about {topic}?"),
    "describe": ("about the looks of {topic}", "What is there to see in {topic}?"),
    "yes_no": ("whether {topic}", "Can it be that {topic}?"),
    "list": ("for some {topic}", "Who knows some {topic}?"),
}
"""For each kind of everyday fact, what somebody asks, and the direct question: in other words than the rows."""
UNKNOWN_KINDS = (
    "person", "film", "place", "code", "science", "maths", "medicine", "language", "product", "event", "phrase", "made",
    "can",
)  # fmt: skip
"""Kinds of words in unknown.tsv. The last one is what the model can do."""
QUANTITIES = (*range(1, 13), 15, 20, 25, 30, 40, 50)
SIGNS = {"plus": "+", "minus": "-", "times": "x", "divided by": "/"}


# --- facts from tables --------------------------------------------------------------------------------------------


def opposites(draw: Draw) -> Slots:
    row = draw.row("opposites")
    a, b = draw.rng.sample([row["word"], row["opposite"]], 2)
    return {"a": a, "b": b}


def synonyms(draw: Draw) -> Slots:
    row = draw.row("synonyms")
    return {"a": row["word"], "b": row["synonym"]}


def plurals(draw: Draw) -> Slots:
    row = draw.row("nouns")
    return {"a": row["singular"], "b": row["plural"], "an_a": f"{row['article']} {row['singular']}"}


def past_tense(draw: Draw) -> Slots:
    return dict(draw.row("verbs"))


def comparatives(draw: Draw) -> Slots:
    row = draw.row("adjectives")
    return {"a": row["adjective"], "c": row["comparative"], "s": row["superlative"]}


def countries(draw: Draw) -> Slots:
    return dict(draw.row("countries"))


def animal_young(draw: Draw) -> Slots:
    row = draw.card("young", [row for row in table("animals") if row["young"] != "-"])
    return animal_slots(row)


def animals(draw: Draw) -> Slots:
    return animal_slots(draw.row("animals"))


def animal_slots(row: Row) -> Slots:
    """Return an animal's row, with articles."""
    articles = {f"a_{name}": with_article(row[name]) for name in ("kind", "young")}
    return {**row, **articles, "an_animal": with_article(row["animal"])}


def colours(draw: Draw) -> Slots:
    return dict(draw.row("colours"))


def elements(draw: Draw) -> Slots:
    return dict(draw.row("elements"))


def spelling(draw: Draw) -> Slots:
    row = draw.row("spellings")
    right, wrong = row["correct"], draw.rng.choice(split_cell(row["misspellings"]))
    return {"right": right, "wrong": wrong, "either": " or ".join(draw.rng.sample([right, wrong], 2))}


def comparison(draw: Draw) -> Slots:
    row = draw.row("comparisons")
    return {**row, "either": " or ".join(draw.rng.sample([row["greater"], row["lesser"]], 2))}


def classification(draw: Draw) -> Slots:
    row = draw.row("classes")
    other, third = draw.rng.sample(clear_others(row["class"]), 2)
    friend = draw.rng.choice(members()[row["class"]])["member_phrase"]
    first_option, second_option, third_option = (
        with_article(name) for name in draw.rng.sample([row["class"], other, third], 3)
    )
    return {
        "member": row["member_phrase"],
        "friend": friend,
        "a_class": with_article(row["class"]),
        "a_other": with_article(other),
        "a_third": with_article(third),
        "options": f"{first_option}, {second_option} or {third_option}",
    }


def simile(draw: Draw) -> Slots:
    return dict(draw.row("similes"))


def rhymes(draw: Draw) -> Slots:
    family = list(split_cell(draw.row("rhymes")["words"]))
    a, b, c = draw.rng.sample(family, 3)
    return {"a": a, "b": b, "c": c}


def definitions(draw: Draw) -> Slots:
    return dict(draw.row("definitions"))


def facts(draw: Draw) -> Slots:
    row = dict(draw.row("facts"))
    del row["question"]  # Only the instruction set may ask it.
    return row


def everyday(draw: Draw) -> Slots:
    """A fact of daily life in other words than the answer of the rows, with a question for it."""
    row = draw.row("everyday")
    kind, topic = row["kind"], row["topic"]
    statement, statement2 = draw.rng.sample([row["statement1"], row["statement2"], row["statement3"]], 2)
    ask, question = EVERYDAY[kind]
    explained = statement
    if kind == "yes_no":
        explained = f"{row['answer'].partition(',')[0]}. {statement}"
    elif kind == "list" and draw.rng.random() < 0.5:
        things = draw.rng.sample(split_cell(row["answer"]), 3)
        explained = f"{capitalised(things[0])}, {things[1]} and {things[2]} are {topic}."
    return {
        "ask": ask.format(topic=topic),
        "everyday_question": question.format(topic=topic),
        "statement": statement,
        "statement2": statement2,
        "explained": explained,
    }


def talk(draw: Draw) -> Slots:
    """Slots of everyday talk, and of questions that a small model cannot answer."""
    kinds = ("language", "star", "code", "film", "town", "illness", "device", "team", "science")
    more = ("food", "fruit", "drink", "place", "thing", "colour", "instrument")
    words = {kind: draw.word(kind) for kind in (*kinds, *more)}
    animal, animal2 = (row["animal"] for row in draw.rng.sample(table("animals"), 2))
    country = draw.row("countries")
    return {
        **words,
        "a_thing": with_article(words["thing"]),
        "animal": animal,
        "an_animal": with_article(animal),
        "animal2": animal2,
        "an_animal2": with_article(animal2),
        "country": country["country"],
        "capital": country["capital"],
        "adjective": draw.row("opposites")["word"],
    }


def chat(_draw: Draw) -> Slots:
    """Slots of what people type to an assistant: none of its own."""
    return {}


def beyond(draw: Draw) -> Slots:
    """Slots of questions about names and terms that no text explains, and one thing that the model can do."""
    words = {kind: draw.word(kind, "unknown") for kind in UNKNOWN_KINDS}
    return words | {"big": f"{draw.rng.randint(1_000, 99_999):,}", "big2": str(draw.rng.randint(120, 9_999))}


def jobs(draw: Draw) -> Slots:
    row = draw.row("jobs")
    return {"job": row["job_phrase"], "does": row["does"], "place": row["place"]}


# --- computed facts -----------------------------------------------------------------------------------------------


def units(draw: Draw) -> Slots:
    row = draw.row("units")
    count, factor = draw.rng.choice(QUANTITIES), int(row["factor"])
    larger = f"{count} {row['unit'] if count == 1 else row['units']}"
    smaller = f"{count * factor} {row['smaller']}"
    directions = [(larger, smaller, row["smaller"]), (smaller, larger, row["units"])]
    quantity, converted, unit = draw.rng.choice(directions) if factor > 1 else directions[0]
    return {"quantity": quantity, "converted": converted, "unit_b": unit}


def arithmetic(draw: Draw) -> Slots:
    op = draw.rng.choice(list(SIGNS))
    a, b = draw.rng.randint(1, 20), draw.rng.randint(1, 20)
    if op == "minus":
        a, b = a + b, b
    elif op in ("times", "divided by"):
        a, b = draw.rng.randint(2, 12), draw.rng.randint(2, 12)
        a = a * b if op == "divided by" else a
    return {"a": str(a), "b": str(b), "op": op, "sign": SIGNS[op], "c": str(calculate(a, op, b))}


def calculate(a: int, op: str, b: int) -> int:
    """Return the result of `a op b`. `op` is a key of `SIGNS`."""
    return {"plus": a + b, "minus": a - b, "times": a * b, "divided by": a // b}[op]


def calendar(draw: Draw) -> Slots:
    unit, names = draw.rng.choice([("day", DAYS), ("month", MONTHS)])
    start = draw.rng.randrange(len(names))
    a, b, c = (names[(start + n) % len(names)] for n in range(3))
    return {"unit": unit, "a": a, "b": b, "c": c}


def sorting_pool() -> list[str]:
    """Return the single words that lists to sort are made of."""
    return [row["member"] for name in SORTED_CLASSES for row in members()[name] if row["member"].isalpha()]


def sorting(draw: Draw) -> Slots:
    pool = sorting_pool()
    chosen = draw.rng.sample(pool, draw.rng.choice([3, 3, 3, 4]))
    return _in_order(chosen, sorted(chosen)) | {"letter": min(chosen)[0].upper()}


def numbers(draw: Draw) -> Slots:
    chosen = draw.rng.sample(range(1, 100), 3)
    return _in_order([str(n) for n in chosen], [str(n) for n in sorted(chosen)])


def _in_order(mixed: Sequence[str], in_order: Sequence[str]) -> Slots:
    return {"mixed": ", ".join(mixed), "sorted": ", ".join(in_order), "first": in_order[0], "last": in_order[-1]}


def odd_one_out(draw: Draw) -> Slots:
    name = draw.card("odd classes", list(members()))
    others = [row["member"] for row in draw.rng.sample(members()[name], 3)]
    other_class = draw.rng.choice(clear_others(name))
    odd = choose_other(draw.rng, [row["member"] for row in members()[other_class]], *others)
    mixed = draw.rng.sample([*others, odd], 4)
    return {"mixed": ", ".join(mixed), "odd": odd, "others": ", ".join(others), "class": name}


def copying(draw: Draw) -> Slots:
    """Words for somebody to repeat. Half of them are invented, so the model must copy them from the context."""
    a, b, c, d = (invented_word(draw) if draw.rng.random() < 0.5 else rare_word(draw) for _ in range(4))
    return {"a": a, "b": b, "both": f"{a}, {b}", "all": ", ".join([a, b, c, d][: draw.rng.choice([3, 4])])}


def invented_word(draw: Draw) -> str:
    """Make up a word, such as `brindolk`."""
    syllables = (draw.rng.choice(ONSETS) + draw.rng.choice("aeiou") for _ in range(draw.rng.choice([1, 2, 2, 3])))
    return "".join(syllables) + draw.rng.choice(CODAS)


def rare_word(draw: Draw) -> str:
    """Return a word from one of several tables."""
    name, column = draw.rng.choice(RARE_WORD_COLUMNS)
    return draw.row(name)[column]


# --- all relations ------------------------------------------------------------------------------------------------


def office(draw: Draw) -> Slots:
    """Slots of the office frames. Their other slots are common to all frames."""
    return {"place": draw.word("place")}


RELATIONS: Mapping[str, tuple[float, Callable[[Draw], Slots]]] = {
    "opposites": (10, opposites),
    "synonyms": (5, synonyms),
    "plurals": (8, plurals),
    "past_tense": (7, past_tense),
    "comparatives": (6, comparatives),
    "capitals": (5, countries),
    "continents": (4, countries),
    "animal_young": (5, animal_young),
    "animals": (2, animals),
    "colours": (4, colours),
    "elements": (3, elements),
    "spelling": (13, spelling),
    "units": (8, units),
    "comparison": (9, comparison),
    "sorting": (14, sorting),
    "numbers": (4, numbers),
    "classification": (12, classification),
    "odd_one_out": (13, odd_one_out),
    "simile": (4, simile),
    "rhymes": (5, rhymes),
    "definitions": (6, definitions),
    "facts": (16, facts),
    "everyday": (22, everyday),
    "talk": (30, talk),
    "jobs": (7, jobs),
    "arithmetic": (18, arithmetic),
    "calendar": (3, calendar),
    "copying": (14, copying),
    "passive": (9, clauses.passive),
    "question": (9, clauses.question),
    "tense": (13, clauses.tense),
    "punctuation": (7, clauses.punctuation),
    "grammar": (6, clauses.grammar),
    "narrative": (2, clauses.narrative),
    "office": (1, office),
    "chat": (0, chat),
    "beyond": (0, beyond),
    "messages": (0, chat),
}
"""For each relation: its weight among the sentences, and the function that returns its slots. Only a mix that names a
weight of its own contains the last three."""


def scene(draw: Draw) -> Slots:
    """Return the slots of one story or dialogue. Each slot has the same value in the whole text."""
    person, person2, person3 = draw.people(3)
    day, month = draw.rng.randrange(7), draw.rng.randrange(12)
    country, animal, job = draw.row("countries"), animal_young(draw), draw.row("jobs")
    kinds = ("food", "fruit", "place", "thing", "weather", "tree", "flower", "instrument", "vehicle", "tool", "toy")
    words = {kind: draw.word(kind) for kind in (*kinds, "drink", "clothes", "room", "number", "colour")}
    opposite, synonym = draw.row("opposites"), draw.row("synonyms")
    noun, verb, element = draw.row("nouns"), draw.row("verbs"), draw.row("elements")
    return {
        **words,
        "name": person.name, "he": person.he, "him": person.him, "his": person.his,
        "He": capitalised(person.he), "His": capitalised(person.his),
        "name2": person2.name, "he2": person2.he, "him2": person2.him, "his2": person2.his,
        "He2": capitalised(person2.he), "His2": capitalised(person2.his),
        "name3": person3.name,
        "a_thing": with_article(words["thing"]), "a_fruit": with_article(words["fruit"]), "object": words["thing"],
        "animal": animal["animal"], "a_animal": animal["an_animal"], "young": animal["young"], "home": animal["home"],
        "a_young": animal["a_young"],
        "animal2": choose_other(draw.rng, [row["animal"] for row in table("animals")], animal["animal"]),
        "job": job["job"], "a_job": job["job_phrase"], "job_does": job["does"], "job_place": job["place"],
        "country": country["country"], "capital": country["capital"], "continent": country["continent"],
        "day": DAYS[day], "next_day": DAYS[(day + 1) % 7],
        "month": MONTHS[month], "next_month": MONTHS[(month + 1) % 12],
        "adjective": opposite["word"], "opposite": opposite["opposite"],
        "word": synonym["word"], "synonym": synonym["synonym"],
        "singular": noun["singular"], "plural": noun["plural"],
        "base": verb["base"], "past": verb["past"],
        "element": element["element"], "symbol": element["symbol"],
    }  # fmt: skip
