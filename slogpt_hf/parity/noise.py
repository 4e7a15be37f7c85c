"""The rounding noise of the original, drawn more than once.

One run shows one draw of it. Where few positions are run, and one of them is ill-conditioned (a
stream that nearly cancels before the final norm), that draw may be small by luck.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from slogpt_hf.parity.comparing import absolute_error, run_of
from slogpt_hf.parity.decoder import Decoder
from slogpt_hf.parity.inputs import Inputs

DRAWS = 16
SEED = 20260102


def redrawn_noise(original: Decoder, batches: Sequence[Inputs]) -> float:
    """max |original in float32 - original in float64| over DRAWS runs that round otherwise.

    In each the residual stream is nudged behind every layer, each value by up to one ulp: less
    than a layer's own rounding.

    Args:
        original: the model whose rounding it is, e.g. with weights in the artefact's dtype.
        batches: to run.
    """
    generator = torch.Generator().manual_seed(SEED)
    vocabulary = original.spec.vocab_size

    def nudged(x: Tensor) -> Tensor:
        share = 2 * torch.rand(x.shape, generator=generator) - 1
        return x * (1 + torch.finfo(torch.float32).eps * share)

    worst = 0.0
    for batch in batches:
        exact = run_of(original, batch.ids, torch.float64)
        for _ in range(DRAWS):
            again = run_of(original, batch.ids, torch.float32, nudged)
            worst = max(worst, absolute_error(vocabulary, again, exact)[0])
    return worst
