"""The original as a model with the weights that its artefact must have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.parity.decoder import Decoder
from slogpt_hf.parity.families import FAMILIES
from slogpt_hf.parity.merging import Merged


class Rounded(Mapping[str, Tensor]):
    """Tensors in another dtype, each cast when it is asked for."""

    def __init__(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        self.tensors, self.dtype = tensors, dtype

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name].to(self.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def rounded(checkpoint: Checkpoint, dtype: torch.dtype) -> Decoder:
    """The original with its weights, adapters merged, in the artefact's dtype."""
    tensors: Mapping[str, Tensor] = checkpoint.tensors
    if checkpoint.adapters:
        tensors = Merged(tensors, checkpoint.adapters)
    return Decoder(FAMILIES[checkpoint.dialect], checkpoint.spec, Rounded(tensors, dtype))
