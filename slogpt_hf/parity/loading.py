"""The artefact as its users will load it: ``from_pretrained`` from disk, without a network."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slogpt_hf.conversion.safetensors_layout import ITEM_SIZES
from slogpt_hf.conversion.shipped import SHIPPED
from slogpt_hf.conversion.targets import SLOGPT
from slogpt_hf.errors import CheckpointError, UsageError, first_line
from slogpt_hf.files import sha256_of
from slogpt_hf.progress import quiet_transformers

ADAPTER = "adapter_config.json"
OTHER_WEIGHTS = ("quantization_config", "transformers_weights")
OWN_MODELING_FILES = {t.modeling_file for t in SLOGPT.values() if t.modeling_file}


def stored_dtype(folder: Path) -> str:
    """The dtype that ``config.json`` names, e.g. ``float32``.

    Raises:
        UsageError: ``folder`` is no artefact.
        CheckpointError: its ``config.json`` is not one.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UsageError(
            f"{folder}: is not an artefact: it has no config.json.",
            hint="Name a folder that convert-model or save_pretrained wrote.",
        )
    try:
        config = json.loads(path.read_text("utf-8"))
        dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
    except (ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: is not a config.json ({error}).", hint="Convert the checkpoint again."
        ) from error
    if str(dtype) not in ITEM_SIZES:
        raise CheckpointError(
            f"{path}: dtype {dtype!r} is none of {', '.join(ITEM_SIZES)}.",
            hint="Convert the checkpoint again.",
        )
    return str(dtype)


def require_plain(folder: Path) -> None:
    """Raise unless the weights are what the safetensors files of the usual names hold.

    Raises:
        CheckpointError: ``config.json`` makes transformers load others, or quantise them.
    """
    if (folder / ADAPTER).is_file():
        raise CheckpointError(
            f"{folder}: holds {ADAPTER}, whose adapter is loaded into the model where peft is.",
            hint="Remove the file, or merge the adapter.",
        )
    for field in OTHER_WEIGHTS:
        if config_of(folder).get(field) is not None:
            raise CheckpointError(
                f"{folder / 'config.json'}: sets {field}, under which other weights are loaded.",
                hint="Only weights that are loaded as they are stored can be verified.",
            )


def load_artefact(folder: Path, dtype: torch.dtype, trust_remote_code: bool = False) -> nn.Module:
    """Load the artefact for inference, its weights upcast to ``dtype``.

    Raises:
        UsageError: it needs a modeling file that is not this package's and is not trusted.
        CheckpointError: it does not load, or its tensors are not exactly the model's.
    """
    from transformers import AutoModelForCausalLM

    stored_dtype(folder)
    code = runs_code(folder, trust_remote_code)
    with quiet_transformers():
        try:
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=code,
                output_loading_info=True,
            )
        except Exception as error:  # whatever a damaged artefact makes transformers raise
            raise CheckpointError(
                f"{folder}: transformers cannot load it ({first_line(error)}).",
                hint="Convert the checkpoint again.",
            ) from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(map(str, info[kind])):
            raise CheckpointError(
                f"{folder}: {kind.replace('_keys', ' tensors')}: {', '.join(names[:6])}"
                f"{f' and {len(names) - 6} more' if len(names) > 6 else ''}.",
                hint="transformers would fill them with random weights; convert it again.",
            )
    loaded: nn.Module = model.eval()
    return loaded


def import_class(folder: Path) -> None:
    """Import what ``load_artefact`` will need, where a clock is about to start."""
    import transformers

    names = config_of(folder).get("architectures")
    for name in names if isinstance(names, list) else ():
        with suppress(ImportError):  # load_artefact says what is wrong
            getattr(transformers, str(name), None)


def logits(model: nn.Module, ids: Tensor) -> Tensor:
    """Logits (B, T, V) of every position for ids (B, T)."""
    output: Tensor = model(input_ids=ids, use_cache=False).logits
    return output


def class_name(folder: Path) -> str | None:
    """The transformers class that ``config.json`` names; None if it names none or several."""
    names = config_of(folder).get("architectures")
    return str(names[0]) if isinstance(names, list) and len(names) == 1 else None


def config_of(folder: Path) -> dict[str, Any]:
    """The content of ``config.json``."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return config


def runs_code(folder: Path, trusted: bool) -> bool:
    """Whether transformers imports a modeling file: this package's own, or a trusted one.

    Raises:
        UsageError: it is neither.
        CheckpointError: it is not there.
    """
    auto_map = config_of(folder).get("auto_map")
    if not isinstance(auto_map, dict):
        return False
    # A reference is module.Class, or repo--module.Class for code that lies elsewhere.
    named = {f"{str(reference).rpartition('.')[0]}.py" for reference in auto_map.values()}
    for name in sorted(named & OWN_MODELING_FILES):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder}: lacks {name}, which its config.json names.",
                hint="Convert the checkpoint again.",
            )
    names = named | {path.name for path in folder.glob("*.py")}
    foreign = sorted(name for name in names if not _is_own(folder, name))
    if foreign and not trusted:
        raise UsageError(
            f"{folder}: brings code of its own ({', '.join(foreign)}).",
            hint="Read it, then pass --trust-remote-code to run it.",
        )
    return True


def _is_own(folder: Path, name: str) -> bool:
    return name in OWN_MODELING_FILES and sha256_of(folder / name) in SHIPPED


def compute_buffers(folder: Path, model: nn.Module) -> None:
    """Give buffers their values, as loading does: those of rotary tables follow from the config.

    Raises:
        CheckpointError: the class does it in a way that is not known here.
    """
    config: Any = model.config
    for name, module in list(model.named_modules()):
        if not any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            continue
        if not any(True for _ in module.parameters()) and not any(True for _ in module.children()):
            fresh = type(module)(config)
            module._buffers.update(dict(fresh.named_buffers(recurse=False)))
        elif not _initialises(model, module):
            raise CheckpointError(
                f"{folder}: {name} computes buffers in a way that is not known here.",
                hint="Please report this class; it cannot be verified layer by layer.",
            )


def _initialises(model: Any, module: nn.Module) -> bool:
    """Whether the class fills a module's buffers, whatever is in them, as loading lets it."""
    results = []
    for before in (0, 1):
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = torch.full_like(buffer, before, device="cpu")
        model._init_weights(module)
        results.append(list(module.buffers(recurse=False)))
    return all(torch.equal(a, b) for a, b in zip(*results, strict=True))
