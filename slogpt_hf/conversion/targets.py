"""Which transformers class computes a spec exactly, and how its tensors are named. A table.

Source of the pairing: every row was run and compared against the original (docs/parity.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from slogpt_hf.checkpoints.adapters import Adapter
from slogpt_hf.checkpoints.parts import Part
from slogpt_hf.checkpoints.spec import Spec
from slogpt_hf.conversion.operations import Operation, PairsToHalves, Shape, Transpose
from slogpt_hf.conversion.plan import Copy, Merge, Move, Plan, Zeros
from slogpt_hf.errors import CheckpointError

Config = dict[str, Any]
HIDDEN_ACTS = {  # what transformers calls them
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "relu2",
    "silu": "silu",
}


@dataclass(frozen=True)
class Target:
    """A transformers class and the names of its tensors.

    Attributes:
        class_name: what ``AutoModelForCausalLM`` instantiates.
        model_type: transformers' key for it.
        config: the architecture fields of ``config.json`` for a spec.
        outer: (module, role) outside the blocks; the head is ``lm_head``.
        blocks: prefix of block i, with ``{i}``.
        block: (module, role) inside a block.
        transposed: linear weights are stored (in, out).
        linear_bias: the class has these biases whether the spec does or not.
        norm_bias: likewise for the norms.
        modeling_file: name of the file shipped with the artefact; None for a stock class.
    """

    class_name: str
    model_type: str
    config: Callable[[Spec], Config]
    outer: tuple[tuple[str, str], ...]
    blocks: str
    block: tuple[tuple[str, str], ...]
    transposed: bool = False
    linear_bias: bool = False
    norm_bias: bool = False
    modeling_file: str | None = None


def _gpt2_config(spec: Spec) -> Config:
    return {
        "n_positions": spec.block_size,
        "n_embd": spec.n_embd,
        "n_layer": spec.n_layer,
        "n_head": spec.n_head,
        "n_inner": spec.n_hidden,
        "activation_function": HIDDEN_ACTS[spec.activation],
        "layer_norm_epsilon": spec.norm_eps,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }


def _sizes(spec: Spec) -> Config:
    return {
        "max_position_embeddings": spec.block_size,
        "hidden_size": spec.n_embd,
        "intermediate_size": spec.n_hidden,
        "num_hidden_layers": spec.n_layer,
        "num_attention_heads": spec.n_head,
    }


def _rotary_config(spec: Spec) -> Config:
    rope = {"rope_type": "default", "rope_theta": spec.rope_theta}
    return _sizes(spec) | {"num_key_value_heads": spec.n_kv_head, "rope_parameters": rope}


def _llama_config(spec: Spec) -> Config:
    return _rotary_config(spec) | {
        "head_dim": spec.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": spec.norm_eps,
        "attention_bias": spec.linear_bias,
        "mlp_bias": spec.linear_bias,
    }


def _arcee_config(spec: Spec) -> Config:
    return _llama_config(spec) | {"hidden_act": HIDDEN_ACTS[spec.activation]}


def _starcoder2_config(spec: Spec) -> Config:
    return _rotary_config(spec) | {
        "hidden_act": HIDDEN_ACTS[spec.activation],
        "norm_epsilon": spec.norm_eps,
        "use_bias": spec.linear_bias,
        "sliding_window": None,
    }


def _stablelm_config(spec: Spec) -> Config:
    config = _rotary_config(spec)
    config["rope_parameters"]["partial_rotary_factor"] = 1.0
    return config | {
        "partial_rotary_factor": 1.0,
        "hidden_act": "silu",
        "layer_norm_eps": spec.norm_eps,
        "use_qkv_bias": False,
    }


def _slogpt_config(spec: Spec) -> Config:
    module = "modeling_slogpt"
    return _sizes(spec) | {
        "positions": spec.positions,
        "norm": spec.norm,
        "norm_eps": spec.norm_eps,
        "mlp": {"plain": "gelu", "gated": "swiglu"}[spec.mlp],
        "bias": spec.linear_bias,
        "rope_theta": spec.rope_theta or 10_000.0,
        "auto_map": {
            "AutoConfig": f"{module}.SloGPTConfig",
            "AutoModel": f"{module}.SloGPTModel",
            "AutoModelForCausalLM": f"{module}.SloGPTForCausalLM",
        },
    }


LLAMA_OUTER = (("model.embed_tokens", "embed"), ("model.norm", "norm"))
LLAMA_ATTENTION = (
    ("input_layernorm", "norm1"),
    ("self_attn.q_proj", "attn.q"),
    ("self_attn.k_proj", "attn.k"),
    ("self_attn.v_proj", "attn.v"),
    ("self_attn.o_proj", "attn.out"),
    ("post_attention_layernorm", "norm2"),
)
LLAMA_GATED = (
    ("mlp.gate_proj", "mlp.gate"),
    ("mlp.up_proj", "mlp.up"),
    ("mlp.down_proj", "mlp.down"),
)
SLO_OUTER = (
    ("transformer.wte", "embed"),
    ("transformer.wpe", "positions"),
    ("transformer.ln_f", "norm"),
)
SLO_ATTENTION = (
    ("ln_1", "norm1"),
    ("attn.c_attn", "attn.qkv"),
    ("attn.c_proj", "attn.out"),
    ("ln_2", "norm2"),
)
SLO_PLAIN = (("mlp.c_fc", "mlp.up"), ("mlp.c_proj", "mlp.down"))
SLO_GATED = (("mlp.w1", "mlp.gate"), ("mlp.w3", "mlp.up"), ("mlp.w2", "mlp.down"))

GPT2 = Target(
    "GPT2LMHeadModel",
    "gpt2",
    _gpt2_config,
    SLO_OUTER,
    "transformer.h.{i}.",
    SLO_ATTENTION + SLO_PLAIN,
    transposed=True,
    linear_bias=True,
    norm_bias=True,
)
LLAMA = Target(
    "LlamaForCausalLM",
    "llama",
    _llama_config,
    LLAMA_OUTER,
    "model.layers.{i}.",
    LLAMA_ATTENTION + LLAMA_GATED,
)
STARCODER2 = Target(
    "Starcoder2ForCausalLM",
    "starcoder2",
    _starcoder2_config,
    LLAMA_OUTER,
    "model.layers.{i}.",
    (*LLAMA_ATTENTION, ("mlp.c_fc", "mlp.up"), ("mlp.c_proj", "mlp.down")),
    norm_bias=True,
)
STABLELM = Target(
    "StableLmForCausalLM",
    "stablelm",
    _stablelm_config,
    LLAMA_OUTER,
    "model.layers.{i}.",
    LLAMA_ATTENTION + LLAMA_GATED,
    norm_bias=True,
)
ARCEE = Target(
    "ArceeForCausalLM",
    "arcee",
    _arcee_config,
    LLAMA_OUTER,
    "model.layers.{i}.",
    (*LLAMA_ATTENTION, ("mlp.up_proj", "mlp.up"), ("mlp.down_proj", "mlp.down")),
)


def _slogpt(mlp: tuple[tuple[str, str], ...]) -> Target:
    return Target(
        "SloGPTForCausalLM",
        "slogpt",
        _slogpt_config,
        SLO_OUTER,
        "transformer.h.{i}.",
        SLO_ATTENTION + mlp,
        modeling_file="modeling_slogpt.py",
    )


SLOGPT = {"plain": _slogpt(SLO_PLAIN), "gated": _slogpt(SLO_GATED)}
NATIVE = {
    # (positions, norm, mlp, linear_bias)
    ("learned", "layernorm", "plain", False): GPT2,
    ("learned", "layernorm", "plain", True): GPT2,
    ("rotary", "rmsnorm", "gated", False): LLAMA,
    ("rotary", "rmsnorm", "gated", True): LLAMA,
    ("rotary", "layernorm", "plain", False): STARCODER2,
    ("rotary", "layernorm", "plain", True): STARCODER2,
    ("rotary", "layernorm", "gated", False): STABLELM,
    ("rotary", "rmsnorm", "plain", False): ARCEE,
    ("rotary", "rmsnorm", "plain", True): ARCEE,
}


def target_for(spec: Spec) -> Target:
    """The most native class that computes ``spec`` exactly.

    Raises:
        CheckpointError: none does, our own modeling file included.
    """
    key = (spec.positions, spec.norm, spec.mlp, spec.linear_bias)
    target = NATIVE.get(key) or SLOGPT[spec.mlp]
    if not_computed := list(_beyond(spec, target)):
        raise CheckpointError(
            f"No class computes a model with {' and '.join(not_computed)} exactly, so it is not "
            "converted.",
            hint="An approximation is never published. See docs/conversion.md.",
        )
    return target


def _beyond(spec: Spec, target: Target) -> Iterator[str]:
    """What of a spec the target's class would compute otherwise."""
    multipliers = ("embedding_multiplier", "residual_multiplier", "logit_multiplier")
    values = {name: getattr(spec, name) for name in multipliers}
    yield from (f"{name} {value:g}" for name, value in values.items() if value != 1.0)
    if spec.attention_multiplier is not None:
        yield f"attention_multiplier {spec.attention_multiplier:g}"
    usual = "silu" if spec.mlp == "gated" else "gelu"
    if spec.activation != usual and (spec.mlp == "gated" or target.modeling_file):
        yield f"activation {spec.activation} in {target.class_name}"
    if spec.n_kv_head != spec.n_head and (target is GPT2 or target.modeling_file):
        yield f"{spec.n_kv_head} key/value heads in {target.class_name}"
    if target.modeling_file and spec.rotary_pairs == "halves":
        yield f"rotary pairs of halves in {target.class_name}"


