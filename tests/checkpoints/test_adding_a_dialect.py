"""The walk-through of docs/adding-a-dialect.md works as it is written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from slogpt_hf.checkpoints import read_checkpoint, reader
from slogpt_hf.conversion import plan_conversion, write_model
from slogpt_hf.errors import CheckpointError
from slogpt_hf.parity import families
from slogpt_hf.parity.gate import verify_artefact

DOC = Path(__file__).parents[2] / "docs" / "adding-a-dialect.md"


def state_dict(bias: bool) -> dict[str, torch.Tensor]:
    """What the imagined trainer saves: 2 blocks of width 8."""
    linears = {"q": (8, 8), "k": (4, 8), "v": (4, 8), "o": (8, 8)}
    linears |= {"gate": (12, 8), "up": (12, 8), "down": (8, 12)}
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": (7, 8), "unembed.weight": (7, 8)}
    shapes["out_norm.weight"] = (8,)
    for i in range(2):
        for name, shape in linears.items():
            shapes[f"trunk.{i}.{name}.weight"] = shape
            if bias:
                shapes[f"trunk.{i}.{name}.bias"] = shape[:1]
        shapes |= {f"trunk.{i}.norm_{kind}.weight": (8,) for kind in "ab"}
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("bias", [False, True])
def test_the_dialect_of_the_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bias: bool
) -> None:
    path = tmp_path / "tiny.pt"
    config = {"n_head": 4, "block_size": 6, "use_bias": bias}
    torch.save({"model": state_dict(bias), "config": config}, path)
    with pytest.raises(CheckpointError, match="of no known dialect"):
        read_checkpoint(path)

    module, family = re.findall(r"```python\n(.*?)```", DOC.read_text(), re.DOTALL)
    names: dict[str, Any] = {"Family": families.Family}
    exec(compile(module, "tiny.py", "exec", dont_inherit=True), names)
    exec(compile(family, "families.py", "exec", dont_inherit=True), names)
    monkeypatch.setattr(reader, "DIALECTS", (*reader.DIALECTS, names["DIALECT"]))
    monkeypatch.setitem(families.FAMILIES, "tiny", names["TINY"])

    checkpoint = read_checkpoint(path)
    assert checkpoint.dialect == "tiny"
    assert (checkpoint.spec.n_kv_head, checkpoint.spec.linear_bias) == (2, bias)
    folder = tmp_path / "artefact"
    folder.mkdir()
    write_model(checkpoint, plan_conversion(checkpoint), folder)
    assert verify_artefact(checkpoint, folder).passed
