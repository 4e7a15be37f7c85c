"""Which transformers class computes a spec exactly, and how its tensors are named. A table.

Source of the pairing: every row was run and compared against the original (docs/parity.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from slogpt_hf.checkpoints.adapters import Adapter
from slogpt_hf.checkpoints.parts import Part
from slogpt_hf.checkpoints.spec import Spec
from slogpt_hf.conversion import configs
from slogpt_hf.conversion.configs import Config
from slogpt_hf.conversion.operations import AppendRows, Operation, PairsToHalves, Shape, Transpose
from slogpt_hf.conversion.plan import Copy, Merge, Move, Plan, Zeros
from slogpt_hf.tokenizers.special import NO_SPECIAL, SpecialTokens


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
        no_linear_bias: the class cannot have all of them.
        kv_heads: how many key and value heads the class may have.
        multipliers: the class has those of a spec.
        head_written: a tied head is a tensor of its own too, since other programs look for one.
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
    no_linear_bias: bool = False
    kv_heads: Literal["any", "one", "all"] = "any"
    multipliers: bool = False
    head_written: bool = False
    modeling_file: str | None = None

    @property
    def linear(self) -> tuple[str, ...]:
        """The names of a block's matrices, as LoRA's ``target_modules`` takes them."""
        names = (name for name, role in self.block if not role.startswith("norm"))
        return tuple(dict.fromkeys(name.rpartition(".")[2] for name in names))

    @property
    def stacked(self) -> bool:
        """Whether q, k and v are one matrix."""
        return any(role == "attn.qkv" for _, role in self.block)

    def computes(self, spec: Spec, stacked: bool) -> bool:
        """Whether the class computes a spec of its positions, norm and MLP exactly.

        ``stacked`` says of the checkpoint that it holds q, k and v in one matrix.
        """
        heads = {"any": spec.n_kv_head, "one": 1, "all": spec.n_head}
        return (
            spec.n_kv_head == heads[self.kv_heads]
            and (self.multipliers or not has_multipliers(spec))
            and not (self.no_linear_bias and spec.linear_bias)
            and (stacked or not self.stacked)
        )


def has_multipliers(spec: Spec) -> bool:
    """Whether something is scaled as plain transformers do not."""
    others = (spec.embedding_multiplier, spec.residual_multiplier, spec.logit_multiplier)
    return spec.attention_multiplier is not None or any(each != 1.0 for each in others)


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
SLO_STACK = (("attn.c_attn", "attn.qkv"),)
SLO_APART = (("attn.q_proj", "attn.q"), ("attn.k_proj", "attn.k"), ("attn.v_proj", "attn.v"))
SLO_BLOCK = (("ln_1", "norm1"), ("attn.c_proj", "attn.out"), ("ln_2", "norm2"))
SLO_PLAIN = (("mlp.c_fc", "mlp.up"), ("mlp.c_proj", "mlp.down"))
SLO_GATED = (("mlp.w1", "mlp.gate"), ("mlp.w3", "mlp.up"), ("mlp.w2", "mlp.down"))

GPT2 = Target(
    "GPT2LMHeadModel",
    "gpt2",
    configs.gpt2_config,
    SLO_OUTER,
    "transformer.h.{i}.",
    SLO_STACK + SLO_BLOCK + SLO_PLAIN,
    transposed=True,
    linear_bias=True,
    norm_bias=True,
    kv_heads="all",
)
BIGCODE = Target(
    "GPTBigCodeForCausalLM",
    "gpt_bigcode",
    configs.bigcode_config,
    SLO_OUTER,
    "transformer.h.{i}.",
    SLO_STACK + SLO_BLOCK + SLO_PLAIN,
    linear_bias=True,
    norm_bias=True,
    kv_heads="one",
)
LLAMA = Target(
    "LlamaForCausalLM",
    "llama",
    configs.llama_config,
    LLAMA_OUTER,
    "model.layers.{i}.",
    LLAMA_ATTENTION + LLAMA_GATED,
)
GRANITE = Target(
    "GraniteForCausalLM",
    "granite",
    configs.granite_config,
    LLAMA_OUTER,
    "model.layers.{i}.",
    LLAMA_ATTENTION + LLAMA_GATED,
    multipliers=True,
)
STARCODER2 = Target(
    "Starcoder2ForCausalLM",
    "starcoder2",
    configs.starcoder2_config,
    LLAMA_OUTER,
    "model.layers.{i}.",
    (*LLAMA_ATTENTION, ("mlp.c_fc", "mlp.up"), ("mlp.c_proj", "mlp.down")),
    norm_bias=True,
)
STABLELM = Target(
    "StableLmForCausalLM",
    "stablelm",
    configs.stablelm_config,
    LLAMA_OUTER,
    "model.layers.{i}.",
    LLAMA_ATTENTION + LLAMA_GATED,
    norm_bias=True,
    no_linear_bias=True,
    head_written=True,
)
ARCEE = Target(
    "ArceeForCausalLM",
    "arcee",
    configs.llama_config,
    LLAMA_OUTER,
    "model.layers.{i}.",
    (*LLAMA_ATTENTION, ("mlp.up_proj", "mlp.up"), ("mlp.down_proj", "mlp.down")),
)


def _slogpt(qkv: tuple[tuple[str, str], ...], mlp: tuple[tuple[str, str], ...]) -> Target:
    return Target(
        "SloGPTForCausalLM",
        "slogpt",
        lambda spec: configs.slogpt_config(spec) | {"stacked_qkv": qkv == SLO_STACK},
        SLO_OUTER,
        "transformer.h.{i}.",
        qkv + SLO_BLOCK + mlp,
        multipliers=True,
        modeling_file="modeling_slogpt.py",
    )


SLOGPT = {
    # (MLP, whether q, k and v are one matrix)
    ("plain", True): _slogpt(SLO_STACK, SLO_PLAIN),
    ("plain", False): _slogpt(SLO_APART, SLO_PLAIN),
    ("gated", True): _slogpt(SLO_STACK, SLO_GATED),
    ("gated", False): _slogpt(SLO_APART, SLO_GATED),
}
NATIVE: Mapping[tuple[str, str, str], tuple[Target, ...]] = {
    # (positions, norm, mlp) to the classes for some of them, the plainest first
    ("learned", "layernorm", "plain"): (GPT2, BIGCODE),
    ("rotary", "rmsnorm", "gated"): (LLAMA, GRANITE),
    ("rotary", "layernorm", "plain"): (STARCODER2,),
    ("rotary", "layernorm", "gated"): (STABLELM,),
    ("rotary", "rmsnorm", "plain"): (ARCEE,),
}


def target_for(spec: Spec, stacked: bool = True) -> Target:
    """The most native class that computes ``spec`` exactly.

    Args:
        spec: the architecture, of which ``impossible`` finds nothing.
        stacked: the checkpoint holds q, k and v in one matrix.
    """
    candidates = NATIVE.get((spec.positions, spec.norm, spec.mlp), ())
    own = SLOGPT[spec.mlp, stacked]
    return next((target for target in candidates if target.computes(spec, stacked)), own)


def holds_stack(parts: Mapping[str, Part]) -> bool:
    """Whether a checkpoint holds q, k and v in one matrix."""
    return "blocks.0.attn.qkv.weight" in parts


def config_for(
    spec: Spec, target: Target, dtype: str, special: SpecialTokens = NO_SPECIAL
) -> Config:
    """The content of ``config.json``: no token id has a meaning that nobody asked for."""
    config = {
        "architectures": [target.class_name],
        "model_type": target.model_type,
        "vocab_size": spec.vocab_size + len(special.appended),
        **target.config(spec),
        "tie_word_embeddings": spec.tied,
        **{f"{role}_token_id": special.ids.get(role) for role in ("bos", "eos", "pad")},
        "dtype": dtype,
    }
    return config | configs.earlier_words(config)


def plan_for(
    spec: Spec,
    parts: Mapping[str, Part],
    target: Target,
    adapters: Mapping[str, Adapter],
    appended: int = 0,
) -> Plan:
    """The conversion of a checkpoint whose roles lie at ``parts`` into ``target``.

    Args:
        spec: the architecture.
        parts: role to place.
        target: the class and its names.
        adapters: weight to what is merged into it; empty for most checkpoints.
        appended: rows of embedding and head that the original does not have.
    """
    behind: tuple[Operation, ...] = (AppendRows(appended),) if appended else ()
    moves: list[Move] = []
    zeros: list[Zeros] = []

    def place(module: str, role: str) -> None:
        bare = role.split(".", 2)[-1] if role.startswith("blocks.") else role
        for kind in ("weight", "bias"):
            part = parts.get(f"{role}.{kind}")
            if part:
                operations = _operations(spec, target, bare, kind)
                operations += behind if bare == "embed" else ()
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
    repeats: tuple[Move, ...] = ()
    if not spec.tied:
        moves.append(Move("lm_head.weight", head.source, head.rows, behind))
    elif target.head_written:
        repeats = (Move("lm_head.weight", embed.source, embed.rows, behind),)
    merges = tuple(Merge(source, adapter) for source, adapter in adapters.items())
    return Plan(tuple(moves), tuple(zeros), copies, merges, repeats)


def _operations(spec: Spec, target: Target, role: str, kind: str) -> tuple[Operation, ...]:
    if target.transposed and kind == "weight" and role.startswith(("attn", "mlp")):
        return (Transpose(),)
    # The modeling file rotates as the original does.
    if spec.rotary_pairs == "interleaved" and target.modeling_file is None:
        heads = {"attn.q": spec.n_head, "attn.k": spec.n_kv_head}.get(role)
        return (PairsToHalves(heads),) if heads else ()
    return ()


def _wants_bias(target: Target, role: str) -> bool:
    if role.startswith("norm"):
        return target.norm_bias
    return target.linear_bias and role.startswith(("attn", "mlp"))


def _bias_shape(spec: Spec, role: str) -> Shape:
    rows = spec.n_embd + 2 * spec.n_kv_head * spec.head_dim
    return ({"attn.qkv": rows, "mlp.up": spec.n_hidden}.get(role, spec.n_embd),)
