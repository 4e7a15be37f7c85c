"""torch.distributed.checkpoint folders: saved by one process and by two, and damaged ones."""

from __future__ import annotations

import importlib.util
import os
import pickle
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from slogpt_hf.checkpoints.containers import distributed, distributed_metadata
from slogpt_hf.checkpoints.tensors import Stored
from slogpt_hf.errors import CheckpointError, SloGPTError, UsageError

DATA = Path(__file__).parents[1] / "data" / "distributed"
SPEC = importlib.util.spec_from_file_location("make_distributed", DATA / "make.py")
assert SPEC is not None
assert SPEC.loader is not None
MAKE: Any = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(MAKE)
CASES = {
    "slo-one": ("model", MAKE.SLO, MAKE.SLO_FIELDS, 0),
    "slo-two": ("model", MAKE.SLO, MAKE.SLO_FIELDS, 10),
    "sloughgpt-two": ("model_state_dict", MAKE.SLOUGHGPT, MAKE.SLOUGHGPT_FIELDS, 9),
}
Change = Callable[[Metadata], object]
some = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    return shutil.copytree(DATA / "slo-two", tmp_path / "two")


def changed(folder: Path, change: Change) -> Path:
    path = folder / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    change(metadata)
    path.write_bytes(pickle.dumps(metadata))
    return folder


def place(metadata: Metadata, name: str) -> tuple[MetadataIndex, Any]:
    return next((i, s) for i, s in metadata.storage_data.items() if i.fqn == name)


def save(value: Any, folder: Path) -> Path:
    with warnings.catch_warnings(action="ignore"):
        writer = dcp.FileSystemWriter(folder, sync_files=False)
        dcp.save(value, storage_writer=writer, no_dist=True)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_folders_that_torch_saved(name: str) -> None:
    under, shapes, fields, n_sharded = CASES[name]
    contents = distributed.read(DATA / name)
    expected = MAKE.weights(shapes)
    assert distributed.recognises(DATA / name)
    assert {k: v for k, v in contents.value.items() if k != under} == fields
    tensors = contents.value[under]
    assert tensors.keys() == expected.keys()
    for key, tensor in expected.items():
        assert (tensors[key].shape, tensors[key].dtype) == (tuple(tensor.shape), "float32")
        assert torch.equal(tensors[key].read(), tensor), key
    assert contents.files == tuple(sorted(p for p in (DATA / name).iterdir()))
    note = f"{n_sharded} of its {len(expected)} tensors lie in several pieces."
    assert contents.notes == ((note,) if n_sharded else ())


def test_both_dimensions_are_sharded_in_the_data() -> None:
    saved = distributed_metadata.read_metadata(DATA / "sloughgpt-two").tensors
    w2 = saved["model_state_dict.blocks.0.mlp.w2.weight"]
    assert {chunk.offsets for chunk in w2.chunks} == {(0, 0), (0, 32)}
    q = saved["model_state_dict.blocks.0.attn.q_proj.weight"]
    assert {chunk.offsets for chunk in q.chunks} == {(0, 0), (8, 0)}


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_files_are_mapped_once_and_closed_with_the_last_tensor(tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.arange(64.0) + i for i in range(16)}
    model = distributed.read(save({"model": tensors}, tmp_path / "c")).value["model"]
    before = descriptors()
    views = [stored.read() for stored in model.values() for _ in range(3)]
    assert descriptors() <= before + 1
    # Archives follow one another at any byte, so some tensors are not aligned and are copied.
    assert len({view.data_ptr() for view in views}) < len(views)
    del views
    assert descriptors() == before


def test_the_optimizer_is_never_opened(two: Path) -> None:
    def break_it(metadata: Metadata) -> None:
        for index, info in metadata.storage_data.items():
            if index.fqn.startswith("optimizer"):
                info.relative_path = "missing.distcp"

    contents = distributed.read(changed(two, break_it))
    assert "optimizer" not in contents.value
    assert distributed_metadata.read_metadata(two).skipped == 3


