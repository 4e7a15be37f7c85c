"""Float64 all the way: lifts the float32 casts that models keep inside norms and rotary tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class Float64Everywhere(TorchFunctionMode):
    """While active, whatever asks torch for float32 gets float64.

    Models cast to float32 inside RMSNorm, softmax and rotary tables, which limits a float64 run
    to about 1e-7. Building and running a model under this mode lifts those casts without
    knowing the model.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run ``func`` with every float32 among its arguments replaced by float64."""
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        lifted = tuple(torch.float64 if a is torch.float32 else a for a in args)
        named = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        return func(*lifted, **named)
