"""Reading any checkpoint: its container by the first bytes, its dialect by the tensors' names.

Two tables drive detection, ``CONTAINERS`` and ``DIALECTS``. A file's name decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slogpt_hf.checkpoints.checkpoint import Checkpoint, Quantisation
from slogpt_hf.checkpoints.containers import (
    distributed,
    folder,
    llama2c_bin,
    safetensors_file,
    sou,
    torch_file,
)
from slogpt_hf.checkpoints.containers.beside import with_settings_beside
from slogpt_hf.checkpoints.contents import Contents
from slogpt_hf.checkpoints.dialect import Dialect, Unsupported
from slogpt_hf.checkpoints.dialects import demonstration, llama2c, nanogpt, slo, sloughgpt
from slogpt_hf.checkpoints.fields import SKIPPED, printable, readable, shown
from slogpt_hf.checkpoints.reading import read_model
from slogpt_hf.checkpoints.state_dict import ADAPTER, StateDict, read_state_dict
from slogpt_hf.checkpoints.tensors import Stored
from slogpt_hf.errors import CheckpointError, UsageError
from slogpt_hf.files import FileStamp, is_folder, require_file, stamp_of

START_BYTES = 64
NAMES_SHOWN = 8

DIALECTS: tuple[Dialect | Unsupported, ...] = (
    slo.DIALECT,
    llama2c.DIALECT,
    sloughgpt.DIALECT,
    nanogpt.DIALECT,
    demonstration.DIALECT,
)


@dataclass(frozen=True)
class Container:
    """A file layout.

    Attributes:
        name: for people.
        recognises: by the file's first bytes and its length in bytes.
        read: the file's values.
    """

    name: str
    recognises: Callable[[bytes, int], bool]
    read: Callable[[Path], Contents]


CONTAINERS = (
    Container(torch_file.NAME, lambda start, _: torch_file.recognises(start), torch_file.read),
    Container(sou.NAME, lambda start, _: sou.recognises(start), sou.read),
    Container(safetensors_file.NAME, safetensors_file.recognises, safetensors_file.read),
    Container(llama2c_bin.NAME, llama2c_bin.recognises, llama2c_bin.read),
)


def read_checkpoint(
    path: Path, given: Mapping[str, Any] | None = None, base: Path | None = None
) -> Checkpoint:
    """Read a checkpoint of any known dialect, its tensors left where they lie.

    Args:
        path: file or folder that the trainer saved.
        given: fields that it does not record, by name, e.g. ``{"n_head": 8}``.
        base: checkpoint of the model that an adapter-only ``path`` adapts.

    Raises:
        UsageError: ``path`` is not there, a given field cannot be meant, or ``base`` is given for
            a checkpoint that has weights of its own.
        CheckpointError: it is damaged, holds code, is of no known dialect, contradicts itself or
            does not record a field that it needs.
    """
    stamps = _stamps(path)  # before anything is opened, so that no change can be missed
    contents, state = _open(path)
    quantisation = _quantisation(contents)
    adapter_only = all(ADAPTER.match(name) for name in state.tensors)
    if adapter_only != (base is not None):
        raise _base_error(path, base)
    if base is not None:
        stamps |= _stamps(base)
        base_contents, base_state = _open(base)
        quantisation = _quantisation(base_contents)
        contents, state = _with_base(contents, state, base_contents, base_state)
    checkpoint = read_model(_dialect(contents, state), contents, state, given or {})
    return replace(
        checkpoint,
        base=base,
        quantisation=quantisation,
        stamps={file: stamps.get(file) or stamp_of(file) for file in contents.files},
    )


def read_contents(path: Path) -> Contents:
    """The values of a checkpoint before its dialect is known.

    Raises:
        UsageError: ``path`` is not there.
        CheckpointError: it is of no known layout, or damaged.
    """
    if is_folder(path):
        if distributed.recognises(path):
            return with_settings_beside(distributed.read(path), path)
        return folder.read(path, read_contents)
    require_file(path)
    with path.open("rb") as file:
        start = file.read(START_BYTES)
    n_bytes = path.stat().st_size
    for container in CONTAINERS:
        if container.recognises(start, n_bytes):
            return with_settings_beside(container.read(path), path.parent)
    legacy = start[:1] == b"\x80"
    layouts = ", ".join(container.name for container in CONTAINERS)
    raise CheckpointError(
        f"{path}: is not a checkpoint of a known layout: its first bytes are {start[:8]!r}. "
        f"Looked for a {layouts}, or a folder of one.",
        hint="It looks like a pickle of PyTorch before 1.6: load it there and save it again."
        if legacy
        else "Name the file that the trainer saved, e.g. out/ckpt.pt.",
    )


def _open(path: Path) -> tuple[Contents, StateDict]:
    contents = read_contents(path)
    state = read_state_dict(path, contents.value)
    if state is None:
        raise _unknown(contents, None)
    return contents, state


def _dialect(contents: Contents, state: StateDict) -> Dialect:
    for dialect in DIALECTS:
        if dialect.mark not in state.tensors:
            continue
        if isinstance(dialect, Dialect):
            return dialect
        reason = dialect.reason({name: t.shape for name, t in state.tensors.items()})
        raise CheckpointError(
            f"{contents.path}: is a {dialect.title}, which {reason}.", hint=dialect.hint
        )
    raise _unknown(contents, state)


def _unknown(contents: Contents, state: StateDict | None) -> CheckpointError:
    marks = ", ".join(f"{dialect.mark} ({dialect.title})" for dialect in DIALECTS)
    if state is not None:
        some = list(state.tensors.items())
        tensors = ", ".join(f"{printable(n)} {t.shape}" for n, t in some[:NAMES_SHOWN])
        more = f" and {len(some) - NAMES_SHOWN} more" if len(some) > NAMES_SHOWN else ""
        place = f" under '{state.place}'" if state.place else ""
        found = f"{len(some)} tensors{place}: {tensors}{more}"
    elif nested := _nested_tensors(contents.value):
        place, holder = nested
        names = [f"{printable(str(n))} {t.shape}" for n, t in holder.items()][:NAMES_SHOWN]
        found = f"{len(holder)} under '{printable(place)}', where none is looked for: "
        found += ", ".join(names)
    elif isinstance(contents.value, Mapping):
        keys = sorted(shown(key, 40) for key in list(contents.value)[:1000])[:NAMES_SHOWN]
        found = f"no tensors, and the names {', '.join(keys)}" if keys else "an empty dict"
    else:
        found = f"a {type(contents.value).__name__}"
    return CheckpointError(
        f"{contents.path}: is a {contents.container} of no known dialect. Looked for one of the "
        f"tensors {marks}; found {found}.",
        hint="Name a checkpoint that the trainer saved. If it is one, please report this message.",
    )


def _nested_tensors(value: Any) -> tuple[str, Mapping[Any, Stored]] | None:
    """The first dict below the top that holds tensors: its name, and those tensors."""
    for key, entry in value.items() if isinstance(value, Mapping) else ():
        if isinstance(entry, Mapping) and not SKIPPED.search(str(key)):
            tensors = {n: t for n, t in entry.items() if isinstance(t, Stored)}
            if tensors:
                return str(key), tensors
    return None


def _base_error(path: Path, base: Path | None) -> CheckpointError | UsageError:
    if base is None:
        return CheckpointError(
            f"{path}: holds an adapter only, not the weights that it adapts.",
            hint="Name the checkpoint that it was trained on: --base CHECKPOINT.",
        )
    return UsageError(
        f"--base {base}: but {path} has weights of its own.",
        hint="Leave --base out: it is for a file that holds an adapter only.",
    )


def _with_base(
    contents: Contents, state: StateDict, base: Contents, base_state: StateDict
) -> tuple[Contents, StateDict]:
    """The base's weights with the adapter beside them, its fields under ``adapter``."""
    if any(ADAPTER.match(name) for name in base_state.tensors):
        raise CheckpointError(
            f"{base.path}: has an adapter of its own, so it cannot be a base.",
            hint="Name the checkpoint that the adapter was trained on.",
        )
    fields = {**base_state.fields, "adapter": state.fields}
    tensors = {**base_state.tensors, **state.tensors}
    both = StateDict(base_state.place, tensors, fields, history=state.fields)
    note = f"The adapter in {readable(contents.path.name)} adapts {readable(base.path.name)}."
    return (
        replace(
            contents,
            files=tuple(dict.fromkeys(contents.files + base.files)),
            notes=(*contents.notes, *base.notes, note),
        ),
        both,
    )


def _quantisation(contents: Contents) -> Quantisation | None:
    if contents.container != llama2c_bin.NAME:
        return None
    error = llama2c_bin.quantisation_error(contents)
    if error is None:
        return None
    return Quantisation("Q8_0", contents.value["format"]["group_size"], error)


def _stamps(path: Path) -> dict[Path, FileStamp | None]:
    files = path.iterdir() if is_folder(path) else (path,)
    return {file: stamp_of(file) for file in files}
