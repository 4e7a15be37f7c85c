"""Handlers about a repository as a whole: creating, moving, settings, listing, freeing space."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slogpt_hf.hub.embedded import cards, commits, git, lfs, metadata, names, rewrite
from slogpt_hf.hub.embedded.context import USER, Context
from slogpt_hf.hub.embedded.git import Repository
from slogpt_hf.hub.embedded.store import KINDS, read_settings, write_settings
from slogpt_hf.hub.embedded.wire import RefusalError, Response, json_response


def create_repo(context: Context) -> Response:
    context.require_owner()
    payload = context.request.json()
    namespace, name, kind = _repo_id(payload)
    private = payload.get("visibility") == "private" or bool(payload.get("private"))
    contents = {**_license_card(payload.get("license")), **commits.read_files(payload.get("files"))}
    try:
        repo = context.hub.store.create(
            namespace, name, private=private, kind=kind, contents=contents
        )
    except RefusalError as refusal:
        if refusal.status == 409:
            taken = context.hub.store.repository(namespace, name, kind)
            refusal.extra["url"] = context.url(taken) if taken else ""
        raise
    return json_response({"url": context.url(repo), "name": repo.id, "id": repo.id})


def delete_repo(context: Context) -> Response:
    context.require_owner()
    context.hub.store.delete(context.repository_named(*_repo_id(context.request.json())))
    return json_response({})


def move_repo(context: Context) -> Response:
    """Rename a repository; whoever asks for the old name afterwards gets it by the new one."""
    context.require_owner()
    payload = context.request.json()
    kind = _kind(payload)
    old, new = (str(payload.get(key) or "").partition("/") for key in ("fromRepo", "toRepo"))
    repo = context.repository_named(old[0], old[2], kind)
    moved = context.hub.store.move(repo, new[0], new[2])
    return json_response({"url": context.url(moved), "name": moved.id, "id": moved.id})


def update_settings(context: Context) -> Response:
    context.require_owner()
    repo, payload = context.repository(), context.request.json()
    if payload.get("gated"):
        raise RefusalError(400, "Gated repositories are not served by the embedded hub.")
    visibility = payload.get("visibility")
    if visibility is None and "private" in payload:
        visibility = "private" if payload["private"] else "public"
    if visibility not in (None, "private", "public"):
        raise RefusalError(400, f"Unknown visibility {visibility!r}.")
    if visibility:
        write_settings(repo, private=visibility == "private")
    return json_response({"private": bool(read_settings(repo).get("private"))})


def list_owned(context: Context) -> Response:
    """Every repository, or those of a namespace, with what it takes on the disk.

    All belong to whoever has the hub's token, whatever their namespace.
    """
    context.require_owner()
    namespace = context.params.get("ns", "").lower()
    repos = [
        repo
        for kind in KINDS
        for repo in context.hub.store.repositories(kind)
        if namespace in ("", repo.id.partition("/")[0].lower())
    ]
    sizes = [_bytes_on_disk(repo.git_dir) for repo in repos]
    total = sum(sizes)
    return json_response(
        [
            {
                "id": repo.id,
                "type": repo.kind,
                "updatedAt": _updated(repo),
                "visibility": "private" if read_settings(repo).get("private") else "public",
                "storage": size,
                "storagePercent": 100 * size / total,
            }
            for repo, size in zip(repos, sizes, strict=True)
        ]
    )


def super_squash(context: Context) -> Response:
    """One commit in place of all of a branch."""
    context.require_owner()
    repo, branch = context.repository(), context.params["rev"]
    message = str(context.request.json().get("message") or f"Super-squash branch '{branch}'")
    ref = git.writable_ref(repo, branch)
    if ref is None:
        raise RefusalError(400, f"Invalid reference for a branch: {branch[:200]}")
    return json_response({"commitOid": rewrite.squash(repo, ref, message)})


def list_lfs_files(context: Context) -> Response:
    context.require_owner()
    repo = context.repository()
    files = [
        {
            "fileOid": file.sha256,
            "oid": file.sha256,
            "filename": file.path,
            "pushedAt": metadata.timestamp(lfs.stored_at(repo, file.sha256)),
            "ref": file.ref,
            "size": file.size,
        }
        for file in rewrite.lfs_files(repo)
    ]
    return json_response(files)


def delete_lfs_files(context: Context) -> Response:
    """Remove LFS objects for good, and (`rewriteHistory`) every file that was one of them."""
    context.require_owner()
    repo, payload = context.repository(), context.request.json()
    deletions = payload.get("deletions")
    deletions = deletions if isinstance(deletions, dict) else {}
    wanted = deletions.get("sha")
    if not isinstance(wanted, list) or not all(
        isinstance(sha, str) and names.is_sha256(sha) for sha in wanted
    ):
        raise RefusalError(400, "`deletions.sha` must be a list of SHA-256.")
    if deletions.get("rewriteHistory", True):
        rewrite.drop_lfs(repo, frozenset(wanted))
    for sha in wanted:
        lfs.object_path(repo, sha).unlink(missing_ok=True)
    return json_response({})


def _repo_id(payload: Mapping[str, Any]) -> tuple[str, str, str]:
    """Namespace, name and kind of the repository that a request is about."""
    kind = _kind(payload)
    name, namespace = str(payload.get("name") or ""), payload.get("organization")
    if namespace is None and "/" in name:
        namespace, _, name = name.partition("/")
    return str(namespace or USER), name, kind


def _kind(payload: Mapping[str, Any]) -> str:
    kind = payload.get("type") or "model"
    if kind not in KINDS:
        raise RefusalError(400, f"The embedded hub serves models and datasets only, not {kind!r}.")
    return str(kind)


def _license_card(license_id: Any) -> dict[str, bytes]:
    """The README.md with which the Hub creates a repository that has a license."""
    if not license_id:
        return {}
    card = f"---\nlicense: {license_id}\n---\n"
    if errors := cards.problems(card)[0]:
        raise RefusalError(400, "\n".join(errors))
    if cards.metadata(card) != {"license": license_id}:
        raise RefusalError(400, "The license is not the id of one.")
    return {cards.FILE: card.encode()}


def _updated(repo: Repository) -> str | None:
    commit = git.resolve(repo, "main")
    return metadata.timestamp(git.log(repo, commit, limit=1)[0].date) if commit else None


def _bytes_on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
