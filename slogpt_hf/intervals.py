"""Times between looks, as people write and read them, and as failures make them longer."""

from __future__ import annotations

import re

from slogpt_hf.errors import UsageError

INTERVAL = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)\s*(s|m|h|d)?", re.ASCII)
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST_INTERVAL = 30 * 86400.0
FIRST_WAIT_SECONDS = 30.0  # after a failure
LONGEST_WAIT_SECONDS = 900.0  # after failures; the interval where that is longer


def seconds_of(text: str) -> float:
    """Seconds of an interval such as ``30s``, ``5m``, ``1h`` or ``1d``; without a unit seconds.

    Raises:
        UsageError: it is none, shorter than a second or longer than 30 days.
    """
    match = INTERVAL.fullmatch(text.strip())
    seconds = float(match[1]) * SECONDS[match[2] or "s"] if match else 0.0
    if not 1 <= seconds <= LONGEST_INTERVAL:
        raise UsageError(
            f"--interval {text[:40]!r} is no interval of 1 s to 30 d.", hint="Write e.g. 30s or 5m."
        )
    return seconds


def wait_after(failures: int, interval: float, chance: float) -> float:
    """Seconds to the next look after so many failures in a row.

    The first ones are short, for what passes soon; they double, up to 15 minutes or the interval.
    Of that, a half to all: daemons that fail together must not come back together.

    Args:
        failures: from 1.
        interval: of the daemon, in seconds.
        chance: from 0 to 1.
    """
    first = min(interval, FIRST_WAIT_SECONDS)
    longest = min(max(interval, LONGEST_WAIT_SECONDS), first * 2.0 ** min(failures - 1, 30))
    return longest * (0.5 + 0.5 * chance)


def spoken(seconds: float) -> str:
    """Seconds or minutes for a line."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
