"""Files that are no Slo checkpoint: one typed error that names the file and what is wrong in it."""

from __future__ import annotations

import io
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slogpt_hf.checkpoints import Checkpoint, read_checkpoint
from slogpt_hf.checkpoints.dialects import slo
from slogpt_hf.checkpoints.parts import tensor_shapes
from slogpt_hf.errors import CheckpointError, UsageError

Write = Callable[..., Path]
Content = Callable[..., dict[str, Any]]
Spoil = Callable[[dict[str, Any]], None]

C_FC = "transformer.h.1.mlp.c_fc.weight"


def saved(content: Any, folder: Path) -> Path:
    path = folder / "ckpt.pt"
    torch.save(content, path)
    return path


def refused(path: Path, error: type[Exception], *fragments: str) -> None:
    """Reading ``path`` raises exactly ``error``, whose one-line message has every fragment."""
    with pytest.raises(error) as caught:
        read_checkpoint(path)
    assert type(caught.value) is error
    assert isinstance(caught.value, CheckpointError | UsageError)
    assert caught.value.exit_code == (3 if error is CheckpointError else 2)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.hint
    for fragment in (str(path), *fragments):
        assert fragment in message


def test_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "ckpt.pt", UsageError, "no such checkpoint")


def test_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    refused(tmp_path / "out" / "ckpt.pt", UsageError, "no such checkpoint")


def test_name_too_long(tmp_path: Path) -> None:
    refused(tmp_path / ("x" * 300), UsageError, "cannot be read")


def test_folder(tmp_path: Path) -> None:
    refused(tmp_path, UsageError, "model.pt", ".metadata")


def test_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", UsageError, "not a regular file")


def zip_of(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


LFS_POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
NOT_CHECKPOINTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "one byte": (b"P", "is not a checkpoint"),
    "LFS pointer": (LFS_POINTER, "git lfs pull --include 'ckpt.pt'"),
    "random": (bytes(range(256)) * 9, "is not a checkpoint"),
    "text": (b"PK is the way to go", "is not a checkpoint"),
    "pickle": (pickle.dumps({"model": {}}), "before 1.6"),
    "legacy": (pickle.dumps(0x1950A86A20F9469CFC6C), "before 1.6"),
    "zip magic only": (b"PK\x03\x04" + bytes(100), "truncated or damaged"),
    "other zip": (zip_of({"word/document.xml": b"<w/>"}), "without a data.pkl"),
    "empty data.pkl": (zip_of({"a/data.pkl": b"", "a/version": b"3\n"}), "cannot be read"),
    "bad data.pkl": (zip_of({"a/data.pkl": b"\x80\x02}q\x01", "a/version": b"3\n"}), "ckpt.pt"),
    "compressed": (
        zip_of({"a/data.pkl": pickle.dumps({}), "a/version": b"3\n"}, zipfile.ZIP_DEFLATED),
        "'a/data.pkl' in it is compressed",
    ),
}


@pytest.mark.parametrize("kind", NOT_CHECKPOINTS)
def test_file_that_is_no_checkpoint(tmp_path: Path, kind: str) -> None:
    content, fragment = NOT_CHECKPOINTS[kind]
    path = tmp_path / "ckpt.pt"
    path.write_bytes(content)
    refused(path, CheckpointError, fragment)


def test_compressed_again(slo_checkpoint: Write, tmp_path: Path) -> None:
    """Its mapped bytes would be taken for weights."""
    with zipfile.ZipFile(slo_checkpoint()) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    path = tmp_path / "ckpt.pt"
    path.write_bytes(zip_of(entries, zipfile.ZIP_DEFLATED))
    refused(path, CheckpointError, "is compressed")


@pytest.mark.parametrize(
    "content", [None, 3, "x", [1], {}, {"model": 3}, {"model": {}}, {"model": {1: 2}}, {1: 2}]
)
def test_content_of_no_dialect(tmp_path: Path, content: Any) -> None:
    refused(saved(content, tmp_path), CheckpointError, "of no known dialect")


def test_bare_state_dict_asks_for_what_it_cannot_tell(slo_content: Content, tmp_path: Path) -> None:
    path = saved(slo_content()["model"], tmp_path)
    refused(path, CheckpointError, "does not record n_head", "--set n_head=")


