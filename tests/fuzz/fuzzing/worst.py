"""The most expensive inputs that could be thought of: each as large as its reader lets it be."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fuzzing import models, opcodes
from fuzzing.cases import Case
from fuzzing.models import Block, Saved, Storage
from fuzzing.seeds import seeds
from fuzzing.zips import Entry, Zip, write

MIB = 1 << 20
PICKLE_BYTES = 16 * MIB - 64
JSON_BYTES = 4 * MIB - 4096


def _pickle(body: bytes, end: bytes = b".") -> Case:
    content = models.archive(b"\x80\2" + body + end, {"0": bytes(64)})
    return Case("slo", {"ckpt.pt": content}, "ckpt.pt")


def _storm(unit: bytes, start: bytes = b"", end: bytes = b".") -> Case:
    """One piece of pickle as often as a pickle is long."""
    return _pickle(start + unit * ((PICKLE_BYTES - len(start)) // len(unit)), end)


def _counted(unit: bytes, count: int, start: bytes, end: bytes) -> Case:
    return _pickle(start + unit * count, end)


def _model(saved: Saved) -> Case:
    return Case("slo", {"ckpt.pt": models.torch_file(saved)}, "ckpt.pt")


def _many_tensors(count: int, name: str, n_storages: int = 1) -> Case:
    one = [Storage(f"s{i}", 1) for i in range(n_storages)]
    tensors = {name.format(i=i): Block(one[i % n_storages], (1,), (1,)) for i in range(count)}
    saved = models.slo()
    value = {**saved.value, "model": saved.value["model"] | tensors}
    return _model(Saved(value, {**saved.storages, **{s.key: bytes(4) for s in one}}))


def _with_vocabulary(**fields: object) -> Case:
    saved = models.slo()
    return _model(Saved({**saved.value, "itos": None, "stoi": None, **fields}, saved.storages))


def _many_entries(count: int) -> Case:
    """A directory of empty entries beside a sound checkpoint."""
    saved = models.slo()
    sound = [Entry(b"a/data.pkl", models.pickled(saved.value))]
    sound += [Entry(f"a/data/{k}".encode(), v) for k, v in saved.storages.items()]
    more = (Entry(b"a/%x" % i, b"") for i in range(count))
    return Case("slo", {"ckpt.pt": write(Zip((*sound, *more)))}, "ckpt.pt")


def _safetensors(header: bytes, data: bytes = b"") -> Case:
    content = models.safetensors_file(header, data)
    return Case("safetensors", {"m.safetensors": content}, "m.safetensors")


def _safetensors_of(count: int) -> Case:
    entry = '"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    return _safetensors(("{" + ",".join(entry % i for i in range(count)) + "}").encode())


def _safetensors_metadata(unit: str) -> Case:
    text = "[" + ",".join([unit] * ((JSON_BYTES - 4096) // (len(json.dumps(unit)) - 1))) + "]"
    shapes = models.SLOUGHGPT
    return _safetensors(*models.safetensors_header(shapes, {"config": text, "n_head": "2"}))


def _metadata(text: str) -> Case:
    case = seeds("run folder")[0]
    return replace(case, files={**case.files, "r/metadata.json": text.encode()})


def _repeated(unit: str, n_bytes: int = JSON_BYTES) -> str:
    return '{"config": [' + ",".join([unit] * (n_bytes // (len(unit) + 1))) + "]}"


def _sou(profile: str) -> Case:
    saved = Saved(*models.tensors(models.SLOUGHGPT))
    return Case("sou", {"m.sou": models.sou_file(profile.encode(), saved)}, "m.sou")


def _bin_of_layers(n_layers: int) -> Case:
    sizes = struct.pack("<7i", 2, 1, n_layers, 1, 1, 1, 1)
    values = 2 + n_layers * (2 + 16 + 2 + 6) + 2 + 2
    head = (struct.pack("<Ii", 0x616B3432, 1) + sizes + b"\1").ljust(256, b"\0")
    return Case("bin v1", {"m.bin": head + models.floats(values - 2)}, "m.bin")


def _distributed(n_tensors: int, n_chunks: int) -> Case:
    """Every tensor in as many chunks, which share one place in the file."""
    import torch
    from torch.distributed.checkpoint import filesystem, metadata

    info = filesystem._StorageInfo("__0_0.distcp", 0, 1)
    properties = metadata.TensorProperties(torch.uint8)
    boxes = [
        metadata.ChunkStorageMetadata(torch.Size([i]), torch.Size([1])) for i in range(n_chunks)
    ]
    tensor = metadata.TensorStorageMetadata(properties, torch.Size([n_chunks]), boxes)
    names = [f"model.{i}" for i in range(n_tensors)]
    storage = {metadata.MetadataIndex(n, box.offsets): info for n in names for box in boxes}
    value = metadata.Metadata(dict.fromkeys(names, tensor), None, storage)
    files = {"d/.metadata": pickle.dumps(value, 4), "d/__0_0.distcp": bytes(64)}
    return Case("DCP folder", files, "d")


def _distributed_values(count: int, body: bytes) -> Case:
    """Values that are no tensors, each in an archive of its own."""
    from torch.distributed.checkpoint import filesystem, metadata

    one = models.archive(b"\x80\2" + body + b".", {})
    names = [f"v{i}" for i in range(count)]
    storage = {
        metadata.MetadataIndex(n): filesystem._StorageInfo("__0_0.distcp", i * len(one), len(one))
        for i, n in enumerate(names)
    }
    entries: Any = {n: metadata.BytesStorageMetadata() for n in names}
    value = metadata.Metadata(entries, None, storage)
    files = {"d/.metadata": pickle.dumps(value, 4), "d/__0_0.distcp": one * count}
    return Case("DCP folder", files, "d")


def _distributed_chunks(n_chunks: int, n_opcodes: int) -> Case:
    """A tensor in chunks, each an archive whose pickle does much before it gives the chunk."""
    import torch
    from torch.distributed.checkpoint import filesystem, metadata

    case, name = seeds("DCP folder")[0], "model.transformer.wte.weight"
    saved = pickle.loads(case.files["d/.metadata"])
    entry = saved.state_dict_metadata[name]
    width = entry.size[1]
    chunk = models.pickled(Block(Storage("0", width), (1, width), (width, 1)))
    at = chunk.index(b"_v2\n") + 4
    put = chunk[at : at + 2]  # stores the global in the memo, as often as one likes
    one = models.archive(chunk[:at] + put * n_opcodes + chunk[at:], {"0": models.floats(width)})
    places = [torch.Size([row, 0]) for row in range(n_chunks)]
    entry.chunks = [metadata.ChunkStorageMetadata(at, torch.Size([1, width])) for at in places]
    for i, place in enumerate(places):
        info = filesystem._StorageInfo("__1_0.distcp", i * len(one), len(one))
        saved.storage_data[metadata.MetadataIndex(name, place)] = info
    files = {"d/.metadata": pickle.dumps(saved, 4), "d/__1_0.distcp": one * n_chunks}
    return Case("DCP folder", {**case.files, **files}, "d")


def _meta(itos: object, stoi: object) -> Case:
    content = pickle.dumps({"itos": itos, "stoi": stoi}, 4)
    return Case("meta.pkl", {"meta.pkl": content}, "meta.pkl")


def _tokenizer_bin(pieces: list[bytes]) -> bytes:
    first = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % i for i in range(256)), b" "]
    body = b"".join(
        struct.pack("<fi", -float(i), len(piece)) + piece
        for i, piece in enumerate([*first, *pieces])
    )
    return struct.pack("<i", 8000) + body


def _pieces(pieces: list[bytes]) -> Case:
    name = "tokenizer.bin"
    return Case(name, {name: _tokenizer_bin(pieces)}, name)


def _pieces_beside(pieces: list[bytes]) -> Case:
    """A llama2.c checkpoint with as many rows as the tokenizer beside it has pieces."""
    rows = len(pieces) + 260
    sizes = struct.pack("<7i", 2, 1, 1, 1, 1, rows, 1)
    head = (struct.pack("<Ii", 0x616B3432, 1) + sizes + b"\1").ljust(256, b"\0")
    content = head + bytes(4 * (6 + 2 * rows + 16 + 6))
    return Case("bin v1", {"m.bin": content, "tokenizer.bin": _tokenizer_bin(pieces)}, "m.bin")


def _yaml(text: str) -> Case:
    case = seeds(".slogpt-hf.yml")[0]
    return replace(case, files={**case.files, ".slogpt-hf.yml": text.encode()})


def _yaml_merges() -> Case:
    """Mappings that take in nine others, which take in nine others."""
    lines = ["set:", "  a0: &a0 {x: 1}"]
    lines += [f"  a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 9)]
    return _yaml("\n".join(lines))


def _yaml_bomb(key: str) -> Case:
    lines = [f"{key}:", "  a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"  a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    return _yaml("\n".join(lines))


def _different(count: int) -> list[str]:
    return [chr(0x10000 + i) for i in range(count)]


ONE_TEXT = b"X\x04\0\0\0abcd"
CASES: dict[str, Callable[[], Case]] = {
    "pickle: lists": lambda: _storm(b"]", b"(", b"t."),
    "pickle: dicts": lambda: _storm(b"}", b"(", b"t."),
    "pickle: dicts in one list": lambda: _counted(b"}", 250_000, b"(", b"l."),
    "pickle: marks": lambda: _storm(b"("),
    "pickle: short texts": lambda: _counted(ONE_TEXT, 900_000, b"](", b"e."),
    "pickle: floats": lambda: _counted(b"G?\xf0\0\0\0\0\0\1", 990_000, b"](", b"e."),
    "pickle: long integers": lambda: _storm(b"\x8a\xff" + b"\x7f" * 255, b"(", b"l."),
    "pickle: large texts": lambda: _storm(opcodes.text("\U0001f600" * MIB), b"](", b"e."),
    "pickle: large texts dropped": lambda: _storm(
        opcodes.text("x" * 4_000_000) + b"s", b"}K\0", b"K\0N."
    ),
    "pickle: same text again and again": lambda: _counted(
        b"h\0", 990_000, b"]" + opcodes.text("x" * 200) + b"q\0a(", b"e."
    ),
    "pickle: calls": lambda: _storm(b"h\0)Ra", b"ccollections\nOrderedDict\nq\0]"),
    "pickle: globals": lambda: _storm(b"ctorch\nfloat32\na", b"]"),
    "pickle: appended": lambda: _storm(b"Na", b"]"),
    "pickle: set again and again": lambda: _storm(b"K\0Ns", b"}"),
    "pickle: keys of one low part": lambda: _pickle(
        b"}(" + b"".join(opcodes.integer(i << 40) + b"N" for i in range(1, 400_000)), b"u."
    ),
    "pickle: floats as keys": lambda: _pickle(
        b"}(" + b"".join(b"G" + struct.pack(">d", 2.0**20 * i) + b"N" for i in range(400_000)),
        b"u.",
    ),
    "pickle: memo": lambda: _storm(b"\x94", b"N"),
    "pickle: memo index": lambda: _pickle(b"Nr\xff\xff\xff\x7f"),
    "pickle: nested tuples": lambda: _storm(b"\x85", b")"),
    "pickle: tree of references": lambda: _pickle(
        b"]q\0"
        + b"".join(
            b"\x85](" + bytes((104, i)) * 250 + b"eq" + bytes((i + 1,)) + b"\x86" for i in range(60)
        )
    ),
    "tensors: 100,000 of one storage": lambda: _many_tensors(100_000, "x.{i}"),
    "tensors: 49,000 of one storage": lambda: _many_tensors(
        49_000, "transformer.h.{i}.ln_1.weight"
    ),
    "tensors: 49,000 blocks": lambda: _many_tensors(49_000, "transformer.h.{i}.x"),
    "tensors: 30,000 storages": lambda: _many_tensors(30_000, "x.{i}", 30_000),
    "vocabulary: a long text": lambda: _with_vocabulary(chars="\u4e00" * 1_390_000),
    "vocabulary: a list": lambda: _with_vocabulary(chars=["a"] * 900_000),
    "vocabulary: ids as text": lambda: _with_vocabulary(
        itos={str(i): "a" for i in range(280_000)}, stoi={"a": 1}
    ),
    "vocabulary: three tables": lambda: _with_vocabulary(
        itos=dict(enumerate(_different(200_000))),
        stoi={c: i for i, c in enumerate(_different(200_000))},
        chars=_different(200_000),
    ),
    "zip: 60,000 entries": lambda: _many_entries(60_000),
    "zip: 90,000 entries": lambda: _many_entries(90_000),
    "safetensors: 65,000 tensors": lambda: _safetensors_of(65_000),
    "safetensors: lists in a text": lambda: _safetensors_metadata("[]"),
    "safetensors: objects in a text": lambda: _safetensors_metadata("{}"),
    "safetensors: keys in a text": lambda: _safetensors_metadata('{"":1}'),
    "metadata.json: lists": lambda: _metadata(_repeated("[]")),
    "metadata.json: objects": lambda: _metadata(_repeated("{}")),
    "metadata.json: objects of one": lambda: _metadata(_repeated('{"":0}')),
    "metadata.json: long keys": lambda: _metadata(
        json.dumps({f"{i:x}": i for i in range(200_000)})
    ),
    "sou: lists": lambda: _sou(_repeated("[]", MIB - 4096)),
    "sou: objects": lambda: _sou(_repeated('{"":0}', MIB - 4096)),
    "bin: 4,096 layers": lambda: _bin_of_layers(4096),
    "DCP: 9 tensors of 4,096 chunks": lambda: _distributed(9, 4096),
    "DCP: 25,000 tensors": lambda: _distributed(25_000, 1),
    "DCP: 20,000 values": lambda: _distributed_values(20_000, b"N"),
    "DCP: values of many items": lambda: _distributed_values(6, b"](" + b"]" * 170_000 + b"e"),
    "DCP: 28,000 values": lambda: _distributed_values(28_000, b"N"),
    "DCP: values of many opcodes": lambda: _distributed_values(6, b"N" + b"\x94" * 3_999_000),
    "DCP: chunks of many opcodes": lambda: _distributed_chunks(13, 1_990_000),
    "meta.pkl: 210,000 entries": lambda: _meta(
        dict(enumerate(_different(210_000))), {c: i for i, c in enumerate(_different(210_000))}
    ),
    "tokenizer.bin: 299,000 pieces": lambda: _pieces([b"%x" % i for i in range(299_000)]),
    "tokenizer.bin: long pieces": lambda: _pieces([b"a" * (7000 + i) for i in range(130)]),
    "tokenizer.bin beside: 190,000 pieces": lambda: _pieces_beside(
        [b"%x" % i for i in range(190_000)]
    ),
    "tokenizer.bin beside: long pieces": lambda: _pieces_beside([b"a" * i for i in range(1, 1400)]),
    "tokenizer.bin beside: longest pieces": lambda: _pieces_beside(
        [b"a" * i for i in range(7870, 7990)]
    ),
    "tokenizer.bin beside: pieces of halves": lambda: _pieces_beside(
        [b"a" * i for i in (*range(1, 300), *range(7870, 7985))]
    ),
    "settings: references": lambda: _yaml_bomb("set"),
    "settings: references as a language": lambda: _yaml_bomb("language"),
    "settings: merged references": _yaml_merges,
    "settings: many lines": lambda: _yaml("language:\n" + "- en\n" * 13_000),
    "settings: a long list": lambda: _yaml("language:\n" + "- en\n" * 1_000_000),
    "settings: nested": lambda: _yaml("set: " + "[" * 100_000),
    "--set: digits": lambda: replace(seeds("--set")[0], given=("n_head=" + "9" * 100_000,)),
}
