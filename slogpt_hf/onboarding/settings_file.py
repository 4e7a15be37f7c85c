"""The commented ``.slogpt-hf.yml``: every setting, what it means, and its value or default."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

from slogpt_hf.onboarding.rendering import flow, quoted, scalar
from slogpt_hf.onboarding.schema import address
from slogpt_hf.settings import NAMES, Settings

WIDTH = 98


def settings_file(settings: Settings, elsewhere: Collection[str] = (), place: str = "") -> str:
    """The text of a settings file.

    Args:
        settings: what it says; what equals the default is commented.
        elsewhere: settings that the CI's own file gives as well, which count more there.
        place: that file.
    """
    lines = [
        f"# yaml-language-server: $schema={address()}",
        "# Settings of slogpt-hf. Flags and SLOGPT_... variables count more than this file.",
    ]
    if elsewhere:
        names = ", ".join(name.replace("_", "-") for name in elsewhere)
        lines.append(f"# {place} gives these again, for the CI: {names}.")
    for name in NAMES:
        lines += ["", *_comment(NAMES[name].metadata["help"]), _line(name, settings)]
    return "\n".join(lines) + "\n"


def says_the_same(one: Settings, other: Settings) -> bool:
    """Whether two settings mean the same."""
    return one.given == other.given and replace(one, set=()) == replace(other, set=())


def _line(name: str, settings: Settings) -> str:
    value, default = getattr(settings, name), NAMES[name].default
    mark = "# " if value == default else ""
    return f"{mark}{name.replace('_', '-')}: {_written(name, value)}".rstrip()


def _written(name: str, value: Any) -> str:
    if name == "set":
        return quoted(" ".join(f"{key}={shown}" for key, shown in _given(value))) if value else "{}"
    return flow(value) if isinstance(value, tuple) else scalar(value)


def _given(items: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for item in items:
        name, _, value = item.partition("=")
        yield name.strip(), value.strip()


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, WIDTH, break_on_hyphens=False)]