@pytest.mark.parametrize(
    ("names", "value"),
    [
        (["a.weight", "b"], ["a.weight", "b"]),
        (["model.a.weight", "model.b"], {"model": ["a.weight", "b"]}),
        (["model.a.weight", "b"], ["model.a.weight", "b"]),
    ],
)
@pytest.mark.parametrize("planned", [False, True])
def test_flat_names_stay_flat(tmp_path: Path, names: list[str], value: Any, planned: bool) -> None:
    folder = save({name: torch.ones(2) for name in names}, tmp_path / "c")
    if not planned:
        changed(folder, lambda metadata: setattr(metadata, "planner_data", None))
    found = distributed.read(folder).value
    assert (
        {k: list(v) for k, v in found.items()} == value
        if isinstance(value, dict)
        else (list(found) == value)
    )


leaf = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
names = st.text("ab.c_0é", min_size=1, max_size=4)


@some
@given(
    sizes=st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=3),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool]),
    fields=st.dictionaries(names, st.dictionaries(names, leaf, min_size=1, max_size=3), max_size=3),
    listed=st.lists(leaf, max_size=3),
)
def test_what_one_process_saves_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[list[int]],
    dtype: torch.dtype,
    fields: dict[str, Any],
    listed: list[Any],
) -> None:
    tensors = {f"t{i}.w": (torch.randn(s) * 9).to(dtype) for i, s in enumerate(sizes)}
    value = {"model": tensors, "fields": fields, "list": [*listed, torch.tensor(1.5)]}
    folder = tmp_path_factory.mktemp("c")
    try:
        save(value, folder)
    except ValueError:  # {"a": {"b": 1}, "a.b": 2} has no flat names, which torch refuses
        return
    found = distributed.read(folder).value
    *plain, tensor = found["list"]
    assert (plain, tensor.read().item()) == (listed, 1.5)
    assert found.get("fields", {}) == fields
    assert {k: (v.shape, v.dtype) for k, v in found["model"].items()} == {
        k: (tuple(v.shape), str(v.dtype).removeprefix("torch.")) for k, v in tensors.items()
    }
    assert all(torch.equal(found["model"][k].read(), v) for k, v in tensors.items())


W = "model.transformer.wte.weight"


def set_place(**fields: Any) -> Change:
    def change(metadata: Metadata) -> None:
        index, info = place(metadata, W)
        metadata.storage_data[index] = replace(info, **fields)

    return change


def set_chunks(*boxes: tuple[tuple[int, ...], tuple[int, ...]]) -> Change:
    """Chunks at (offsets, sizes), each of them with bytes of its own."""

    def change(metadata: Metadata) -> None:
        _, info = place(metadata, W)
        entry: Any = metadata.state_dict_metadata[W]
        entry.chunks = [ChunkStorageMetadata(torch.Size(o), torch.Size(s)) for o, s in boxes]
        for index in [i for i in metadata.storage_data if i.fqn == W]:
            del metadata.storage_data[index]
        for i, (offsets, _) in enumerate(boxes):
            where = replace(info, offset=2000 * i, length=2000)
            metadata.storage_data[MetadataIndex(W, offsets)] = where

    return change


def set_entry(entry: Any, name: str = W) -> Change:
    return lambda metadata: metadata.state_dict_metadata.update({name: entry})


def huge(*size: int) -> TensorStorageMetadata:
    chunk = ChunkStorageMetadata(torch.Size([0] * len(size)), torch.Size(size))
    return TensorStorageMetadata(TensorProperties(torch.float32), torch.Size(size), [chunk])


def share_bytes(metadata: Metadata) -> None:
    indices = [index for index in metadata.storage_data if index.fqn == W]
    first, second = indices
    metadata.storage_data[first] = metadata.storage_data[second]


