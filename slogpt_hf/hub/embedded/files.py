"""Handlers that move contents: `resolve`, `raw`, the LFS batch API, and the LFS socket itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from slogpt_hf.hub.embedded import git, lfs, names, xet
from slogpt_hf.hub.embedded.context import Context
from slogpt_hf.hub.embedded.git import Entry, Repository
from slogpt_hf.hub.embedded.wire import FileSlice, RefusalError, Response, json_response

_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")
_LFS_TYPE = "application/vnd.git-lfs+json"


def resolve(context: Context) -> Response:
    """A file at a revision: git blobs at once, LFS objects by a redirect to the LFS socket."""
    repo, commit, entry = _entry(context)
    etag = f'"{entry.lfs.sha256 if entry.lfs else entry.oid}"'
    headers = {
        "X-Repo-Commit": commit,
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Content-Disposition": "inline",
    }
    if entry.lfs is None:
        return _ranged(context, headers, git.read_blobs(repo, [entry.oid])[0])
    if lfs.object_size(repo, entry.lfs.sha256) != entry.lfs.size:
        raise RefusalError(
            404, f"The LFS content of {entry.path} is missing.", "EntryNotFound", headers=headers
        )
    link = context.hub.signer.link(
        context.lfs_endpoint, "download", repo.location, entry.lfs.sha256, entry.lfs.size
    )
    linked = {"X-Linked-Etag": etag, "X-Linked-Size": str(entry.lfs.size), "Location": link}
    status = 304 if context.request.headers.get("if-none-match") == etag else 302
    return Response(status, b"", {**headers, **linked})


def raw(context: Context) -> Response:
    """The git blob itself: for an LFS file its pointer."""
    repo, commit, entry = _entry(context)
    headers = {"X-Repo-Commit": commit, "ETag": f'"{entry.oid}"', "Accept-Ranges": "bytes"}
    return _ranged(context, headers, git.read_blobs(repo, [entry.oid])[0])


def batch(context: Context) -> Response:
    """The LFS batch API (git-lfs `docs/api/batch.md`), transfer `basic` or, if asked for, `xet`."""
    payload = context.request.json()
    operation = payload.get("operation")
    if operation not in ("upload", "download"):
        raise RefusalError(422, f"Unknown LFS operation {operation!r}.")
    if operation == "upload":
        context.require_owner()
    repo = context.repository()
    objects = payload.get("objects")
    if not isinstance(objects, list):
        raise RefusalError(422, "`objects` must be a list.")
    offered = payload.get("transfers")
    by_xet = operation == "upload" and isinstance(offered, list) and "xet" in offered
    run = context.hub.xet if by_xet else None
    answers = [_batch_object(context, repo, operation, item, run) for item in objects]
    transfer = "xet" if run else "basic"
    body = {"transfer": transfer, "objects": answers, "hash_algo": "sha256"}
    return json_response(body, headers={"Content-Type": _LFS_TYPE})


def verify(context: Context) -> Response:
    """Whether an object has arrived whole."""
    context.require_owner()
    repo, payload = context.repository(), context.request.json()
    sha256 = str(payload.get("oid", ""))
    if not names.is_sha256(sha256) or lfs.object_size(repo, sha256) != payload.get("size"):
        raise RefusalError(404, f"The LFS object {sha256[:64]} has not been uploaded.")
    return json_response({})


def download_object(context: Context) -> Response:
    repo, sha256, size = _signed(context, "download")
    path = lfs.object_path(repo, sha256)
    if lfs.object_size(repo, sha256) != size:
        raise RefusalError(404, f"The LFS object {sha256} is missing.", "EntryNotFound")
    headers = {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"}
    return _ranged(context, headers, FileSlice(path, 0, size))


def upload_object(context: Context) -> Response:
    repo, sha256, size = _signed(context, "upload")
    if lfs.object_size(repo, sha256) != size:
        lfs.receive(repo, sha256, size, lfs.pieces(context.request.body))
    return Response(200, b"", {"ETag": f'"{sha256}"'})


def _entry(context: Context) -> tuple[Repository, str, Entry]:
    repo = context.repository()
    commit, path = context.commit(repo), context.params["path"]
    entry = git.tree(repo, commit).get(path)
    if entry is None or entry.is_folder:
        raise RefusalError(
            404, "Entry not found", "EntryNotFound", headers={"X-Repo-Commit": commit}
        )  # fmt: skip
    return repo, commit, entry


def _ranged(context: Context, headers: dict[str, str], body: bytes | FileSlice) -> Response:
    """The whole body, the part that `Range` asks for (206), nothing (304), or a refusal (416)."""
    request = context.request
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(304, b"", headers)
    headers = {"Content-Type": "application/octet-stream", **headers}
    total = len(body) if isinstance(body, bytes) else body.length
    match = _RANGE.fullmatch(request.headers.get("range", ""))
    if request.headers.get("if-range", headers["ETag"]) != headers["ETag"]:
        match = None
    if not match or not (match[1] or match[2]):
        return Response(200, body, headers)
    start = int(match[1]) if match[1] else max(total - int(match[2]), 0)
    stop = min(int(match[2]) + 1, total) if match[1] and match[2] else total
    if start >= stop:
        raise RefusalError(
            416, "Range not satisfiable", headers={"Content-Range": f"bytes */{total}"}
        )  # fmt: skip
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{total}"
    part = (
        body[start:stop] if isinstance(body, bytes) else FileSlice(body.path, start, stop - start)
    )
    return Response(206, part, headers)


def _signed(context: Context, action: str) -> tuple[Repository, str, int]:
    request, params = context.request, context.params
    repo = context.hub.store.repository(params["ns"], params["name"], context.kind)
    sha256, size = params["oid"], request.first("size")
    is_valid = (
        names.is_sha256(sha256)
        and size.isascii()
        and size.isdigit()
        and context.hub.signer.is_valid(
            request.first("signature"),
            action,
            git.located(f"{params['ns']}/{params['name']}", context.kind),
            sha256,
            int(size[:19]),
        )
    )
    if not is_valid:
        raise RefusalError(403, "The link to this LFS object is not valid (any more).")
    if repo is None:
        raise RefusalError(404, "The repository has gone.", "RepoNotFound")
    return repo, sha256, int(size)


def _as_asked(context: Context) -> dict[str, dict[str, str]]:
    """The caller's own credentials for the next request, which git-lfs does not add by itself."""
    sent = context.request.headers.get("authorization", "")
    return {"header": {"Authorization": sent}} if sent.lower().startswith("basic ") else {}


