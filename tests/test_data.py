"""The shipped data: the lexicon, the corpus generator, the instructions and the pocket model, and claims about them."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from assistant.classifier.label_files import read_labelled
from assistant.classifier.split import split_labelled
from assistant.dataset.check import check_examples
from assistant.dataset.examples import row_ids
from assistant.dataset.instructions import Example, read_examples
from assistant.dataset.splits import Splits, normalise, split_examples
from assistant.model.checkpoint import load_checkpoint
from assistant.shipped import COUNTED_APART, FREE_FORM, find_model, shipped
from data.authoring.instructions import SUBJECT_PATTERNS, make_rows, table_of_phrasings
from data.authoring.pocket import CARD, PHASES
from data.authoring.practice import make_rows as make_practice
from data.authoring.questions import bare
from data.authoring.talk import HERE as TALK
from data.authoring.talk import WRITTEN, make_conversations
from data.authoring.talk import make_rows as make_talk
from data.lexicon.corpus import (
    DEFAULT_DOCUMENTS,
    INSTRUCTIONS,
    MIXES,
    SECOND,
    Mix,
    documents,
    normalised,
    questions,
    write_corpus,
)
from data.lexicon.draw import Draw
from data.lexicon.english import Action, Phrase, expand, with_article
from data.lexicon.relations import RARE_WORD_COLUMNS, RELATIONS, copying
from data.lexicon.tables import HERE, clear_others, members, split_cell, table
from tests.conftest import REPOSITORY

MAX_POCKET_BYTES = 16 * 2**20
"""Limit for the pocket model's folder."""
ONE_WORD_CATEGORIES = (
    "opposites", "plurals", "past_tense", "capitals", "continents", "animal_young", "colours", "chemical_symbols",
    "spelling", "classification", "simile",
)  # fmt: skip
"""Categories in which each question is about one word or name."""


@pytest.fixture(scope="module")
def rows() -> list[Example]:
    return read_examples(shipped("instructions.json"))


@pytest.fixture(scope="module")
def splits(rows: list[Example]) -> Splits:
    return split_examples(rows)


@pytest.fixture(scope="module")
def all_rows() -> list[Example]:
    return read_examples(*map(shipped, INSTRUCTIONS))


@pytest.fixture(scope="module")
def all_splits(all_rows: list[Example]) -> Splits:
    return split_examples(all_rows)


# --- the lexicon --------------------------------------------------------------------------------------------------


def test_tables_are_complete_and_have_unique_keys() -> None:
    tables = {path.stem: table(path.stem) for path in HERE.glob("*.tsv")}
    not_facts = {"frames", "questions", "names", "words"}
    assert sum(len(rows) for name, rows in tables.items() if name not in not_facts) > 5_000
    keys = {
        "countries": "country", "elements": "element", "animals": "animal", "colours": "thing", "nouns": "singular",
        "verbs": "base", "adjectives": "adjective", "spellings": "correct", "similes": "adjective",
        "definitions": "word", "jobs": "does", "facts": "question", "synonyms": "word", "classes": "member",
    }  # fmt: skip
    for name, key in keys.items():
        counts = Counter(row[key] for row in tables[name])
        assert [value for value, count in counts.items() if count > 1] == [], name
    words = Counter(word for row in tables["opposites"] for word in (row["word"], row["opposite"]))
    assert max(words.values()) == 1  # Each word has one opposite.
    misspellings = Counter(word for row in tables["spellings"] for word in split_cell(row["misspellings"]))
    assert max(misspellings.values()) == 1
    assert not set(misspellings) & {row["correct"] for row in tables["spellings"]}


def test_lexicon_files_are_ascii_without_trailing_spaces() -> None:
    for path in sorted(HERE.iterdir()):
        if path.suffix in {".tsv", ".txt"}:
            text = path.read_text(encoding="ascii")
            assert "\r" not in text, path
            assert not re.search(r" \n|\t\n| \t", text), path


def test_confusable_classes_are_never_alternatives_to_each_other() -> None:
    assert "kitchen utensil" not in clear_others("tool")
    assert "tool" not in clear_others("kitchen utensil")
    for row in table("confusable"):
        assert {row["class"], row["other"]} <= set(members()), row
    assert min(len(clear_others(name)) for name in members()) > 20


