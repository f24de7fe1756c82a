"""A person's own rubric and prompt are read strictly, and every fault is named with its line."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.errors import DataError
from evaluation.judging.rubric import RULES, TAG, Material, Method
from evaluation.judging.rubric_files import MAX_BYTES, read_rubric, read_template

SCALE = "".join(f"{point}: Level {point}: fine.\n" for point in range(6))
ROW = Material(instruction="Sort.", input="3 1", reference="1 3", response="{reference} {x} %s")
PROMPT = (
    "You are an examiner.\n{rules}\n{scale}\n{form}\n---\n"
    "{instruction}\n{input}\n{reference}\n{response}\nYour verdict:\n"
)


def write(folder: Path, text: str) -> Path:
    path = folder / "own.txt"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return path


def fault(folder: Path, text: str, *, template: bool = False) -> str:
    with pytest.raises(DataError) as error:
        (read_template if template else read_rubric)(write(folder, text))
    return str(error.value)


def test_rubric_has_sentences_rules_and_comments(tmp_path: Path) -> None:
    rubric = read_rubric(write(tmp_path, f"\ufeff# mine\n\n{SCALE}- Be strict.\n  - Accents count.\n"))
    assert rubric.scale == tuple(f"Level {point}: fine." for point in range(6))
    assert rubric.rules == ("Be strict.", "Accents count.")
    assert read_rubric(write(tmp_path, SCALE)).rules == RULES


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{SCALE}Be strict.\n", 'line 7: expected "0: a sentence" or "- a rule", got \'Be strict.\''),
        (f"{SCALE}6: more\n", "line 7: expected a point from 0 to 5, got 6."),
        (f"{SCALE}5: again\n", "line 7: expected one sentence for 5, got a second one."),
        ("0: a\n\n2:\n", "line 3: expected"),
        ("0: a\n2: b\n", "got none for 1, 3, 4, 5."),
        ("", "got none for 0, 1, 2, 3, 4, 5."),
        (f"{SCALE}- say {TAG}\n", "line 7, column 7: expected no 'xq7z'"),
        ("0: a\n\udcff", "line 2: expected UTF-8"),
        ("x" * (MAX_BYTES + 1), "expected at most 100000 bytes"),
    ],
)
def test_fault_of_a_rubric_names_the_line(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in fault(tmp_path, text)


def test_missing_file_is_named(tmp_path: Path) -> None:
    for read in (read_rubric, read_template):
        with pytest.raises(DataError, match=r"gone.txt: expected a text file"):
            read(tmp_path / "gone.txt")
        with pytest.raises(DataError, match="expected a text file"):
            read(tmp_path)


def test_places_are_filled_by_joining(tmp_path: Path) -> None:
    method = Method(template=read_template(write(tmp_path, PROMPT)))
    (first, system), (second, user) = method.prompt(ROW).messages
    assert (first, second) == ("system", "user")
    assert system.startswith("You are an examiner.\nJudge how well")
    assert "The scale:\n0: " in system
    assert "Answer with one JSON object" in system
    assert f"<response-{TAG}>\n{{reference}} {{x}} %s\n</response-{TAG}>" in user
    assert user.endswith("Your verdict:")
    assert user.count("1 3") == 1


def test_template_without_a_system_message_is_one_message(tmp_path: Path) -> None:
    method = Method(template=read_template(write(tmp_path, '{instruction} {response} Score? {"a": 1} {}')))
    ((role, user),) = method.prompt(ROW).messages
    assert role == "user"
    assert user.endswith('Score? {"a": 1} {}')


def test_missing_input_and_conversation_are_empty(tmp_path: Path) -> None:
    template = read_template(write(tmp_path, "{conversation}{input}{instruction}{response} Score:"))
    user = Method(template=template).prompt(dataclasses.replace(ROW, input="")).messages[0][1]
    assert user.startswith("<instruction-")


def test_template_is_in_the_hash(tmp_path: Path) -> None:
    one = Method(template=read_template(write(tmp_path, PROMPT)))
    other = Method(template=read_template(write(tmp_path, PROMPT.replace("Your verdict", "Verdict"))))
    assert len({one.hash, other.hash, Method().hash}) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{instruction}\n{scroe}{response}\nNow.", "line 2, column 1: expected a known place, got {scroe}."),
        ("{response}\n---\n{instruction} {response} Now.", "line 1, column 1: expected {response} after the line"),
        ("{instruction} Now.", "expected the place {response}, got none."),
        ("{instruction}\n{response}\n \n", "line 3: expected a closing sentence after the last place"),
        ("a\n---\nb\n---\n{instruction}{response} Now.", "line 4: expected one line '---', got a second one."),
        (f"{{instruction}}\n {TAG} {{response}} Now.", "line 2, column 2: expected no 'xq7z'"),
    ],
)
def test_fault_of_a_template_names_the_line_and_the_place(tmp_path: Path, text: str, expected: str) -> None:
    message = fault(tmp_path, text, template=True)
    assert expected in message
    assert "The places are {conversation}, {form}" in message


@given(st.text(), st.text())
def test_response_does_not_become_a_place(before: str, after: str) -> None:
    from evaluation.judging.rubric import Place, Template

    template = Template(system=(), user=(Place("instruction"), Place("response"), "Now."))
    row = dataclasses.replace(ROW, response=f"{before}{{instruction}}{after}", instruction="ONCE_ONLY?")
    assert Method(template=template).prompt(row).messages[0][1].count("ONCE_ONLY?") == 1
