"""The embedded hub's Xet protocol on the wire: what `hf_xet` never sends."""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import random
import struct
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import lz4.frame
import pytest

from slogpt_hf.hub.embedded import RunningHub, serve, xet, xet_shards, xet_xorbs

HASH = "ab" * 32
CONTENT = random.Random(0).randbytes(100_000) + bytes(50_000) + b"the sea " * 5_000
CHUNKS = [CONTENT[:100_000], CONTENT[100_000:150_001], CONTENT[150_001:]]
MIB = 1024 * 1024


def packed(raw: bytes, scheme: int = 0) -> bytes:
    """A chunk as the specification lays it out."""
    groups = b"".join(raw[i::4] for i in range(4)) if scheme == 2 else raw
    data = lz4.frame.compress(groups) if scheme else raw
    return chunk(data, scheme, len(raw))


def chunk(data: bytes, scheme: int, raw: int, version: int = 0, size: int | None = None) -> bytes:
    lengths = [n.to_bytes(3, "little") for n in (len(data) if size is None else size, raw)]
    return bytes([version]) + lengths[0] + bytes([scheme]) + lengths[1] + data


def record(name: str, *numbers: int) -> bytes:
    """A record of a shard: a hash, by its text, and four numbers."""
    words = (int(name[i : i + 16], 16) for i in range(0, 64, 16))
    return struct.pack("<4Q4I", *words, *numbers)


BOOKEND = b"\xff" * 32 + bytes(16)
HEAD = xet_shards.TAG + struct.pack("<2Q", 2, 0)
BOTH = 0xC000_0000


def file_block(sha256: str, terms: Sequence[tuple[str, int, int, int]], flags: int = BOTH) -> bytes:
    lines = [record(HASH, flags, len(terms), 0, 0)]
    lines += [record(xorb, 0, size, start, stop) for xorb, size, start, stop in terms]
    lines += [record(HASH, 0, 0, 0, 0)] * (len(terms) if flags >> 31 else 0)
    lines += [record(sha256, 0, 0, 0, 0)] if flags >> 30 & 1 else []
    return b"".join(lines)


def shard(*blocks: bytes, xorbs: bytes = b"") -> bytes:
    return HEAD + b"".join(blocks) + BOOKEND + xorbs + BOOKEND


XORB = packed(CHUNKS[0]) + packed(CHUNKS[1], 1) + packed(CHUNKS[2], 2)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
WHOLE = (HASH, len(CONTENT), 0, 3)
SHARD = shard(
    file_block(SHA256, [WHOLE]), xorbs=record(HASH, 0, 1, 9, 9) + record(HASH, 0, 9, 0, 0)
)


class Cas(SimpleNamespace):
    """A hub with the repository `me/m`, and a token to write there."""

    hub: RunningHub
    url: str
    token: str

    def post(self, path: str, data: bytes, token: str | None = None) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"}
        status, _, text = ask(f"{self.url}/{path}", "POST", data, headers)
        return status, text

    @property
    def objects(self) -> list[str]:
        folder = self.hub.folder / "me" / "m.git" / "lfs" / "objects"
        return sorted(path.name for path in folder.rglob("?" * 64))

    @property
    def incoming(self) -> list[str]:
        """Names of what is not ready, but for the xorbs."""
        folder = self.hub.folder / ".slogpt-hf" / "incoming"
        return [path.name for path in folder.iterdir() if not path.name.startswith("xet-")]


def ask(
    url: str, method: str, data: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], str]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=20)
    connection.request(method, parts.path, data, headers or {})
    response = connection.getresponse()
    answer = response.status, dict(response.getheaders()), response.read().decode()
    connection.close()
    return answer


def create(hub: RunningHub, name: str, private: bool = False) -> None:
    data = json.dumps({"name": name, "organization": "me", "private": private}).encode()
    headers = {"Authorization": "Bearer right"}
    assert ask(f"{hub.endpoint}/api/repos/create", "POST", data, headers)[0] == 200


def token_of(hub: RunningHub, kind: str, name: str = "m", revision: str = "main") -> dict[str, str]:
    url = f"{hub.endpoint}/api/models/me/{name}/xet-{kind}-token/{revision}"
    status, headers, text = ask(url, "GET", headers={"Authorization": "Bearer right"})
    assert status == 200
    facts = json.loads(text)
    assert headers["X-Xet-Cas-Url"] == facts["casUrl"]
    assert headers["X-Xet-Access-Token"] == facts["accessToken"]
    assert headers["X-Xet-Token-Expiration"] == str(facts["exp"])
    return {"url": facts["casUrl"], "token": facts["accessToken"]}