REFUSED: dict[str, tuple[Change, str]] = {
    "parent": (set_place(relative_path="../two/__0_0.distcp"), "not in its folder"),
    "absolute": (set_place(relative_path="/etc/passwd"), "not in its folder"),
    "nul": (set_place(relative_path="a\0b"), "is missing"),
    "missing": (set_place(relative_path="__7_0.distcp"), r"__7_0\.distcp: is missing"),
    "folder": (set_place(relative_path="."), "is missing"),
    "negative offset": (set_place(offset=-1), "does not say where"),
    "huge offset": (set_place(offset=2**70), "does not say where"),
    "beyond the end": (set_place(offset=10**9), r"distcp: is truncated: it has \d+ bytes"),
    "no number": (set_place(length="3"), "does not say where"),
    "transformed": (set_place(transform_descriptors=["zstd"]), "compressed or transformed"),
    "shared bytes": (share_bytes, "two entries that share bytes"),
    "too few bytes": (set_place(offset=0, length=100), "100 bytes"),
    "hole": (set_chunks(((0, 0), (7, 16)), ((8, 0), (5, 16))), "leave some of it out"),
    "overlap": (set_chunks(((0, 0), (7, 16)), ((6, 0), (7, 16))), r"overlap at \(0, 0\)"),
    "overlap and hole": (
        set_chunks(((0, 0), (6, 16)), ((5, 0), (6, 16)), ((12, 0), (1, 16))),
        "overlap",
    ),
    "outside": (set_chunks(((0, 0), (7, 16)), ((7, 0), (7, 16))), "reach out of it"),
    "no chunks": (set_chunks(), "leave some of it out"),
    "other dimensions": (set_chunks(((0,), (13 * 16,))), "have other dimensions"),
    "too many dimensions": (set_chunks(((0,) * 9, (1,) * 9)), "9 dimensions"),
    "enormous": (set_entry(huge(2**40, 2**40)), "does not say where|bytes"),
    "negative": (
        lambda m: setattr(m.state_dict_metadata[W], "size", (-13, 16)),
        "a shape that is none",
    ),
    "text as a shape": (
        lambda m: setattr(m.state_dict_metadata[W], "size", "13"),
        "a shape that is none",
    ),
    "unknown entry": (set_entry(5), "holds a int where a TensorStorageMetadata should be"),
    "value without a place": (set_entry(BytesStorageMetadata(), "x"), "where x lies"),
    "no storage": (lambda m: setattr(m, "storage_data", None), "no tables"),
    "name": (
        lambda m: m.state_dict_metadata.update({3: BytesStorageMetadata()}),
        "an entry without a name",
    ),
    "endless keys": (lambda m: m.planner_data.update({W: ("a",) * 99}), "keys to .* none"),
    "negative key": (lambda m: m.planner_data.update({W: ("a", -1)}), "keys to .* none"),
    "same keys": (
        lambda m: m.planner_data.update({W: ("iter_num",)}),
        "another entry by the same keys",
    ),
    "keys below a value": (
        lambda m: m.planner_data.update({W: ("iter_num", "x")}),
        "another entry by the same keys",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_metadata_that_contradicts_itself_or_the_files(two: Path, case: str) -> None:
    change, message = REFUSED[case]
    with pytest.raises(CheckpointError, match=message):
        distributed.read(changed(two, change))


def test_a_large_list_index_costs_nothing(two: Path) -> None:
    changed(two, lambda m: m.planner_data.update({W: ("l", 10**15)}))
    assert list(distributed.read(two).value["l"]) == [10**15]


def test_a_link_out_of_the_folder_is_refused(two: Path, tmp_path: Path) -> None:
    (two / "__0_0.distcp").rename(tmp_path / "elsewhere")
    (two / "__0_0.distcp").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="not in its folder"):
        distributed.read(two)


def test_files_that_are_missing_truncated_or_others(two: Path) -> None:
    shard = two / "__1_0.distcp"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"__1_0\.distcp: is truncated"):
        distributed.read(two)
    shard.write_bytes(bytes(len(whole)))
    with pytest.raises(CheckpointError, match=r"__1_0\.distcp"):
        distributed.read(two)
    shard.unlink()
    with pytest.raises(CheckpointError, match=r"__1_0\.distcp: is missing"):
        distributed.read(two)


