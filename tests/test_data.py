"""What is shipped: the lexicon, the instructions, the corpus generator, the pocket model, and what is said of them."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from assistant.dataset.check import check_examples
from assistant.dataset.instructions import Example, read_examples
from assistant.dataset.splits import Splits, normalise, split_examples
from assistant.model.checkpoint import load_checkpoint
from assistant.shipped import FREE_FORM, find_model, shipped
from data.authoring.instructions import WORDS_OF, bare, make_rows, table_of_phrasings
from data.authoring.pocket import CARD, READINGS
from data.lexicon.corpus import DEFAULT_DOCUMENTS, MIXES, SECOND, Mix, documents, plain, questions, write_corpus
from data.lexicon.draw import Draw
from data.lexicon.english import Action, Phrase, expand, with_article
from data.lexicon.relations import RARE, RELATIONS, copying
from data.lexicon.tables import HERE, clear_others, members, split_cell, table
from tests.conftest import REPOSITORY

LARGEST = 16 * 2**20
"""Bytes of the pocket model's folder."""
ONE_WORD = (
    "opposites", "plurals", "past_tense", "capitals", "continents", "animal_young", "colours", "chemical_symbols",
    "spelling", "classification", "simile",
)  # fmt: skip
"""Categories whose questions are about one word or name."""


@pytest.fixture(scope="module")
def rows() -> list[Example]:
    return read_examples(shipped("instructions.json"))


@pytest.fixture(scope="module")
def splits(rows: list[Example]) -> Splits:
    return split_examples(rows)


# --- the lexicon --------------------------------------------------------------------------------------------------


def test_tables_are_whole_and_ask_nothing_twice() -> None:
    tables = {path.stem: table(path.stem) for path in HERE.glob("*.tsv")}
    entries = sum(len(found) for name, found in tables.items() if name not in {"frames", "questions", "names", "words"})
    assert entries > 5_000
    keys = {
        "countries": "country", "elements": "element", "animals": "animal", "colours": "thing", "nouns": "singular",
        "verbs": "base", "adjectives": "adjective", "spellings": "correct", "similes": "adjective",
        "definitions": "word", "jobs": "does", "facts": "question", "synonyms": "word", "classes": "member",
    }  # fmt: skip
    for name, key in keys.items():
        counts = Counter(row[key] for row in tables[name])
        assert [value for value, count in counts.items() if count > 1] == [], name
    words = Counter(word for row in tables["opposites"] for word in (row["word"], row["opposite"]))
    assert max(words.values()) == 1  # so each word has one opposite
    wrong = Counter(word for row in tables["spellings"] for word in split_cell(row["misspellings"]))
    assert max(wrong.values()) == 1
    assert not set(wrong) & {row["correct"] for row in tables["spellings"]}


def test_text_files_are_plain_ascii() -> None:
    for path in sorted(HERE.iterdir()):
        if path.suffix in {".tsv", ".txt"}:
            text = path.read_text(encoding="ascii")
            assert "\r" not in text, path
            assert not re.search(r" \n|\t\n| \t", text), path


def test_classes_that_could_be_mistaken_are_never_set_against_each_other() -> None:
    assert "kitchen utensil" not in clear_others("tool")
    assert "tool" not in clear_others("kitchen utensil")
    for row in table("confusable"):
        assert {row["class"], row["other"]} <= set(members()), row
    assert min(len(clear_others(name)) for name in members()) > 20


def test_an_action_in_all_its_forms() -> None:
    """By hand: the grammar behind four categories."""
    girls, ball = Phrase.parse("two girls*"), Phrase.parse("the ball")
    throw = Action(
        subject=girls, base="throw", third="throws", past="threw", rest="the ball", participle="thrown", patient=ball
    )
    assert throw.clause("present") == "two girls throw the ball"
    assert throw.clause("past") == "two girls threw the ball"
    assert throw.passive("present") == "the ball is thrown by two girls"
    assert throw.passive("past") == "the ball was thrown by two girls"
    assert throw.question("present") == "Do two girls throw the ball?"
    assert throw.question("past") == "Did two girls throw the ball?"
    asleep = Action(subject=ball, base="be", third="is", past="was", rest="in the garden")
    assert asleep.clause("past") == "the ball was in the garden"
    assert asleep.question("present") == "Is the ball in the garden?"
    with pytest.raises(ValueError, match="expected an action with a patient"):
        asleep.passive("past")


