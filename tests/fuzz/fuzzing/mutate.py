"""Any case made into a hostile one: what its files are made of tells which mutations fit."""

from __future__ import annotations

import struct
from dataclasses import replace
from random import Random

from fuzzing import models, opcodes, raw, values, zips
from fuzzing.cases import Case
from fuzzing.seeds import MODELS, READERS, seeds

MOST_BYTES = 1 << 20
PICKLES = (".metadata", "meta.pkl")
HEADER = 8


def make(random: Random, reader: str) -> Case:
    """A hostile case for a reader."""
    case = random.choice(seeds(reader))
    if reader in MODELS and random.random() < 0.4:
        content = models.torch_file(values.mutate(random, MODELS[reader]()))
        case = replace(case, files={**case.files, case.target: content})
        if random.random() < 0.6:
            return case
    return mutate(random, case)


def mutate(random: Random, case: Case) -> Case:
    """A case with one of its files changed, rarely two or more times."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        case = _once(random, case)
    return case


def _once(random: Random, case: Case) -> Case:
    if case.given and random.random() < (0.9 if case.reader == "--set" else 0.05):
        added = random.choice(raw.GIVEN)
        return replace(case, given=(*case.given[random.randrange(2) :], added))
    names = list(case.files)
    if case.reader == ".slogpt-hf.yml":
        names = [".slogpt-hf.yml"]
    name = random.choice(names)
    if random.random() < 0.02 and len(names) > 1:
        return replace(case, files={n: c for n, c in case.files.items() if n != name})
    if random.random() < 0.03:
        other = random.choice(seeds(random.choice(READERS)))
        content = _splice(random, case.files[name], random.choice(list(other.files.values())))
    else:
        content = content_of(random, name, case.files[name])
    return replace(case, files={**case.files, name: content[:MOST_BYTES]})


def _splice(random: Random, left: bytes, right: bytes) -> bytes:
    at, to = random.randrange(len(left) + 1), random.randrange(len(right) + 1)
    return left[:at] + right[to:]


def content_of(random: Random, name: str, data: bytes) -> bytes:
    """The content of a file, changed in a way that its layout suggests."""
    if name.endswith(".yml"):
        return raw.yaml_text(random, data)
    if random.random() < 0.25:
        return random.choice(raw.BYTES)(random, data)
    if name.endswith(PICKLES):
        return opcodes.mutate(random, data)
    if name.endswith(".json"):
        return raw.json_text(random, data)
    if name.endswith(".distcp"):
        return _in_shard(random, data)
    if data[:2] == b"PK":
        return _in_archive(random, data)
    if data[:4] == b"SOUL" and len(data) > 12:
        return _in_sou(random, data)
    if data[HEADER : HEADER + 1] == b"{":
        return _in_safetensors(random, data)
    head = data[: raw.EDGE]
    if random.random() < 0.5:  # the header alone, which is what a reader believes
        return random.choice((raw.integer, raw.flip))(random, head) + data[raw.EDGE :]
    return random.choice(raw.BYTES)(random, data)


def _in_archive(random: Random, data: bytes) -> bytes:
    if random.random() < 0.45:
        return zips.mutate(random, data)
    found = zips.read(data)
    pickles = [e for e in found.entries if e.name.endswith(b"data.pkl")] if found else []
    if not found or not pickles:
        return random.choice(raw.BYTES)(random, data)
    changed = {
        id(pickles[0]): replace(pickles[0], content=opcodes.mutate(random, pickles[0].content))
    }
    return zips.write(replace(found, entries=tuple(changed.get(id(e), e) for e in found.entries)))


def _in_shard(random: Random, data: bytes) -> bytes:
    """One of the archives in a ``.distcp`` changed, padded or cut to its length."""
    ends = [0]
    while (at := data.find(b"PK\5\6", ends[-1])) >= 0:
        ends.append(at + 22)
    if len(ends) < 2:
        return random.choice(raw.BYTES)(random, data)
    at = random.randrange(len(ends) - 1)
    start, end = ends[at], ends[at + 1]
    made = _in_archive(random, data[start:end])
    if random.random() < 0.5:
        made = made.ljust(end - start, b"\0")[: end - start]
    return data[:start] + made + data[end:]


def _in_sou(random: Random, data: bytes) -> bytes:
    (length,) = struct.unpack_from("<I", data, 8)
    profile, rest = data[12 : 12 + length], data[12 + length :]
    if random.random() < 0.5:
        profile = raw.json_text(random, profile)
    else:
        rest = _in_archive(random, rest)
    return struct.pack("<4sII", b"SOUL", 2, len(profile)) + profile + rest


def _in_safetensors(random: Random, data: bytes) -> bytes:
    (length,) = struct.unpack_from("<Q", data)
    header, rest = data[HEADER : HEADER + length], data[HEADER + length :]
    return models.safetensors_file(raw.json_text(random, header), rest)
