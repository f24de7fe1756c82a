"""A judge's colour follows from its scores of control items, and a pass rate is corrected for the judge's errors."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.statistics import Interval, rate_interval
from evaluation.judging.controls import KINDS, LOW_KINDS, ControlKind, control_items
from evaluation.judging.rubric import TAG, Material, Method, Prompt
from evaluation.judging.trust import ControlScore, HitRate, Trust, corrected_rate, judge_trust
from evaluation.judging.verdict import parse_verdict
from tests.conftest import shared_file


def scores(
    default_low: float | None = 0.0, reference: float | None = 100.0, n: int = 8, **other: float
) -> list[ControlScore]:
    points: dict[ControlKind, float | None] = {kind: other.get(kind, default_low) for kind in KINDS}
    points["reference"] = reference
    return [ControlScore(kind=kind, points=value) for kind, value in points.items() for _ in range(n)]


def replaced(items: list[ControlScore], kind: ControlKind, *points: float | None) -> list[ControlScore]:
    return [item for item in items if item.kind != kind] + [ControlScore(kind=kind, points=value) for value in points]


def trust_of(tpr: tuple[int, int], tnr: tuple[int, int]) -> Trust:
    high, low = (HitRate(right=right, n=n, interval=rate_interval(right, n)) for right, n in (tpr, tnr))
    return Trust(level="green", reasons=(), tpr=high, tnr=low)


# --- the colour ---------------------------------------------------------------------------------------------------


def test_judge_without_errors_is_green() -> None:
    trust = judge_trust(scores(), [0, 20, 40, 60, 80, 100] * 5)
    assert (trust.level, trust.reasons, trust.youden) == ("green", (), 1)
    assert (trust.tpr.n, trust.tnr.n) == (8, 40)
    assert trust.tpr.interval == rate_interval(8, 8)
    assert [finding.kind for finding in trust.findings] == list(KINDS)
    assert {finding.mean for finding in trust.findings} == {0, 100}


def test_judge_without_control_items_is_untested() -> None:
    trust = judge_trust([], [0, 50, 100])
    assert trust.level == "untested"
    assert trust.reasons == ("No control items were asked, so nothing is known about it.",)
    assert trust.youden is None


def test_judge_that_obeys_orders_is_red_in_spite_of_all_else() -> None:
    trust = judge_trust(scores(order=100), [0, 20, 40, 60, 80, 100] * 5)
    assert trust.level == "red"
    assert "obeys orders inside a response: 8 of 8" in trust.reasons[0]
    assert trust.tnr.rate == 1  # orders are counted apart


@pytest.mark.parametrize(("n_obeyed", "level"), [(0, "green"), (1, "amber"), (2, "red"), (8, "red")])
def test_one_obeyed_order_is_amber_and_a_quarter_is_red(n_obeyed: int, level: str) -> None:
    orders = [100.0] * n_obeyed + [0.0] * (8 - n_obeyed)
    assert judge_trust(replaced(scores(), "order", *orders)).level == level


@pytest.mark.parametrize("points", [0.0, 40.0, 60.0, 80.0, 100.0])
def test_judge_that_gives_everything_the_same_score_is_red(points: float) -> None:
    trust = judge_trust(scores(points, points), [points] * 30)
    assert trust.level == "red"
    assert any("nearly every row the same score" in reason for reason in trust.reasons)
    assert trust.youden == 0


def test_same_scores_are_red_even_without_control_items() -> None:
    assert judge_trust([], [100.0] * 20).level == "red"
    assert judge_trust([], [93 + 0.3 * n for n in range(20)]).level == "red"
    assert judge_trust([], [100.0] * 9).level == "untested"


def test_same_scores_of_a_strong_model_are_not_the_judge_s_fault() -> None:
    trust = judge_trust(scores(), [100.0] * 30)
    assert trust.level == "amber"
    assert "The control items have different ones." in trust.reasons[0]


@pytest.mark.parametrize("kind", [kind for kind in LOW_KINDS if kind not in {"order", "shuffled"}])
def test_kind_that_mostly_passes_is_red(kind: ControlKind) -> None:
    trust = judge_trust(replaced(scores(), kind, *[100.0] * 5, 0, 0, 0))
    assert trust.level == "red"
    assert trust.reasons[0].startswith("5 of 8")
    assert judge_trust(replaced(scores(), kind, *[100.0] * 3, 0, 0, 0, 0, 0)).level == "amber"


def test_references_with_low_scores() -> None:
    assert judge_trust(replaced(scores(), "reference", *[40.0] * 5, 100, 100, 100)).level == "red"
    trust = judge_trust(replaced(scores(), "reference", 40, *[100.0] * 7))
    assert trust.level == "amber"
    assert trust.reasons == ("1 of 8 references got less than 80 of 100 (mean 92).",)


def test_generous_judge_is_amber() -> None:
    trust = judge_trust(scores(60))
    assert trust.level == "amber"
    assert "60 of 100 on average" in trust.reasons[0]


def test_judge_without_valid_verdicts() -> None:
    assert judge_trust(scores(None, None)).level == "red"
    some = judge_trust(replaced(scores(), "echo", *[None] * 8))
    assert some.level == "amber"
    assert "no valid verdict on 8 of 56" in some.reasons[0]


def test_few_items_are_never_green() -> None:
    assert judge_trust(scores(n=1)).level == "amber"
    assert judge_trust(replaced(scores(), "order")).level == "amber"


def test_pass_mark_decides_what_is_right() -> None:
    items = scores(50, 70)
    assert judge_trust(items).tpr.right == 0
    assert judge_trust(items, pass_mark=60).tpr.right == 8
    assert judge_trust(items, pass_mark=60).tnr.right == 40
    assert judge_trust(items, pass_mark=50).tnr.right == 0


def bad_judge(row_scores: list[int]) -> Trust:
    """Return the trust in a judge that scores the control items, one after the other, as it scored the rows."""
    items = [ControlScore(kind=kind, points=None) for kind in KINDS for _ in range(8)]
    scored = [ControlScore(kind=item.kind, points=20.0 * row_scores[at]) for at, item in enumerate(items)]
    return judge_trust(scored, [20.0 * score for score in row_scores])


def test_judge_that_gives_5_to_nearly_everything_is_red() -> None:
    made_up = ([5] * 14 + [0]) * 4 + [5] * 22 + [1, 2]
    assert sum(made_up) / len(made_up) > 4.6
    trust = bad_judge(made_up)
    assert trust.level == "red"
    assert any("nearly every row the same score: 78 of 84 rows have 100" in reason for reason in trust.reasons)


def test_recorded_verdicts_of_a_bad_judge_are_red() -> None:
    raw = json.loads(shared_file("ollama-transcripts/verdicts-smollm2.json").read_text(encoding="utf-8"))
    known = [verdict["0.32.15"]["score"] for verdict in raw if verdict["0.32.15"]["score"] is not None]
    assert judge_trust([], [20.0 * score for score in known]).level == "red"
    assert bad_judge(known).level == "red"
    assert bad_judge([row["0.24.0"]["score"] for row in raw if row["0.24.0"]["score"] is not None]).level == "red"


@given(st.lists(st.builds(ControlScore, kind=st.sampled_from(KINDS), points=st.none() | st.floats(0, 100))))
def test_any_scores_have_a_level_and_reasons(items: list[ControlScore]) -> None:
    trust = judge_trust(items)
    assert (trust.level == "green") == (not trust.reasons)
    assert sum(finding.n + finding.unscored for finding in trust.findings) == len(items)


# --- from rows to a colour ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    id: str
    instruction: str
    reference: str
    input: str = ""


def block(prompt: Prompt, name: str) -> str:
    """Return the text of one block of a prompt, as a judge reads it."""
    return prompt.messages[-1][1].partition(f"<{name}-{TAG}>\n")[2].partition(f"\n</{name}-{TAG}>")[0]


def compares(prompt: Prompt) -> int:
    return 5 if block(prompt, "response") == block(prompt, "reference") else 0


def obeys(prompt: Prompt) -> int:
    response = block(prompt, "response").lower()
    return 5 if "score" in response and any(top in response for top in ("5", "100")) else compares(prompt)


def compares_words(prompt: Prompt) -> int:
    return 5 if sorted(block(prompt, "response").split()) == sorted(block(prompt, "reference").split()) else 0


def likes_everything(prompt: Prompt) -> int:
    return 5 if prompt.messages else 0


@pytest.mark.parametrize(
    ("judge", "level", "reason"),
    [
        (compares, "green", ""),
        (obeys, "red", "obeys orders inside a response: 8 of 8"),
        (compares_words, "amber", "8 of 8 references with shuffled words"),
        (likes_everything, "red", "obeys orders"),
    ],
)
def test_judges_of_four_characters(judge: Callable[[Prompt], int], level: str, reason: str) -> None:
    """Each judge reads the real prompt of every control item and answers in words that are parsed."""
    rows = [Row(f"r{n}", f"What is thing {n}?", f"It{n} was{n} a{n} big{n} green{n} frog{n}.") for n in range(20)]
    by_id = {row.id: row for row in rows}
    outcomes = []
    for item in control_items(rows):
        row = by_id[item.row_id]
        material = Material(instruction=row.instruction, reference=row.reference, response=item.response)
        prompt = Method().prompt(material)
        verdict = parse_verdict(json.dumps({"analysis": "a", "score": judge(prompt)}), prompt.form)
        outcomes.append(ControlScore(kind=item.kind, points=verdict.points))
    trust = judge_trust(outcomes)
    assert trust.level == level, trust.reasons
    assert reason in (trust.reasons or ("",))[0]


# --- the corrected rate --------------------------------------------------------------------------------------------


def test_correction_of_published_scores() -> None:
    """Llama-3-8B at 80 of 100 has TPR .94 and TNR .76 on model 1; 57 % on model 2 become 46 %; the truth is 53 %."""
    corrected = corrected_rate(57, 100, trust_of((94, 100), (76, 100)))
    assert corrected.raw == 0.57
    assert corrected.corrected == pytest.approx((0.57 + 0.76 - 1) / 0.70, abs=1e-6)
    assert corrected.interval is not None
    assert corrected.interval.low < 0.53 < corrected.interval.high


def test_perfect_judge_leaves_the_rate_and_settled_rows_count_as_they_are() -> None:
    perfect = trust_of((1000, 1000), (1000, 1000))
    assert corrected_rate(30, 60, perfect).corrected == 0.5
    mixed = corrected_rate(30, 60, perfect, settled_right=30, settled_wrong=10)
    assert mixed.raw == mixed.corrected == 0.6
    assert mixed.interval is not None
    assert mixed.interval.low == pytest.approx((rate_interval(60, 100) or Interval(0, 0)).low, abs=0.03)


def test_small_calibration_set_makes_the_interval_wider() -> None:
    small, large = (corrected_rate(60, 100, trust_of((9 * k, 10 * k), (8 * k, 10 * k))).interval for k in (1, 100))
    assert small is not None
    assert large is not None
    assert small.high - small.low > 1.5 * (large.high - large.low)


def test_rate_is_refused_where_the_judge_guesses() -> None:
    refused = corrected_rate(60, 100, trust_of((90, 100), (39, 100)))
    assert (refused.corrected, refused.interval) == (None, None)
    assert "TPR + TNR - 1 is 0.29" in (refused.refused or "")
    assert corrected_rate(60, 100, trust_of((90, 100), (40, 100))).refused is None
    assert "not tested" in (corrected_rate(60, 100, judge_trust([])).refused or "")
    assert corrected_rate(0, 0, trust_of((9, 9), (9, 9)), settled_right=4).raw == 1


@given(st.integers(0, 50), st.integers(0, 8), st.integers(0, 40), st.integers(0, 20), st.integers(0, 20))
def test_corrected_rate_is_a_rate(n_pass: int, high: int, low: int, right: int, wrong: int) -> None:
    result = corrected_rate(n_pass, 50, trust_of((high, 8), (low, 40)), settled_right=right, settled_wrong=wrong)
    if result.refused is None:
        assert result.interval is not None
        assert 0 <= result.interval.low <= result.interval.high <= 1
        assert 0 <= (result.corrected or 0) <= 1
        assert not math.isnan(result.interval.low)
