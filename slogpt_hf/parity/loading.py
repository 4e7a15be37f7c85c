"""The artefact as its users will load it: ``from_pretrained`` from disk, without a network."""

from __future__ import annotations

import json
from contextlib import suppress
from filecmp import cmp as same_content
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slogpt_hf.conversion.safetensors_layout import ITEM_SIZES
from slogpt_hf.conversion.targets import SLOGPT
from slogpt_hf.errors import CheckpointError, UsageError, first_line
from slogpt_hf.parity.comparing import Halves
from slogpt_hf.progress import quiet_transformers

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


def load_artefact(folder: Path, dtype: torch.dtype, trust_remote_code: bool = False) -> nn.Module:
    """Load the artefact for inference, its weights upcast to ``dtype``.

    Raises:
        UsageError: it needs a modeling file that is not this package's and is not trusted.
        CheckpointError: it does not load, or its tensors are not exactly the model's.
    """
    from transformers import AutoModelForCausalLM

    stored_dtype(folder)
    runs_code = _runs_code(folder, trust_remote_code)
    with quiet_transformers():
        try:
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=runs_code,
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

    names = _config(folder).get("architectures")
    for name in names if isinstance(names, list) else ():
        with suppress(ImportError):  # load_artefact says what is wrong
            getattr(transformers, str(name), None)


def splits(model: nn.Module, probe: Tensor) -> bool:
    """Whether the head, applied to what is before it, gives the whole model's logits bit for bit.

    Users call the whole model, and one may do more than that, such as scaling its logits.

    Args:
        model: the loaded artefact.
        probe: ids (B, T) to run both ways.
    """
    head: nn.Module | None = model.get_output_embeddings()  # type: ignore[operator]
    if head is None or model.base_model is model:
        return False
    return torch.equal(head(final_state(model, probe)), logits(model, probe))


def halves(model: nn.Module, split: bool) -> Halves:
    """The model before its head, and the head; or, not split, the whole model and nothing."""
    if not split:
        return Halves(partial(logits, model), lambda rows: rows)
    return Halves(partial(final_state, model), model.get_output_embeddings())  # type: ignore[operator]


def final_state(model: nn.Module, ids: Tensor) -> Tensor:
    """What enters the head (B, T, n) for ids (B, T)."""
    state: Tensor = model.base_model(input_ids=ids, use_cache=False).last_hidden_state  # type: ignore[operator]
    return state


def sizes(model: nn.Module) -> dict[str, int | None]:
    """Vocabulary, context, layers and width of the artefact; None where it does not say."""
    config: Any = model.config
    vocabulary, width = embedding(model).shape
    return {
        "vocab_size": vocabulary,
        "block_size": getattr(config, "max_position_embeddings", None),
        "n_layer": getattr(config, "num_hidden_layers", None),
        "n_embd": width,
    }


def embedding(model: nn.Module) -> Tensor:
    """The embedding's rows (V, n)."""
    weight: Tensor = model.get_input_embeddings().weight  # type: ignore[operator]
    return weight


def head_weight(model: nn.Module) -> Tensor:
    """The head's rows (V, n)."""
    weight: Tensor = model.get_output_embeddings().weight  # type: ignore[operator]
    return weight


def logits(model: nn.Module, ids: Tensor) -> Tensor:
    """Logits (B, T, V) of every position for ids (B, T)."""
    output: Tensor = model(input_ids=ids, use_cache=False).logits
    return output


def residual_stream(model: nn.Module, n_layer: int, ids: Tensor) -> list[Tensor]:
    """What enters the first block and what each block gives: ``n_layer + 1`` x (B, T, n).

    Empty if the model has no list of ``n_layer`` blocks.
    """
    lists = (m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layer)
    if (blocks := next(lists, None)) is None:
        return []
    stream: list[Tensor] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        stream.append(args[0] if args else kwargs["hidden_states"])

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        stream.append(output[0] if isinstance(output, tuple) else output)

    hooks = [blocks[0].register_forward_pre_hook(before, with_kwargs=True)]
    hooks += [block.register_forward_hook(after) for block in blocks]
    try:
        model.base_model(input_ids=ids, use_cache=False)  # type: ignore[operator]
    finally:
        for hook in hooks:
            hook.remove()
    return stream


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return config


def _runs_code(folder: Path, trusted: bool) -> bool:
    """Whether transformers imports a modeling file: this package's own, or a trusted one."""
    auto_map = _config(folder).get("auto_map")
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
    import slogpt_hf.conversion

    room = Path(slogpt_hf.conversion.__file__).parent
    return name in OWN_MODELING_FILES and same_content(folder / name, room / name, shallow=False)
