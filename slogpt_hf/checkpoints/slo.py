"""The Slo dialect: ``ckpt.pt`` of the nanoGPT-like trainer, sixteen architectures.

Layout (nanoGPT ``train.py``): ``{'model', 'optimizer', 'model_args', 'iter_num',
'best_val_loss', 'config'}``, some with a vocabulary (``stoi``, ``itos``, ``chars``) at the top or
in ``config`` or ``meta``. The optimizer's tensors stay on the disk.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slogpt_hf.checkpoints.checkpoint import Checkpoint, TrainingFacts
from slogpt_hf.checkpoints.parts import Part
from slogpt_hf.checkpoints.spec import Spec
from slogpt_hf.datasets.vocabulary import Vocabulary
from slogpt_hf.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

NAME = "slo"
WRAPPERS = re.compile(r"^(?:_orig_mod\.|module\.)+")
CAUSAL_MASK = re.compile(r"^transformer\.h\.\d+\.attn\.(?:bias|masked_bias)$")
BLOCK = re.compile(r"^transformer\.h\.(\d+)\.")
NO_EVALUATION_YET = 1e9  # the trainer's initial best_val_loss
LARGEST_COUNT = 2**53  # whole numbers below are exact as floats
LAYERNORM_EPS, RMSNORM_EPS, ROPE_THETA = 1e-5, 1e-6, 10_000.0
SWITCHES = ("use_rope", "use_swiglu", "use_rmsnorm")
LINEARS = {
    "gelu": {
        "attn.qkv": "attn.c_attn",
        "attn.out": "attn.c_proj",
        "mlp.up": "mlp.c_fc",
        "mlp.down": "mlp.c_proj",
    },
    "swiglu": {
        "attn.qkv": "attn.c_attn",
        "attn.out": "attn.c_proj",
        "mlp.gate": "mlp.w1",
        "mlp.up": "mlp.w3",
        "mlp.down": "mlp.w2",
    },
}
VOCABULARY_KEYS = ("itos", "stoi", "chars")
FLOAT_DTYPES = ("float32", "float16", "bfloat16", "float64")


def recognises(content: Any) -> bool:
    """Whether an unpickled file holds Slo's tensors under ``model``."""
    model = content.get("model") if isinstance(content, Mapping) else None
    return isinstance(model, Mapping) and any(
        isinstance(name, str) and WRAPPERS.sub("", name) == "transformer.wte.weight"
        for name in model
    )


def read(path: Path, content: Mapping[str, Any]) -> Checkpoint:
    """Read a Slo checkpoint from the content of its file.

    Raises:
        CheckpointError: a tensor is missing, unknown, of a wrong shape or dtype, or a field of
            ``model_args`` is missing or contradicts the tensors.
    """
    tensors = _weights(path, content["model"])
    args = content.get("model_args")
    if not isinstance(args, Mapping):
        raise CheckpointError(
            f"{path}: has no model_args, so n_head is not recorded.",
            hint="Save the checkpoint with its model_args, as the trainer does.",
        )
    spec = spec_from_model_args(path, args, tensors)
    _check_tensors(path, spec, tensors)
    dtype = _dtype(path, tensors)
    spec = replace(spec, tied=_same(tensors["lm_head.weight"], tensors["transformer.wte.weight"]))
    vocabulary, vocabulary_notes = _vocabulary(path, content)
    return Checkpoint(
        path=path,
        dialect=NAME,
        spec=spec,
        tensors=tensors,
        parts=parts(spec),
        dtype=dtype,
        facts=_facts(content),
        vocabulary=vocabulary,
        notes=_notes(spec) + vocabulary_notes,
    )


