"""Plots as inline SVG: their text and axes inherit the page's colours, light or dark.

matplotlib draws the figures for paper (`figures`); its SVG has one fixed palette and is ten times as large. These
have no ids, so any number of them may share a page, and no text in them can end their markup.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from pudnet_bench.results.rendering.escaping import one_line

COLOURS = 7  # CSS classes c0 to c6 of the page
WIDTH, HEIGHT = 480, 330
LEFT, RIGHT, TOP, BOTTOM = 60, 12, 12, 50
RADIUS = 5.0
MOST_TICKS = 7


@dataclass(frozen=True)
class Point:
    """A value at `x`, `y`, with the half-width of its interval (NaN for none) and its tooltip."""

    x: float
    y: float
    y_half: float = math.nan
    title: str = ""
    ringed: bool = False


Scale = Literal["linear", "whole", "log"]
Look = Literal["", "hollow", "paper", "line", "faint"]


@dataclass(frozen=True)
class Series:
    """Points of one name; `style` chooses colour, marker and dashes, `band` has (low, high) at each point.

    `look`: "" joined markers; "hollow" the same, hollow; "paper" hollow and not joined, of the layer of the paper's
    numbers; "line" dashes without markers, for many points; "faint" a thin line that the legend does not name.
    """

    label: str
    points: tuple[Point, ...]
    style: int
    look: Look = ""
    band: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Level:
    """A horizontal line across the plot, in the colour of `style`, with its 95% interval as a band."""

    label: str
    y: float
    half: float
    style: int


def chart(
    name: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    x_scale: Scale = "linear",
    levels: Sequence[Level] = (),
    front: Sequence[tuple[float, float]] = (),
    y_range: tuple[float, float] | None = None,
) -> Markup:
    """A plot and its legend.

    Args:
        name: Its accessible name.
        x_scale: "linear"; "whole" for a count, without ticks between whole numbers; or "log".
        front: Drawn as steps between its points, in order of x.
        y_range: The y axis, beyond which nothing is drawn; by default values are in percent, and it covers their part of
            0 to 100.

    Raises:
        ValueError: There are no points, or an x on a logarithmic axis is not positive.
    """
    points = [point for one in series for point in one.points]
    if not points:
        raise ValueError("no points to draw")
    if x_scale == "log" and min(point.x for point in points) <= 0:
        raise ValueError("a logarithmic axis takes positive numbers only")
    x_axis = _Axis.of([point.x for point in points], LEFT, WIDTH - RIGHT, x_scale)
    heights = [value for p in points for value in _reach(p.y, p.y_half)]
    heights += [value for level in levels for value in _reach(level.y, level.half)]
    low, high = y_range or (0.0, 100.0)
    shown = y_range or [min(max(height, low), high) for height in heights]
    y_axis = _Axis.of(shown, HEIGHT - BOTTOM, TOP, "linear", bounds=(low, high))
    parts = [_frame(x_axis, y_axis, x_label, y_label, (low, high))]
    parts += [_band(one, x_axis, y_axis) for one in series if one.band]
    parts += [_level(level, y_axis) for level in levels]
    parts += [_steps(front, x_axis, y_axis)] if front else []
    parts += [_series(one, x_axis, y_axis) for one in series]
    return Markup(
        '<div class="scroll" tabindex="0" role="group" aria-label="{name}">'
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{name}">{}</svg></div>{}'
    ).format(WIDTH, HEIGHT, Markup().join(parts), _legend(series, levels, bool(front)), name=one_line(name))


@dataclass(frozen=True)
class _Axis:
    """Values from `low` to `high` at places from `start` to `end`, in the units of the drawing."""

    low: float
    high: float
    start: float
    end: float
    scale: Scale

    @classmethod
    def of(
        cls, values: Sequence[float], start: float, end: float, scale: Scale, *,
        bounds: tuple[float, float] = (-math.inf, math.inf),
    ) -> _Axis:  # fmt: skip
        log = scale == "log"
        shown = [math.log10(value) if log else value for value in values]
        low, high = min(shown), max(shown)
        margin = 0.06 * (high - low) or (0.5 if log else 1.0)
        # A marker at a bound needs a little room.
        room = 0.01 * (bounds[1] - bounds[0]) if math.isfinite(bounds[1]) else 0.0
        return cls(max(low - margin, bounds[0] - room), min(high + margin, bounds[1] + room), start, end, scale)

    def at(self, value: float) -> float:
        shown = math.log10(value) if self.scale == "log" else value
        return self.start + (shown - self.low) / (self.high - self.low) * (self.end - self.start)

    def clipped(self, value: float) -> float:
        """As `at`, for the end of an interval, which may lie beyond the axis."""
        first, last = sorted((self.start, self.end))
        return min(max(self.at(value), first), last)

    def ticks(self) -> list[float]:
        """Round numbers on the axis, at most `MOST_TICKS` of them."""
        if self.scale != "log":
            return _round_numbers(self.low, self.high, 1.0 if self.scale == "whole" else 0.0)
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        for digits in ((1, 2, 5), (1, 3), (1,)):
            found = [d * 10.0**e for e in decades for d in digits if self.low <= math.log10(d) + e <= self.high]
            if 2 < len(found) <= MOST_TICKS:
                return found
        if len(found) <= 2:  # so little of a decade that its ticks are nearly even
            return _round_numbers(10.0**self.low, 10.0**self.high)
        return found[:: -(-len(found) // MOST_TICKS)]


def _round_numbers(low: float, high: float, smallest_step: float = 0.0) -> list[float]:
    rough = max((high - low) / MOST_TICKS, smallest_step)
    step = 10.0 ** math.floor(math.log10(rough))
    step *= next(factor for factor in (1, 2, 5, 10) if step * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{place * step:.10g}") for place in range(first, last + 1)]


def _reach(value: float, half: float) -> tuple[float, ...]:
    return (value,) if math.isnan(half) else (value - half, value, value + half)


def _number(value: float) -> str:
    return f"{value / 1000:,g}k" if abs(value) >= 1000 else f"{float(f'{value:.3g}'):.10g}"


def _frame(x_axis: _Axis, y_axis: _Axis, x_label: str, y_label: str, bounds: tuple[float, float]) -> Markup:
    line = Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>')
    text = Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
    low, high = bounds
    left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM
    parts = []
    for tick in x_axis.ticks():
        parts.append(line.format("grid", x_axis.at(tick), top, x_axis.at(tick), bottom))
        parts.append(text.format(x_axis.at(tick), bottom + 17, "middle", _number(tick)))
    for tick in y_axis.ticks():
        if low <= tick <= high:
            parts.append(line.format("grid", left, y_axis.at(tick), right, y_axis.at(tick)))
            parts.append(text.format(left - 6, y_axis.at(tick) + 4, "end", _number(tick)))
    parts.append(line.format("axis", left, bottom, right, bottom))
    parts.append(line.format("axis", left, top, left, bottom))
    parts.append(text.format((left + right) / 2, HEIGHT - 10, "middle", one_line(x_label)))
    turned = Markup('<text transform="translate(14 {:.1f}) rotate(-90)" text-anchor="middle">{}</text>')
    parts.append(turned.format((top + bottom) / 2, one_line(y_label)))
    return Markup().join(parts)


def _level(level: Level, y_axis: _Axis) -> Markup:
    band = Markup()
    if math.isfinite(level.half):
        top, bottom = (y_axis.clipped(level.y + sign * level.half) for sign in (1, -1))
        rectangle = Markup('<rect class="band" x="{}" y="{:.1f}" width="{}" height="{:.1f}"/>')
        band = rectangle.format(LEFT, top, WIDTH - LEFT - RIGHT, bottom - top)
    return Markup(
        '<g class="c{}">{}<line class="level" x1="{}" y1="{y:.1f}" x2="{}" y2="{y:.1f}"/><title>{}</title></g>'
    ).format(level.style % COLOURS, band, LEFT, WIDTH - RIGHT, one_line(level.label), y=y_axis.at(level.y))


def _steps(front: Sequence[tuple[float, float]], x_axis: _Axis, y_axis: _Axis) -> Markup:
    places = [(x_axis.at(x), y_axis.at(y)) for x, y in sorted(front)]
    path = f"M{places[0][0]:.1f} {places[0][1]:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in places[1:])
    return Markup('<path class="front" d="{}"/>').format(f"{path}H{WIDTH - RIGHT}")


def _band(one: Series, x_axis: _Axis, y_axis: _Axis) -> Markup:
    x = [x_axis.at(point.x) for point in one.points]
    lows, highs = ([y_axis.clipped(ends[side]) for ends in one.band] for side in (0, 1))
    corners = _joined([*zip(x, lows, strict=True), *reversed(list(zip(x, highs, strict=True)))])
    return Markup('<g class="c{}"><polygon class="band" points="{}"/></g>').format(one.style % COLOURS, corners)


def _joined(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _series(one: Series, x_axis: _Axis, y_axis: _Axis) -> Markup:
    line = Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>')
    parts = []
    places = [(x_axis.at(point.x), y_axis.clipped(point.y)) for point in one.points]
    if one.look != "paper" and len(places) > 1:
        parts.append(Markup('<polyline class="{}" points="{}"/>').format(_line_class(one), _joined(places)))
    for point, (x, y) in zip(one.points, places, strict=True):
        if one.look == "line" and point.title:  # a place to point at
            spot = Markup('<circle class="spot" cx="{:.1f}" cy="{:.1f}" r="{}"><title>{}</title></circle>')
            parts.append(spot.format(x, y, RADIUS, one_line(point.title)))
        if one.look in ("line", "faint"):
            continue
        marks = []
        if math.isfinite(point.y_half):
            low, high = (y_axis.clipped(point.y + sign * point.y_half) for sign in (-1, 1))
            marks.append(line.format(x, low, x, high))
        if point.ringed:
            marks.append(Markup('<circle class="ring" cx="{:.1f}" cy="{:.1f}" r="{}"/>').format(x, y, 1.9 * RADIUS))
        marks.append(_marker(one.style, x, y))
        group = Markup('<g class="point">{}<title>{}</title></g>')
        parts.append(group.format(Markup().join(marks), one_line(point.title)))
    return Markup('<g class="c{}{}">{}</g>').format(one.style % COLOURS, _LAYERS[one.look], Markup().join(parts))


_LAYERS: dict[Look, str] = {"": "", "hollow": " hollow", "paper": " hollow paper", "line": "", "faint": ""}


def _line_class(one: Series) -> str:
    return {"line": f"line d{one.style % COLOURS}", "faint": "faint"}.get(one.look, "joined")


def _marker(style: int, x: float, y: float) -> Markup:
    """One of eight shapes: with seven colours, 56 distinguishable styles."""
    # The angle and distance of each corner; none for a circle.
    shapes = (
        (), _even(4, 45, 1.1), _even(3, -90, 1.25), _even(4, 0, 1.25), _even(3, 90, 1.25), _even(5, -90, 1.2),
        _even(6, 0, 1.1), [corner for turn in range(5) for corner in ((72 * turn - 90, 1.4), (72 * turn - 54, 0.6))],
    )  # fmt: skip
    shape = shapes[style % len(shapes)]
    if not shape:
        return Markup('<circle class="mark" cx="{:.1f}" cy="{:.1f}" r="{}"/>').format(x, y, RADIUS - 0.5)
    turned = [(size * math.cos(math.radians(angle)), size * math.sin(math.radians(angle))) for angle, size in shape]
    corners = _joined([(x + RADIUS * right, y + RADIUS * down) for right, down in turned])
    return Markup('<polygon class="mark" points="{}"/>').format(corners)


def _even(number: int, first: float, size: float) -> list[tuple[float, float]]:
    return [(first + 360 / number * turn, size) for turn in range(number)]


def _legend(series: Sequence[Series], levels: Sequence[Level], with_front: bool) -> Markup:
    sample = Markup('<li class="{}"><svg viewBox="0 0 26 14" aria-hidden="true">{}</svg>{}</li>')
    line = Markup('<line class="{}" x1="0" y1="7" x2="26" y2="7"/>')
    parts = []
    for one in series:
        if one.look == "faint":
            continue
        drawn = line.format(_line_class(one)) if one.look != "paper" and len(one.points) > 1 else Markup()
        marker = Markup() if one.look == "line" else _marker(one.style, 13, 7)
        parts.append(sample.format(f"c{one.style % COLOURS}{_LAYERS[one.look]}", drawn + marker, one_line(one.label)))
    for level in levels:
        parts.append(sample.format(f"c{level.style % COLOURS}", line.format("level"), one_line(level.label)))
    if with_front:
        steps = Markup('<path class="front" d="M0 12H13V3H26"/>')
        parts.append(sample.format("", steps, "Pareto front: nothing is both cheaper and more accurate"))
    return Markup('<ul class="legend">{}</ul>').format(Markup().join(parts))
