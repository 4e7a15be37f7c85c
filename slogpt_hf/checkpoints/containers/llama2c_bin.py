"""llama2.c's ``.bin`` files as containers: fp32 tensors mapped, Q8_0 ones dequantised."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slogpt_hf.checkpoints.containers.archive import map_file
from slogpt_hf.checkpoints.containers.llama2c_layout import (
    DAMAGED,
    HEADER_BYTES,
    MAGIC,
    SIZES_BYTES,
    Header,
    Place,
    expected_bytes,
    legacy_header,
    parse_header,
    places,
    wrong_size,
)
from slogpt_hf.checkpoints.contents import Contents
from slogpt_hf.checkpoints.tensors import Stored
from slogpt_hf.errors import CheckpointError
from slogpt_hf.files import require_file

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]
    Floats = npt.NDArray[np.float32]

NAME = "llama2.c .bin file"
# A plausible v0 header in a file this many times longer or shorter is chance.
DAMAGE_FACTOR = 16
PIECE_VALUES = 1 << 20  # dequantised at a time
SAMPLED_GROUPS = 4096  # of each tensor, where both layouts of v2 have good scales


def recognises(start: bytes, n_bytes: int) -> bool:
    """Whether a file that starts with ``start`` (28 bytes suffice) is a ``.bin``, whole or not."""
    if start[:4] == MAGIC:
        return True
    if len(start) < SIZES_BYTES:
        return False
    header = legacy_header(start)
    if wrong_size(header.sizes):
        return False
    expected = expected_bytes(header)
    return expected <= n_bytes * DAMAGE_FACTOR and n_bytes <= expected * DAMAGE_FACTOR


def read(path: Path) -> Contents:
    """The weights by the names of llama2.c's ``.pt`` files, and its ``model_args``.

    ``value`` holds ``model``, ``model_args`` (no eps: no header has one) and ``format``:
    ``version``, ``shared_classifier`` and, for v2, ``group_size``, ``quantised`` (names) and
    ``scales`` (name to the fp32 scales, (values/group_size,)). fp32 tensors are views of the
    mapped file; int8 ones are dequantised by every ``read``.

    Raises:
        UsageError: ``path`` is not a file.
        CheckpointError: a header that no model has, a length that does not follow from it, or a
            scale that is infinite, NaN or negative.
    """
    require_file(path)
    n_bytes = path.stat().st_size
    with path.open("rb") as file:
        header = parse_header(file.read(HEADER_BYTES), path)
    expected = expected_bytes(header)
    if n_bytes != expected:
        what = "is truncated" if n_bytes < expected else "has bytes behind its end"
        raise CheckpointError(
            f"{path}: {what}: it has a llama2.c v{header.version} header, but {n_bytes} bytes "
            f"where {expected} follow from it.",
            hint=DAMAGED,
        )
    group = header.group_size
    found = list(places(header)) if group is None else _quantised_places(path, n_bytes, header)
    form: dict[str, Any] = {
        "version": header.version,
        "shared_classifier": header.shared_classifier,
    }
    notes = []
    if group is not None:
        notes.append(f"It is quantised: Q8_0 in groups of {group}.")
        if found != list(places(header)):
            notes.append("It has the first layout of v2: all scales behind all int8 values.")
        form |= _quantisation(path, n_bytes, found, group)
    model = {
        place.name: Stored(
            place.shape, "float32", partial(_read_tensor, path, n_bytes, place, group)
        )
        for place in found
    }
    value = {"model": model, "model_args": asdict(header.sizes), "format": form}
    return Contents(path, NAME, value, (path,), tuple(notes))


def quantisation_error(contents: Contents) -> float | None:
    """How far a weight can be from the unquantised one; None if nothing is quantised.

    Half of the largest scale, in the weights' unit: llama2.c rounds to the nearest multiple of a
    group's scale. The fp32 arithmetic of both sides can add up to 2e-5 of a scale.
    """
    scales: dict[str, Stored] = contents.value["format"].get("scales", {})
    return max((float(stored.values().max()) / 2 for stored in scales.values()), default=None)


def _quantisation(path: Path, n_bytes: int, found: list[Place], group: int) -> dict[str, Any]:
    scales = {
        place.name: Stored(
            (math.prod(place.shape) // group,),
            "float32",
            partial(_read_scales, path, n_bytes, place, group),
        )
        for place in found
        if place.scales_start is not None
    }
    return {"group_size": group, "quantised": list(scales), "scales": scales}


def _read_tensor(path: Path, n_bytes: int, place: Place, group: int | None) -> Floats:
    import numpy as np

    data = _mapped(path, n_bytes)
    n_values = math.prod(place.shape)
    if group is None or place.scales_start is None:
        fp32 = data[place.start : place.start + 4 * n_values].view(np.float32)
        return fp32.reshape(place.shape)
    values = data[place.start : place.start + n_values].view(np.int8).reshape(-1, group)
    rows = np.empty(values.shape, np.float32)
    for first, scales in _scale_pieces(data, place.scales_start, n_values // group, group):
        piece = slice(first, first + len(scales))
        with np.errstate(over="ignore"):  # what overflows is refused as not finite
            np.multiply(values[piece], scales[:, None], out=rows[piece])
    return rows.reshape(place.shape)


def _read_scales(path: Path, n_bytes: int, place: Place, group: int) -> Floats:
    import numpy as np

    assert place.scales_start is not None
    n_groups = math.prod(place.shape) // group
    start = place.scales_start
    return _mapped(path, n_bytes)[start : start + 4 * n_groups].copy().view(np.float32)


def _quantised_places(path: Path, n_bytes: int, header: Header) -> list[Place]:
    """The places of that layout of v2 whose scales are scales.

    Where both could be, it is the one that llama2.c's quantiser can have written, and where that
    does not tell either, the present one.
    """
    data, group = _mapped(path, n_bytes), header.group_size
    assert group is not None
    layouts = [list(places(header, scales_last=last)) for last in (False, True)]
    possible = [found for found in layouts if _are_scales(data, found, group)]
    if not possible:
        raise CheckpointError(
            f"{path}: the scales of its quantised values are not all finite and >= 0.",
            hint=DAMAGED,
        )
    if len(possible) == 1:
        return possible[0]
    return next((found for found in possible if _are_full(data, found, group)), possible[0])


def _are_scales(data: Bytes, found: list[Place], group: int) -> bool:
    """Whether the bytes of every scale can be one: finite and not negative."""
    import numpy as np

    return all(
        bool((np.isfinite(scales) & (scales >= 0)).all())
        for place in found
        if place.scales_start is not None
        for _, scales in _scale_pieces(
            data, place.scales_start, math.prod(place.shape) // group, group
        )
    )


def _are_full(data: Bytes, found: list[Place], group: int) -> bool:
    """Whether some value of each group is 127 or -127, over the first groups of every tensor.

    A scale is max |w| / 127. Of one that is 0 or subnormal that does not follow.
    """
    import numpy as np

    for place in found:
        if place.scales_start is None:
            continue
        n_values = math.prod(place.shape)
        rows = data[place.start : place.start + n_values].view(np.int8).reshape(-1, group)
        n_groups = min(len(rows), SAMPLED_GROUPS)
        for first, scales in _scale_pieces(data, place.scales_start, n_groups, group):
            values = rows[first : first + len(scales)]
            full = ((values == 127) | (values == -127)).any(axis=1)
            if not (full | (scales < np.finfo(np.float32).tiny)).all():
                return False
    return True


def _scale_pieces(
    data: Bytes, start: int, n_groups: int, group: int
) -> Iterator[tuple[int, Floats]]:
    """Number of the first group, and the scales of those after it that make up a piece.

    They are copied, for they need not lie at a multiple of four bytes.
    """
    import numpy as np

    step = max(1, PIECE_VALUES // group)
    for first in range(0, n_groups, step):
        last = min(first + step, n_groups)
        yield first, data[start + 4 * first : start + 4 * last].copy().view(np.float32)


def _mapped(path: Path, n_bytes: int) -> Bytes:
    """The bytes of the file, mapped, uint8 (n_bytes,)."""
    import numpy as np

    mapped = map_file(path)
    if len(mapped) != n_bytes:
        raise CheckpointError(
            f"{path}: cannot be read any more (it has {len(mapped)} bytes, not {n_bytes}).",
            hint="Leave the file alone while it is read.",
        )
    return np.frombuffer(mapped, np.uint8)