@pytest.fixture
def cas(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Cas]:
    with serve(tmp_path / "hub", token="right") as hub:
        create(hub, "m")
        yield Cas(hub=hub, **token_of(hub, "write"))
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("path", ["v1/shards", "v2/shards", "shards"])
def test_a_file_is_rebuilt(cas: Cas, path: str) -> None:
    for _ in range(2):  # a client that has lost the answers asks again
        assert cas.post(f"v1/xorbs/default/{HASH}", XORB)[0] == 200
        status, text = cas.post(path, SHARD)
        assert (status, json.loads(text).keys() & {"result", "type"} != set()) == (200, True)
        assert cas.objects == [SHA256]
    (content,) = (cas.hub.folder / "me" / "m.git" / "lfs").rglob(SHA256)
    assert content.read_bytes() == CONTENT
    assert cas.incoming == []


def test_verification_is_optional(cas: Cas) -> None:
    cas.post(f"v1/xorbs/default/{HASH}", XORB)
    assert cas.post("v1/shards", shard(file_block(SHA256, [WHOLE], BOTH & ~(1 << 31))))[0] == 200
    assert cas.objects == [SHA256]


def test_an_object_that_is_there_needs_no_xorbs(cas: Cas) -> None:
    cas.post(f"v1/xorbs/default/{HASH}", XORB)
    cas.post("v1/shards", SHARD)
    unknown = shard(file_block(SHA256, [("cd" * 32, len(CONTENT), 0, 3)]))
    assert cas.post("v1/shards", unknown)[0] == 200


BOMB = chunk(lz4.frame.compress(bytes(30 * MIB)), 1, 131072)
BAD_XORBS = {
    "empty": (b"", 400),
    "footer only": (b"XETBLOB\x01", 400),
    "cut in a header": (XORB + b"\0\1", 400),
    "cut in a chunk": (XORB[:-1], 400),
    "version 1": (chunk(b"x", 0, 1, version=1), 400),
    "unknown compression": (chunk(b"x", 3, 1), 400),
    "stored, longer than said": (chunk(b"xy", 0, 1), 400),
    "stored, shorter than said": (chunk(b"x", 0, 2), 400),
    "packed length beyond the end": (chunk(b"x", 0, 1, size=9), 400),
    "packed length absurd": (chunk(b"x", 0, 1, size=2**24 - 1), 400),
    "raw length absurd": (chunk(b"x", 0, 2**24 - 1), 400),
    "no bytes": (chunk(b"", 0, 0), 400),
    "larger than 128 KiB": (packed(bytes(131073)), 400),
    "not LZ4": (chunk(b"x" * 50, 1, 100), 400),
    "LZ4 cut short": (chunk(lz4.frame.compress(b"x" * 9000)[:-9], 1, 9000), 400),
    "LZ4 without its end": (chunk(lz4.frame.compress(b"x" * 9000)[:-4], 1, 9000), 400),
    "LZ4 and more": (chunk(lz4.frame.compress(b"x" * 9000) + b"more", 1, 9000), 400),
    "LZ4 longer than said": (chunk(lz4.frame.compress(b"x" * 9001), 2, 9000), 400),
    "LZ4 shorter than said": (chunk(lz4.frame.compress(b"x" * 8999), 2, 9000), 400),
    "LZ4 bomb": (BOMB, 400),
    "larger than 65 MiB": (packed(bytes(131072)) * 520, 413),
    "larger than 1 GiB unpacked": (packed(bytes(131072), 1) * 8193, 413),
    "too many chunks": (packed(b"x") * 65_537, 413),
}


