"""Tensors that are read when they are asked for, and known by shape and dtype before that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Stored:
    """A tensor that lies in a file.

    Attributes:
        shape: its dimensions.
        dtype: of what ``read`` gives, as torch names it, e.g. ``float32``.
        read: gives the tensor: a view of the mapped file where the file holds it as it is, else
            a tensor made anew by every call, that its caller lets go.
    """

    shape: Shape
    dtype: str
    read: Callable[[], Tensor] = field(repr=False, compare=False)


class Tensors(Mapping[str, "Tensor"]):
    """Name to tensor, each read when it is asked for; ``shapes`` and ``dtypes`` read none."""

    def __init__(self, stored: Mapping[str, Stored]) -> None:
        self.stored = dict(stored)

    def __getitem__(self, name: str) -> Tensor:
        return self.stored[name].read()

    def __contains__(self, name: object) -> bool:
        return name in self.stored  # Mapping's own would read it

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Name to shape."""
        return {name: stored.shape for name, stored in self.stored.items()}

    @cached_property
    def dtypes(self) -> dict[str, str]:
        """Name to dtype, e.g. ``float32``."""
        return {name: stored.dtype for name, stored in self.stored.items()}