class RunsCode:
    """Unpickles to a call of ``os.system``."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.parametrize("where", ["config", "top", "model", "model_args"])
def test_code_in_the_pickle_does_not_run(slo_content: Content, tmp_path: Path, where: str) -> None:
    canary = tmp_path / "ran"
    content = slo_content()
    (content if where == "top" else content[where])["x"] = RunsCode(f"touch {canary}")
    path = saved(content, tmp_path)
    refused(path, CheckpointError, "posix.system", "nothing of it was run")
    assert not canary.exists()
    with path.open("rb"):  # the same file does run where code is allowed
        torch.load(path, weights_only=False)
    assert canary.exists()


def test_another_pickle_protocol(slo_content: Content, tmp_path: Path) -> None:
    with warnings.catch_warnings(action="error"):
        for protocol in (3, 4, 5):
            torch.save(slo_content(), tmp_path / "ckpt.pt", pickle_protocol=protocol)
            assert read_checkpoint(tmp_path / "ckpt.pt").n_parameters


def change(**changes: Any) -> Spoil:
    """Sets fields of ``model_args``; ``...`` removes one."""

    def spoil(content: dict[str, Any]) -> None:
        for field, value in changes.items():
            if value is ...:
                del content["model_args"][field]
            else:
                content["model_args"][field] = value

    return spoil


def put(name: str, value: Any) -> Spoil:
    """Sets a tensor of ``model``; ``...`` removes it; a function maps it."""

    def spoil(content: dict[str, Any]) -> None:
        model = content["model"]
        if value is ...:
            del model[name]
        else:
            model[name] = value(model[name]) if callable(value) else value

    return spoil


def field(name: str, value: Any) -> Spoil:
    def spoil(content: dict[str, Any]) -> None:
        content[name] = value

    return spoil


def half(content: dict[str, Any]) -> None:
    content["model"] = {
        name: tensor.half() if name.startswith("lm_head") else tensor
        for name, tensor in content["model"].items()
    }


def quantised(content: dict[str, Any]) -> None:
    content["model"] = {name: t.to(torch.int8) for name, t in content["model"].items()}


def odd_heads(content: dict[str, Any]) -> None:
    content["model_args"] |= {"n_head": 32, "use_rope": True}
    del content["model"]["transformer.wpe.weight"]


SPOILED: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "wrong shape": (put(C_FC, torch.ones(3, 4)), (C_FC, "(3, 4)", "(128, 32)")),
    "transposed": (put(C_FC, lambda t: t.t()), (C_FC, "(32, 128)", "(128, 32)")),
    "0-d": (put("transformer.ln_f.weight", torch.tensor(1.0)), ("transformer.ln_f.weight", "()")),
    "missing tensor": (put(C_FC, ...), ("missing", C_FC)),
    "missing head": (put("lm_head.weight", ...), ("missing", "lm_head.weight")),
    "unknown tensor": (put("transformer.h.0.attn.q_norm", torch.ones(2)), ("q_norm", "not known")),
    "name of two lines": (put("a\n::error::b", torch.ones(2)), (r"'a\n::error::b'", "not known")),
    "not a tensor": (put(C_FC, [1.0]), (C_FC, "list", "not a tensor")),
    "name that is a number": (put(7, torch.ones(2)), ("7", "name")),  # type: ignore[arg-type]
    "twice": (put(f"module.{C_FC}", torch.ones(128, 32)), (C_FC, "twice")),
    "mixed dtypes": (put(C_FC, lambda t: t.half()), (C_FC, "float16", "float32")),
    "mixed head": (half, ("lm_head.weight", "float16", "float32")),
    "integers": (quantised, ("int8", "dtype")),
    "complex": (put(C_FC, lambda t: t.to(torch.complex64)), (C_FC, "complex64")),
    "sparse": (put(C_FC, lambda t: t.to_sparse()), (C_FC, "sparse")),
    "without values": (put(C_FC, lambda t: t.to("meta")), (C_FC, "meta")),
    "without values, head": (put("lm_head.weight", lambda t: t.to("meta")), ("lm_head.weight",)),
    "no model_args": (field("model_args", None), ("does not record n_head",)),
    "model_args a list": (field("model_args", [1]), ("does not record n_head",)),
    "n_head missing": (
        change(n_head=...),
        ("does not record n_head,", "one of 1, 2, 4, 8, 16, 32"),
    ),
    "n_layer a string": (change(n_layer="2"), ("model_args.n_layer", "'2'")),
    "n_embd a float": (change(n_embd=32.0), ("model_args.n_embd", "32.0")),
    "vocab_size a bool": (change(vocab_size=True), ("model_args.vocab_size", "True")),
    "block_size 0": (change(block_size=0), ("model_args.block_size", "0")),
    "n_head negative": (change(n_head=-4), ("model_args.n_head", "-4")),
    "n_head a tensor": (
        change(n_head=torch.tensor(4)),
        ("model_args.n_head", "a tensor of shape ()"),
    ),
    "n_embd % n_head": (change(n_head=5), ("model_args.n_head is 5", "n_embd 32")),
    "odd head with rope": (odd_heads, ("even head size", "32", "one of 1, 2, 4, 8, 16.")),
    "huge n_layer": (change(n_layer=10**12), ("model_args.n_layer", "1000000000000")),
    "huge n_embd": (change(n_embd=4 * 10**600), ("transformer.wte.weight", "(37, 32)")),
    "n_embd a long list": (change(n_embd=[1] * 999), ("model_args.n_embd", "[1, 1, 1", "...")),
    "n_layer too small": (change(n_layer=1), ("model_args.n_layer is 1", "holds 2 blocks")),
    "n_layer too large": (change(n_layer=3), ("model_args.n_layer is 3", "2 blocks")),
    "switch a string": (change(use_rmsnorm="False"), ("model_args.use_rmsnorm", "'False'")),
    "switch a tensor": (change(use_rope=torch.ones(2)), ("model_args.use_rope",)),
    "switch 2": (change(use_swiglu=2), ("model_args.use_swiglu", "2")),
    "another architecture": (change(use_swiglu=True), ("missing", "mlp.w1", "use_swiglu=True")),
    "rope with positions": (change(use_rope=True), ("transformer.wpe.weight", "use_rope=True")),
    "no biases": (change(bias=False), ("not known", "bias=False")),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_spoiled_checkpoint(slo_content: Content, tmp_path: Path, kind: str) -> None:
    spoil, fragments = SPOILED[kind]
    content = slo_content()
    spoil(content)
    refused(saved(content, tmp_path), CheckpointError, *fragments)


@pytest.fixture(scope="module")
def small(slo_content: Content) -> bytes:
    """A whole file of a few kB: one layer of width 4, with optimizer state."""
    buffer = io.BytesIO()
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 4, "block_size": 3, "vocab_size": 5}
    torch.save(slo_content(**sizes, bias=False, optimizer=True), buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "ckpt.pt"


def outcome(path: Path, content: bytes) -> Checkpoint | None:
    """The checkpoint, or None for a typed error; any other exception comes through."""
    # A file that was mapped is replaced, not written to.
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    try:
        return read_checkpoint(path)
    except CheckpointError as error:
        assert str(path) in error.message
        assert "\n" not in str(error)
        return None


HYPOTHESIS = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@settings(HYPOTHESIS, max_examples=150)
@given(cut=st.floats(0, 1, exclude_max=True))
def test_truncated_anywhere_is_an_error(small: bytes, scratch: Path, cut: float) -> None:
    assert outcome(scratch, small[: int(cut * len(small))]) is None


def test_truncated_at_every_end_of_an_entry(small: bytes, scratch: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(small)) as archive:
        offsets = [entry.header_offset for entry in archive.infolist()]
    for offset in [*offsets, len(small) - 22, len(small) - 1]:
        assert outcome(scratch, small[:offset]) is None


def used_bytes(small: bytes) -> list[int]:
    """Where the file says something: headers, pickle and directory rather than padding."""
    with zipfile.ZipFile(io.BytesIO(small)) as archive:
        entries = archive.infolist()
    spans = [(e.header_offset, e.header_offset + 30 + len(e.filename)) for e in entries]
    for entry in entries:
        lengths = struct.unpack_from("<HH", small, entry.header_offset + 26)
        data = entry.header_offset + 30 + sum(lengths)
        spans.append((data, data + entry.file_size))
    spans.append((small.index(b"PK\x01\x02"), len(small)))
    return sorted({i for start, stop in spans for i in range(start, stop)})


@settings(HYPOTHESIS, max_examples=250)
@given(data=st.data())
def test_flipped_bytes_give_a_checkpoint_or_a_typed_error(
    small: bytes, scratch: Path, data: st.DataObject
) -> None:
    places = used_bytes(small)
    flips = data.draw(
        st.lists(
            st.tuples(st.integers(0, len(places) - 1), st.integers(1, 255)), min_size=1, max_size=4
        )
    )
    content = bytearray(small)
    for place, mask in flips:
        content[places[place]] ^= mask
    checkpoint = outcome(scratch, bytes(content))
    if checkpoint is not None:
        shapes = tensor_shapes(slo.names(checkpoint.spec), checkpoint.spec)
        assert checkpoint.tensors.shapes == shapes


@settings(HYPOTHESIS, max_examples=150)
@given(data=st.data())
def test_flipped_bytes_in_the_pickle(small: bytes, scratch: Path, data: st.DataObject) -> None:
    with zipfile.ZipFile(io.BytesIO(small)) as archive:
        pickled = next(archive.read(n) for n in archive.namelist() if n.endswith("data.pkl"))
    start = small.index(pickled)
    place = data.draw(st.integers(0, len(pickled) - 1))
    content = bytearray(small)
    content[start + place] ^= data.draw(st.integers(1, 255))
    outcome(scratch, bytes(content))


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3)
        | st.tuples(inner)
    ),
    max_leaves=6,
)


@settings(HYPOTHESIS, max_examples=100)
@given(
    field=st.sampled_from(["model_args", "iter_num", "best_val_loss", "config", "optimizer"]),
    value=values,
)
def test_any_value_in_any_field(
    slo_content: Content, scratch: Path, field: str, value: Any
) -> None:
    buffer = io.BytesIO()
    torch.save(slo_content(n_layer=1, n_embd=4) | {field: value}, buffer)
    outcome(scratch, buffer.getvalue())


@settings(HYPOTHESIS, max_examples=100)
@given(
    args=st.dictionaries(
        st.sampled_from(
            ["n_layer", "n_head", "n_embd", "block_size", "vocab_size", "bias", "use_rope", "role"]
        ),
        values,
        min_size=1,
    )
)
def test_any_value_in_model_args(
    slo_content: Content, scratch: Path, args: Mapping[str, Any]
) -> None:
    buffer = io.BytesIO()
    content = slo_content(n_layer=1, n_embd=4)
    content["model_args"] |= args
    torch.save(content, buffer)
    outcome(scratch, buffer.getvalue())
