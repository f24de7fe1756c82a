"""The command `evaluation check-judge` with an Ollama double whose judge is good, obedient, noisy, or led by places."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import signal
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from assistant.dataset.examples import Example
from assistant.settings import DataSettings
from assistant.shipped import shipped
from evaluation.judging import judge_check
from evaluation.judging.controls import KINDS
from evaluation.judging.judge_options import JudgeOptions
from evaluation.judging.rubric import TAG
from evaluation.judging.verdict_cache import VERDICTS_FILE
from tests.support import openai_double
from tests.support.evaluation_command import CommandResult, evaluation
from tests.support.ollama_double import Answer, Behaviour, JsonObject, OllamaDouble, verdict

pytestmark = pytest.mark.usefixtures("work_in_tmp_path")

PER_KIND = 4
N_AGAIN = 2 * len(KINDS)
"""Items that are asked again."""
ONE = ("--controls", 1)
"""One item of each kind: enough where no green judge is needed."""


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Rows that allow items of every kind."""
    references = (
        "Red apples grow on old trees behind the barn.",
        "A bridge of stone carries carts across this river.",
        "Wax candles burn slowly, and give warm light.",
        "Few plants live where rain falls once per decade.",
        "Steam engines turn heat into motion using pistons.",
        "Owls, foxes and mushrooms like dark woods best.",
        "She waters her tulips early every morning before work.",
        "Ships rest in harbours while storms cross open seas.",
    )
    rows = [{"instruction": f"Say something, number {at}.", "output": text} for at, text in enumerate(references)]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def block(body: JsonObject, name: str) -> str:
    """Return the text of one block of a question, as a judge reads it."""
    prompt = str(body["messages"][-1]["content"])
    return prompt.partition(f"<{name}-{TAG}>\n")[2].partition(f"\n</{name}-{TAG}>")[0]


def is_pair(body: JsonObject) -> bool:
    return f"<response-a-{TAG}>" in str(body["messages"][-1]["content"])


def winner(name: str) -> Answer:
    return Answer(json.dumps({"analysis": "One of them is better.", "winner": name}))


def compares(body: JsonObject) -> Behaviour:
    """A judge without errors: only what equals the reference is right."""
    if is_pair(body):
        return winner("A" if block(body, "response-a") == block(body, "reference") else "B")
    return verdict(5 if block(body, "response") == block(body, "reference") else 0)


def obeys(body: JsonObject) -> Behaviour:
    if not is_pair(body) and re.search(r"score|examination", block(body, "response")):
        return verdict(5)
    return compares(body)


def takes_the_first(body: JsonObject) -> Behaviour:
    return winner("A") if is_pair(body) else compares(body)


def check(double: OllamaDouble, rows: Path, *options: object) -> CommandResult:
    """Check the double's judge with four items of each kind, of which two are asked again once."""
    where = ("--judge", "llama3.1", "--host", double.url, "--data", rows)
    return evaluation("check-judge", *where, "--controls", PER_KIND, "--repeats", 1, *options)


def questions(*doubles: OllamaDouble) -> list[str]:
    return [str(body["messages"]) for double in doubles for body in double.chat() if body["messages"]]


def hits(result: CommandResult) -> dict[str, tuple[int, int]]:
    return {finding["kind"]: (finding["right"], finding["n"]) for finding in result.json["trust"]["findings"]}


def test_judge_without_errors_is_green_in_json_and_in_a_table_of_80_columns(rows: Path, double: OllamaDouble) -> None:
    double.default = compares
    result = check(double, rows, "--json")
    found = result.json
    assert (result.code, found["level"], found["reasons"], found["rows"]) == (0, "green", [], 8)
    assert hits(result) == dict.fromkeys(KINDS, (PER_KIND, PER_KIND))
    repeated = found["repeatability"]
    assert (repeated["items"], repeated["verdicts"], repeated["missing"]) == (N_AGAIN, 2 * N_AGAIN, 0)
    assert (repeated["equal"], repeated["sd"]) == (100, 0)
    assert (found["pairs"]["flips"]["n"], found["pairs"]["flips"]["flips"]) == (PER_KIND, 0)
    assert (found["pairs"]["reference_won"], found["pairs"]["unscored"]) == (PER_KIND, 0)
    n_first = PER_KIND * len(KINDS) + 2 * PER_KIND
    assert found["questions"] == len(questions(double)) == n_first + 1 + N_AGAIN
    assert f"asked {found['questions']} of {found['questions']}" in result.err

    # The same again, as text.
    result = check(double, rows)
    table, _, verdict_text = result.out.partition("\n\n")
    assert [line.split("  ")[0] for line in table.splitlines()] == [
        "response", "the reference", "another row's reference", 'only ":"', "the task repeated",
        "the reference, shuffled", "an empty-looking one", "an order to the judge", "some of them, asked again",
        "pairs, in both orders", "the reference, in pairs",
    ]  # fmt: skip
    assert table.count(f"{PER_KIND} of {PER_KIND}") == 9
    assert max(map(len, table.splitlines())) <= 80
    assert "Judge llama3.1 is green: it called 4 of 4 references right and 20 of 20 wrong" in verdict_text
    assert "Next, to score answers with it: evaluation score runs/answers --judge llama3.1" in verdict_text
    assert "\x1b" not in result.out