def config_for(spec: Spec, target: Target, dtype: str) -> Config:
    """The content of ``config.json``: no token id has a meaning that the vocabulary lacks."""
    return {
        "architectures": [target.class_name],
        "model_type": target.model_type,
        "vocab_size": spec.vocab_size,
        **target.config(spec),
        "tie_word_embeddings": spec.tied,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "dtype": dtype,
    }


def plan_for(
    spec: Spec, parts: Mapping[str, Part], target: Target, adapters: Mapping[str, Adapter]
) -> Plan:
    """The conversion of a checkpoint whose roles lie at ``parts`` into ``target``.

    Args:
        spec: the architecture.
        parts: role to place.
        target: the class and its names.
        adapters: weight to what is merged into it; empty for most checkpoints.
    """
    moves: list[Move] = []
    zeros: list[Zeros] = []

    def place(module: str, role: str) -> None:
        bare = role.split(".", 2)[-1] if role.startswith("blocks.") else role
        for kind in ("weight", "bias"):
            part = parts.get(f"{role}.{kind}")
            if part:
                operations = _operations(spec, target, bare, kind)
                moves.append(Move(f"{module}.{kind}", part.source, part.rows, operations))
            elif kind == "bias" and _wants_bias(target, bare):
                zeros.append(Zeros(f"{module}.bias", _bias_shape(spec, bare)))

    for module, role in target.outer:
        place(module, role)
    for i in range(spec.n_layer):
        for module, role in target.block:
            place(target.blocks.format(i=i) + module, f"blocks.{i}.{role}")
    head, embed = parts["head.weight"], parts["embed.weight"]
    copies = (Copy(head.source, embed.source),) if head != embed and spec.tied else ()
    if not spec.tied:
        moves.append(Move("lm_head.weight", head.source, head.rows))
    merges = tuple(Merge(source, adapter) for source, adapter in adapters.items())
    return Plan(tuple(moves), tuple(zeros), copies, merges)


def _operations(spec: Spec, target: Target, role: str, kind: str) -> tuple[Operation, ...]:
    if target.transposed and kind == "weight" and role.startswith(("attn", "mlp")):
        return (Transpose(),)
    if spec.rotary_pairs == "interleaved" and target.modeling_file is None:
        heads = {"attn.q": spec.n_head, "attn.k": spec.n_kv_head}.get(role)
        return (PairsToHalves(heads),) if heads else ()
    return ()


def _wants_bias(target: Target, role: str) -> bool:
    if role.startswith("norm"):
        return target.norm_bias
    return target.linear_bias and role.startswith(("attn", "mlp"))


def _bias_shape(spec: Spec, role: str) -> Shape:
    return ({"attn.qkv": 3 * spec.n_embd, "mlp.up": spec.n_hidden}.get(role, spec.n_embd),)
