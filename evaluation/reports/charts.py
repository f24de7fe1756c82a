"""Charts as inline SVG for the HTML pages: bars, bubbles, a trend. Made of text, without scripts and without styles.

Colours are classes that the page's style sheet defines, for light and dark. Every chart has a title and a description
for screen readers. Labels come from files and are escaped here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

from assistant.escape import shorten, visible
from assistant.statistics import Interval
from evaluation.figures import counted

WIDTH = 420
"""Width of every chart in its own units. A page shows it from 340 to 560 pixels wide, so texts stay readable."""
LEFT, RIGHT, TOP, BOTTOM = 34, 10, 10, 34
LABEL_LENGTH = 17
LARGEST_RADIUS = 11.0

Place = Callable[[float, float], tuple[float, float]]
"""Turns a point of the data into one of the chart."""


def _text(x: float, y: float, text: str, *, anchor: str = "middle", name: str = "tick") -> str:
    return f'<text class="{name}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(visible(text))}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, name: str) -> str:
    return f'<line class="{name}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _bar(x: float, y: float, width: float, height: float, tip: str, name: str = "bar") -> str:
    box = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}"'
    return f'<rect class="{name}" {box} rx="2"><title>{escape(visible(tip))}</title></rect>'


def _svg(parts: Iterable[str], height: float, description: str) -> str:
    label = escape(visible(description), quote=True)
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img"'
    return f'{opening} aria-label="{label}">{"".join(parts)}</svg>'


# --- bars ---------------------------------------------------------------------------------------------------------


def score_histogram(scores: Sequence[float]) -> str:
    """Return the distribution of scores from 0 to 100: a bar for each value of the 0-5 scale, else for each ten points.

    Scores of 100 have a bar of their own.
    """
    step = 20 if all(score % 20 == 0 for score in scores) else 10
    counts = Counter(min(int(score // step), 100 // step) for score in scores)
    bins = range(100 // step + 1)
    height, most = 200, max(counts.values(), default=1)
    plot_width, plot_height = WIDTH - LEFT - RIGHT, height - TOP - BOTTOM - 8
    slot, base = plot_width / len(bins), height - BOTTOM
    parts = [_line(LEFT, base, WIDTH - RIGHT, base, "axis")]
    for index in bins:
        count = counts[index]
        tall, x = plot_height * count / most, LEFT + index * slot
        low = index * step
        is_one_value = step == 20 or low == 100
        label = str(low) if is_one_value or slot < 32 else f"{low}–{low + step - 1}"
        share = f"{100 * count / len(scores):.0f} %" if scores else ""
        values = f"{low}" if is_one_value else f"{low} to under {low + step}"
        parts.append(_bar(x + slot * 0.1, base - tall, slot * 0.8, tall, f"score {values}: {counted(count)}, {share}"))
        if count:
            parts.append(_text(x + slot / 2, base - tall - 4, str(count)))
        parts.append(_text(x + slot / 2, base + 14, label))
    parts.append(_text(LEFT + plot_width / 2, height - 5, "score"))
    shown = ", ".join(f"{index * step}: {counts[index]}" for index in bins if counts[index])
    return _svg(parts, height, f"Rows by score. {shown}")


def interval_bars(rows: Sequence[tuple[str, float | None, Interval | None, str]]) -> str:
    """Return a horizontal bar with its 95 % interval for each (name, mean, interval, note). The axis goes to 100."""
    label_width, row_height, note_width = 136, 24, 58
    left, width = label_width, WIDTH - label_width - note_width
    height = TOP + len(rows) * row_height + BOTTOM
    base = TOP + len(rows) * row_height

    def x_of(score: float) -> float:
        return left + width * score / 100

    parts = [_line(x_of(tick), TOP, x_of(tick), base, "grid") for tick in (0, 25, 50, 75, 100)]
    parts += [_text(x_of(tick), base + 14, str(tick)) for tick in (0, 25, 50, 75, 100)]
    for index, (name, mean, interval, note) in enumerate(rows):
        y = TOP + index * row_height
        middle = y + row_height / 2
        parts.append(_text(label_width - 6, middle + 4, shorten(name, LABEL_LENGTH), anchor="end", name="label"))
        parts.append(_text(WIDTH - 2, middle + 4, note, anchor="end"))
        if mean is None:
            continue
        spread = f", 95 % interval {interval.low:.1f} to {interval.high:.1f}" if interval else ""
        parts.append(_bar(x_of(0), y + 5, x_of(mean) - x_of(0), row_height - 10, f"{name}: {mean:.1f}{spread}"))
        if interval:
            low, high = x_of(interval.low), x_of(interval.high)
            parts.append(_line(low, middle, high, middle, "whisker"))
            parts += [_line(x, middle - 4, x, middle + 4, "whisker") for x in (low, high)]
    shown = ", ".join(f"{name} {mean:.1f}" for name, mean, _, _ in rows if mean is not None)
    return _svg(parts, height, f"Scores with intervals. {shown}")


# --- bubbles ------------------------------------------------------------------------------------------------------


def bubbles_of_scores(points: Sequence[tuple[float, float]], x_name: str) -> str:
    """Return scores (y) against a metric (x), both from 0 to 100. The area of a bubble is its number of rows."""
    cells = Counter((5.0 * round(x / 5), 5.0 * round(y / 5)) for x, y in points)
    height, plot_width, plot_height = 250, WIDTH - LEFT - RIGHT - 16, 250 - TOP - BOTTOM - 16

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + 8 + plot_width * x / 100, TOP + 8 + plot_height * (1 - y / 100)

    ticks = [(str(value), float(value)) for value in (0, 20, 40, 60, 80, 100)]
    parts = _frame(place, ticks, x_name, height)
    parts += _bubbles(place, cells, lambda x, y, n: f"{x_name} about {x:.0f}, score about {y:.0f}: {counted(n)}")
    return _svg(parts, height, f"Score against {x_name}, {len(points)} rows")


def bubbles_of_lengths(points: Sequence[tuple[int, int]]) -> str:
    """Return words of the response (y) against words of the reference (x), on scales that double.

    A bubble on the diagonal is as long as its reference.
    """
    top = max(math.ceil(math.log2(max((max(point) for point in points), default=1) + 1)), 3)
    cells = Counter((_half_steps(x), _half_steps(y)) for x, y in points)
    height, plot_width, plot_height = 250, WIDTH - LEFT - RIGHT - 16, 250 - TOP - BOTTOM - 16

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + 8 + plot_width * min(x / top, 1), TOP + 8 + plot_height * (1 - min(y / top, 1))

    ticks = [(str(2**power - 1), float(power)) for power in range(0, top + 1, 1 if top <= 8 else 2)]
    parts = _frame(place, ticks, "words of the reference", height)
    parts.append(_line(*place(0, 0), *place(top, top), "diagonal"))
    parts += _bubbles(
        place,
        cells,
        lambda x, y, n: f"about {2**x - 1:.0f} words in the reference, {2**y - 1:.0f} in the response: {counted(n)}",
    )
    return _svg(parts, height, f"Words of the response against words of the reference, {len(points)} rows")


def _half_steps(n: int) -> float:
    return round(2 * math.log2(n + 1)) / 2


def _frame(place: Place, ticks: Sequence[tuple[str, float]], x_name: str, height: float) -> list[str]:
    """Return grid lines and labels. Both axes have the same ticks, which are pairs of label and position."""
    low, high = ticks[0][1], ticks[-1][1]
    parts = []
    for label, position in ticks:
        x, base = place(position, low)
        parts += [_line(x, base, x, place(position, high)[1], "grid"), _text(x, base + 21, label)]
        left, y = place(low, position)
        parts += [_line(left, y, place(high, position)[0], y, "grid"), _text(left - 12, y + 4, label, anchor="end")]
    return [*parts, _text(WIDTH / 2, height - 3, x_name)]


def _bubbles(
    place: Place, cells: Mapping[tuple[float, float], int], tip: Callable[[float, float, int], str]
) -> list[str]:
    """Return a circle for each cell. The largest bubbles come first, so that they hide no small ones."""
    most = max(cells.values(), default=1)
    parts = []
    for (x, y), count in sorted(cells.items(), key=lambda cell: -cell[1]):
        across, down = place(x, y)
        radius = max(LARGEST_RADIUS * math.sqrt(count / most), 2.0)
        title = escape(visible(tip(x, y, count)))
        parts.append(
            f'<circle class="dot" cx="{across:.1f}" cy="{down:.1f}" r="{radius:.1f}"><title>{title}</title></circle>'
        )
    return parts


# --- trend --------------------------------------------------------------------------------------------------------


LINE_STYLES = 5
"""Styles of lines in `page.css`. With more judges than that, styles are used again."""


class TrendPoint(NamedTuple):
    """The score of one run."""

    name: str
    mean: float
    interval: Interval | None
    verdict: str
    """The class of the verdict on the judge, which colours the point."""
    line: int
    """Which line the point is on."""


def trend(points: Sequence[TrendPoint], lines: Sequence[str]) -> str:
    """Return scores over runs, oldest first. Only points on the same line are joined. `lines` are their names.

    With more than one line, a legend names them.
    """
    legend = lines if len(lines) > 1 else ()
    plot_bottom = 158
    plot_width, plot_height = WIDTH - LEFT - RIGHT - 12, plot_bottom - TOP

    def place(index: float, score: float) -> tuple[float, float]:
        share = index / (len(points) - 1) if len(points) > 1 else 0.5
        return LEFT + 6 + plot_width * share, TOP + plot_height * (1 - score / 100)

    parts = []
    for tick in (0, 25, 50, 75, 100):
        y = place(0, tick)[1]
        parts += [_line(LEFT, y, WIDTH - RIGHT, y, "grid"), _text(LEFT - 5, y + 4, str(tick), anchor="end")]
    places = [place(index, point.mean) for index, point in enumerate(points)]
    for line in range(len(lines)):
        on_line = [f"{x:.1f},{y:.1f}" for point, (x, y) in zip(points, places, strict=True) if point.line == line]
        parts.append(f'<polyline class="{_line_style(line)}" points="{" ".join(on_line)}"/>')
    radius = max(min(4.0, 90 / len(points)), 2.0) if points else 4.0
    for (x, y), point in zip(places, points, strict=True):
        if point.interval:
            parts.append(_line(x, place(0, point.interval.low)[1], x, place(0, point.interval.high)[1], "whisker"))
        title = escape(visible(f"{point.name}: {point.mean:.1f}"))
        circle = f'<circle class="point {point.verdict}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">'
        parts.append(f"{circle}<title>{title}</title></circle>")
    parts.append(_text(LEFT + 6, plot_bottom + 18, "oldest", anchor="start"))
    parts.append(_text(WIDTH - RIGHT, plot_bottom + 18, "newest", anchor="end"))
    for line, name in enumerate(legend):
        y = plot_bottom + 40 + 18 * line
        parts.append(_line(LEFT + 6, y - 4, LEFT + 46, y - 4, _line_style(line)))
        parts.append(_text(LEFT + 54, y, shorten(name, 50), anchor="start", name="label"))
    return _svg(
        parts, plot_bottom + 22 + 18 * len(legend) + (6 if legend else 0), f"Scores of {len(points)} runs, oldest first"
    )


def _line_style(line: int) -> str:
    return f"trend line{line % LINE_STYLES}"