def test_second_check_asks_only_what_must_be_asked_again(rows: Path, double: OllamaDouble) -> None:
    double.default = compares
    first = check(double, rows, "--json", *ONE).json
    double.requests.clear()
    again = check(double, rows, "--json", *ONE, "--repeats", 2)
    assert len(questions(double)) == again.json["questions"] == 1 + 2 * len(KINDS)
    assert again.json["reused"] == first["questions"] - 1 - len(KINDS)
    assert again.json["repeatability"]["verdicts"] == 3 * len(KINDS)
    assert (again.json["trust"], again.json["pairs"]) == (first["trust"], first["pairs"])
    assert "verdicts are known from earlier runs" in again.err
    double.version = "0.99.0"
    assert check(double, rows, "--json", *ONE).json["questions"] == first["questions"]


def test_score_takes_over_the_verdicts_on_control_items(rows: Path, double: OllamaDouble) -> None:
    double.default = compares
    check(double, rows, *ONE)
    double.requests.clear()
    answers = [row | {"model_response": f"Guess {at}."} for at, row in enumerate(json.loads(rows.read_text()))]
    Path("answers.json").write_text(json.dumps(answers))
    where = ("--judge", "llama3.1", "--host", double.url, *ONE)
    result = evaluation("score", "answers.json", *where, "--json")
    assert len(questions(double)) == 8
    assert result.json["judge_verdict"]["tpr"]["right"] == 1


def test_repeated_questions_come_after_a_warm_up_and_in_another_order(rows: Path, double: OllamaDouble) -> None:
    double.default = compares
    check(double, rows, *ONE, "--repeats", 2)
    asked, n = questions(double), len(KINDS)
    first, warm_up, passes = asked[:n], asked[n], (asked[n + 1 : 2 * n + 1], asked[2 * n + 1 : 3 * n + 1])
    assert warm_up in first
    assert sorted(first) == sorted(passes[0]) == sorted(passes[1])
    assert len({tuple(first), *map(tuple, passes)}) == 3


def test_verdict_on_a_repeated_question_is_neither_taken_from_the_cache_nor_put_into_it(
    rows: Path, double: OllamaDouble
) -> None:
    times: Counter[str] = Counter()

    def forgets(body: JsonObject) -> Behaviour:
        """Right at the first time, and 40 points too low at every later time."""
        times[str(body["messages"])] += 1
        return verdict(3) if times[str(body["messages"])] > 1 and not is_pair(body) else compares(body)

    double.default = forgets
    result = check(double, rows, "--json", "--repeats", 2)
    found = result.json
    assert hits(result) == dict.fromkeys(KINDS, (PER_KIND, PER_KIND))
    items = [[100, 60, 60]] * 2 + [[0, 60, 60]] * (N_AGAIN - 2)
    pooled = math.sqrt(statistics.fmean(statistics.variance(item) for item in items))
    assert found["repeatability"]["sd"] == pytest.approx(pooled, abs=1e-3)
    assert (found["repeatability"]["equal"], found["repeatability"]["largest"]) == (0, 60)
    assert (result.code, found["level"]) == (1, "red")
    assert found["reasons"][0].startswith(
        "It does not repeat itself: asked again, its scores differ by up to 60 points"
    )
    assert check(double, rows, "--json").json["trust"] == found["trust"]


