"""What the parts of a training repository's model give, by hooks at the names of its family."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from slogpt_hf.parity.families import FAMILIES

PARTS = ("norm 1", "attention", "norm 2", "MLP")


@contextmanager
def traced(model: nn.Module, dialect: str) -> Iterator[dict[str, Tensor]]:
    """What parts of the model give in the first pass of the block, filled while it runs.

    ``embedding`` is what enters the first block; ``N`` what block N gives (from 0) and ``N NAME``
    one of its PARTS; ``norm`` what enters the head. A class without a module of that name has none.
    """
    found: dict[str, Tensor] = {}
    handles: list[Any] = []

    def keep(name: str, _: Any, given: Any, output: Any = None) -> None:
        value = given if output is None else output
        value = value[0] if isinstance(value, tuple | list) and value else value
        if isinstance(value, Tensor) and name not in found:
            found[name] = value.detach().clone()

    if dialect in FAMILIES:
        modules = dict(model.named_modules())
        for name, module in _places(dialect, modules).items():
            if name == "embedding":
                handles.append(module.register_forward_pre_hook(partial(keep, name)))
            else:
                handles.append(module.register_forward_hook(partial(keep, name)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _places(dialect: str, modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
    family = FAMILIES[dialect]
    names = {"embedding": family.blocks.format(i=0).rstrip("."), "norm": family.norm}
    i = 0
    while (block := family.blocks.format(i=i)).rstrip(".") in modules:
        names[str(i)] = block.rstrip(".")
        attention = family.out.rpartition(".")[0]
        mlp = next(iter(family.mlp.values()))[0].rpartition(".")[0]
        inner = dict(zip(PARTS, (family.norm1, attention, family.norm2, mlp), strict=True))
        names |= {f"{i} {part}": block + inner[part] for part in PARTS}
        i += 1
    return {name: modules[path] for name, path in names.items() if path in modules}
