"""The classes of the table, and checkpoints that lead to them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from slogpt_hf.checkpoints import read_checkpoint
from slogpt_hf.conversion import plan_conversion, targets
from slogpt_hf.conversion.targets import Target
from slogpt_hf.errors import SloGPTError

SWITCHES = [
    dict(zip(("use_rope", "use_rmsnorm", "use_swiglu", "bias"), values, strict=True))
    for values in itertools.product((False, True), repeat=4)
]
# What model_args may have beside the switches: a new row of the table may need a new entry here.
MORE: list[dict[str, Any]] = [{}, {"n_kv_head": 1}, {"residual_multiplier": 0.5}]


def listed() -> list[Target]:
    """Every target of the table."""
    rows: Iterator[Any] = itertools.chain(targets.NATIVE.values(), targets.SLOGPT.values())
    found = itertools.chain.from_iterable((r,) if isinstance(r, Target) else r for r in rows)
    return list(found)


CLASSES = list(dict.fromkeys(target.class_name for target in listed()))


def arguments_of(slo_checkpoint: Callable[..., Path]) -> dict[str, dict[str, Any]]:
    """Name of a class to the first model_args that lead to it."""
    found: dict[str, dict[str, Any]] = {}
    for more, switches in itertools.product(MORE, SWITCHES):
        arguments = {"tied": False, **switches, **more}
        if len(found) == len(CLASSES):
            break
        try:
            target = plan_conversion(read_checkpoint(slo_checkpoint(**arguments))).target
        except SloGPTError:  # a combination that is no model, or not yet read
            continue
        found.setdefault(target.class_name, arguments)
    return found
