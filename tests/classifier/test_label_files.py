"""Labelled texts: the files that people have, and the sentences about what is wrong with them."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.classifier.label_files import labels_of, read_labelled
from assistant.dataset.examples import Example
from assistant.errors import DataError, SettingsError

SMS = 'ham\tGo "until\nspam\t"WIN now\nham\t"ok" he said\tand left\r\nspam\tlast'


def pairs(path: Path, columns: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    return [(example.instruction, example.output) for example in read_labelled(path, columns=columns).examples]


def write(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", ["SMSSpamCollection", "SMSSpamCollection.tsv", "sms.txt"])
def test_the_sms_collection_is_read_without_an_option(tmp_path: Path, name: str) -> None:
    assert pairs(write(tmp_path, name, SMS)) == [
        ('Go "until', "not spam"), ('"WIN now', "spam"), ('"ok" he said\tand left', "not spam"), ("last", "spam"),
    ]  # fmt: skip


def test_a_quote_that_is_never_closed_swallows_no_line(tmp_path: Path) -> None:
    lines = [f"{('ham', 'spam')[place % 2]}\t{chr(34) if place % 7 == 0 else ''}text {place}\n" for place in range(100)]
    assert len(pairs(write(tmp_path, "sms", "".join(lines)))) == 100


ROWS = [("a, b", "x"), ("c", "y")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'text,label\n"a, b",x\nc,y\n'),
        ("a.csv", 'Label;Text\r\nx;"a, b"\r\ny;c\r\n'),
        ("a.tsv", "Label\tText\nx\ta, b\ny\tc\n"),
        ("a.txt", "class\tmessage\nx\ta, b\ny\tc\n"),
        ("a.json", '[{"sms": "a, b", "category": "x"}, {"sms": "c", "category": "y"}]'),
        ("a.jsonl", '{"review": "a, b", "target": "x"}\n{"review": "c", "target": "y"}\n'),
        ("a.jsonl", '{"sentence": "a, b", "sentiment": " x "}\n{"sentence": "c", "sentiment": "y"}\n'),
        ("a.csv", '\ufefftext,label\r\n"a, b",x\r\nc,y\r\n'),
        ("a.csv", 'text,label\n"a, b",x\nc,y\n'.encode("utf-16")),
        ("a.csv.gz", gzip.compress(b'text,label\n"a, b",x\nc,y\n', mtime=0)),
    ],
)
def test_usual_names_in_every_format(tmp_path: Path, name: str, content: str | bytes) -> None:
    assert pairs(write(tmp_path, name, content)) == ROWS


def test_columns_are_named_where_their_names_are_unusual(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "body,kind,label\nc,y,1\nd,x,2\n")
    assert pairs(path, ("text=body", "label=kind")) == [("c", "y"), ("d", "x")]
    with pytest.raises(SettingsError, match="--columns: expected fields of text, label, group, got output"):
        read_labelled(path, columns=("output=kind",))
    with pytest.raises(DataError, match=r"--columns: expected names of columns in .*a.csv, got 'kin'"):
        read_labelled(path, columns=("text=body", "label=kin"))


def test_two_usual_names_are_a_doubt_and_the_plain_name_is_none(tmp_path: Path) -> None:
    doubt = write(tmp_path, "a.csv", "message,review,label\na,b,1\nc,d,2\n")
    with pytest.raises(DataError, match=r"row 2: expected one column of the text, got 'message', 'review'. Choose one"):
        read_labelled(doubt)
    assert pairs(doubt, ("text=review",)) == [("b", "1"), ("d", "2")]
    clear = write(tmp_path, "b.csv", "message,text,label\na,b,1\nc,d,2\n")
    assert pairs(clear) == [("b", "1"), ("d", "2")]
    assert read_labelled(clear).notes == (f'{clear}: fields that are not used: "message" (2 rows).',)


def test_numbers_are_labels_and_sort_as_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", "".join(f'{{"text": "t{n}", "label": {n}}}\n' for n in (10, 9, 0, 1)))
    assert labels_of(read_labelled(path).examples) == ("0", "1", "9", "10")


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ('{"text": " ", "label": "x"}', "\"text\" must contain more than white space, got ' '."),
        ('{"text": null, "label": "x"}', '"text" is empty.'),
        ('{"text": "a", "label": null}', '"label" is empty.'),
        ('{"text": "a"}', "\"label\" is missing (the row has 'text'). If another column holds it"),
        ('{"text": ["a"], "label": "x"}', '"text" must be text, got a list.'),
        ('"a"', 'expected an object with "text" and "label", got text.'),
    ],
)
def test_a_bad_row_is_named_or_left_out_and_counted(tmp_path: Path, row: str, fault: str) -> None:
    path = write(tmp_path, "a.jsonl", '{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n' + row + "\n")
    with pytest.raises(DataError) as caught:
        read_labelled(path)
    assert fault in str(caught.value)
    assert "a.jsonl, row 3: " in str(caught.value)
    assert "--skip-bad" in str(caught.value)
    dataset = read_labelled(path, skip_bad=True)
    assert (len(dataset.examples), dataset.n_skipped) == (2, 1)
    assert "left out 1 row that cannot be used (row 3)" in dataset.notes[0]


def test_spellings_of_a_label_become_one_with_a_note(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "text,label\na,Good\nb,good\nc,good \nd,bad\n")
    assert [label for _, label in pairs(path)] == ["good", "good", "good", "bad"]
    assert read_labelled(path).notes == ("The label 'Good' (1 row) is read as 'good'.",)


def test_equal_texts_with_different_labels_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "text,label\nHello!,x\nbye,y\nhello,y\n")
    assert read_labelled(path).notes == (
        f"1 row has the text of an earlier row and another label: {path}, row 2 and {path}, row 4, for instance.",
    )


def test_ham_is_not_spam_but_only_beside_spam(tmp_path: Path) -> None:
    mail = write(tmp_path, "a.csv", "text,label\na,Ham\nb,SPAM\nc,not spam\n")
    assert [label for _, label in pairs(mail)] == ["not spam", "spam", "not spam"]
    food = write(tmp_path, "b.csv", "text,label\na,ham\nb,cheese\n")
    assert [label for _, label in pairs(food)] == ["ham", "cheese"]


def test_one_label_and_a_column_of_texts_are_no_labels(tmp_path: Path) -> None:
    one = write(tmp_path, "a.csv", "text,label\na,x\nb,x\n")
    with pytest.raises(DataError, match="expected at least two labels, got one: 'x' in all 2 rows"):
        read_labelled(one)
    many = write(tmp_path, "b.csv", "text,label\n" + "".join(f"a{n},x{n}\n" for n in range(30)))
    with pytest.raises(DataError, match="got 30 different labels in 30 rows"):
        read_labelled(many)


def test_a_header_with_unknown_names_is_not_a_row(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"such as text and label, got 'kind', 'body'.*--columns text=COLUMN,label="):
        read_labelled(write(tmp_path, "a.tsv", "kind\tbody\nx\ta\ny\tb\n"))


def test_a_line_without_a_tab_is_named(tmp_path: Path) -> None:
    text = "many words " * 10
    path = write(tmp_path, "sms", f"ham\t{text}\nspam\t{text}\n" * 2_000 + "lost line\n")
    with pytest.raises(DataError, match="row 4001: expected label and text with a tab between, got no tab"):
        read_labelled(path)


@given(st.lists(st.text("ab 019", min_size=1, max_size=4), min_size=1, max_size=8))
def test_labels_are_each_there_once_in_an_order_that_the_rows_do_not_change(names: list[str]) -> None:
    examples = [Example(instruction="t", output=name) for name in names]
    assert set(labels_of(examples)) == set(names)
    assert labels_of(examples) == labels_of(examples[::-1] + examples)