def test_action_has_the_forms_of_the_grammar_categories() -> None:
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
    ("noun", "phrase"),
    [
        ("owl", "an owl"), ("usher", "an usher"), ("uncle", "an uncle"), ("hour", "an hour"), ("ewe", "a ewe"),
        ("unit of measurement", "a unit of measurement"), ("unicorn", "a unicorn"), ("house", "a house"),
        ("Amazon", "an Amazon"), ("unusual thing", "an unusual thing"),
    ],
)  # fmt: skip
def test_with_article_chooses_a_or_an_by_sound(noun: str, phrase: str) -> None:
    assert with_article(noun) == phrase


def test_expand_does_not_interpret_values() -> None:
    draw = Draw(1)
    assert (
        expand("{^a} [x|x] {b}.", {"a": "le mot {b}", "b": "{0.__class__}"}, draw.rng) == "Le mot {b} x {0.__class__}."
    )


# --- the corpus ---------------------------------------------------------------------------------------------------


def test_corpus_depends_only_on_seed_and_mix() -> None:
    corpora = [documents(1, 60), documents(1, 60), documents(2, 60), documents(1, 60, SECOND)]
    hashes = [hashlib.sha256("\0".join(corpus).encode()).hexdigest() for corpus in corpora]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_tables_give_the_corpus_whose_hash_is_known(tmp_path: Path) -> None:
    """The shortest corpus. `make pocket` compares the others."""
    phase = min(PHASES, key=lambda phase: phase.documents)
    write_corpus(tmp_path / "corpus.jsonl", seed=phase.seed, count=phase.documents, mix=phase.mix)
    assert hashlib.sha256((tmp_path / "corpus.jsonl").read_bytes()).hexdigest() == phase.digest


@pytest.mark.parametrize("mix", MIXES.values())
def test_documents_state_facts_and_have_no_unfilled_slots(mix: Mix) -> None:
    text = "\n".join(documents(3, 1_500, mix))
    assert not re.search(r"[{}\[\]|]|\\n", text)
    stated = [row for row in table("countries") if f"The capital of {row['country']} is {row['capital']}." in text]
    assert len(stated) > 20
    assert len(RELATIONS) >= 30


def test_no_question_of_the_corpus_is_an_instruction_with_one_right_answer() -> None:
    rows = json.loads(shipped("instructions.json").read_text())
    instructions = {normalised(row["instruction"]) for row in rows if row["category"] not in COUNTED_APART}
    draw, asked = Draw(4), set[str]()
    for relation, questions_of in questions().items():
        for row in questions_of:
            for _ in range(30):
                slots = {"name": "Tom", "name2": "Ann", "number": "two", "day": "Monday"} | RELATIONS[relation][1](draw)
                asked.add(normalised(expand(row["question"], slots, draw.rng)))
    assert len(asked) > 2_000
    assert not asked & instructions


@pytest.mark.parametrize("mix", MIXES.values())
def test_mixes_name_existing_relations(mix: Mix) -> None:
    assert mix.times.keys() | mix.weights.keys() <= RELATIONS.keys()
    assert sum(mix.kinds.values()) == 100


def test_about_half_of_the_words_to_copy_are_invented() -> None:
    draw = Draw(2)
    words = [slots[name] for slots in (copying(draw) for _ in range(200)) for name in "ab"]
    known = {row[column] for name, column in RARE_WORD_COLUMNS for row in table(name)}
    invented = [word for word in words if word not in known]
    assert 100 < len(invented) < 300
    assert all(word.isalpha() and word.islower() for word in invented)


def test_corpus_has_over_ten_million_tokens_in_different_documents() -> None:
    tokenizer = load_checkpoint(find_model("pocket")).tokenizer
    texts = list(documents(1, 1_000))
    assert len(set(texts)) == len(texts)
    mean = sum(len(tokenizer.encode(text)) for text in texts) / len(texts)
    assert mean * DEFAULT_DOCUMENTS > 10_000_000


@pytest.mark.parametrize("mix", MIXES.values())
def test_no_instruction_is_in_the_corpus(all_rows: list[Example], mix: Mix) -> None:
    """Searches whole sentences with code that is independent of the generator."""
    instructions = {text for row in all_rows if len((text := normalise(row.instruction)).split()) >= 4}
    for text in documents(1, 1_500, mix):
        sentences = re.findall(r'[^.?!\n"]+', text)
        assert not instructions.intersection(normalise(sentence) for sentence in sentences), text


# --- the instructions ---------------------------------------------------------------------------------------------


