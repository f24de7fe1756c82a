"""The instruction set: rows written by hand, and phrasings combined with facts of the lexicon.

    python -m data.authoring.instructions --output data/instructions.json

Every fact is asked once in its category. A row's `group` names what it is about: rows that share a word, a country or a
sum have the same one, so that a split never parts them and the test asks for what no training row contains.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.lexicon import relations as rel
from data.lexicon.english import capitalised, expand, sentence, with_article
from data.lexicon.relations import DAYS, MONTHS, Draw, Slots
from data.lexicon.tables import clear_others, table

HERE = Path(__file__).parent
SEED = 7
ROWS = 112
"""Of most categories, the hand-written ones among them."""
FEWER = {"calendar": 40, "synonyms": 90, "rhymes": 80, "definitions": 100}
GRAMMAR_SHARE = 0.5
"""Of the rows about sentences: how many are of the sentence tables rather than of the tables of mistakes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What one row asks and answers, before it is phrased."""

    phrasing: str
    """The name of its phrasings."""
    slots: Slots
    answer: str
    keys: tuple[str, ...]
    """What it is about. Rows with a key in common belong together."""


Maker = Callable[[Draw], Question]


# --- questions about facts ----------------------------------------------------------------------------------------


def opposites(draw: Draw) -> Question:
    pair = rel.opposites(draw)
    return Question(
        phrasing="opposites",
        slots={"word": pair["a"]},
        answer=f"The opposite of {pair['a']} is {pair['b']}.",
        keys=(pair["a"], pair["b"]),
    )


def synonyms(draw: Draw) -> Question:
    pair = rel.synonyms(draw)
    return Question(
        phrasing="synonyms",
        slots={"word": pair["a"]},
        answer=f"A synonym for {pair['a']} is {pair['b']}.",
        keys=(pair["a"], pair["b"]),
    )


def plurals(draw: Draw) -> Question:
    row = rel.plurals(draw)
    return Question(
        phrasing="plurals",
        slots={"word": row["a"]},
        answer=f"The plural of {row['a']} is {row['b']}.",
        keys=(row["a"],),
    )


def past_tense(draw: Draw) -> Question:
    row = rel.past_tense(draw)
    return Question(
        phrasing="past_tense",
        slots={"word": row["base"]},
        answer=f"The past tense of {row['base']} is {row['past']}.",
        keys=(row["base"],),
    )


def comparatives(draw: Draw) -> Question:
    row, form = rel.comparatives(draw), draw.rng.choice(["comparative", "superlative"])
    return Question(
        phrasing=f"{form}s",
        slots={"word": row["a"]},
        answer=f"The {form} of {row['a']} is {row['c' if form == 'comparative' else 's']}.",
        keys=(row["a"],),
    )


def capitals(draw: Draw) -> Question:
    row = rel.countries(draw)
    answer = f"The capital of {row['country']} is {row['capital']}."
    return Question(phrasing="capitals", slots={"country": row["country"]}, answer=answer, keys=(row["country"],))


def continents(draw: Draw) -> Question:
    row = draw.card("continents", table("countries"))
    answer = sentence(f"{row['country']} is in {row['continent']}")
    return Question(phrasing="continents", slots={"country": row["country"]}, answer=answer, keys=(row["country"],))


def animal_young(draw: Draw) -> Question:
    row = rel.animal_young(draw)
    return Question(
        phrasing="animal_young",
        slots={"animal": row["animal"], "a_animal": row["an_animal"]},
        answer=f"A young {row['animal']} is called {row['a_young']}.",
        keys=(row["animal"],),
    )


def colours(draw: Draw) -> Question:
    row = rel.colours(draw)
    answer = sentence(f"{row['thing']} is {row['colour']}")
    return Question(phrasing="colours", slots={"thing": row["thing"]}, answer=answer, keys=(bare(row["thing"]),))


def chemical_symbols(draw: Draw) -> Question:
    row = rel.elements(draw)
    answer = f"The chemical symbol for {row['element']} is {row['symbol']}."
    return Question(
        phrasing="chemical_symbols", slots={"element": row["element"]}, answer=answer, keys=(row["element"],)
    )


def spelling(draw: Draw) -> Question:
    row = rel.spelling(draw)
    slots = {"misspelling": row["wrong"], "either": row["either"]}
    answer = f'The correct spelling is "{row["right"]}".'
    return Question(phrasing="spelling", slots=slots, answer=answer, keys=(row["right"].lower(),))


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


def simile(draw: Draw) -> Question:
    row = rel.simile(draw)
    answer = f"As {row['adjective']} as {row['ending']}."
    return Question(phrasing="simile", slots={"adjective": row["adjective"]}, answer=answer, keys=(row["adjective"],))


def rhymes(draw: Draw) -> Question:
    row = rel.rhymes(draw)
    answer = f"A word that rhymes with {row['a']} is {row['b']}."
    return Question(phrasing="rhymes", slots={"word": row["a"]}, answer=answer, keys=(row["a"], row["b"]))


def definitions(draw: Draw) -> Question:
    row = rel.definitions(draw)
    answer = sentence(f"{row['phrase']} is {row['definition']}")
    slots = {"word": row["word"], "a_word": row["phrase"]}
    return Question(phrasing="definitions", slots=slots, answer=answer, keys=(row["word"],))


def jobs(draw: Draw) -> Question:
    row = rel.jobs(draw)
    answer = sentence(f"{row['job']} {row['does']}")
    return Question(phrasing="jobs", slots={"does": row["does"]}, answer=answer, keys=(bare(row["job"]),))


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
    here = draw.rng.randrange(len(names))
    there = names[(here + step) % len(names)]
    return Question(
        phrasing=f"{unit}_{direction}",
        slots={unit: names[here]},
        answer=f"The {unit} {direction} {names[here]} is {there}.",
        keys=(pair_key(names[here], there),),
    )


# --- questions about sentences ------------------------------------------------------------------------------------


def active_to_passive(draw: Draw) -> Question:
    action, tense = rel.transitive(draw), rel.any_tense(draw)
    return _about("active_to_passive", action.base, sentence(action.clause(tense)), sentence(action.passive(tense)))


def statement_to_question(draw: Draw) -> Question:
    action, tense = rel.any_action(draw), rel.any_tense(draw)
    base = action.base if action.base != "be" else f"be {action.rest}"
    return _about("statement_to_question", base, sentence(action.clause(tense)), action.question(tense))


def tense_change(draw: Draw) -> Question:
    action = rel.any_action(draw)
    base = action.base if action.base != "be" else f"be {action.rest}"
    present, past = sentence(action.clause("present")), sentence(action.clause("past"))
    if draw.rng.random() < 0.5:
        return _about("to_past", base, present, past)
    return _about("to_present", base, past, present)


def grammar_correction(draw: Draw) -> Question:
    row = rel.grammar(draw)
    return _about("grammar_correction", f"grammar: {row['right']}", row["wrong"], row["right"])


def punctuation(draw: Draw) -> Question:
    row = rel.punctuation(draw)
    return _about("punctuation", f"punctuation: {row['right']}", row["raw"], row["right"])


def _about(phrasing: str, key: str, given: str, answer: str) -> Question:
    return Question(phrasing=phrasing, slots={"sentence": given}, answer=answer, keys=(key,))


MAKERS: Mapping[str, Maker] = {
    maker.__name__: maker
    for maker in (
        opposites, synonyms, plurals, past_tense, comparatives, capitals, continents, animal_young, colours,
        chemical_symbols, spelling, unit_conversion, comparison, sorting, classification, odd_one_out, simile, rhymes,
        definitions, jobs, general_knowledge, arithmetic, calendar, active_to_passive, statement_to_question,
        tense_change, grammar_correction, punctuation,
    )
}  # fmt: skip


# --- what a row is about ------------------------------------------------------------------------------------------

WORDS_OF = {
    "opposites": r"The opposite of (?P<a>.+) is (?P<b>.+)\.",
    "synonyms": r"A synonym for (?P<a>.+) is (?P<b>.+)\.",
    "plurals": r"The plural of (?P<a>.+) is .+",
    "past_tense": r"The past tense of (?P<a>.+) is .+",
    "capitals": r"The capital of (?P<a>.+) is .+",
    "continents": r"(?P<a>.+) is in .+",
    "animal_young": r"A young (?P<a>.+) is called .+",
    "colours": r"(?P<a>.+) is \w+\.",
    "chemical_symbols": r"The chemical symbol for (?P<a>.+) is .+",
    "spelling": r"The correct spelling is \"(?P<a>.+)\"\.",
    "classification": r"(?P<a>.+) is an? .+",
    "simile": r"As (?P<a>.+) as .+",
    "rhymes": r"A word that rhymes with (?P<a>.+) is (?P<b>.+)\.",
    "definitions": r"(?P<a>.+?) is .+",
}
"""How the answers of the hand-written rows name what they are about."""


def keys_of_written(row: Mapping[str, str]) -> tuple[str, ...]:
    """The keys of a row that was written by hand."""
    category, answer = row["category"], row["output"]
    if found := re.fullmatch(WORDS_OF.get(category, r"(?!)"), answer):
        return tuple(bare(word) for word in found.groupdict().values())
    if found := re.fullmatch(r"(\d+) (plus|minus|times|divided by) (\d+) is \d+\.", answer):
        return (sum_key(*found.groups()),)
    if found := re.fullmatch(r"(.+) equals (.+)\.", answer):
        return (pair_key(*found.groups()),)
    if found := re.fullmatch(r"The (?:day|month) (?:after|before) (.+) is (.+)\.", answer):
        return (pair_key(*found.groups()),)
    if found := re.fullmatch(r"(.+) is \w+(?: \w+)? than (.+)\.", answer):
        return (pair_key(*(bare(thing) for thing in found.groups())),)
    if category in {"about_itself", "greetings", "short_writing"}:
        return (f"{category}: {row['instruction']} {row['input']}",)
    return (answer,)


def bare(phrase: str) -> str:
    """A noun phrase in lower case without its article."""
    return re.sub(r"^(an?|the) ", "", phrase.lower())


def pair_key(first: str, second: str) -> str:
    """A key for two things in either order."""
    return " / ".join(sorted((bare(first), bare(second))))


def sum_key(a: str, op: str, b: str) -> str:
    """A key for a sum: the same for 3 plus 4, 4 plus 3 and what takes them apart again."""
    sign = "plus" if op in ("plus", "minus") else "times"
    if op == "minus":
        return f"sum: {sign} {sorted((int(a) - int(b), int(b)))}"
    if op == "divided by":
        return f"sum: {sign} {sorted((int(a) // int(b), int(b)))}"
    return f"sum: {sign} {sorted((int(a), int(b)))}"


# --- making the set -----------------------------------------------------------------------------------------------

Rows = list[dict[str, str]]


def make_rows(seed: int = SEED) -> Rows:
    """All rows of the instruction set, in a random order, each with its category and group."""
    draw = Draw(seed)
    written = json.loads((HERE / "written.json").read_text(encoding="utf-8"))
    rows: Rows = [dict(row) for row in written]
    keys = [keys_of_written(row) for row in rows]
    prompts = {prompt_of(row) for row in rows}
    for category, maker in MAKERS.items():
        have = [index for index, row in enumerate(rows) if row["category"] == category]
        taken = {key for index in have for key in keys[index]}
        phrasings = Phrasings(draw)
        for question in _new_questions(draw, maker, taken, FEWER.get(category, ROWS) - len(have)):
            row = phrasings.row(question) | {"output": question.answer, "category": category}
            if prompt_of(row) in prompts:
                continue
            prompts.add(prompt_of(row))
            rows.append(row)
            keys.append(question.keys)
    for row, group in zip(rows, groups_of(keys), strict=True):
        row["group"] = group
    draw.rng.shuffle(rows)
    return rows


def _new_questions(draw: Draw, maker: Maker, taken: set[str], count: int) -> Iterator[Question]:
    """`count` questions about things that are not taken yet, or fewer where there are no more."""
    allow_repeats = maker is calendar
    for _ in range(200 * max(count, 0)):
        if count <= 0:
            return
        question = maker(draw)
        if question.slots.get("sentence") == question.answer or (not allow_repeats and taken & set(question.keys)):
            continue
        taken.update(question.keys)
        count -= 1
        yield question


class Phrasings:
    """Deals the phrasings of phrasings.tsv like cards."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw

    def row(self, question: Question) -> dict[str, str]:
        """Instruction and input of a question."""
        if question.phrasing == "general_knowledge":  # its table holds whole questions
            return {"instruction": question.slots["question"], "input": ""}
        found = [row for row in table_of_phrasings() if row["category"] == question.phrasing]
        phrasing = self._draw.card(f"phrasing {question.phrasing}", found)
        texts = [expand(phrasing[field], question.slots, self._draw.rng) for field in ("instruction", "input")]
        return {"instruction": capitalised(texts[0]), "input": "" if phrasing["input"] == "-" else texts[1]}


def table_of_phrasings() -> Sequence[dict[str, str]]:
    """The rows of phrasings.tsv."""
    header, *lines = (HERE / "phrasings.tsv").read_text(encoding="utf-8").splitlines()
    return [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]


def prompt_of(row: Mapping[str, str]) -> tuple[str, str]:
    """What makes two prompts the same here."""
    return row["instruction"].lower().strip(" .?!"), row["input"].lower().strip(" .?!")


def groups_of(keys: Sequence[tuple[str, ...]]) -> list[str]:
    """One name for each set of rows that hang together by their keys: its first key."""
    leader: dict[str, str] = {}

    def find(key: str) -> str:
        leader.setdefault(key, key)
        while leader[key] != key:
            key = leader[key]
        return key

    for own in keys:
        roots = sorted(find(key.lower()) for key in own)
        for root in roots[1:]:
            leader[root] = roots[0]
    return [find(own[0].lower()) for own in keys]


def main() -> None:
    """Write the instruction set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    order = ("instruction", "input", "output", "category", "group")
    rows = [{name: row[name] for name in order} for row in make_rows()]
    options.output.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{options.output}: {len(rows)} rows")


if __name__ == "__main__":
    main()
