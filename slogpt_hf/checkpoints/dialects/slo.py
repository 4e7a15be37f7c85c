"""The Slo dialect: ``ckpt.pt`` of the nanoGPT-like trainer, sixteen architectures.

Layout (nanoGPT ``train.py``): ``{'model', 'optimizer', 'model_args', 'iter_num',
'best_val_loss', 'config'}``. Plain nanoGPT is the case of all switches off.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slogpt_hf.checkpoints.dialect import Architecture, Dialect
from slogpt_hf.checkpoints.fields import Fields
from slogpt_hf.checkpoints.parts import Names
from slogpt_hf.checkpoints.spec import Spec

SWITCHES = ("use_rope", "use_swiglu", "use_rmsnorm", "bias")
SIZES = ("n_layer", "n_head", "n_embd", "vocab_size", "block_size")
LAYERNORM_EPS, RMSNORM_EPS = 1e-5, 1e-6
POSITIONS, GATE = "transformer.wpe.weight", "transformer.h.0.mlp.w1.weight"
NORM_BIAS, LINEAR_BIAS = "transformer.ln_f.bias", "transformer.h.0.attn.c_attn.bias"


def architecture(fields: Fields) -> Architecture:
    """The switches; where ``model_args`` has none of a name that switch is off, as in nanoGPT.

    A bare state dict tells positions, MLP and biases by its names, but not which norm it has:
    LayerNorm without biases and RMSNorm have the same tensors.
    """
    saved_by_trainer = isinstance(fields.value.get("model_args"), Mapping)

    def switch(name: str, seen: bool | None) -> bool:
        recorded = fields.flag(name)
        if recorded is not None:
            return recorded
        if saved_by_trainer and name != "bias":
            return False
        if seen is None:
            fields.missing.append(name)
        return bool(seen)

    has_norm_bias = NORM_BIAS in fields.shapes
    bias = switch("bias", LINEAR_BIAS in fields.shapes)
    rmsnorm = switch("use_rmsnorm", False if has_norm_bias else True if bias else None)
    rope = switch("use_rope", POSITIONS not in fields.shapes)
    gated = switch("use_swiglu", GATE in fields.shapes)
    return Architecture(
        positions="rotary" if rope else "learned",
        norm="rmsnorm" if rmsnorm else "layernorm",
        mlp="gated" if gated else "plain",
        activation="silu" if gated else "gelu",
        linear_bias=bias,
        norm_bias=bias and not rmsnorm,
        rotary_pairs="interleaved" if rope else None,
        norm_eps=RMSNORM_EPS if rmsnorm else LAYERNORM_EPS,
    )


def names(architecture: Architecture | Spec, fields: Fields | None = None) -> Names:
    """The modules of a Slo model."""
    learned = {"positions": "transformer.wpe"} if architecture.positions == "learned" else {}
    gated = {"mlp.gate": "mlp.w1", "mlp.up": "mlp.w3", "mlp.down": "mlp.w2"}
    plain = {"mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
    return Names(
        outer={"embed": "transformer.wte"}
        | learned
        | {"norm": "transformer.ln_f", "head": "lm_head"},
        blocks="transformer.h.{i}.",
        block={
            "norm1": "ln_1",
            "norm2": "ln_2",
            "attn.qkv": "attn.c_attn",
            "attn.out": "attn.c_proj",
        }
        | (gated if architecture.mlp == "gated" else plain),
    )


DIALECT = Dialect(
    name="slo",
    title="Slo",
    mark="transformer.wte.weight",
    architecture=architecture,
    names=names,
    switches=SWITCHES,
    # nanoGPT on PyTorch before 2.0 saves its causal mask.
    constants=r"transformer\.h\.\d+\.attn\.(?:bias|masked_bias)",
)


def spec_from_model_args(args: Mapping[str, Any]) -> Spec:
    """The architecture that a trainer's whole ``model_args`` describe; the head is tied."""
    found = architecture(Fields(Path("model_args"), {"model_args": args}, {}))
    sizes = {name: args[name] for name in SIZES}
    return found.spec(tied=True, n_kv_head=sizes["n_head"], n_hidden=4 * sizes["n_embd"], **sizes)
