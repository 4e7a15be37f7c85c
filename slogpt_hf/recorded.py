"""Logits that a trainer records beside a checkpoint, for the proof. Needs torch and nothing else.

A training script calls it where it saves::

    import slogpt_hf
    torch.save(checkpoint, "out/ckpt.pt")
    slogpt_hf.record_parity(model, "out/ckpt.pt", x)
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

RECORDED = "parity.safetensors"
IDS, LOGITS = "input_ids", "logits"
SAVE_SIZE, SAVE_SHA256 = "checkpoint_bytes", "checkpoint_sha256"  # metadata: of which save it is
# Parameters of a forward pass, as trainers call them.
TARGETS = ("targets", "target", "labels", "label", "tgt", "y")
ALL_POSITIONS = ("return_logits", "return_all_logits", "all_logits", "full_logits")
FIRST_POSITION = ("start_pos", "start_position", "pos", "input_pos", "position")


def record_parity(model: nn.Module, path: str | Path, ids: Tensor) -> Path:
    """Record what a model computes, in float32 and without dropout.

    Args:
        model: as it is trained, on any device; it is left as it was. Its forward pass takes ids
            and, if it wants them to give the logits of every position, ``targets``.
        path: of the checkpoint that was saved with these weights, whose size and SHA-256 are noted
            so that the logits are not taken for a later save's; or the file to write, whose name
            ends in ``.safetensors``.
        ids: (B, T) token ids, such as a few rows of a batch; T at most the context length.

    Returns:
        The file: ``parity.safetensors`` beside the checkpoint, or ``path``.

    Raises:
        ValueError: the model gives no logits (B, T, V) for these ids.
    """
    import torch

    named = str(path).endswith(".safetensors")
    target = Path(path) if named else Path(path).parent / RECORDED
    plain = getattr(model, "_orig_mod", model)
    plain = getattr(plain, "module", plain)
    device = next(plain.parameters()).device
    was_training, tf32 = plain.training, torch.get_float32_matmul_precision()
    plain.eval()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            logits = _logits(plain, ids.to(device))
    finally:
        plain.train(was_training)
        torch.set_float32_matmul_precision(tf32)
    if logits.dim() != 3 or logits.shape[:2] != ids.shape:
        raise ValueError(
            f"the model gives {tuple(logits.shape)} for ids of {tuple(ids.shape)}, not the logits "
            "(B, T, V) of every position: let its forward pass take `targets`"
        )
    tensors = {IDS: ids.cpu().to(torch.int64), LOGITS: logits.cpu().to(torch.float32)}
    _write(target, tensors, {} if named else _save_at(Path(path)))
    return target


def recorded_names(checkpoint: Path) -> tuple[str, str]:
    """What a recording beside a checkpoint may be called, the first that is there counts.

    Of ``ckpt.pt`` that is ``ckpt.parity.safetensors`` or, for the folder, ``parity.safetensors``.
    """
    return f"{checkpoint.stem}.{RECORDED}", RECORDED


def _logits(model: nn.Module, ids: Tensor) -> Tensor:
    """Logits (B, T, V) of every position, whatever the forward pass takes and gives.

    With targets first: many trainers give only the last position without, and some scale the
    logits only with them. What is no logits of all positions is given as it is.
    """
    parameters = list(inspect.signature(model.forward).parameters.values())
    taken = {p.name for p in parameters}
    more: dict[str, Any] = {name: True for name in ALL_POSITIONS if name in taken}
    more |= {
        p.name: 0
        for p in parameters[1:]
        if p.name in FIRST_POSITION and p.default is inspect.Parameter.empty
    }
    rows, length = ids.shape
    tensors: list[Tensor] = []
    for name in (*[name for name in TARGETS if name in taken][:1], None):
        for found in _tensors_in(model(ids, **more, **({name: ids} if name else {}))):
            if name and found.dim() == 2 and len(found) == rows * length:  # flat, for the loss
                found = found.view(rows, length, -1)
            if found.dim() == 3 and found.shape[:2] == ids.shape:
                return found
            tensors.append(found)
    if not tensors:
        raise ValueError("the model's forward pass gives no tensor, so no logits (B, T, V)")
    return max(tensors, key=lambda found: found.dim())


def _tensors_in(output: Any) -> Iterator[Tensor]:
    """The tensors that a forward pass gives, alone or in a tuple, dict or object, logits first."""
    import torch

    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, Mapping):
        for name in sorted(output, key=lambda name: name != LOGITS):
            yield from _tensors_in(output[name])
    elif isinstance(output, tuple | list):
        for each in output:
            yield from _tensors_in(each)
    elif output is not None and not isinstance(output, str | int | float):
        yield from _tensors_in(getattr(output, LOGITS, None))


def _save_at(path: Path) -> dict[str, str]:
    """Which save lies at a path; empty where none does."""
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {SAVE_SIZE: str(path.stat().st_size), SAVE_SHA256: digest}


def _write(path: Path, tensors: dict[str, Tensor], save: dict[str, str]) -> None:
    """Write a safetensors file, which appears when it is whole.

    Format: https://github.com/huggingface/safetensors#format
    """
    kinds = {IDS: "I64", LOGITS: "F32"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **save}}
    start, pieces = 0, []
    for name, tensor in tensors.items():
        data = tensor.contiguous().numpy().tobytes()
        shape, stop = list(tensor.shape), start + len(data)
        header[name] = {"dtype": kinds[name], "shape": shape, "data_offsets": [start, stop]}
        start = stop
        pieces.append(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(pieces)
    partial.replace(path)
