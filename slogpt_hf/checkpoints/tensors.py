"""Tensors that are read when they are asked for, and known by shape and dtype before that.

Their values come as numpy arrays, so that whoever looks at a few of them needs no torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

Shape = tuple[int, ...]

# Dtypes that numpy does not have, and its name for their bits.
BITS = {
    "bfloat16": "uint16",
    "complex32": "uint32",
    **dict.fromkeys(("float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"), "uint8"),
    **dict.fromkeys(("float8_e4m3fnuz", "float8_e5m2fnuz"), "uint8"),
}


@dataclass(frozen=True)
class Stored:
    """A tensor that lies in a file.

    Attributes:
        shape: its dimensions.
        dtype: as torch names it, e.g. ``float32``.
        values: gives the values, in ``numpy_dtype(dtype)``: a view of the mapped file where the
            file holds them as they are, else an array made anew by every call, that its caller
            lets go. Two that are equal give the same bytes of the same file.
    """

    shape: Shape
    dtype: str
    values: Callable[[], npt.NDArray[Any]] = field(repr=False, compare=False)

    def read(self) -> Tensor:
        """The tensor, in the memory of ``values``; do not write to it."""
        import torch

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            tensor = torch.as_tensor(self.values())
        dtype: torch.dtype = getattr(torch, self.dtype)
        return tensor if tensor.dtype == dtype else tensor.view(dtype)

    def item(self) -> bool | int | float | complex:
        """The value of a tensor that has one.

        Raises:
            ValueError: it has another number of values.
        """
        if self.dtype in BITS and self.dtype != "bfloat16":
            return self.read().item()  # torch alone knows what the bits mean
        value: bool | int | float | complex = widened(self.values(), self.dtype).item()
        return value


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


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """The numpy dtype that holds values of a torch dtype, or their bits."""
    import numpy as np

    return np.dtype(BITS.get(dtype, dtype))


def widened(values: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    """``values`` as numbers that numpy knows: those of bfloat16 as float32, exactly."""
    import numpy as np

    if dtype != "bfloat16":
        return values
    return (values.astype(np.uint32) << 16).view(np.float32)