def _batch_object(
    context: Context, repo: Repository, operation: str, item: Any, xet_run: Path | None
) -> dict[str, Any]:
    sha256, size = (item.get("oid"), item.get("size")) if isinstance(item, dict) else (None, None)
    if not isinstance(sha256, str) or not isinstance(size, int) or size < 0:
        raise RefusalError(422, "An LFS object needs `oid` and `size`.")
    answer: dict[str, Any] = {"oid": sha256, "size": size, "authenticated": True}
    if not names.is_sha256(sha256):
        return {**answer, "error": {"code": 422, "message": "The oid is not a sha256."}}
    present = lfs.object_size(repo, sha256) == size
    if operation == "download" and not present:
        return {**answer, "error": {"code": 404, "message": "Object does not exist."}}
    if xet_run and not present:
        answer["actions"] = {"upload": xet.upload_action(context, repo, xet_run)}
    elif operation == "download" or not present:
        href = context.hub.signer.link(context.lfs_endpoint, operation, repo.location, sha256, size)
        answer["actions"] = {operation: {"href": href}}
    if operation == "upload" and not present:
        verify_href = f"{context.endpoint}/{repo.location}.git/info/lfs/objects/verify"
        answer["actions"]["verify"] = {"href": verify_href, **_as_asked(context)}
    return answer
