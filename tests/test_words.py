"""The pages and every `--help` are in plain English: the commonest bad phrases are looked for, by file and line.

The patterns forbid phrases that have a plainer word, and no good English. Code blocks and code spans are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

import assistant.cli.app
import evaluation.cli.app

from .conftest import REPOSITORY

PAGES = (
    "README.md",
    *sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "docs").glob("*.md")),
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "data/README.md",
    "data/pocket/README.md",
    "data/authoring/model_card.md",
    "benchmarks/RESULTS.md",
)
PROGRAMS = {"assistant": assistant.cli.app.app, "evaluation": evaluation.cli.app.app}

BAD = {
    r"\btells?\s+(of|how|what|whether|which|why)\b|\btells?[.;,]": "shows, reports",
    r"\btell(s|ing)?\s+(\w+\s+)?from\s+chance\b|\btold\s+(\w+\s+)?from\s+chance\b": "can be chance",
    r"\btold\s+apart\b": "distinguished",
    r"\bsays?\s+of\b|\bsays?\s+whether\b": "reports, shows",
    r"(?<!\bthere\s)\bis\s+no\s+(?!longer\b|more\b|way\b|need\b|reason\b)[a-z]": "is not",
    r"\bhas\s+no\s+say\b|\bhave\s+no\s+say\b|\ba\s+say\s+in\b": "does not matter",
    r"\bways?\s+back\b|\bway\s+there\b": "backward",
    r"\bbehind\s+(the|a|an|each|every|one|it|its|this|that|which|step|them|\d+)\b": "after",
    r"\bone\s+behind\s+(the\s+other|another)\b": "one after the other",
    r"\bin\s+front\s+of\b": "before",
    r"\bwants\b": "needs",
    r"\bheirs?\b": "subclass",
    r"\bparted\b|\bparts\s+(them|it|the\s+rows)\b": "separated, split",
    r"\bfound\s+to\s+(?!be\b)|\bis\s+found\s+to\b": "shows, measured",
    r"\bsuch\s+a\s+one\b": "one",
    r"\bthose\s+that\s+are\b|\bone\s+that\s+(is|has|was)\b": "a plain noun",
    r"\bstands?\s+(in|on|at|before|behind|beside|below|above|first|last|there|alone|around)\b": "is",
    r"\bwhat\s+stands\b": "the text",
    r"\bwhatever\b": "any, regardless of",
    r"\bwhere\s+(not|none\s+is|it\s+is\s+not)\s+given\b": "by default",
    r"\b(after|of|for|by|to)\s+so\s+many\b": "this number of",
    r"\bletter\s+by\s+letter\b": "word for word",
    r"[a-z]\s+but\s+for\b": "except for",
    r"\banew\b": "again",
    r"\b(taken?|takes|took)\s+up\s+(again|at)\b": "resumed",
    r"\b(was|is|were|been)\s+begun\b": "started",
    r"\b(are|is)\s+(others|another\s+one)\b": "different",
    r"\b(is|was|be|are)\s+to\s+be\s+had\b|\bcan(not)?\s+be\s+had\b": "available",
    r"\bhow\s+it\s+came\s+about\b|\bwhat\s+becomes\s+of\b": "a plain noun",
    r"\b(thereof|whereof|thereby|hereby|therein|wherein|behoves?)\b": "a plain word",
    r"\bthere\s+is\s+one\s+way\b[^.]*\balone\b": "only once",
    r"\b(weights|matrices|letters|rows|tokens|responses|results|counts|layers|steps)\s+alone\b": "only",
    r"(?-i:(?:^|[.:>]\s+)Of\s+(?:the|a|an|all|everything)\s+[a-z ]{1,40}[.:])": "a sentence with a subject",
    r"(?-i:\bIts\s+(?:peak|end|length)\.)": "name the thing",
    r"\bin\s+the\s+middle\s+of\s+it\b|\bto\s+the\s+letter\b": "exactly",
    r"\bnot\s+there\s+yet\b": "missing, does not exist yet",
    r"\bgo(es)?\s+by\s+(it|them|these|its|which)\b": "uses",
    r"\bholds\s+that\b": "checks that",
    r"\bhow\s+far\s+\w+\s+(has|have)\s+come\b": "progress",
    r"\breckoned\b": "calculated",
}
"""A pattern of words, and what to write instead. Case does not matter unless the pattern says so."""


def faults(text: str, where: str) -> list[str]:
    """`file, line N: "phrase"; write: ...` for each bad phrase. A phrase may go over a line end."""
    found = []
    for pattern, better in BAD.items():
        for match in re.finditer(pattern, text, re.I | re.M):
            line = text.count("\n", 0, match.start()) + 1
            phrase = " ".join(match[0].split())
            found.append((line, f'{where}, line {line}: "{phrase}"; write: {better}'))
    return [fault for _, fault in sorted(found)]


def prose(markdown: str) -> str:
    """A page without its code blocks, code spans and link targets, line by line as it was."""
    blank = re.sub(r"^```.*?^```", lambda block: "\n" * block[0].count("\n"), markdown, flags=re.S | re.M)
    return re.sub(r"\]\([^)\n]*\)", "]", re.sub(r"`[^`\n]*`", "``", blank))


def helps(program: str, *words: str, command: Any = None) -> Iterator[tuple[str, str]]:
    """The name and the `--help` of a command and of all below it, without frames, each option on one line."""
    command = command or typer.main.get_command(PROGRAMS[program])
    wide = {"COLUMNS": "1000", "TERM": "dumb"}
    done = CliRunner().invoke(PROGRAMS[program], [*words, "--help"], env=wide)
    assert done.exit_code == 0, done.output
    yield " ".join((program, *words, "--help")), re.sub(r" {2,}", "  ", re.sub(r"[│╭╮╰╯─]", "", done.output))
    for name, below in getattr(command, "commands", {}).items():
        yield from helps(program, *words, name, command=below)


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_in_plain_english(page: str) -> None:
    found = faults(prose((REPOSITORY / page).read_text(encoding="utf-8")), page)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_is_in_plain_english(program: str) -> None:
    found = [fault for name, text in helps(program) for fault in faults(text, name)]
    assert not found, "\n".join(found)


def test_faults_name_the_line_and_good_english_passes() -> None:
    assert faults("It is good.\nBehind\nthe step.", "page.md") == ['page.md, line 2: "Behind the"; write: after']
    assert faults(prose("See `is no x`.\n```sh\nwants\n```\n[is no longer](heir.md) needed.\n"), "page.md") == []
    assert faults("Of the 594 answers, 26 are different. The loss alone is not enough. It stands for all.", "p") == []