def tensor_shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Every tensor of a Slo state dict and its shape; linear weights are (out, in)."""
    n, hidden = spec.n_embd, spec.n_hidden
    weights: dict[str, tuple[int, ...]] = {
        "embed": (spec.vocab_size, n),
        "positions": (spec.block_size, n),
        "head": (spec.vocab_size, n),
        "attn.qkv": (3 * n, n),
        "attn.out": (n, n),
        "mlp.gate": (hidden, n),
        "mlp.up": (hidden, n),
        "mlp.down": (n, hidden),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for role, part in parts(spec).items():
        if part.rows is None:
            module, kind = re.sub(r"^blocks\.\d+\.", "", role).rsplit(".", 1)
            shape = weights.get(module, (n,))
            shapes[part.source] = shape if kind == "weight" else shape[:1]
    return shapes


def parts(spec: Spec) -> dict[str, Part]:
    """Role to place for every weight of a Slo model; q, k and v also as rows of the stack."""
    linear_kinds = ("weight", "bias") if spec.linear_bias else ("weight",)
    norm_kinds = ("weight", "bias") if spec.norm_bias else ("weight",)
    places = {"embed.weight": Part("transformer.wte.weight")}
    if spec.positions == "learned":
        places["positions.weight"] = Part("transformer.wpe.weight")
    for i in range(spec.n_layer):
        for role, name in (("norm1", "ln_1"), ("norm2", "ln_2")):
            for kind in norm_kinds:
                places[f"blocks.{i}.{role}.{kind}"] = Part(f"transformer.h.{i}.{name}.{kind}")
        for role, name in LINEARS[spec.mlp].items():
            for kind in linear_kinds:
                places[f"blocks.{i}.{role}.{kind}"] = Part(f"transformer.h.{i}.{name}.{kind}")
        for third, role in enumerate(("attn.q", "attn.k", "attn.v")):
            rows = (third * spec.n_embd, (third + 1) * spec.n_embd)
            for kind in linear_kinds:
                stack = f"transformer.h.{i}.attn.c_attn.{kind}"
                places[f"blocks.{i}.{role}.{kind}"] = Part(stack, rows)
    for kind in norm_kinds:
        places[f"norm.{kind}"] = Part(f"transformer.ln_f.{kind}")
    return places | {"head.weight": Part("lm_head.weight")}


def _weights(path: Path, model: Mapping[str, Any]) -> dict[str, Tensor]:
    import torch

    tensors: dict[str, Tensor] = {}
    for name, tensor in model.items():
        problem = ""
        if not isinstance(name, str):
            problem = f"has a {type(name).__name__} for a name"
        elif not isinstance(tensor, torch.Tensor):
            problem = f"is a {type(tensor).__name__}, not a tensor"
        elif tensor.layout != torch.strided or tensor.is_meta:
            kind = "meta" if tensor.is_meta else str(tensor.layout).removeprefix("torch.")
            problem = f"is a {kind} tensor, not a plain one"
        if problem:
            raise CheckpointError(
                f"{path}: model[{_shown(name)}] {problem}.",
                hint="Save model.state_dict() and nothing else under 'model'.",
            )
        bare = WRAPPERS.sub("", name)
        if bare in tensors:
            raise CheckpointError(
                f"{path}: model holds {_listed([bare])} twice, with and without a prefix.",
                hint="Save the state dict of one model only.",
            )
        # nanoGPT on PyTorch before 2.0 saves its causal mask: a constant, not a weight.
        if not CAUSAL_MASK.match(bare):
            tensors[bare] = tensor.detach()
    return tensors


def spec_from_model_args(
    path: Path, args: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Spec:
    """The architecture that a trainer's ``model_args`` describe.

    Args:
        path: the file that messages name.
        args: ``model_args``; a switch that is missing is off.
        tensors: the state dict; tells whether there are biases where ``args`` does not.

    Raises:
        CheckpointError: a size is missing or impossible.
    """
    for name in ("n_layer", "n_head", "n_embd", "block_size", "vocab_size"):
        value = args.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CheckpointError(
                f"{path}: model_args.{name} is {_shown(value)}, not a positive whole number.",
                hint="Save the checkpoint with the model_args that it was trained with.",
            )
    n_layer, n_head, n_embd = args["n_layer"], args["n_head"], args["n_embd"]
    if n_embd % n_head:
        raise CheckpointError(
            f"{path}: model_args.n_embd {n_embd} is no multiple of model_args.n_head {n_head}.",
            hint="Save the checkpoint with the model_args that it was trained with.",
        )
    for name in (*SWITCHES, "bias"):
        value = args.get(name, False)
        if not isinstance(value, int) or value not in (0, 1):
            raise CheckpointError(
                f"{path}: model_args.{name} is {_shown(value)}, neither True nor False.",
                hint="Save the checkpoint with the model_args that it was trained with.",
            )
    rope, swiglu, rmsnorm = (bool(args.get(switch, False)) for switch in SWITCHES)
    bias = bool(args.get("bias", "transformer.h.0.attn.c_attn.bias" in tensors))
    if rope and (n_embd // n_head) % 2:
        raise CheckpointError(
            f"{path}: rotary positions need an even head size, but n_embd {n_embd} / n_head "
            f"{n_head} is {n_embd // n_head}.",
            hint="Save the checkpoint with the model_args that it was trained with.",
        )
    return Spec(
        positions="rotary" if rope else "learned",
        norm="rmsnorm" if rmsnorm else "layernorm",
        mlp="swiglu" if swiglu else "gelu",
        linear_bias=bias,
        norm_bias=bias and not rmsnorm,
        n_layer=n_layer,
        n_head=n_head,
        n_kv_head=n_head,
        n_embd=n_embd,
        n_hidden=4 * n_embd,
        vocab_size=args["vocab_size"],
        block_size=args["block_size"],
        norm_eps=RMSNORM_EPS if rmsnorm else LAYERNORM_EPS,
        tied=True,
        rope_theta=ROPE_THETA if rope else None,
        rotary_pairs="interleaved" if rope else None,
    )


def _check_tensors(path: Path, spec: Spec, tensors: Mapping[str, Tensor]) -> None:
    if spec.n_layer > len(tensors):
        raise CheckpointError(
            f"{path}: model_args.n_layer is {spec.n_layer}, but the file holds only "
            f"{len(tensors)} tensors.",
            hint="Save the checkpoint with the model_args that it was trained with.",
        )
    expected = tensor_shapes(spec)
    missing = [name for name in expected if name not in tensors]
    unknown = [name for name in tensors if name not in expected]
    problems = [f"missing: {_listed(missing)}"] if missing else []
    problems += [f"not known to a Slo model: {_listed(unknown)}"] if unknown else []
    if problems:
        blocks = {int(match[1]) for name in tensors if (match := BLOCK.match(name))}
        switches = ", ".join(
            f"{name}={value}"
            for name, value in (
                ("n_layer", spec.n_layer),
                ("use_rope", spec.positions == "rotary"),
                ("use_swiglu", spec.mlp == "swiglu"),
                ("use_rmsnorm", spec.norm == "rmsnorm"),
                ("bias", spec.linear_bias),
            )
        )
        raise CheckpointError(
            f"{path}: its tensors do not make the model of its model_args ({switches}): "
            f"{'; '.join(problems)}.",
            hint=f"The file holds {len(blocks)} blocks; compare model_args with the trainer's.",
        )
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(tensors[name].shape)}, expected {shape} from "
                "model_args.",
                hint="Compare model_args with the trainer's settings.",
            )


def _shown(value: Any, most: int = 60) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= most else f"{text[:most]}..."


def _listed(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    shown = (name if name.isprintable() else _shown(name) for name in names[:most])
    return ", ".join(shown) + more


def _dtype(path: Path, tensors: Mapping[str, Tensor]) -> str:
    by_dtype = {str(tensor.dtype).removeprefix("torch."): name for name, tensor in tensors.items()}
    for dtype, name in by_dtype.items():
        if dtype not in FLOAT_DTYPES:
            raise CheckpointError(
                f"{path}: {name} has dtype {dtype}, expected one of {', '.join(FLOAT_DTYPES)}.",
                hint="Save the floating-point weights, not a quantised copy.",
            )
    if len(by_dtype) > 1:
        found = ", ".join(f"{dtype} ({name})" for dtype, name in by_dtype.items())
        raise CheckpointError(
            f"{path}: its tensors have different dtypes: {found}.",
            hint="Save the whole model in one dtype.",
        )
    return next(iter(by_dtype))


def _same(a: Tensor, b: Tensor) -> bool:
    import torch

    same_place = a.data_ptr() == b.data_ptr() and a.stride() == b.stride()
    return same_place or torch.equal(a, b)


def _facts(content: Mapping[str, Any]) -> TrainingFacts:
    config = content.get("config")
    settings = (
        {str(k): v for k, v in config.items() if isinstance(v, str | int | None) or _finite(v)}
        if isinstance(config, Mapping)
        else {}
    )
    role = content["model_args"].get("role")
    loss, step = _number(content.get("best_val_loss")), _number(content.get("iter_num"))
    dataset = settings.get("dataset")
    return TrainingFacts(
        step=None if step is None else int(step),
        val_loss=None if loss is None or loss >= NO_EVALUATION_YET else loss,
        dataset=dataset if isinstance(dataset, str) else None,
        settings=settings | ({"role": role} if isinstance(role, str) else {}),
    )


def _vocabulary(
    path: Path, content: Mapping[str, Any]
) -> tuple[Vocabulary | None, tuple[str, ...]]:
    """The vocabulary that the file holds, if any; a note where it holds one that is none."""
    for name in ("", "config", "meta"):
        place = content.get(name) if name else content
        if not isinstance(place, Mapping) or not place.keys() & VOCABULARY_KEYS:
            continue
        itos, stoi, chars = (place.get(key) for key in VOCABULARY_KEYS)
        if itos is None and stoi is None:
            itos = list(chars) if isinstance(chars, str) else chars
        # The settings' vocab_size is the model's number of rows, which may be padded.
        vocab_size = None if name == "config" else place.get("vocab_size")
        try:
            return Vocabulary.from_tables(itos, stoi, vocab_size, str(path)), ()
        except CheckpointError as error:
            reason = error.message.removeprefix(f"{path}: ")
            return None, (f"The vocabulary in the checkpoint is not used: {reason}",)
    return None, ()


def _number(value: Any) -> float | None:
    """A plain or 0-d tensor number; None for anything else, NaN and infinities included."""
    import torch

    if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_meta:
        value = value.item()
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST_COUNT:
        value = float(value)
    return value if _finite(value) else None


def _finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _notes(spec: Spec) -> tuple[str, ...]:
    kind = "RMSNorm" if spec.norm == "rmsnorm" else "LayerNorm"
    eps = f"{kind} eps {spec.norm_eps:g} is the family's default; no checkpoint records it."
    if spec.rope_theta is None:
        return (eps,)
    return (eps, f"Rotary theta {spec.rope_theta:g} is the family's; no checkpoint records it.")
