"""How much memory a conversion and its proof need, and how much there is.

The factors are measured, docs/measurements.md tells how: ``bench/run.py batch`` fails where one of
them is too small.
"""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.errors import UsageError
from slogpt_hf.parity.inputs import COVERABLE_IDS, COVERING_TOKENS, LONGEST
from slogpt_hf.settings import Settings

MIB = 1 << 20
RESIDENT = 320 * MIB  # of a process that imported torch and transformers
BASE = 48 * MIB
OF_BLOCK, OF_TOKENS, OF_VOCABULARY = 2.0, 24.0, 1.6  # times their size in float64
OF_TENSOR = 3.0  # times the largest in float32, where it is put together before it is written
OF_CLASS = 12  # bytes a parameter: the trainer's class, in float64 and in float32
SHARE = 0.8  # of the memory that is free; what is left keeps files in the page cache
MEMINFO = Path("/proc/meminfo")
CGROUPS = (  # limit and use: of cgroup v2, then of v1
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


def need_of(checkpoint: Checkpoint, settings: Settings) -> int:
    """Bytes of anonymous memory that converting and proving a checkpoint takes at most.

    It does not grow with the number of layers: weights are mapped, a block at a time is computed.
    """
    spec = checkpoint.spec
    width, hidden = spec.n_embd, max(spec.n_hidden, spec.n_embd)
    block = 4 * width * width + 3 * width * hidden
    covering = spec.vocab_size if spec.vocab_size <= COVERABLE_IDS else COVERING_TOKENS
    tokens = max(min(spec.block_size, LONGEST), covering) * max(width, hidden / 4)
    proof = OF_BLOCK * block + OF_TOKENS * tokens + OF_VOCABULARY * spec.vocab_size * width
    shapes = checkpoint.tensors.shapes.values()
    largest = max((math.prod(shape) for shape in shapes), default=0)
    need = BASE + max(8 * proof, 4 * OF_TENSOR * largest)
    if settings.reference not in (None, "none"):
        need += RESIDENT + OF_CLASS * checkpoint.n_parameters
    return int(need)


def free_memory() -> int:
    """Bytes that a batch may take where nobody says it.

    Raises:
        UsageError: the system does not say.
    """
    if (found := available()) is None:
        raise UsageError(
            "How much memory is free cannot be told here.", hint="Say it: --memory 8GB."
        )
    return int(found * SHARE)


def available() -> int | None:
    """Bytes of memory that are free, of the machine or the container; None if it does not say."""
    found = []
    with suppress(OSError, ValueError, StopIteration):
        lines = MEMINFO.read_text("ascii").splitlines()
        line = next(each for each in lines if each.startswith("MemAvailable:"))
        found.append(int(line.split()[1]) * 1024)
    for limit, used in CGROUPS:
        with suppress(OSError, ValueError):  # "max" where there is no limit
            found.append(max(0, int(limit.read_text("ascii")) - int(used.read_text("ascii"))))
    return min(found, default=None)
