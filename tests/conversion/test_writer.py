"""The streaming writer: what lies in the files, how they are split, and what is refused."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from slogpt_hf.checkpoints import Checkpoint, read_checkpoint
from slogpt_hf.checkpoints.tensors import Stored, Tensors
from slogpt_hf.conversion import plan_conversion, write_model
from slogpt_hf.conversion.plan import Move, Plan, restore
from slogpt_hf.conversion.safetensors_layout import shards_for
from slogpt_hf.conversion.writer import PIECE_BYTES, write_weights
from slogpt_hf.errors import CheckpointError

Write = Callable[..., Path]
Convert = Callable[..., tuple[Checkpoint, Path]]

MODERN = {"use_rope": True, "use_swiglu": True, "use_rmsnorm": True}


def planned(checkpoint: Checkpoint, dtype: str | None = None) -> dict[str, Tensor]:
    """The plan's results, tensor by tensor, without the writer."""
    conversion = plan_conversion(checkpoint, dtype)
    target = getattr(torch, conversion.dtype)
    results = {
        name: move.run(checkpoint.tensors[move.source]).to(target)
        for name, move in conversion.plan.made.items()
    }
    zeros = conversion.plan.zeros
    return results | {z.target: torch.zeros(z.shape, dtype=target) for z in zeros}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a
    )


def test_files_hold_what_the_plan_gives(
    slo_checkpoint: Write, convert: Convert, switches: dict[str, bool]
) -> None:
    checkpoint, folder = convert(slo_checkpoint(**switches))
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        written = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert equal(written, planned(checkpoint))
    assert equal(restore(plan_conversion(checkpoint).plan, written), dict(checkpoint.tensors))


@pytest.mark.parametrize("to", [None, "float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_dtype_is_kept_or_cast(
    slo_checkpoint: Write, convert: Convert, dtype: str, to: str | None
) -> None:
    checkpoint, folder = convert(slo_checkpoint(dtype=dtype, bias=False), to)
    written = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {getattr(torch, to or dtype)}
    assert equal(written, planned(checkpoint, to))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_header_is_aligned_and_the_data_without_gaps(
    slo_checkpoint: Write, convert: Convert, dtype: str
) -> None:
    for vocab_size in range(37, 45):  # another header length each time
        _, folder = convert(slo_checkpoint(vocab_size=vocab_size, n_layer=1), dtype)
        content = (folder / "model.safetensors").read_bytes()
        (n_header,) = struct.unpack("<Q", content[:8])
        assert n_header % 8 == 0
        header = json.loads(content[8 : 8 + n_header])
        del header["__metadata__"]
        spans = sorted(entry["data_offsets"] for entry in header.values())
        assert [start for start, _ in spans] == [0, *(stop for _, stop in spans[:-1])]
        assert spans[-1][1] == len(content) - 8 - n_header


def logits(folder: Path) -> Tensor:
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        output: Tensor = model(torch.arange(37)[None, :24]).logits
    return output


@pytest.mark.parametrize("switches", [{}, MODERN], ids=["classic", "modern"])
def test_shards_load_to_the_same_logits(
    slo_checkpoint: Write, convert: Convert, switches: dict[str, bool]
) -> None:
    path = slo_checkpoint(**switches)
    checkpoint, whole = convert(path)
    _, sharded = convert(path, max_shard_bytes=20_000)
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    files = sorted(sharded.glob("*.safetensors"))
    assert len(files) > 3
    assert [f.name for f in files] == [
        f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, len(files) + 1)
    ]
    written: dict[str, Tensor] = {}
    for file in files:
        tensors = load_file(file)
        assert sum(t.nbytes for t in tensors.values()) <= 20_000
        assert {name for name, at in index["weight_map"].items() if at == file.name} == set(tensors)
        written |= tensors
    assert equal(written, planned(checkpoint))
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in written.values())
    assert torch.equal(logits(sharded), logits(whole))


def test_tensor_larger_than_a_shard_gets_its_own(slo_checkpoint: Write, convert: Convert) -> None:
    checkpoint, folder = convert(slo_checkpoint(), max_shard_bytes=1)
    assert all(len(load_file(file)) == 1 for file in folder.glob("*.safetensors"))
    assert len(list(folder.glob("*.safetensors"))) == len(planned(checkpoint))


def in_memory(tensors: dict[str, torch.Tensor]) -> Tensors:
    return Tensors(
        {
            name: Stored(tuple(t.shape), str(t.dtype).removeprefix("torch."), lambda t=t: t)
            for name, t in tensors.items()
        }
    )


def test_tensors_of_several_pieces(tmp_path: Path) -> None:
    """Larger than PIECE_BYTES, not a multiple of it, as they lie and transposed."""
    from slogpt_hf.conversion.operations import Transpose

    columns = 1009
    rows = PIECE_BYTES // 4 // columns * 2 + 7
    table = torch.arange(rows * columns, dtype=torch.float32).view(rows, columns)
    moves = (
        Move("as it lies", "table", (0, rows - 3)),
        Move("transposed", "table", (rows - 3, rows), (Transpose(),)),
        Move("all transposed", "again", None, (Transpose(),)),
    )
    told: list[int] = []
    files = write_weights(
        Plan(moves),
        in_memory({"table": table, "again": table}),
        tmp_path,
        dtype="float32",
        max_shard_bytes=10**9,
        advance=told.append,
    )
    written = load_file(files[0])
    assert torch.equal(written["as it lies"], table[:-3])
    assert torch.equal(written["transposed"], table[-3:].t())
    assert torch.equal(written["all transposed"], table.t())
    assert sum(told) == 2 * table.nbytes
    assert max(told) <= PIECE_BYTES


