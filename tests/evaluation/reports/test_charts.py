"""Charts: bars as tall as their counts, intervals where they belong, and labels that cannot leave the picture."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from assistant.statistics import Interval
from evaluation.reports.charts import (
    TrendPoint,
    bubbles_of_lengths,
    bubbles_of_scores,
    interval_bars,
    score_histogram,
    trend,
)
from tests.support.hostile import HOSTILE

SVG = "{http://www.w3.org/2000/svg}"


def elements(svg: str, name: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter(f"{SVG}{name}"))


def test_histogram_has_a_bar_for_each_value_of_the_scale() -> None:
    bars = elements(score_histogram([0, 20, 20, 100, 100, 100, 100]), "rect")
    heights = [float(bar.attrib["height"]) for bar in bars]
    assert len(bars) == 6
    assert [round(height / max(heights), 2) for height in heights] == [0.25, 0.5, 0, 0, 0, 1]


def test_histogram_of_other_scores_has_tens_and_loses_none() -> None:
    scores = [0, 9.9, 10, 55, 99.5, 100]
    texts = [bar[0].text or "" for bar in elements(score_histogram(scores), "rect")]
    counts = [int(text.split(": ")[1].split(" ")[0]) for text in texts]
    assert counts == [2, 1, 0, 0, 0, 1, 0, 0, 0, 1, 1]


def test_bars_and_whiskers_share_one_axis() -> None:
    svg = interval_bars([("a", 50.0, Interval(25.0, 75.0), ""), ("b", 100.0, None, ""), ("c", None, None, "")])
    half, full = (bar.attrib for bar in elements(svg, "rect"))
    zero = float(full["x"])
    assert float(half["width"]) * 2 == pytest.approx(float(full["width"]), abs=0.2)
    whisker = next(line.attrib for line in elements(svg, "line") if line.attrib["class"] == "whisker")
    places = [(float(whisker[name]) - zero) / float(full["width"]) for name in ("x1", "x2")]
    assert places == pytest.approx([0.25, 0.75], abs=0.005)


def test_area_of_a_bubble_is_its_number_of_rows() -> None:
    svg = bubbles_of_scores([(10, 20)] * 4 + [(90, 80)], "chrF")
    large, small = (float(circle.attrib["r"]) for circle in elements(svg, "circle"))
    assert (large / small) ** 2 == pytest.approx(4)


def test_equal_lengths_lie_on_the_diagonal() -> None:
    svg = bubbles_of_lengths([(0, 0), (7, 7), (1000, 1000)])
    diagonal = next(line.attrib for line in elements(svg, "line") if line.attrib["class"] == "diagonal")
    x1, y1, x2, y2 = (float(diagonal[name]) for name in ("x1", "y1", "x2", "y2"))
    for circle in elements(svg, "circle"):
        x, y = float(circle.attrib["cx"]), float(circle.attrib["cy"])
        assert (y - y1) / (y2 - y1) == pytest.approx((x - x1) / (x2 - x1), abs=0.01)
        assert x1 <= x <= x2


def test_trend_joins_only_runs_of_the_same_judge_and_names_the_lines() -> None:
    points = [TrendPoint(f"run {n}", 10.0 * n, None, "none", line) for n, line in enumerate((0, 1, 0, 1, 1))]
    chart = ElementTree.fromstring(trend(points, ["first judge", "second judge"]))
    lines = [line.attrib["points"].split() for line in chart.iter(f"{SVG}polyline")]
    assert [len(line) for line in lines] == [2, 3]
    circles = [f"{circle.attrib['cx']},{circle.attrib['cy']}" for circle in chart.iter(f"{SVG}circle")]
    assert lines == [[circles[0], circles[2]], [circles[1], circles[3], circles[4]]]
    texts = [text.text for text in chart.iter(f"{SVG}text")]
    assert texts[-2:] == ["first judge", "second judge"]
    one_judge = ElementTree.fromstring(trend([point._replace(line=0) for point in points], ["first judge"]))
    assert "first judge" not in [text.text for text in one_judge.iter(f"{SVG}text")]


@pytest.mark.parametrize("n", [0, 1, 3])
def test_every_chart_can_be_drawn_with_few_data(n: int) -> None:
    for svg in (
        score_histogram([50.0] * n),
        interval_bars([("a", None, None, "")] * n),
        bubbles_of_scores([(1.0, 2.0)] * n, "chrF"),
        bubbles_of_lengths([(1, 2)] * n),
        trend([TrendPoint("a", 1.0, None, "none", 0)] * n, ["judge"]),
    ):
        assert ElementTree.fromstring(svg).attrib["role"] == "img"


def test_hostile_labels_are_text() -> None:
    for svg in (
        interval_bars([(HOSTILE, 5.0, None, HOSTILE)]),
        bubbles_of_scores([(1.0, 1.0)], HOSTILE),
        trend(
            [TrendPoint(HOSTILE, 1.0, None, "red", 0), TrendPoint("b", 2.0, Interval(0, 3), "none", 1)], [HOSTILE, "b"]
        ),
    ):
        names = {element.tag.removeprefix(SVG) for element in ElementTree.fromstring(svg).iter()}
        assert names <= {"svg", "rect", "text", "line", "title", "circle", "polyline"}
