"""Memory that was freed, back to the system: an allocator keeps it where something lies behind it.

What stays between two blocks (a cache of keys and values) lies behind the weights of the first,
so that the second's find no room there. A model larger than memory would not be verified.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

SLACK = 256 << 20  # bytes that may come together
STATM = Path("/proc/self/statm")  # of Linux: proc(5)


class Growth:
    """Gives freed memory back when this process has grown by SLACK since it last did."""

    def __init__(self) -> None:
        self.before = anonymous()

    def check(self) -> None:
        """Look, and give back if it is time."""
        if anonymous() > self.before + SLACK:
            give_back()
            self.before = anonymous()


def give_back() -> None:
    """Let the allocator of glibc give back what it can: malloc_trim(3). Elsewhere nothing."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def anonymous() -> int:
    """Bytes of this process that are in memory and in no file; 0 where the system does not say."""
    try:
        _, resident, shared, *_ = STATM.read_text("ascii").split()
    except OSError:
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