@pytest.mark.parametrize("kind", BAD_XORBS)
def test_a_bad_xorb_is_refused(cas: Cas, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "GiB" in kind:
        monkeypatch.setattr(xet_xorbs, "RAW_LIMIT", 64 * MIB)
    data, status = BAD_XORBS[kind]
    assert cas.post(f"v1/xorbs/default/{HASH}", data)[0] == status
    assert cas.incoming == []
    assert "has not been uploaded" in cas.post("v1/shards", SHARD)[1]


FLAGGED = file_block(SHA256, [WHOLE], flags=0x8000_0000)
BAD_SHARDS = {
    "empty": (b"", "ends inside its header"),
    "other tag": (b"x" * 32 + SHARD[32:], "does not begin"),
    "other version": (xet_shards.TAG + b"\3" + SHARD[33:], "does not begin"),
    "no bookend": (SHARD[:-48], "ends inside a record"),
    "longer than its records": (SHARD + b"x", "longer than its records"),
    "footer that is not there": (
        xet_shards.TAG + struct.pack("<2Q", 2, 200) + BOOKEND * 2,
        "longer than its records",
    ),
    "no SHA-256": (shard(FLAGGED), "without its SHA-256"),
    "more terms than records": (
        shard(record(HASH, BOTH, 2**32 - 1, 0, 0)),
        "ends inside a record",
    ),
    "more chunks than records": (
        shard(xorbs=record(HASH, 0, 2**32 - 1, 0, 0)),
        "ends inside a record",
    ),
    "other SHA-256": (shard(file_block("0" * 64, [WHOLE])), "is not the object"),
    "unknown xorb": (
        shard(file_block(SHA256, [("cd" * 32, len(CONTENT), 0, 3)])),
        f"{'cd' * 32} has not been uploaded",
    ),
    "chunks beyond the end": (
        shard(file_block(SHA256, [(HASH, len(CONTENT), 0, 4)])),
        "of 3 chunks has no chunks 0 to 4",
    ),
    "chunks in the wrong order": (
        shard(file_block(SHA256, [(HASH, len(CONTENT), 3, 0)])),
        "has no chunks 3 to 0",
    ),
    "no chunks": (shard(file_block(SHA256, [(HASH, 0, 1, 1)])), "has no chunks 1 to 1"),
    "other length": (
        shard(file_block(SHA256, [(HASH, len(CONTENT) - 1, 0, 3)])),
        f"A term of {len(CONTENT) - 1} bytes",
    ),
    "no terms": (shard(file_block(SHA256, [])), "is not the object"),
    "last term bad": (
        shard(file_block(SHA256, [WHOLE] * 40 + [(HASH, 1, 7, 8)])),
        "has no chunks 7 to 8",
    ),
}


@pytest.mark.parametrize("kind", BAD_SHARDS)
def test_a_bad_shard_is_refused(cas: Cas, kind: str) -> None:
    cas.post(f"v1/xorbs/default/{HASH}", XORB)
    data, message = BAD_SHARDS[kind]
    status, text = cas.post("v1/shards", data)
    assert (status, message in json.loads(text)["error"]) == (400, True)
    status, text = cas.post("v2/shards", data)
    event = json.loads(text)
    assert (status, event.pop("message")) == (
        200,
        json.loads(cas.post("v1/shards", data)[1])["error"],
    )
    assert event == {"type": "error", "retryable": False}
    assert cas.objects == cas.incoming == []


def test_a_shard_that_is_too_large_is_refused(cas: Cas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xet_shards, "SHARD_LIMIT", len(SHARD) - 1)
    assert cas.post("v1/shards", SHARD)[0] == 413


def test_a_refused_xorb_leaves_the_one_before(cas: Cas) -> None:
    cas.post(f"v1/xorbs/default/{HASH}", XORB)
    assert cas.post(f"v1/xorbs/default/{HASH}", XORB[:-1])[0] == 400
    assert cas.post("v1/shards", SHARD)[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "v1/xorbs/default/short",
        f"v1/xorbs/default/{HASH.upper()}",
        "v1/xorbs/default/..%2F..%2Fescape",
        f"v1/xorbs/other/{HASH}",
        f"v1/xorb-grants/default/{HASH}",
        "v1/telemetry",
    ],
)
def test_other_addresses_are_refused(cas: Cas, path: str) -> None:
    assert cas.post(path, XORB)[0] == (400 if "/xorbs/default/" in path else 404)
    assert not (cas.hub.folder / ".slogpt-hf" / "escape").exists()