def test_an_archive_of_another_tensor_is_refused(two: Path) -> None:
    def swap(metadata: Metadata) -> None:
        data = metadata.storage_data
        i, a = place(metadata, "model.transformer.h.0.attn.c_proj.weight")
        j, b = place(metadata, "model.transformer.h.0.ln_1.weight")
        data[i], data[j] = b, a

    folder = changed(two, swap)
    with pytest.raises(CheckpointError, match=r"where \.metadata says"):
        for stored in distributed.read(folder).value["model"].values():
            stored.read()


def test_an_archive_of_another_dtype_is_refused(two: Path) -> None:
    def change(metadata: Metadata) -> None:
        entry: Any = metadata.state_dict_metadata[W]
        entry.properties = TensorProperties(torch.int32)

    stored = distributed.read(changed(two, change)).value["model"]["transformer.wte.weight"]
    with pytest.raises(CheckpointError, match=r"holds a float32 tensor .*, int32, lies"):
        stored.read()


def test_a_process_without_a_share_has_an_empty_chunk(two: Path) -> None:
    def change(metadata: Metadata) -> None:
        entry: Any = metadata.state_dict_metadata[W]
        entry.chunks.append(ChunkStorageMetadata(torch.Size((13, 0)), torch.Size((0, 16))))

    stored = distributed.read(changed(two, change)).value["model"]["transformer.wte.weight"]
    assert torch.equal(stored.read(), MAKE.weights(MAKE.SLO)["transformer.wte.weight"])


def test_folders_that_are_none(tmp_path: Path, two: Path) -> None:
    assert not distributed.recognises(tmp_path / "no")
    assert not distributed.recognises(tmp_path)
    with pytest.raises(UsageError, match="is not a torch"):
        distributed.read(tmp_path)
    (two / ".metadata").unlink()
    assert distributed.recognises(two)
    with pytest.raises(CheckpointError, match="not saved to its end"):
        distributed.read(two)


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("echo run > evil",)


def test_code_in_metadata_is_not_run(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    changed(two, lambda m: setattr(m, "storage_meta", Evil()))
    with pytest.raises(CheckpointError, match="system"):
        distributed.read(two)
    assert not (tmp_path / "evil").exists()


def test_too_many_values_are_refused(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("MOST_VALUE_BYTES", "MOST_VALUES_BYTES", "MOST_ITEMS"):
        with monkeypatch.context() as patch:
            patch.setattr(distributed, limit, 10)
            with pytest.raises(CheckpointError, match="values beside its tensors"):
                distributed.read(two)


def read_all(folder: Path) -> None:
    def walk(value: Any) -> None:
        if isinstance(value, Stored):
            assert value.read().shape == value.shape
        elif isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                walk(item)

    walk(distributed.read(folder).value)


@some
@given(data=st.data())
def test_mutated_bytes_cost_one_message(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = shutil.copytree(DATA / "sloughgpt-two", tmp_path_factory.mktemp("m") / "c")
    which = [[".metadata"], ["__0_0.distcp"], [".metadata", "__1_0.distcp"]]
    for name in data.draw(st.sampled_from(which)):
        found = bytearray((folder / name).read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            found[data.draw(st.integers(0, len(found) - 1))] = data.draw(st.integers(0, 255))
        end = data.draw(st.none() | st.integers(0, len(found)))
        (folder / name).write_bytes(found[:end])
    try:
        read_all(folder)
    except SloGPTError as error:
        assert str(folder) in str(error)
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("value", [{"model.a": 1, "optimizer.state.a": 2}, {"model": {"optim": 3}}])
def test_the_optimizer_of_flat_names_is_left_out(tmp_path: Path, value: dict[str, Any]) -> None:
    flat = {name: torch.ones(2) for name in value if "." in name}
    folder = save(flat or {"model": {"optim.a": torch.ones(2)}}, tmp_path / "c")
    assert list(distributed.read(folder).value["model"]) == (["a"] if flat else ["optim.a"])


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_two_checkpoints_in_a_folder_are_not_chosen_between(two: Path, name: str) -> None:
    (two / name).touch()
    assert distributed.recognises(two)
    with pytest.raises(CheckpointError, match=rf"holds two checkpoints: {name} and a torch\.dist"):
        distributed.read(two)
