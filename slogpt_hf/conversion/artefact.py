"""The artefact: the folder that ``from_pretrained`` loads."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from slogpt_hf.checkpoints import Checkpoint, Spec
from slogpt_hf.conversion.configs import impossible
from slogpt_hf.conversion.plain_writer import write_weights_plain
from slogpt_hf.conversion.plan import Plan
from slogpt_hf.conversion.safetensors_layout import ITEM_SIZES
from slogpt_hf.conversion.targets import Target, config_for, holds_stack, plan_for, target_for
from slogpt_hf.conversion.writer import write_weights
from slogpt_hf.errors import CheckpointError, UsageError
from slogpt_hf.libraries import installed
from slogpt_hf.tokenizers.special import NO_SPECIAL, SpecialTokens

DEFAULT_SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True)
class Artefact:
    """A converted model.

    Attributes:
        folder: what ``from_pretrained`` loads.
        target_class: the transformers class, e.g. ``LlamaForCausalLM``.
        remote_code: the class ships with the artefact and needs ``trust_remote_code=True``.
        dtype: dtype of the weights.
        n_parameters: parameters; a tied head counts once.
        linear: names of a block's matrices.
    """

    folder: Path
    target_class: str
    remote_code: bool
    dtype: str
    n_parameters: int
    linear: tuple[str, ...]


@dataclass(frozen=True)
class Conversion:
    """A checkpoint's way into transformers format, before anything is written.

    Attributes:
        target: the class.
        plan: to its tensors.
        dtype: of the artefact.
        n_bytes: of its weights.
        special: ids that play a role.
    """

    target: Target
    plan: Plan
    dtype: str
    n_bytes: int
    special: SpecialTokens = NO_SPECIAL


def plan_conversion(
    checkpoint: Checkpoint, dtype: str | None = None, special: SpecialTokens = NO_SPECIAL
) -> Conversion:
    """Which class takes the checkpoint, by which plan, and how many bytes of weights it makes.

    Args:
        checkpoint: what to convert.
        dtype: dtype of the artefact; None keeps the checkpoint's.
        special: ids that play a role; for those that are appended there will be rows.

    Raises:
        UsageError: ``dtype`` is not one that safetensors and transformers share.
        CheckpointError: what is recorded, or was given, is together no model.
    """
    dtype = dtype or checkpoint.dtype
    if dtype not in ITEM_SIZES:
        raise UsageError(f"dtype {dtype!r} is not one of {', '.join(ITEM_SIZES)}.")
    if reason := impossible(checkpoint.spec):
        raise CheckpointError(
            f"{checkpoint.path}: no model has this architecture: {reason}.",
            hint="Correct what is recorded, or what --set says.",
        )
    target = target_for(checkpoint.spec, holds_stack(checkpoint.parts))
    appended = len(special.appended)
    plan = plan_for(checkpoint.spec, checkpoint.parts, target, checkpoint.adapters, appended)
    shapes = plan.target_shapes(checkpoint.tensors.shapes)
    n_bytes = sum(math.prod(shape) for shape in shapes.values()) * ITEM_SIZES[dtype]
    return Conversion(target, plan, dtype, n_bytes, special)


def write_model(
    checkpoint: Checkpoint,
    conversion: Conversion,
    folder: Path,
    *,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    advance: Callable[[int], None] = lambda n_bytes: None,
) -> Artefact:
    """Write config, weights and, where no stock class fits, the modeling file into ``folder``.

    Raises:
        CheckpointError: a weight is NaN or infinite, or the plan does not fit the checkpoint.
    """
    target = conversion.target
    write = write_weights if find_spec("torch") else write_weights_plain
    write(
        conversion.plan,
        checkpoint.tensors,
        folder,
        dtype=conversion.dtype,
        max_shard_bytes=max_shard_bytes,
        advance=advance,
    )
    special = conversion.special
    config = config_for(checkpoint.spec, target, conversion.dtype, special)
    here = installed().get("transformers")
    written_for = {"transformers_version": here} if here else {}
    _write_json(folder / "config.json", config | written_for)
    token_ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    never = {"suppress_tokens": list(special.appended)} if special.appended else {}
    _write_json(folder / "generation_config.json", token_ids | never)
    if target.modeling_file:
        shutil.copyfile(
            Path(__file__).with_name(target.modeling_file), folder / target.modeling_file
        )
    return Artefact(
        folder=folder,
        target_class=target.class_name,
        remote_code=target.modeling_file is not None,
        dtype=conversion.dtype,
        n_parameters=checkpoint.n_parameters + _appended_parameters(checkpoint.spec, special),
        linear=target.linear,
    )


def _appended_parameters(spec: Spec, special: SpecialTokens) -> int:
    tables = 1 if spec.tied else 2
    return len(special.appended) * spec.n_embd * tables


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