def test_tokens_are_for_one_repository_one_action_and_some_time(
    cas: Cas, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(cas.hub, "other")
    path = f"v1/xorbs/default/{HASH}"
    assert cas.post(path, XORB, token_of(cas.hub, "write", "other")["token"])[0] == 401
    reading = token_of(cas.hub, "read")["token"]
    assert cas.post(path, XORB, reading)[0] == 403
    action, expires, signature = cas.token.split(".")
    forged = [f"write.{reading.partition('.')[2]}", f"write.{int(expires) + 9}.{signature}"]
    forged += ["", "right", "write", f"write.x.{signature}", f"{action}.{'9' * 5000}.{signature}"]
    for token in forged:
        assert cas.post(path, XORB, token)[0] == 401
        assert cas.post("v2/shards", SHARD, token)[0] == 401
    monkeypatch.setattr(xet, "TOKEN_SECONDS", 0)
    assert cas.post(path, XORB, token_of(cas.hub, "write")["token"])[0] == 401
    assert cas.post(path, XORB)[0] == 200


def test_tokens_and_addresses_end_with_the_run(cas: Cas, tmp_path: Path) -> None:
    """Clients file by address which xorbs are there; those of this run are not in the next."""
    with serve(tmp_path / "hub", token="right") as later:
        url = cas.url.replace(cas.hub.lfs_endpoint, later.lfs_endpoint)
        assert Cas(hub=later, url=url, token=cas.token).post("v1/shards", SHARD)[0] == 401
        assert urlsplit(token_of(later, "write")["url"]).path != urlsplit(cas.url).path


@pytest.mark.parametrize("kind", ["read", "write"])
@pytest.mark.parametrize("private", [False, True])
def test_who_gets_a_token(cas: Cas, kind: str, private: bool) -> None:
    create(cas.hub, "p", private)
    assert token_of(cas.hub, kind, "p", "a%2Fbranch")["token"].startswith(f"{kind}.")
    assert token_of(cas.hub, kind, "p", "a/branch")["url"].endswith("/me/p")
    url = f"{cas.hub.endpoint}/api/models/me/p/xet-{kind}-token/main"
    allowed = kind == "read" and not private
    assert ask(url, "GET")[0] == (200 if allowed else 401)
    assert ask(url, "GET", headers={"Authorization": "Bearer wrong"})[0] == 401
    missing = url.replace("/p/", "/missing/")
    assert ask(missing, "GET", headers={"Authorization": "Bearer right"})[0] == 404


@pytest.mark.parametrize(
    ("operation", "transfers", "served", "transfer"),
    [
        ("upload", ["basic", "multipart", "xet"], True, "xet"),
        ("upload", ["basic", "multipart", "xet"], False, "basic"),
        ("upload", ["basic"], True, "basic"),
        ("upload", None, True, "basic"),
        ("upload", "xet", True, "basic"),
        ("download", ["basic", "xet"], True, "basic"),
    ],
)
def test_the_lfs_batch_leads_to_xet_if_asked(
    tmp_path: Path, operation: str, transfers: object, served: bool, transfer: str
) -> None:
    with serve(tmp_path / "hub", token="right", xet=served) as hub:
        create(hub, "m")
        item = {"oid": SHA256, "size": len(CONTENT)}
        data = json.dumps({"operation": operation, "transfers": transfers, "objects": [item]})
        owner = {"Authorization": "Bearer right"}
        url = f"{hub.endpoint}/me/m.git/info/lfs/objects/batch"
        answer = json.loads(ask(url, "POST", data.encode(), owner)[2])
        assert answer["transfer"] == transfer
        if transfer == "xet":
            action = answer["objects"][0]["actions"]["upload"]
            assert json.loads(ask(action["href"], "GET", headers=owner)[2])["casUrl"]
            header = action["header"]
            cas = Cas(hub=hub, url=header["X-Xet-Cas-Url"], token=header["X-Xet-Access-Token"])
            assert cas.post(f"v1/xorbs/default/{HASH}", XORB)[0] == 200


def test_a_repository_that_has_gone(cas: Cas) -> None:
    data, headers = json.dumps({"name": "me/m"}).encode(), {"Authorization": "Bearer right"}
    assert ask(f"{cas.hub.endpoint}/api/repos/delete", "DELETE", data, headers)[0] == 200
    assert cas.post(f"v1/xorbs/default/{HASH}", XORB)[0] == 404
    assert cas.post("v1/shards", SHARD)[0] == 404


def test_memory_does_not_grow_with_the_content(cas: Cas) -> None:
    """30 MiB in one chunk; 32 MiB on the wire and 160 MiB rebuilt: a few pieces in memory."""
    xorb = packed(bytes(131072)) * 256
    sha256 = hashlib.sha256(bytes(160 * MIB)).hexdigest()
    tracemalloc.start()
    try:
        assert cas.post(f"v1/xorbs/default/{HASH}", BOMB)[0] == 400
        assert cas.post(f"v1/xorbs/default/{HASH}", xorb)[0] == 200
        block = file_block(sha256, [(HASH, 32 * MIB, 0, 256)] * 5)
        assert cas.post("v1/shards", shard(block))[0] == 200
        assert tracemalloc.get_traced_memory()[1] < 6 * MIB
    finally:
        tracemalloc.stop()
    assert cas.objects == [sha256]