def test_instruction_set_has_the_documented_size_and_variety(rows: list[Example]) -> None:
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
    for name in ("about_itself", "greetings", "short_writing"):  # All rows of these are written by hand.
        assert len(written[name]) >= 80


def test_data_check_passes(all_rows: list[Example], all_splits: Splits) -> None:
    findings = check_examples(all_rows, all_splits)
    assert findings.is_clean, findings
    assert not findings.suspicious


def test_shipped_rows_are_the_ones_that_the_tables_make(rows: list[Example]) -> None:
    fields = ("instruction", "input", "output", "category", "group")
    assert [row.as_row() for row in rows] == [{name: row[name] for name in fields} for row in make_rows()]


def test_test_split_has_enough_questions_with_one_right_answer(splits: Splits) -> None:
    closed = [row for row in splits.test if row.category not in COUNTED_APART]
    assert len(closed) >= 240
    assert {row.category for row in splits.test} == {row.category for row in (*splits.train, *splits.validation)}


def test_no_subject_of_the_test_split_is_in_the_train_split(splits: Splits) -> None:
    """Also across categories: the capital and the continent of a country are in the same split."""

    def subjects(part: tuple[Example, ...]) -> set[str]:
        words = set()
        for row in part:
            category = row.category or ""
            if category in ONE_WORD_CATEGORIES and (match := re.fullmatch(SUBJECT_PATTERNS[category], row.output)):
                words |= {bare(word) for word in match.groupdict().values()}
        return words

    test_subjects = subjects(splits.test)
    assert len(test_subjects) > 90
    assert not test_subjects & subjects(splits.train)
    train_answers = {normalise(row.output) for row in splits.train if row.category not in COUNTED_APART}
    closed = [row for row in splits.test if row.category not in COUNTED_APART]
    assert [row.output for row in closed if normalise(row.output) in train_answers] == []


def test_every_row_has_a_small_group(rows: list[Example]) -> None:
    groups = Counter(row.group for row in rows)
    assert None not in groups
    assert max(groups.values()) <= 12


# --- everyday talk ------------------------------------------------------------------------------------------------


def test_shipped_talk_is_what_the_tables_make() -> None:
    made = make_talk()
    fields = ("instruction", "input", "output", "category", "group")
    shipped_rows = [row.as_row() for row in read_examples(shipped("talk.json"))]
    assert shipped_rows == [{name: row[name] for name in fields} for row in made]
    assert json.loads(shipped("conversations.json").read_text(encoding="utf-8")) == make_conversations(made)


def test_talk_has_the_documented_size_and_variety() -> None:
    rows = read_examples(shipped("talk.json"))
    categories = Counter(row.category for row in rows)
    assert len(rows) >= 1_500
    assert len(categories) >= 12
    assert min(categories.values()) >= 60
    written = [row for name in WRITTEN for row in json.loads((TALK / f"{name}.json").read_text(encoding="utf-8"))]
    assert len(written) >= 600
    honest = [row for row in rows if row.category == "not_learnt"]
    assert len(honest) >= 300
    assert sum(row["category"] == "not_learnt" for row in written) >= len(honest) / 2
    assert all(re.search(r"\bhave not learnt\b", row.output) for row in honest)
    assert not [row for row in rows if row.category != "not_learnt" and "have not learnt" in row.output]
    lower = [row for row in rows if row.instruction == row.instruction.lower()]
    assert len(lower) > len(rows) / 4  # typed as people type


def test_the_page_shows_real_rows_of_talk_and_counts_them() -> None:
    page = (REPOSITORY / "data" / "README.md").read_text(encoding="utf-8").partition("## Everyday talk")[2]
    shown = dict(re.findall(r"^\| (\w+) \| (\d+) \| .+ \|$", page.partition("## The messages")[0], re.MULTILINE))
    asked = re.findall(r"^\| (\w+) \| \d+ \| (.+?) \|", page.partition("## The messages")[0], re.MULTILINE)
    rows = read_examples(shipped("talk.json"))
    assert shown == {category: str(n) for category, n in Counter(row.category for row in rows).items()}
    assert set(asked) <= {(row.category, row.instruction) for row in rows}
    assert f"has {len(rows):,} rows" in page


