"""The flat demonstration dict: recognised, and refused because it is no whole model.

Per layer it has ``ln_1``, ``attn_qkv``, ``attn_proj``, ``ln_2`` and one ``ffn`` matrix, where a
model needs two matrices and a nonlinearity between them: there is no function to reproduce.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from slogpt_hf.checkpoints.dialect import Unsupported
from slogpt_hf.checkpoints.fields import listed

LAYER = re.compile(r"layer_(\d{1,9})_")
LAYER_TENSORS = ("ln_1", "attn_qkv", "attn_proj", "ln_2", "ffn", "ffn_proj")
OUTER_TENSORS = (
    "token_embedding_table",
    "position_embedding_table",
    "final_layer_norm",
    "output_projection",
)


def reason(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What the dict lacks to be a model."""
    layers = sorted({int(found[1]) for name in shapes if (found := LAYER.match(name))})
    wanted = [f"layer_{i}_{name}" for i in layers for name in LAYER_TENSORS]
    missing = [name for name in (*OUTER_TENSORS, *wanted) if name not in shapes]
    return (
        f"has one MLP matrix (ffn) a layer and so no function to reproduce; missing: "
        f"{listed(missing, 12)}"
    )


DIALECT = Unsupported(
    name="demonstration",
    title="flat demonstration dict",
    mark="token_embedding_table",
    reason=reason,
    hint="It was written to show a file format. Release a checkpoint that a trainer saved.",
)