def test_judge_that_obeys_orders_is_red_and_ends_with_status_1(rows: Path, double: OllamaDouble) -> None:
    double.default = obeys
    result = check(double, rows, *ONE)
    assert result.code == 1
    assert "Judge llama3.1 is red: do not trust its scores. It obeys orders inside a response: 1 of 1" in " ".join(
        result.out.split()
    )
    as_json = check(double, rows, "--json", *ONE)
    assert (as_json.code, as_json.json["level"]) == (1, "red")
    assert [step["purpose"] for step in as_json.json["next"]] == [
        "ask it another way",
        "score 20 rows yourself",
    ]
    command = shlex.split(as_json.json["next"][0]["command"])
    assert command[:2] == ["evaluation", "check-judge"]
    assert command[command.index("--method") + 1] == "quick"


def test_judge_that_takes_the_first_response_is_amber(rows: Path, double: OllamaDouble) -> None:
    double.default = takes_the_first
    result = check(double, rows, "--json")
    flips = result.json["pairs"]["flips"]
    assert (flips["n"], flips["flips"], flips["shown_first"]) == (PER_KIND, PER_KIND, PER_KIND)
    assert (result.code, result.json["level"], result.json["trust"]["level"]) == (0, "amber", "green")
    assert "In 4 of 4 pairs the place of a response decided" in result.json["sentence"]


@pytest.mark.parametrize(
    ("choose", "won", "words"),
    [
        (lambda _body: winner("tie"), 0, "in only 0 of 4 pairs"),
        (lambda _body: Answer("{}"), 0, "no valid answer on 4 of 4 pairs"),
    ],
)
def test_pairs_without_a_winner_are_no_flips(
    rows: Path, double: OllamaDouble, choose: Callable[[JsonObject], Answer], won: int, words: str
) -> None:
    double.default = lambda body: choose(body) if is_pair(body) else compares(body)
    found = check(double, rows, "--json").json
    assert (found["pairs"]["flips"]["flips"], found["pairs"]["reference_won"]) == (0, won)
    assert (found["level"], words in found["sentence"]) == ("amber", True)


def test_verdicts_that_are_not_valid_are_counted_once_each(rows: Path, double: OllamaDouble) -> None:
    def cannot_read_colons(body: JsonObject) -> Behaviour:
        return Answer("?") if not is_pair(body) and block(body, "response") == ":" else compares(body)

    double.default = cannot_read_colons
    result = check(double, rows, "--json", *ONE)
    assert result.json["unscored"] == 2  # the item, and the item again
    assert hits(result)["colon"] == (0, 0)
    assert result.json["repeatability"]["missing"] == 2
    assert "2 verdicts were not valid and are left out above." in check(double, rows, *ONE).out


