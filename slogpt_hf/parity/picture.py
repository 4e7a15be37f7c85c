"""The proof as a picture: the error beside the rounding that the original itself does.

Two panels, by layer and by position, logarithmic. The band is what is allowed: 4 times the
original's own noise. A point in the band is rounding; one above it, in red, is a fault.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slogpt_hf.parity.claims import assumed, short_claim
from slogpt_hf.parity.stated import stated

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

WIDTH, HEIGHT = 1200, 460
SCALE = 2  # drawn larger, then made smaller: smooth lines
MARGIN, TOP, BOTTOM, GAP = 84, 118, 70, 70
RADIUS = 5
HEADINGS = (30, 26, 22, 18)  # sizes of the heading, the largest that fits
MOST_WORDS = 110  # characters of it
LEAST = 1e-12  # of a scale; an error of 0 lies on its floor
MOST_POINTS = 160
COLOURS = 128  # of the file, which then is a fifth of the size


@dataclass(frozen=True)
class Palette:
    """Colours of a picture."""

    page: str
    text: str
    faint: str
    grid: str
    band: str
    noise: str
    good: str
    bad: str


LIGHT = Palette(
    "#ffffff", "#1f2328", "#59636e", "#e4e7eb", "#d7f2df", "#7fc796", "#1a7f37", "#cf222e"
)
DARK = Palette(
    "#0d1117", "#f0f6fc", "#9198a1", "#262c36", "#12361f", "#3f9557", "#4ac26b", "#ff6a5e"
)
PALETTES = {"light": LIGHT, "dark": DARK}


@dataclass(frozen=True)
class Panel:
    """One of the two halves.

    Attributes:
        title: what the points are.
        labels: below the first, the middle and the last point.
        errors: of each point.
        bounds: of each point: 4 times the noise there.
        noises: of each point.
    """

    title: str
    labels: tuple[str, str, str]
    errors: Sequence[float]
    bounds: Sequence[float]
    noises: Sequence[float]


def draw(report: Mapping[str, Any], palette: Palette = LIGHT) -> bytes:
    """A parity report (``parity.json``) as a PNG of 1200 x 460 pixels."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), palette.page)
    canvas = ImageDraw.Draw(image)
    panels = panels_of(report)
    values = [v for p in panels for v in (*p.errors, *p.bounds, *p.noises) if _is_drawn(v)]
    low = math.floor(math.log10(max(LEAST, min(values, default=LEAST)))) - 0.3
    high = math.ceil(math.log10(max(LEAST, max(values, default=1.0)))) + 0.1
    _heading(canvas, report, palette)
    width = (WIDTH - 2 * MARGIN - GAP * (len(panels) - 1)) / max(1, len(panels))
    for i, panel in enumerate(panels):
        left = MARGIN + i * (width + GAP)
        _panel(canvas, panel, palette, (left, left + width), (low, high))
    small = image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    target = io.BytesIO()
    small.quantize(COLOURS).save(target, "PNG", optimize=True)
    return target.getvalue()