NUMBERS = {"NaN": float("nan"), "infinity": float("inf"), "-infinity": float("-inf")}


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("kind", NUMBERS)
def test_weight_that_is_not_finite_is_refused_by_name(
    slo_content: Callable[..., dict[str, Any]], tmp_path: Path, kind: str, dtype: str
) -> None:
    content = slo_content(dtype=dtype)
    name = "transformer.h.1.attn.c_attn.weight"
    content["model"][name][40, 3] = NUMBERS[kind]
    torch.save(content, tmp_path / "ckpt.pt")
    checkpoint = read_checkpoint(tmp_path / "ckpt.pt")
    message = rf"h\.1\.attn\.c_attn\.weight: holds {kind.lstrip('-')} \(in {dtype}\)"
    with pytest.raises(CheckpointError, match=message) as caught:
        write_model(checkpoint, plan_conversion(checkpoint), tmp_path)
    assert caught.value.exit_code == 3


def test_not_finite_in_any_tensor_is_refused(
    slo_content: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    names = list(slo_content(**MODERN)["model"])
    assert len(names) > 20
    for name in names:
        content = slo_content(**MODERN, tied=False)
        content["model"][name].view(-1)[-1] = float("nan")
        folder = tmp_path / name
        folder.mkdir()
        torch.save(content, folder / "ckpt.pt")
        checkpoint = read_checkpoint(folder / "ckpt.pt")
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            write_model(checkpoint, plan_conversion(checkpoint), folder)


@pytest.mark.parametrize(("dtype", "large"), [("float32", 3e38), ("float64", 1e300)])
def test_finite_weights_whose_sum_overflows_are_accepted(
    tmp_path: Path, dtype: str, large: float
) -> None:
    tensor = torch.full((64,), large, dtype=getattr(torch, dtype))
    plan, tensors = Plan((Move("a", "b"),)), in_memory({"b": tensor})
    (file,) = write_weights(plan, tensors, tmp_path, dtype=dtype, max_shard_bytes=10**9)
    assert torch.equal(load_file(file)["a"], tensor)


def test_cast_that_overflows_is_refused(tmp_path: Path) -> None:
    tensors = in_memory({"b": torch.tensor([1.0, 7e4])})
    with pytest.raises(CheckpointError, match=r"b: holds infinity \(in float16\)"):
        write_weights(
            Plan((Move("a", "b"),)), tensors, tmp_path, dtype="float16", max_shard_bytes=10**9
        )


def test_plan_that_does_not_fit_writes_nothing(tmp_path: Path) -> None:
    plan, tensors = Plan((Move("a", "b"),)), in_memory({"b": torch.ones(2), "c": torch.ones(2)})
    with pytest.raises(CheckpointError, match="leaves c over"):
        write_weights(plan, tensors, tmp_path, dtype="float32", max_shard_bytes=10**9)
    assert list(tmp_path.iterdir()) == []


SHARDS = {10**9: [5], 16: [2, 2, 1], 20: [2, 2, 1], 24: [3, 2], 8: [1] * 5, 1: [1] * 5}


@pytest.mark.parametrize("limit", SHARDS)
def test_shards_are_filled_up_to_the_limit(limit: int) -> None:
    shards = shards_for({f"t{i}": (2,) for i in range(5)}, "float32", limit)
    assert [len(shard.n_bytes) for shard in shards] == SHARDS[limit]
    assert [name for shard in shards for name in shard.n_bytes] == [f"t{i}" for i in range(5)]


MEASURE = """
import sys
from pathlib import Path
import torch
from slogpt_hf.checkpoints import read_checkpoint
from slogpt_hf.conversion import plan_conversion, write_model

def anonymous():
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))

torch.ones(8, 8) @ torch.ones(8, 8)
before, most = anonymous(), 0

def advance(n_bytes):
    global most
    most = max(most, anonymous() - before)

checkpoint = read_checkpoint(Path(sys.argv[1]))
write_model(checkpoint, plan_conversion(checkpoint), Path(sys.argv[2]), advance=advance)
print(most * 1024, max(t.nbytes for t in checkpoint.tensors.values()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="RssAnon is Linux's")
def test_memory_does_not_grow_with_the_model(slo_checkpoint: Write, tmp_path: Path) -> None:
    """A file of 110 MB with optimizer state: one tensor at a time in memory."""
    sizes = {"n_layer": 12, "n_embd": 256, "vocab_size": 512, "block_size": 64}
    path = slo_checkpoint(**sizes, optimizer=True)
    n_bytes = path.stat().st_size
    assert n_bytes > 100e6
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    path.unlink()
    most, largest = map(int, result.stdout.split())
    assert largest < 2e6
    assert most < 24e6 + 2 * largest
