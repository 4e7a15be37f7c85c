"""The Xet protocol's upload: another way for LFS objects to travel, and no other storage.

Protocol: https://huggingface.co/docs/xet. A client asks the API for a token, uploads as xorbs the
chunks that this server run has not seen, then a shard that says how its files are made of them. The
files are rebuilt at once and stored as ordinary LFS objects, so that commits and every other client
find them. Xorbs live as long as the run, for a client that refers to what it has uploaded before;
the run's name is part of the address, by which clients file what they remember.

Everything else of the protocol is answered 404, and clients do without: upload grants, global
deduplication, telemetry. Downloads are plain.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from slogpt_hf.hub.embedded import git, lfs, names, xet_shards, xet_xorbs
from slogpt_hf.hub.embedded.context import Context
from slogpt_hf.hub.embedded.git import Repository
from slogpt_hf.hub.embedded.wire import RefusalError, Response, json_response, text_response
from slogpt_hf.hub.embedded.xet_shards import Term

TOKEN_SECONDS = 3600


def read_token(context: Context) -> Response:
    return _token(context, "read")


def write_token(context: Context) -> Response:
    context.require_owner()
    return _token(context, "write")


def upload_action(context: Context, repo: Repository, run: Path) -> dict[str, object]:
    """The LFS batch API's action for the transfer `xet`: where to get a token, and a first one."""
    url = f"{context.endpoint}/api/{repo.kind}s/{repo.id}/xet-write-token/main"
    return {"href": url, "header": _grant(context, repo, run, "write")}


def upload_xorb(context: Context) -> Response:
    repo, run = _authorized(context)
    name = context.params["hash"]
    if not names.is_sha256(name):
        raise RefusalError(400, "The name of a xorb is 64 lower-case hexadecimal digits.")
    xet_xorbs.receive(repo, xet_xorbs.xorb_path(run, repo, name), context.request.body)
    return json_response({"was_inserted": True})


def upload_shard(context: Context) -> Response:
    _store_files(*_authorized(context), context.request.body)
    return json_response({"result": 1})


def upload_shard_v2(context: Context) -> Response:
    """As `upload_shard`, but a refusal is an event of a stream, which clients show to the user."""
    repo, run = _authorized(context)
    event: dict[str, object] = {"type": "result"}
    try:
        _store_files(repo, run, context.request.body)
    except RefusalError as refusal:
        event = {"type": "error", "message": refusal.message, "retryable": False}
    return text_response(f"{json.dumps(event)}\n", "application/x-ndjson")


def _store_files(repo: Repository, run: Path, body: BinaryIO) -> None:
    """Store every file of a shard as an LFS object, if it has the SHA-256 that the shard claims.

    Raises:
        RefusalError: 400 for a malformed shard, for chunks that were not uploaded and for content
            with another SHA-256, 413 for a shard above 64 MiB, 404 if the repository has gone.
    """
    data = bytearray()
    for piece in lfs.pieces(body):
        data += piece
        if len(data) > xet_shards.SHARD_LIMIT:
            raise RefusalError(413, f"The shard is larger than {xet_shards.SHARD_LIMIT} bytes.")
    for file in xet_shards.read_files(data):
        size = file.size
        if lfs.object_size(repo, file.sha256) == size:
            continue
        for term in file.terms:
            _open_term(run, repo, term)[0].close()
        lfs.receive(repo, file.sha256, size, _contents(run, repo, file.terms))


def _token(context: Context, action: str) -> Response:
    """A token as headers, which `huggingface_hub` reads, and as JSON, which `hf_xet` reads."""
    repo, run = context.repository(), context.hub.xet
    if run is None:
        raise RefusalError(501, "Xet is not served by this hub: set HF_HUB_DISABLE_XET=1.")
    headers = _grant(context, repo, run, action)
    url, token, expires = headers.values()
    return json_response(
        {"casUrl": url, "accessToken": token, "exp": int(expires)}, headers=headers
    )


def _grant(context: Context, repo: Repository, run: Path, action: str) -> dict[str, str]:
    expires = int(time.time()) + TOKEN_SECONDS
    return {
        "X-Xet-Cas-Url": f"{context.lfs_endpoint}/xet/{run.name}/{repo.location}",
        "X-Xet-Access-Token": context.hub.signer.token(action, repo.location, expires),
        "X-Xet-Token-Expiration": str(expires),
    }


def _authorized(context: Context) -> tuple[Repository, Path]:
    """The repository and the run's folder, for a request with a token to write there.

    Raises:
        RefusalError: 401 for a token that is none, of another repository or expired, 403 for one
            that only reads, 404 if the repository has gone or Xet is not served.
    """
    hub, params = context.hub, context.params
    sent = context.request.headers.get("authorization", "").removeprefix("Bearer ")
    location = git.located(f"{params['ns']}/{params['name']}", context.kind)
    action = hub.signer.token_action(sent, location, time.time())
    if action is None:
        raise RefusalError(401, "The Xet token is not valid (any more) for this repository.")
    if action != "write":
        raise RefusalError(403, "The Xet token does not allow to write.")
    repo = hub.store.repository(params["ns"], params["name"], context.kind)
    if repo is None or hub.xet is None:
        raise RefusalError(404, "The repository has gone.", "RepoNotFound")
    return repo, hub.xet


def _contents(run: Path, repo: Repository, terms: Iterator[Term]) -> Iterator[memoryview]:
    """The bytes of the terms, in pieces that are good until the next one."""
    piece = memoryview(bytearray(lfs.PIECE))
    for term in terms:
        file, left = _open_term(run, repo, term)
        with file:
            while left and (read := file.readinto(piece[:left])):  # type: ignore[attr-defined]
                yield piece[:read]
                left -= read


def _open_term(run: Path, repo: Repository, term: Term) -> tuple[BinaryIO, int]:
    """The xorb of a term, at the term's first byte, and how many bytes the term has.

    Raises:
        RefusalError: 400 for a xorb that was not uploaded, or whose chunks are not the term's.
    """
    try:
        file = xet_xorbs.xorb_path(run, repo, term.xorb).open("rb")
    except FileNotFoundError:
        raise RefusalError(400, f"The xorb {term.xorb} has not been uploaded.") from None
    try:
        offset, length = xet_xorbs.extent(file, term.start, term.stop)
        if length != term.size:
            raise RefusalError(
                400, f"A term of {term.size} bytes has chunks of {length} bytes in {term.xorb}."
            )
        file.seek(offset)
    except BaseException:
        file.close()
        raise
    return file, length
