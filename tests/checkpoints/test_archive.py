"""Archives of ``torch.save``: equal to what torch reads, lazily, wherever in a file they lie."""

from __future__ import annotations

import collections
import io
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slogpt_hf.checkpoints.containers import torch_file
from slogpt_hf.checkpoints.containers.archive import map_file, read_archive
from slogpt_hf.checkpoints.containers.torch_globals import ITEM_BYTES
from slogpt_hf.checkpoints.tensors import Stored
from slogpt_hf.errors import CheckpointError

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
CHECKPOINTS = sorted(GOLDEN.glob("*/*.pt"))


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def assert_same(found: Any, expected: Any) -> None:
    """Same values, types and order; tensors of same shape, dtype, strides and bytes."""
    if isinstance(expected, Tensor):
        assert isinstance(found, Stored)
        tensor = found.read()
        assert found.shape == tuple(expected.shape) == tuple(tensor.shape)
        assert f"torch.{found.dtype}" == str(expected.dtype) == str(tensor.dtype)
        if tensor.numel():
            assert tensor.stride() == expected.stride()
            assert raw(tensor) == raw(expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected
        assert type(found) is type(expected)


def raw(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.parent.name)
def test_golden_files_are_what_torch_reads(path: Path) -> None:
    assert_same(read_archive(path), torch.load(path, weights_only=True))


def test_container() -> None:
    path = GOLDEN / "slo-classic" / "ckpt.pt"
    assert torch_file.recognises(path.read_bytes()[:16])
    assert not torch_file.recognises(b"SOUL" + bytes(12))
    contents = torch_file.read(path)
    assert (contents.path, contents.files, contents.notes) == (path, (path,), ())
    assert contents.container == "torch.save file"
    assert contents.value["iter_num"] == torch.load(path, weights_only=True)["iter_num"]


DTYPES = st.sampled_from(sorted(ITEM_BYTES))


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Dense tensors and views of any dtype, random bytes as values."""
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    dtype = getattr(torch, draw(DTYPES))
    count = int(np.prod(shape, dtype=int))
    values = torch.randint(0, 2, (count * ITEM_BYTES[str(dtype)[6:]],), dtype=torch.uint8)
    tensor = values.view(dtype).reshape(shape)
    if len(shape) > 1 and draw(st.booleans()):
        tensor = tensor.transpose(0, len(shape) - 1)
    if shape and shape[0] > 1 and draw(st.booleans()):
        tensor = tensor[1:]
    if dtype.is_floating_point and draw(st.booleans()):
        tensor = torch.nn.Parameter(tensor)
    return tensor


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=6)
    | st.binary(max_size=6)
    | tensors(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers(-(2**63), 2**63), inner, max_size=4)
        | st.dictionaries(st.text(max_size=4), inner).map(collections.OrderedDict)
    ),
    max_leaves=10,
)


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@settings(max_examples=150, deadline=None)
@given(VALUES, st.integers(2, 5), st.integers(0, 70))
def test_any_value_is_read_as_it_was_saved(
    tmp_path_factory: pytest.TempPathFactory, value: Any, protocol: int, start: int
) -> None:
    path = tmp_path_factory.mktemp("any") / "a.pt"
    data = saved(value, pickle_protocol=protocol)
    path.write_bytes(b"\xaa" * start + data + b"\xbb" * 9)
    with warnings.catch_warnings(action="error"):
        warnings.filterwarnings("ignore", "ComplexHalf")
        assert_same(read_archive(path, start, len(data)), value)


OTHERS: dict[str, tuple[Any, Any]] = {
    "numpy numbers": ([np.float32(1.5), np.int64(3), np.bool_(True)], [1.5, 3, True]),
    "sets": ([{1}, frozenset([2]), set()], [[1], [2], []]),
    "counters": (collections.Counter("aab"), {"a": 2, "b": 1}),
    "default dict": (collections.defaultdict(list, {1: [2]}), {1: [2]}),
    "dtypes": ([torch.float32, torch.uint16], ["torch.float32", "torch.uint16"]),
    "devices": ([torch.device("cpu"), torch.device("cuda", 1)], ["cpu", "cuda:1"]),
    "sizes": (torch.Size([2, 3]), (2, 3)),
    "layouts": (torch.strided, "torch.strided"),
    "paths": (Path("/a/b"), "/a/b"),
    "bytes": ([b"", b"\xff", bytearray(b"x")], [b"", b"\xff", b"x"]),
    "complex": (1 + 2j, 1 + 2j),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", OTHERS)
def test_plain_values_of_other_types(tmp_path: Path, kind: str, protocol: int) -> None:
    value, expected = OTHERS[kind]
    torch.save(value, tmp_path / "a.pt", pickle_protocol=protocol)
    assert_same(read_archive(tmp_path / "a.pt"), expected)


def with_attribute(tensor: Tensor) -> Tensor:
    tensor.note = 1  # type: ignore[attr-defined]
    return tensor


@pytest.mark.parametrize(
    "tensor",
    [with_attribute(torch.ones(2)), with_attribute(torch.nn.Parameter(torch.ones(2)))],
    ids=["tensor", "parameter"],
)
def test_attributes_of_tensors_are_dropped(tmp_path: Path, tensor: Tensor) -> None:
    torch.save({"w": tensor}, tmp_path / "a.pt")
    assert_same(read_archive(tmp_path / "a.pt"), {"w": tensor})


def test_state_dict_of_a_module(tmp_path: Path) -> None:
    state = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3)).state_dict()
    torch.save(state, tmp_path / "a.pt")
    assert_same(read_archive(tmp_path / "a.pt"), dict(state))


def test_slices_of_nothing(tmp_path: Path) -> None:
    tensors = [torch.ones(4)[4:], torch.ones(0, 3)[:, 1:], torch.ones(2, 0)[1:], torch.ones(3, 0)]
    torch.save(tensors, tmp_path / "a.pt")
    assert_same(read_archive(tmp_path / "a.pt"), tensors)


def test_tied_tensors_are_the_same_memory(tmp_path: Path) -> None:
    weight = torch.randn(4, 4)
    torch.save({"a": weight, "b": weight, "row": weight[1]}, tmp_path / "a.pt")
    found = {name: tensor.read() for name, tensor in read_archive(tmp_path / "a.pt").items()}
    assert found["a"].data_ptr() == found["b"].data_ptr()
    assert found["row"].data_ptr() == found["a"].data_ptr() + 16
    assert read_archive(tmp_path / "a.pt")["a"].read().data_ptr() != found["a"].data_ptr()


def test_reading_twice_gives_the_same_view(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(4)}, tmp_path / "a.pt")
    stored = read_archive(tmp_path / "a.pt")["a"]
    assert stored.read().data_ptr() == stored.read().data_ptr()


@pytest.mark.parametrize("how", ["unlinked", "replaced"])
def test_tensors_outlive_their_file(tmp_path: Path, how: str) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": torch.arange(5000)}, path)
    stored = read_archive(path)["a"]
    path.unlink()
    if how == "replaced":
        torch.save({"a": torch.zeros(5000)}, path)
    tensor = stored.read()
    del stored
    assert torch.equal(tensor, torch.arange(5000))


@pytest.mark.parametrize("start", range(8))
def test_values_that_are_not_aligned_are_copied(tmp_path: Path, start: int) -> None:
    data = saved({"a": torch.randn(9).double(), "b": torch.ones(3, dtype=torch.uint8)})
    (tmp_path / "a.pt").write_bytes(bytes(start) + data)
    found = read_archive(tmp_path / "a.pt", start)
    for name, again in (("a", start == 0), ("b", True)):
        one, two = found[name].read(), found[name].read()
        assert one.data_ptr() % one.element_size() == 0
        assert (one.data_ptr() == two.data_ptr()) == again
    assert_same(found, torch.load(io.BytesIO(data), weights_only=True))


def test_many_archives_share_one_mapping(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    parts = [saved(torch.full((3,), float(i))) for i in range(3)]
    path.write_bytes(b"".join(parts))
    mapped = map_file(path)
    starts = [sum(map(len, parts[:i])) for i in range(3)]
    found = [
        read_archive(path, start, len(part), mapped=mapped)
        for start, part in zip(starts, parts, strict=True)
    ]
    assert [tensor.read().tolist() for tensor in found] == [[0.0] * 3, [1.0] * 3, [2.0] * 3]


def test_structure_is_read_without_torch() -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from slogpt_hf.checkpoints.containers.archive import read_archive\n"
        "read_archive(Path(sys.argv[1])); sys.exit('torch' in sys.modules)"
    )
    path = GOLDEN / "slo-classic" / "ckpt.pt"
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == 0


def refused(value: Any, path: Path) -> str:
    torch.save(value, path)
    with pytest.raises(CheckpointError) as caught:
        read_archive(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.value.hint
    return caught.value.message


class Subclass(Tensor):
    pass


def holds_itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "sparse": (lambda: torch.eye(2).to_sparse(), "['model']['w'] is a sparse tensor"),
    "quantised": (
        lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "['model']['w'] is a quantised tensor",
    ),
    "meta": (lambda: torch.ones(2, device="meta"), "['model']['w'] is a tensor on the meta device"),
    "nested": (
        lambda: torch.nested.nested_tensor([torch.ones(2)]),
        "['model']['w'] is a nested tensor",
    ),
    "conjugated": (lambda: torch.ones(2, dtype=torch.complex64).conj(), "['w'] is a conjugated"),
    "expanded": (lambda: torch.ones(1).expand(9), "['model']['w'] is an expanded tensor"),
    "subclass": (
        lambda: torch.ones(2).as_subclass(Subclass),
        "['model']['w'] is a tensor of a subclass",
    ),
    "storage": (lambda: torch.ones(2).untyped_storage(), "['w'] is no plain value (Storage)"),
    "array": (lambda: np.ones(2), "_reconstruct); nothing of it was run"),
    "module": (lambda: torch.nn.Linear(1, 1), "modules.linear.Linear); nothing of it was run"),
    "class": (
        lambda: collections.OrderedDict,
        "['w'] is no plain value (collections.OrderedDict)",
    ),
    "itself": (holds_itself, "a value that holds itself"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_not_plain_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    make, fragment = REFUSED[kind]
    assert fragment in refused({"model": {"w": make()}}, tmp_path / "a.pt")


@pytest.mark.parametrize("legacy", [True, False])
def test_files_before_1_6(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=not legacy)
    if not legacy:
        assert read_archive(path)["a"].shape == (2,)
        return
    with pytest.raises(CheckpointError, match="is not a checkpoint that torch") as caught:
        read_archive(path)
    assert "before 1.6" in caught.value.hint
