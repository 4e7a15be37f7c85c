"""The picture of the proof: a PNG that shows the verdict, whatever the report holds."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from PIL import Image

from slogpt_hf.parity.picture import DARK, LIGHT, PALETTES, Palette, draw, panels_of

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def report(layers: int = 14, positions: int = 64, **facts: Any) -> dict[str, Any]:
    """A report like ``parity.json``, in which errors are half of the noise."""
    names = ["embedding and positions", *(f"layer {i}" for i in range(layers - 2)), "final norm"]
    return {
        "verdict": "passed",
        "fp64_error": 1e-15,
        "fp64_bound": 1e-10,
        "fp32_error": 1e-6,
        "fp32_bound": 8e-6,
        "layers": [
            {"name": name, "fp64_error": 1e-15, "fp32_error": 1e-6, "fp32_noise": 2e-6}
            for name in names[:layers]
        ],
        "positions": [
            {"first": 16 * i, "last": 16 * i + 15, "fp32_error": 1e-6, "fp32_noise": 2e-6}
            for i in range(positions)
        ],
        "controls": [{"name": "x", "outcome": "caught", "error": 1.0}],
    } | facts


def opened(content: bytes) -> Image.Image:
    assert content.startswith(SIGNATURE) and len(content) < 200_000
    image = Image.open(io.BytesIO(content)).convert("RGB")
    assert image.size == (1200, 460)
    return image


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def count(image: Image.Image, colour: str, top: int = 100) -> int:
    """Pixels of about a colour below the heading."""
    wanted = rgb(colour)
    body = image.crop((0, top, *image.size))
    colours = body.getcolors(1 << 20) or []
    return sum(
        n
        for n, value in colours
        if isinstance(value, tuple)
        and max(abs(a - b) for a, b in zip(value, wanted, strict=True)) < 24
    )


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
def test_passed_is_green_and_has_no_red(palette: Palette) -> None:
    image = opened(draw(report(), palette))
    assert count(image, palette.good) > 500
    assert count(image, palette.bad, top=0) == 0
    assert image.getpixel((2, 2)) == rgb(palette.page)
    assert count(image, palette.band) > 10_000


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
def test_failed_has_a_red_dot_where_the_fault_is(palette: Palette) -> None:
    content = report(verdict="failed")
    content["layers"][-1]["fp32_error"] = 1e-2
    image = opened(draw(content, palette))
    assert 30 < count(image, palette.bad) < 200
    assert count(image.crop((0, 0, 1200, 100)), palette.bad, top=0) > 500
    left, right = (image.crop((x, 0, x + 600, 460)) for x in (0, 600))
    assert count(left, palette.bad) > 0 and count(right, palette.bad) == 0


def test_light_and_dark_differ() -> None:
    assert draw(report(), LIGHT) != draw(report(), DARK)
    assert draw(report()) == draw(report(), LIGHT) == draw(report())


def test_one_fault_among_thousands_of_layers_is_still_red() -> None:
    content = report(layers=5000, positions=64, verdict="failed")
    content["layers"][3333]["fp32_error"] = 1.0
    assert count(opened(draw(content)), LIGHT.bad) > 30


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_an_error_that_is_not_finite_is_red(value: float | None) -> None:
    content = report(verdict="failed", fp32_error=None, fp64_error=None, fp32_bound=None)
    content["layers"][5]["fp32_error"] = value
    assert count(opened(draw(content)), LIGHT.bad) > 30


@pytest.mark.parametrize(
    "facts",
    [
        {"verdict": "invalid"},
        {"verdict": None},
        {"verdict": 7, "controls": None},
        {"layers": [], "positions": []},
        {"layers": None, "positions": None, "controls": [1, None]},
        {"layers": [], "verdict": "failed"},
        {"positions": []},
        {"layers": [{}], "positions": [{}]},
        {"layers": [None, "x", {"name": "a", "fp32_error": "b", "fp32_noise": []}]},
        {"fp32_error": True, "fp64_error": "1e-3", "fp64_bound": []},
        {"layers": [{"name": "x", "fp32_error": 0.0, "fp32_noise": 0.0}] * 2},
        {"layers": [{"name": "x", "fp32_error": -1.0, "fp32_noise": 1e300}] * 3},
        {"positions": [{"first": None, "last": {}, "fp32_error": None, "fp32_noise": None}] * 3},
    ],
    ids=str,
)
def test_whatever_a_report_holds_there_is_a_picture(facts: dict[str, Any]) -> None:
    opened(draw(report() | facts))
    opened(draw(facts))


@pytest.mark.parametrize(
    "name", ["<script>" * 50, "\x00\x07\x1b[31m", "層" * 300, "\ud800", "‮abc", "a\nb\nc"]
)
def test_hostile_names_are_drawn_or_left_out(name: str) -> None:
    content = report()
    for layer in content["layers"]:
        layer["name"] = name
    opened(draw(content))


def test_panels_hold_what_the_report_says() -> None:
    content = report(layers=4, positions=3)
    content["layers"][1]["fp32_noise"] = 5e-6
    layers, positions = panels_of(content)
    assert list(layers.errors) == [1e-6] * 4 and list(layers.bounds) == [2e-5] * 4
    assert list(positions.bounds) == [8e-6] * 3
    assert positions.labels == ("token 0", "16", "token 47")
    assert panels_of({}) == []