@pytest.mark.parametrize(
    ("noun", "wanted"),
    [
        ("owl", "an owl"), ("usher", "an usher"), ("uncle", "an uncle"), ("hour", "an hour"), ("ewe", "a ewe"),
        ("unit of measurement", "a unit of measurement"), ("unicorn", "a unicorn"), ("house", "a house"),
        ("Amazon", "an Amazon"), ("unusual thing", "an unusual thing"),
    ],
)  # fmt: skip
def test_articles(noun: str, wanted: str) -> None:
    assert with_article(noun) == wanted


def test_templates_are_filled_and_never_run() -> None:
    draw = Draw(1)
    assert (
        expand("{^a} [x|x] {b}.", {"a": "le mot {b}", "b": "{0.__class__}"}, draw.rng) == "Le mot {b} x {0.__class__}."
    )


# --- the corpus ---------------------------------------------------------------------------------------------------


def test_the_corpus_follows_from_its_seed() -> None:
    drawn = [documents(1, 60), documents(1, 60), documents(2, 60), documents(1, 60, SECOND)]
    texts = [hashlib.sha256("\0".join(found).encode()).hexdigest() for found in drawn]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


def test_the_shipped_model_read_what_the_tables_still_give(tmp_path: Path) -> None:
    reading = READINGS[-1]
    write_corpus(tmp_path / "corpus.jsonl", seed=reading.seed, count=reading.documents, mix=reading.mix)
    assert hashlib.sha256((tmp_path / "corpus.jsonl").read_bytes()).hexdigest() == reading.digest


def test_every_relation_states_its_facts_in_filled_sentences() -> None:
    text = "\n".join(documents(3, 1_500))
    assert not re.search(r"[{}\[\]|]|\\n", text)
    stated = [row for row in table("countries") if f"The capital of {row['country']} is {row['capital']}." in text]
    assert len(stated) > 20
    assert len(RELATIONS) >= 30


def test_no_question_of_the_corpus_is_an_instruction() -> None:
    instructions = {plain(row["instruction"]) for row in json.loads(shipped("instructions.json").read_text())}
    draw, asked = Draw(4), set[str]()
    for relation, found in questions().items():
        for row in found:
            for _ in range(30):
                around = {"name": "Tom", "number": "two", "day": "Monday"}
                asked.add(plain(expand(row["question"], around | RELATIONS[relation][1](draw), draw.rng)))
    assert len(asked) > 2_000
    assert not asked & instructions


@pytest.mark.parametrize("mix", MIXES.values())
def test_mixes_name_relations_that_there_are(mix: Mix) -> None:
    assert mix.times.keys() <= RELATIONS.keys()
    assert sum(mix.kinds.values()) == 100


def test_words_to_copy_are_often_invented() -> None:
    draw = Draw(2)
    words = [slots[name] for slots in (copying(draw) for _ in range(200)) for name in "ab"]
    known = {row[column] for name, column in RARE for row in table(name)}
    invented = [word for word in words if word not in known]
    assert 100 < len(invented) < 300
    assert all(word.isalpha() and word.islower() for word in invented)


def test_the_corpus_has_ten_million_tokens_of_different_documents() -> None:
    tokenizer = load_checkpoint(find_model("pocket")).tokenizer
    texts = list(documents(1, 1_000))
    assert len(set(texts)) == len(texts)
    mean = sum(len(tokenizer.encode(text)) for text in texts) / len(texts)
    assert mean * DEFAULT_DOCUMENTS > 10_000_000


def test_no_instruction_is_in_the_corpus(rows: list[Example]) -> None:
    """Looked for as a sentence of its own, by other means than the generator uses."""
    asked = {normalise(row.instruction) for row in rows if len(row.instruction.split()) >= 4}
    for text in documents(1, 3_000):
        pieces = re.findall(r'[^.?!\n"]+', text)
        assert not asked.intersection(normalise(piece) for piece in pieces), text


# --- the instructions ---------------------------------------------------------------------------------------------


def test_the_set_is_as_large_and_as_varied_as_promised(rows: list[Example]) -> None:
    categories = Counter(row.category for row in rows)
    assert len(rows) >= 2_400
    assert len(categories) >= 24
    assert min(categories.values()) >= 35
    phrasings = Counter(
        re.sub(r"_(plus|minus|times|divided)$", "", row["category"]) for row in table_of_phrasings("phrasings")
    )
    assert min(phrasings.values()) >= 8
    written = defaultdict(set)
    for row in json.loads((REPOSITORY / "data" / "authoring" / "written.json").read_text(encoding="utf-8")):
        written[row["category"]].add(row["instruction"])
    for name in ("about_itself", "greetings", "short_writing"):  # these are not phrased: each is written by hand
        assert len(written[name]) >= 80


