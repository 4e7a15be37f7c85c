"""The Slo dialect: ``ckpt.pt`` of the nanoGPT-like trainer, sixteen architectures.

Layout (nanoGPT ``train.py``): ``{'model', 'optimizer', 'model_args', 'iter_num',
'best_val_loss', 'config'}``. Plain nanoGPT is the case of all switches off.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slogpt_hf.checkpoints.dialect import Architecture, Dialect
from slogpt_hf.checkpoints.fields import ALIASES, Fields
from slogpt_hf.checkpoints.function import said_of_norm, said_of_word, says_gated
from slogpt_hf.checkpoints.parts import Names
from slogpt_hf.checkpoints.spec import Activation, Spec
from slogpt_hf.errors import UsageError

SWITCHES = ("use_rope", "use_swiglu", "use_rmsnorm", "bias")
SIZES = ("n_layer", "n_head", "n_embd", "vocab_size", "block_size")
LAYERNORM_EPS, RMSNORM_EPS = 1e-5, 1e-6
POSITIONS, GATE = "transformer.wpe.weight", "transformer.h.0.mlp.w1.weight"
NO_BIAS_KEY = (
    "model_args without 'bias' are of nanoGPT before 27 January 2023, which had the tanh GELU"
)
MASKS = (
    "a file with causal masks and without the setting 'bias' is of minGPT or of the first nanoGPT, "
    "which have the tanh GELU"
)
BUILD_NANOGPT = "'config', 'step' and 'val_loss' are of build-nanogpt, which has the tanh GELU"
MASKS_OF_A_LATER_FILE = (
    "nanoGPT since 17 May 2023 has it; this file keeps causal masks, as most did before 5 March "
    "2023, when it was the tanh approximation"
)
DOUBTS = {
    "activation": "nanoGPT since 17 May 2023 has it; nanoGPT before, minGPT and build-nanogpt have "
    "the tanh approximation",
    "norm": "LayerNorm without biases and RMSNorm have the same tensors; nanoGPT has LayerNorm",
    "norm_eps": "it is what the family's model.py fixes; no checkpoint records it",
    "rotary_pairs": "it is what Slo's model.py does; forks of nanoGPT also rotate halves",
    "rope_theta": "it is what the family's model.py fixes; forks vary it",
    "attention_multiplier": "nanoGPT has it; forks for muP have 1/d",
    "embedding_multiplier": "nanoGPT has none; forks for muP have one",
    "logit_multiplier": "nanoGPT has none; forks for muP have one",
}
GATED_BY_SILU = "it is what Slo's model.py does; forks also gate with a GELU"
NORM_BIAS, LINEAR_BIAS = "transformer.ln_f.bias", "transformer.h.0.attn.c_attn.bias"


def architecture(fields: Fields) -> Architecture:
    """The switches; where ``model_args`` has none of a name that switch is off, as in nanoGPT.

    A bare state dict tells positions, MLP and biases by its names, but not which norm it has:
    LayerNorm without biases and RMSNorm have the same tensors.
    """
    saved_by_trainer = isinstance(fields.value.get("model_args"), Mapping)

    def switch(name: str, said: bool | None, seen: bool | None) -> bool:
        recorded = fields.flag(name)
        if recorded is None:
            recorded = said
        if recorded is not None:
            return recorded
        if saved_by_trainer and name != "bias":
            return False
        if seen is None:
            fields.missing.append(name)
        return bool(seen)

    norm, positions = said_of_norm(fields), said_of_word(fields, "positions")
    has_norm_bias = NORM_BIAS in fields.shapes
    if norm and norm.value == "rmsnorm" and norm.given and has_norm_bias:
        raise UsageError(
            f"{norm.where}: but its norms have biases, which is LayerNorm.", hint="Leave it out."
        )
    bias = switch("bias", None, LINEAR_BIAS in fields.shapes)
    rmsnorm = (
        norm.value == "rmsnorm"
        if norm
        else switch("use_rmsnorm", None, False if has_norm_bias else True if bias else None)
    )
    rope = switch(
        "use_rope",
        positions.value == "rotary" if positions else None,
        POSITIONS not in fields.shapes,
    )
    gated = switch("use_swiglu", says_gated(fields) or None, GATE in fields.shapes)
    gelu, why = _gelu(fields, saved_by_trainer)
    why = GATED_BY_SILU if gated else why
    return Architecture(
        positions="rotary" if rope else "learned",
        norm="rmsnorm" if rmsnorm else "layernorm",
        mlp="gated" if gated else "plain",
        activation="silu" if gated else gelu,
        linear_bias=bias,
        norm_bias=bias and not rmsnorm,
        rotary_pairs="interleaved" if rope else None,
        norm_eps=RMSNORM_EPS if rmsnorm else LAYERNORM_EPS,
        why={"activation": why} if why else {},
    )


def _gelu(fields: Fields, saved_by_trainer: bool) -> tuple[Activation, str]:
    """The GELU that a file's age tells, and how; what to say where it does not tell."""
    masks = any(name.endswith(".attn.bias") for name in fields.constants)
    has_biases = NORM_BIAS in fields.shapes and LINEAR_BIAS in fields.shapes
    if fields.all_recorded(*ALIASES["bias"]):
        return "gelu", MASKS_OF_A_LATER_FILE if masks else ""
    if not has_biases or any(map(fields.recorded, SWITCHES[:3])):
        return "gelu", ""
    if saved_by_trainer:
        return "gelu_tanh", NO_BIAS_KEY
    if masks:
        return "gelu_tanh", MASKS
    config = fields.value.get("config")
    sizes = isinstance(config, Mapping) and all(size in config for size in SIZES)
    if sizes and "step" in fields.value and "val_loss" in fields.value:
        return "gelu_tanh", BUILD_NANOGPT
    return "gelu", ""


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
    doubts=DOUBTS,
)


def spec_from_model_args(args: Mapping[str, Any]) -> Spec:
    """The architecture that a trainer's whole ``model_args`` describe; the head is tied."""
    found = architecture(Fields(Path("model_args"), {"model_args": args}, {}))
    sizes = {name: args[name] for name in SIZES}
    return found.spec(tied=True, n_kv_head=sizes["n_head"], n_hidden=4 * sizes["n_embd"], **sizes)