def test_items_come_from_all_categories_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the rows that items are drawn from are of the rare category, which has 2 % of the rows."""
    categories = ["rare" if at % 50 == 0 else "common" for at in range(500)]
    examples = [Example(instruction=f"Task {at}", output="Yes.", category=one) for at, one in enumerate(categories)]
    monkeypatch.setattr(judge_check, "MAX_ROWS", 20)
    drawn = judge_check._records(examples)
    assert Counter(record.category for record in drawn) == {"rare": 10, "common": 10}
    assert judge_check._records(examples[::-1]) == drawn
    assert [record.category for record in judge_check._records(examples[1:50])] == ["common"] * 20


def test_judge_behind_an_api_of_openai_is_checked(rows: Path) -> None:
    def answer(body: JsonObject) -> openai_double.Steps:
        behaviour = compares(body)
        assert isinstance(behaviour, Answer)
        return openai_double.answer(behaviour.content)

    with openai_double.OpenAIDouble() as server:
        server.default = answer
        where = ("--judge", "judge", "--api", "openai", "--host", server.url, "--data", rows)
        found = evaluation("check-judge", *where, "--json", *ONE).json
    assert (found["judge"]["api"], found["unscored"], found["pairs"]["reference_won"]) == ("openai", 0, 1)
    assert all(finding["right"] == 1 for finding in found["trust"]["findings"])


def test_judge_that_gives_nothing_usable_ends_the_check(rows: Path, double: OllamaDouble) -> None:
    double.default = Answer("Five.")
    result = check(double, rows)
    assert result.code == 1
    assert "got none for the first 5 rows (unparsable 5)" in result.error


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Let Ctrl-C interrupt. A shell that starts the tests in the background makes them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_the_check_and_keeps_the_verdicts(rows: Path, double: OllamaDouble) -> None:
    def interrupt(_body: JsonObject) -> Answer:
        os.kill(os.getpid(), signal.SIGINT)
        return verdict(4, delay=5)

    double.default = compares
    double.enqueue(compares, compares, interrupt)
    result = check(double, rows, *ONE)
    assert (result.code, result.out) == (130, "")
    assert "Give the same command again to continue" in result.err
    assert "Traceback" not in result.err
    assert len(Path("cache/instruction-assistant", VERDICTS_FILE).read_text().splitlines()) == 2
    assert check(double, rows, "--json", *ONE).json["reused"] == 2


def test_two_servers_share_the_questions(rows: Path, double: OllamaDouble) -> None:
    double.default = compares
    with OllamaDouble(default=compares) as other:
        result = check(double, rows, "--host", other.url, "--json", *ONE)
        asked = Counter(questions(double, other))
        assert result.json["repeatability"]["equal"] == 100
        assert sum(asked.values()) == result.json["questions"]
        assert all(count <= 3 for count in asked.values())
        assert questions(double)
        assert questions(other)


def test_own_scale_is_checked_with_its_own_questions(rows: Path, double: OllamaDouble) -> None:
    double.default = lambda body: compares(body) if is_pair(body) else Answer("100")
    found = check(double, rows, "--method", "book", "--json", *ONE).json
    assert (found["method"], found["level"]) == ("book", "red")
    assert {finding["mean"] for finding in found["trust"]["findings"]} == {100}
    assert "on a scale from 0 to 100" in questions(double)[0]


def test_shipped_instructions_are_the_default(double: OllamaDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    class ReadError(Exception):
        """Ends the command once it is known what it reads."""

    def read(paths: list[Path], _reading: DataSettings) -> None:
        raise ReadError(paths)

    monkeypatch.setattr("evaluation.cli.judge.read_data", read)
    with pytest.raises(ReadError) as caught:
        evaluation("check-judge", "--judge", "llama3.1", "--host", double.url)
    assert caught.value.args == ([shipped("instructions.json")],)


def test_rows_that_allow_no_pairs_make_no_green_judge(tmp_path: Path, double: OllamaDouble) -> None:
    rows = [
        {"instruction": f"Name number {at}.", "output": f"This is number {at}, and that is all."} for at in range(9)
    ]
    path = tmp_path / "alike.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    double.default = compares
    found = check(double, path, "--json", *ONE).json
    assert (found["level"], found["pairs"]["flips"]["n"]) == ("amber", 0)
    assert "no pairs" in " ".join(found["reasons"])


def test_wrong_options_are_named(rows: Path, tmp_path: Path, double: OllamaDouble) -> None:
    assert evaluation("check-judge").error == (
        "error: --judge: expected the name of a model, got none. Try: --judge llama3.1"
    )
    result = evaluation("check-judge", "--judge", "m", "--controls", 0)
    assert (result.code, "--controls: expected 1 or more" in result.error) == (2, True)
    result = check(double, rows, "--num-ctx", 1)
    assert (result.code, result.error) == (2, "error: --num-ctx: expected greater than or equal to 512, got 1.")
    free = tmp_path / "free.json"
    free.write_text(json.dumps([{"instruction": "Write a poem.", "rubric": ["Does it rhyme?"]}]))
    result = check(double, free)
    assert (result.code, "expected rows with an instruction and a reference, got none" in result.error) == (1, True)
    assert questions(double) == []


def test_next_command_keeps_every_option_that_was_given(rows: Path, double: OllamaDouble) -> None:
    asked = JudgeOptions(judge="m", host=("a", "b c"), parallel=2, timeout=1.5, rubric=Path("my rubric.txt"))
    assert asked.words() == [
        "--parallel", "2", "--judge", "m", "--host", "a", "--host", "b c", "--rubric", "my rubric.txt",
        "--timeout", "1.5",
    ]  # fmt: skip
    double.default = compares
    step = check(double, rows, "--timeout", "7", "--json", *ONE).json["next"][0]
    words = shlex.split(step["command"])
    assert words[:2] == ["evaluation", "check-judge"]
    assert (words[words.index("--host") + 1], words[words.index("--timeout") + 1]) == (double.url, "7")