def test_data_check_finds_nothing(rows: list[Example], splits: Splits) -> None:
    found = check_examples(rows, splits)
    assert found.is_clean, found


def test_the_rows_are_those_that_the_tables_make(rows: list[Example]) -> None:
    made = [
        {name: row[name] for name in ("instruction", "input", "output", "category", "group")} for row in make_rows()
    ]
    assert [row.as_row() for row in rows] == made


def test_the_test_asks_enough_questions_with_one_right_answer(splits: Splits) -> None:
    closed = [row for row in splits.test if row.category not in FREE_FORM]
    assert len(closed) >= 240
    assert {row.category for row in splits.test} == {row.category for row in (*splits.train, *splits.validation)}


def test_no_training_row_is_about_a_word_that_the_test_asks_for(splits: Splits) -> None:
    """Whatever the category: a country whose capital is asked for has its continent on the same side."""

    def subjects(part: tuple[Example, ...]) -> set[str]:
        found = set()
        for row in part:
            if row.category in ONE_WORD and (match := re.fullmatch(WORDS_OF[row.category], row.output)):
                found |= {bare(word) for word in match.groupdict().values()}
        return found

    tested = subjects(splits.test)
    assert len(tested) > 90
    assert not tested & subjects(splits.train)
    learnt = {normalise(row.output) for row in splits.train if row.category not in FREE_FORM}
    repeated = [row for row in splits.test if row.category not in FREE_FORM and normalise(row.output) in learnt]
    assert [row.output for row in repeated] == []


def test_groups_hold_few_rows(rows: list[Example]) -> None:
    groups = Counter(row.group for row in rows)
    assert None not in groups
    assert max(groups.values()) <= 12


# --- the model ----------------------------------------------------------------------------------------------------


def test_pocket_is_small_and_whole() -> None:
    folder = find_model("pocket")
    checkpoint = load_checkpoint(folder)
    assert checkpoint.model.n_parameters <= 8_000_000
    assert checkpoint.config.context_length >= 256
    assert checkpoint.tokenizer.vocab_size == 4_096
    assert sum(path.stat().st_size for path in folder.iterdir()) <= LARGEST
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118 - not a mapping
    assert checkpoint.info is None  # a base model
    assert (folder / "README.md").read_text(encoding="utf-8") == CARD.read_text(encoding="utf-8")


def test_pocket_goes_by_its_name_unless_a_model_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_model("pocket") == shipped("pocket")
    assert find_model("other") == Path("other")
    Path("pocket").mkdir()  # somebody's folder of that name is no model yet
    assert find_model("pocket") == shipped("pocket")
    Path("pocket/config.json").touch()
    assert find_model("pocket") == Path("pocket")


def test_pocket_reads_as_transformers_reads_it() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = find_model("pocket")
    ours, theirs = load_checkpoint(folder), AutoModelForCausalLM.from_pretrained(folder).float().eval()
    text = "The capital of Peru is"
    ids = ours.tokenizer.encode(text)
    assert AutoTokenizer.from_pretrained(folder)(text)["input_ids"] == ids
    with torch.inference_mode():
        logits = ours.model.head(ours.model(torch.tensor([ids])))
        assert (logits - theirs(torch.tensor([ids])).logits).abs().max() < 1e-3


def test_pocket_is_made_again_bit_for_bit(tmp_path: Path) -> None:
    """The whole way in small: corpus, tokenizer, some pretraining, model folder."""
    program = (
        "import sys; from data.authoring import pocket; from assistant.config import ModelConfig\n"
        "pocket.SHAPE = ModelConfig(n_layer=1, n_head=2, n_embd=16, n_positions=256, vocab_size=300)\n"
        "pocket.main()\n"
    )
    weights = []
    for name in ("one", "two"):
        options = ["--work", str(tmp_path / name), "--output", str(tmp_path / name / "made"), "--share", "0.0005"]
        call = [sys.executable, "-c", program, *options]
        subprocess.run(call, cwd=REPOSITORY, check=True, capture_output=True)
        weights.append((tmp_path / name / "made" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