def panels_of(report: Mapping[str, Any]) -> list[Panel]:
    """The panels of a report; none where nothing was run."""
    panels = []
    layers = [layer for layer in report.get("layers") or () if isinstance(layer, Mapping)]
    if layers:
        last = len(layers) - 1
        names = [str(layer.get("name", "")) for layer in layers]
        labels = ("embedding", names[last // 2] if last > 2 else "", "final norm")
        panels.append(_panel_of("Residual stream, behind each layer", labels, layers))
    positions = [p for p in report.get("positions") or () if isinstance(p, Mapping)]
    if positions:
        ends = [positions[0].get("first"), positions[-1].get("last")]
        middle = positions[len(positions) // 2].get("first") if len(positions) > 2 else ""
        labels = (f"token {ends[0]}", f"{middle}", f"token {ends[1]}")
        panels.append(_panel_of("Logits, at each position", labels, positions))
    return panels


def _panel_of(title: str, labels: tuple[str, str, str], rows: list[Mapping[str, Any]]) -> Panel:
    errors = [_number(row.get("fp32_error")) for row in rows]
    noises = [_number(row.get("fp32_noise")) for row in rows]
    # As of the whole proof, the noise of one place alone may be luck.
    most = 4 * max((n for n in noises if math.isfinite(n)), default=math.nan)
    return Panel(title, labels, errors, [most] * len(rows), noises)


def _heading(canvas: ImageDraw.ImageDraw, report: Mapping[str, Any], palette: Palette) -> None:
    verdict = report.get("verdict")
    passed = verdict == "passed"
    words = _claim(report) if verdict in ("passed", "failed", "invalid") else "No verdict"
    colour = palette.good if passed else palette.bad
    _text(canvas, (MARGIN, 26), words, _fitting(canvas, words), colour)
    bound, error = report.get("fp64_bound"), report.get("fp64_error")
    caught = sum(
        isinstance(c, Mapping) and c.get("outcome") == "caught"
        for c in report.get("controls") or ()
    )
    told = [f"float64: {_shown(error)} of the largest logit (allowed: {_shown(bound)})"]
    told += [
        f"float32: {_shown(report.get('fp32_error'))} (allowed: {_shown(report.get('fp32_bound'))})"
    ]
    if caught:
        told.append(f"planted faults caught: {caught}")
    _text(canvas, (MARGIN, 66), "   ·   ".join(told), 17, palette.faint)


def _claim(report: Mapping[str, Any]) -> str:
    """What was proven; of what it rests on, as much as there is room for."""
    proof = stated(report)
    words = short_claim(proof)
    if proof.verdict == "passed" and proof.assumptions:
        words += f", assuming {assumed(proof)}"
    words = words[0].upper() + words[1:]
    return words if len(words) <= MOST_WORDS else f"{words[: MOST_WORDS - 1]}…"


def _fitting(canvas: ImageDraw.ImageDraw, words: str) -> int:
    """The size of a heading with which it fits."""
    room = (WIDTH - 2 * MARGIN) * SCALE
    fitting = (s for s in HEADINGS if canvas.textlength(words, font=_font(s * SCALE)) <= room)
    return next(fitting, HEADINGS[-1])


def _panel(
    canvas: ImageDraw.ImageDraw,
    panel: Panel,
    palette: Palette,
    across: tuple[float, float],
    decades: tuple[float, float],
) -> None:
    left, right = across
    floor = HEIGHT - BOTTOM
    low, high = decades

    def y(value: float) -> float:
        level = math.log10(value) if _is_drawn(value) else (high if math.isinf(value) else low)
        share = (min(max(level, low), high) - low) / (high - low)
        return floor - share * (floor - TOP)

    count = len(panel.errors)
    steps = [left + (right - left) * (i + 0.5) / count for i in range(count)]
    step = max(1, math.ceil((high - low) / 6))
    for decade in range(math.ceil(low), math.floor(high) + 1, step):
        height = y(10.0**decade)
        _line(canvas, [(left, height), (right, height)], palette.grid, 1)
        _text(canvas, (left - 10, height - 9), f"1e{decade}", 14, palette.faint, "ra")
    top = y(panel.bounds[0]) if panel.bounds else TOP
    _box(canvas, (left, top, right, floor), palette.band)
    _line(canvas, [(left, top), (right, top)], palette.noise, 2)
    _text(
        canvas,
        (right - 6, top + 5),
        "allowed: 4 x the original's own rounding",
        14,
        palette.noise,
        "ra",
    )
    _line(canvas, [(x, y(n)) for x, n in zip(steps, panel.noises, strict=True)], palette.noise, 2)
    shown = max(1, math.ceil(count / MOST_POINTS))
    for i in range(0, count, shown):
        error = max(panel.errors[i : i + shown], key=lambda e: math.inf if math.isnan(e) else e)
        good = error <= panel.bounds[i]
        _dot(canvas, (steps[i], y(error)), palette.good if good else palette.bad)
    _text(canvas, (left, TOP - 26), panel.title, 17, palette.text)
    for x, label, anchor in zip(
        (left, (left + right) / 2, right), panel.labels, ("la", "ma", "ra"), strict=True
    ):
        _text(canvas, (x, floor + 10), label, 14, palette.faint, anchor)
    legend = "points: error of the converted model in float32;  line: the original's rounding"
    _text(canvas, (left, floor + 34), legend, 13, palette.faint)


def _text(
    canvas: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    size: int,
    colour: str,
    anchor: str = "la",
) -> None:
    place = (at[0] * SCALE, at[1] * SCALE)
    canvas.text(place, text, fill=colour, font=_font(size * SCALE), anchor=anchor)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _line(
    canvas: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], colour: str, width: int
) -> None:
    canvas.line([(x * SCALE, y * SCALE) for x, y in points], fill=colour, width=width * SCALE)


def _box(
    canvas: ImageDraw.ImageDraw, corners: tuple[float, float, float, float], colour: str
) -> None:
    left, top, right, bottom = (value * SCALE for value in corners)
    if bottom > top:
        canvas.rectangle((left, top, right, bottom), fill=colour)


def _dot(canvas: ImageDraw.ImageDraw, at: tuple[float, float], colour: str) -> None:
    x, y, r = at[0] * SCALE, at[1] * SCALE, RADIUS * SCALE
    canvas.ellipse((x - r, y - r, x + r, y + r), fill=colour)


def _number(value: Any) -> float:
    """What JSON has of a number: null stands for one that is not finite."""
    return float(value) if isinstance(value, int | float) else math.inf


def _is_drawn(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _shown(value: Any) -> str:
    return f"{value:.1e}" if isinstance(value, int | float) else "–"