def test_conversations_have_two_to_four_turns() -> None:
    rows = json.loads(shipped("conversations.json").read_text(encoding="utf-8"))
    turns = Counter(len(row["messages"]) // 2 for row in rows)
    assert set(turns) == {2, 3, 4}
    assert {row["category"] for row in rows} == {"conversation"} <= FREE_FORM


def test_closed_test_rows_are_those_of_the_set_before_there_was_talk(all_splits: Splits) -> None:
    closed = [row for row in all_splits.test if row.category not in COUNTED_APART]
    names = (REPOSITORY / "benchmarks" / "closed_test_rows.txt").read_text(encoding="utf-8").split()
    assert sorted(row_ids(closed)) == names
    trained = {normalise(row.output) for row in all_splits.train}
    assert [row.output for row in closed if normalise(row.output) in trained] == []


def test_shipped_practice_is_what_the_tables_make_and_asks_for_nothing_that_the_test_asks_for(
    all_rows: list[Example], all_splits: Splits
) -> None:
    fields = ("instruction", "input", "output", "history", "category", "group")
    written = json.loads(shipped("practice.json").read_text(encoding="utf-8"))
    assert written == [{name: row[name] for name in fields if name in row} for row in make_practice()]
    rows = read_examples(shipped("practice.json"))
    together = split_examples([*all_rows, *rows])
    assert set(row_ids(all_splits.test)) <= set(row_ids(together.test))
    assert {row.category for row in rows} == {"practice", "practice_talk"} <= COUNTED_APART
    assert not {row.category for row in together.test} & {"practice", "practice_talk"}
    held_out = {row.group for row in (*all_splits.test, *all_splits.validation)}
    answers = {normalise(row.output) for row in all_splits.test if row.category not in COUNTED_APART}
    assert not [row for row in rows if row.group in held_out or normalise(row.output) in answers]
    tested, practised = (
        {
            (category, bare(word))
            for row in part
            for category in ONE_WORD_CATEGORIES
            if row.category in (category, "practice", "practice_talk")
            and (match := re.fullmatch(SUBJECT_PATTERNS[category], row.output))
            for word in match.groupdict().values()
        }
        for part in (all_splits.test, rows)
    )
    assert len(tested) > 90
    assert len(practised) > 900
    assert not tested & practised
    prompts = {(normalise(row.instruction), normalise(row.input)) for row in all_rows}
    assert not [row for row in rows if (normalise(row.instruction), normalise(row.input)) in prompts]


def test_distress_is_always_trained(all_splits: Splits) -> None:
    group = "feelings: distress"
    assert sum(row.group == group for row in all_splits.train) > 8
    assert not [row for row in (*all_splits.test, *all_splits.validation) if row.group == group]


# --- the model ----------------------------------------------------------------------------------------------------


def test_pocket_is_small_and_complete() -> None:
    folder = find_model("pocket")
    checkpoint = load_checkpoint(folder)
    assert checkpoint.model.n_parameters <= 8_000_000
    assert checkpoint.config.context_length >= 256
    assert checkpoint.tokenizer.vocab_size == 4_096
    assert sum(path.stat().st_size for path in folder.iterdir()) <= MAX_POCKET_BYTES
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118 - not a mapping
    assert checkpoint.info is None  # It is a base model.
    assert (folder / "README.md").read_text(encoding="utf-8") == CARD.read_text(encoding="utf-8")


def test_pocket_gives_the_same_logits_in_transformers() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = find_model("pocket")
    checkpoint = load_checkpoint(folder)
    hf_model = AutoModelForCausalLM.from_pretrained(folder).float().eval()
    text = "The capital of Peru is"
    ids = checkpoint.tokenizer.encode(text)
    assert AutoTokenizer.from_pretrained(folder)(text)["input_ids"] == ids
    with torch.inference_mode():
        logits = checkpoint.model.head(checkpoint.model(torch.tensor([ids])))
        assert (logits - hf_model(torch.tensor([ids])).logits).abs().max() < 1e-3


@pytest.mark.parametrize("own_processes", [False, pytest.param(True, marks=pytest.mark.long)])
def test_making_a_small_pocket_twice_gives_the_same_bits(tmp_path: Path, own_processes: bool) -> None:
    """Runs all stages: corpus, tokenizer, some pretraining, model folder.

    Each making is a process. Its runs of `assistant finetune` are processes of their own only in the long test.
    """
    program = (
        "import sys; from data.authoring import pocket; from assistant.model.config import GPTConfig\n"
        "pocket.SHAPE = GPTConfig(n_layer=1, n_head=2, n_embd=16, n_positions=256, vocab_size=300)\n"
    )
    if not own_processes:
        program += (
            "from types import SimpleNamespace\n"
            "from typer.testing import CliRunner; from assistant.cli.app import app\n"
            "class Done: returncode = 0\n"
            "def run(command, env, check):\n"
            "    assert command[:3] == [sys.executable, '-m', 'assistant']\n"
            "    CliRunner().invoke(app, command[3:], catch_exceptions=False)\n"
            "    return Done\n"
            "pocket.subprocess = SimpleNamespace(run=run)\n"
        )
    program += "pocket.main()\n"
    weights = []
    for name in ("first", "second"):
        options = ["--work", str(tmp_path / name), "--output", str(tmp_path / name / "made"), "--share", "0.0005"]
        call = [sys.executable, "-c", program, *options]
        subprocess.run(call, cwd=REPOSITORY, check=True, capture_output=True)
        weights.append((tmp_path / name / "made" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert {path.name for path in (tmp_path / "first" / "made").iterdir()} == {
        path.name for path in shipped("pocket").iterdir()
    }


# --- spam ---------------------------------------------------------------------------------------------------------


def labelled(name: str) -> list[Example]:
    return read_labelled(shipped(name)).examples


def word_runs(text: str, length: int) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    return {tuple(words[start : start + length]) for start in range(max(1, len(words) - length + 1))}


def test_spam_is_half_of_at_least_six_hundred_messages() -> None:
    for name, least in (("spam.json", 600), ("spam_later.json", 60)):
        counts = Counter(example.output for example in labelled(name))
        assert counts.keys() == {"spam", "not spam"}
        assert counts["spam"] == counts["not spam"]
        assert counts.total() >= least


def test_no_message_has_a_near_twin_in_another_part_or_among_the_later_ones() -> None:
    splits = split_labelled(labelled("spam.json"))
    parts = {part: splits.part(part) for part in ("train", "validation", "test")} | {
        "later": labelled("spam_later.json")
    }
    messages = [(part, example, word_runs(example.instruction, 3)) for part, rows in parts.items() for example in rows]
    sharing: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for place, (_, _, runs) in enumerate(messages):
        for run in runs:
            sharing[run].append(place)
    pairs = {pair for places in sharing.values() for pair in combinations(places, 2)}
    assert pairs
    for first, second in pairs:
        (part, one, runs), (other_part, other, other_runs) = messages[first], messages[second]
        if part != other_part:
            likeness = len(runs & other_runs) / len(runs | other_runs)
            assert likeness < 0.25, (one.instruction, other.instruction)
            shared = word_runs(one.instruction, 8) & word_runs(other.instruction, 8)
            assert not any(len(run) == 8 for run in shared), (one.instruction, other.instruction)


def test_the_hard_messages_are_apart() -> None:
    """A message whose text alone does not show what its sender is after is only in `spam_hard.json`."""
    asks = re.compile(r"\.example|555-\d{4}|\b0\d{4} ?\d{6}|\b[5-9]\d{4}\b|@")
    hard = json.loads(shipped("spam_hard.json").read_text(encoding="utf-8"))
    assert len(hard) == 224
    assert {row["label"] for row in hard} == {"spam"}
    texts = {normalise(row.instruction) for name in ("spam.json", "spam_later.json") for row in labelled(name)}
    assert not texts & {normalise(row["text"]) for row in hard}
    assert not any(asks.search(row["text"]) for row in hard)


def test_the_page_says_how_many_messages_there_are() -> None:
    n = len(labelled("spam.json"))
    page = (REPOSITORY / "data" / "README.md").read_text(encoding="utf-8")
    assert f"{n:,} short messages" in page
    assert f"with {n // 2} messages of each label" in page


@pytest.mark.parametrize("name", ["spam.json", "spam_later.json", "spam_hard.json"])
def test_addresses_and_numbers_in_the_messages_belong_to_nobody(name: str) -> None:
    """Web addresses end in .example (RFC 2606); telephone numbers are kept free for fiction (Ofcom, NANPA)."""
    for row in json.loads(shipped(name).read_text(encoding="utf-8")):
        text = row["text"]
        assert not re.search(r"https?:|www\.|\.(com|net|org|info|co\.uk)\b", text), text
        for number in re.findall(r"\b0\d{4} ?\d{6}\b", text):
            assert re.match(r"01632 960|07700 900", number), text
        assert all(re.fullmatch(r"555-01\d\d", number) for number in re.findall(r"\b\d{3}-\d{4}\b", text)), text
