"""Handlers of the Hub's JSON API about what is in a repository: listings, commits, refs.

As `huggingface_hub` and `@huggingface/hub` call them.
"""

from __future__ import annotations

import base64
import binascii
import html
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from slogpt_hf.hub.embedded import attributes, cards, commits, git, metadata, names, pulls
from slogpt_hf.hub.embedded.context import USER, Context
from slogpt_hf.hub.embedded.git import Entry, Repository
from slogpt_hf.hub.embedded.store import read_settings
from slogpt_hf.hub.embedded.wire import (
    JSON_LIMIT,
    RefusalError,
    Response,
    json_response,
    text_response,
)

_TRUE = frozenset({"1", "true", "True"})
_SORTS = ("createdAt", "downloads", "lastModified", "likes", "trendingScore")


def whoami(context: Context) -> Response:
    context.require_owner()
    access = {"displayName": "slogpt-hf", "role": "admin", "createdAt": "1970-01-01T00:00:00.000Z"}
    return json_response(
        {
            "type": "user",
            "id": "0" * 24,
            "name": USER,
            "fullname": git.COMMITTER,
            "email": None,
            "isPro": False,
            "orgs": [],
            "auth": {"type": "access_token", "accessToken": access},
        }
    )


def validate_yaml(context: Context) -> Response:
    """What the Hub would refuse in a card; the client asks before it uploads a README.md."""
    errors, warnings = cards.problems(str(context.request.json().get("content", "")))
    status = 400 if errors else 200
    if context.request.headers.get("accept") == "text/plain":
        lines = [f"- Error: {error}" for error in errors]
        lines += [f"- Warning: {warning}" for warning in warnings]
        return text_response("\n".join(lines), status=status)
    found = {"errors": errors, "warnings": warnings}
    return json_response({key: [{"message": m} for m in found[key]] for key in found}, status)


def list_models(context: Context) -> Response:
    """Search by `search`, `author`, `filter` and `pipeline_tag`; the newest first, or by `sort`."""
    request = context.request
    owner = context.is_owner
    words, author = request.first("search").lower().split(), request.first("author")
    wanted = {*request.query.get("filter", []), *request.query.get("pipeline_tag", [])}
    sort, limit = request.first("sort", "lastModified"), request.first("limit")
    if sort not in _SORTS:
        raise RefusalError(400, f"Unknown sort {sort[:40]!r}. Known are {', '.join(_SORTS)}.")
    if limit and not (limit.isascii() and limit.isdigit()):
        raise RefusalError(400, f"The limit {limit[:40]!r} is not a number.")
    infos = []
    for repo in context.hub.store.repositories(context.kind):
        namespace, name = repo.id.partition("/")[0], repo.id.lower()
        hidden = not owner and read_settings(repo).get("private")
        commit = git.resolve(repo, "main")
        if (
            hidden
            or not commit
            or author not in ("", namespace)
            or any(w not in name for w in words)
        ):
            continue
        siblings = request.first("full") in _TRUE
        info = metadata.model_info(repo, commit, siblings=siblings, blobs=False)
        if wanted <= {*info["tags"], info.get("pipeline_tag")}:
            infos.append(info)
    infos.sort(key=lambda info: (info.get(sort, 0), info["lastModified"]), reverse=True)
    return json_response(infos[: int(limit[:9])] if limit else infos)


def model_info(context: Context) -> Response:
    repo = context.repository()
    blobs = context.request.first("blobs") in _TRUE
    info = metadata.model_info(repo, context.commit(repo), siblings=True, blobs=blobs)
    return json_response(info)


def auth_check(context: Context) -> Response:
    context.repository()
    return json_response({})


def auth_check_write(context: Context) -> Response:
    context.require_owner()
    return auth_check(context)


def refs(context: Context) -> Response:
    repo = context.repository()
    listing: dict[str, list[dict[str, str]]] = {
        key: [
            {"name": ref.name, "ref": ref.ref, "targetCommit": ref.commit}
            for ref in git.list_refs(repo, kind)
        ]
        for key, kind in (("branches", "heads"), ("tags", "tags"), ("pullRequests", "pr"))
    }
    return json_response({**listing, "converts": []})


def list_commits(context: Context) -> Response:
    repo = context.repository()
    formatted = "formatted" in context.request.query.get("expand[]", [])
    items = []
    for facts in git.log(repo, context.commit(repo)):
        item: dict[str, Any] = {
            "id": facts.oid,
            "title": facts.title,
            "message": facts.message,
            "date": metadata.timestamp(facts.date),
            "authors": [{"user": USER}],
        }
        if formatted:
            pair = (html.escape(facts.title), html.escape(facts.message))
            item["formatted"] = dict(zip(("title", "message"), pair, strict=True))
        items.append(item)
    return json_response(items, headers={"X-Total-Count": str(len(items))})


def list_tree(context: Context) -> Response:
    repo, folder = context.repository(), context.params.get("path", "")
    commit = context.commit(repo)
    tree = git.tree(repo, commit)
    if folder and not (folder in tree and tree[folder].is_folder):
        raise RefusalError(404, f"{folder} does not exist on {commit}", "EntryNotFound")
    recursive = context.request.first("recursive") in _TRUE
    prefix = f"{folder}/" if folder else ""
    inside = [e for e in tree.values() if e.path.startswith(prefix)]
    entries = inside if recursive else [e for e in inside if e.parent == folder]
    expand = context.request.first("expand") in _TRUE
    return json_response([_tree_item(repo, commit, entry, expand) for entry in entries])


def paths_info(context: Context) -> Response:
    repo = context.repository()
    commit = context.commit(repo)
    form = _form(context)
    expand = _first(form.get("expand")) in _TRUE
    wanted = form.get("paths", [])
    paths = [str(p) for p in (wanted if isinstance(wanted, list) else [wanted])]
    tree = git.tree(repo, commit)
    entries = [tree[path.rstrip("/")] for path in paths if path.rstrip("/") in tree]
    return json_response([_tree_item(repo, commit, entry, expand) for entry in entries])


def preupload(context: Context) -> Response:
    """Which of the announced files go to LFS, are ignored, or are there already."""
    context.require_owner()
    repo = context.repository()
    tree = git.tree(repo, context.commit(repo))
    payload = context.request.json()
    files = payload.get("files")
    if not isinstance(files, list) or not all(isinstance(file, dict) for file in files):
        raise RefusalError(400, "`files` must be a list of objects.")
    paths = [names.repo_path(str(file.get("path", ""))) for file in files]
    triples = ((e.path, e.mode, e.oid) for e in tree.values() if not e.is_folder)
    rules = payload.get("gitAttributes")
    root = None if rules is None else str(rules)
    tracked = attributes.lfs_paths(repo, triples, paths, root=root)
    ignored = attributes.ignored_paths(repo, _gitignore(repo, tree, payload), paths)
    answers = []
    for path, file in zip(paths, files, strict=True):
        try:
            sample = base64.b64decode(file.get("sample") or "")
            size = int(file.get("size", 0))
        except (binascii.Error, ValueError, TypeError, OverflowError):
            raise RefusalError(400, f"The announcement of {path!r} is malformed.") from None
        answer: dict[str, Any] = {
            "path": path,
            "uploadMode": attributes.upload_mode(path, size, sample, tracked),
            "shouldIgnore": path in ignored,
        }
        existing = tree.get(path)
        if existing and not existing.is_folder:
            answer["oid"] = existing.lfs.sha256 if existing.lfs else existing.oid
        answers.append(answer)
    return json_response({"files": answers})


def commit(context: Context) -> Response:
    context.require_owner()
    repo = context.repository()
    ref = git.writable_ref(repo, context.params["rev"])
    if ref is None:
        raise RefusalError(404, f"Invalid rev id: {context.params['rev']}", "RevisionNotFound")
    request = commits.read_request(repo, context.request.body)
    answer: dict[str, Any] = {"success": True, "hookOutput": ""}
    if context.request.first("create_pr") in _TRUE:
        oid, number = pulls.propose(repo, ref, request)
        answer["pullRequestUrl"] = context.url(repo, "discussions", str(number))
    else:
        oid = commits.commit(repo, ref, request)
    return json_response(
        {**answer, "commitOid": oid, "commitUrl": context.url(repo, "commit", oid)}
    )


def create_tag(context: Context) -> Response:
    context.require_owner()
    repo, payload = context.repository(), context.request.json()
    target = context.commit(repo)
    tag, message = str(payload.get("tag", "")), str(payload.get("message") or "")
    ref = _ref("tags", tag)
    if message.strip():
        try:
            text = message.replace("\0", "").encode()
        except UnicodeEncodeError:
            raise RefusalError(400, "The tag message is not valid text.") from None
        who = git.git(repo, "var", "GIT_COMMITTER_IDENT").decode().strip()
        head = f"object {target}\ntype commit\ntag {tag}\ntagger {who}\n\n".encode()
        target = git.git(repo, "mktag", stdin=head + text.rstrip() + b"\n").decode().strip()
    _create_ref(repo, ref, target)
    return json_response({})


def create_branch(context: Context) -> Response:
    context.require_owner()
    repo, payload = context.repository(), context.request.json()
    if payload.get("emptyBranch") or payload.get("overwrite"):
        raise RefusalError(400, "The embedded hub neither empties nor overwrites branches.")
    ref = _ref("heads", context.params["rev"])
    _create_ref(repo, ref, context.commit(repo, str(payload.get("startingPoint") or "main")))
    return json_response({})


def delete_tag(context: Context) -> Response:
    return _delete_ref(context, "tags")


def delete_branch(context: Context) -> Response:
    context.require_owner()
    if context.params["rev"] == "main":
        raise RefusalError(403, "Cannot delete refs/heads/main")
    return _delete_ref(context, "heads")


def _ref(kind: str, name: str) -> str:
    if not names.is_new_ref_name(name):
        raise RefusalError(400, f"Invalid reference name: {name[:200]!r}.")
    return f"refs/{kind}/{name}"


def _create_ref(repo: Repository, ref: str, target: str) -> None:
    try:
        git.update_ref(repo, ref, target, git.NO_OBJECT)
    except git.GitError:
        for taken in (*git.list_refs(repo, "heads"), *git.list_refs(repo, "tags")):
            if f"{taken.ref}/".startswith(f"{ref}/") or f"{ref}/".startswith(f"{taken.ref}/"):
                raise RefusalError(409, f"Reference {taken.ref} already exists") from None
        raise


def _delete_ref(context: Context, kind: str) -> Response:
    context.require_owner()
    repo, name = context.repository(), context.params["rev"]
    ref = f"refs/{kind}/{name}"
    if not any(existing.ref == ref for existing in git.list_refs(repo, kind)):
        raise RefusalError(404, f"Invalid rev id: {name}", "RevisionNotFound")
    git.git(repo, "update-ref", "--no-deref", "-d", ref)
    return json_response({})


def _tree_item(repo: Repository, commit: str, entry: Entry, expand: bool) -> dict[str, Any]:
    item = metadata.tree_entry(entry)
    if expand:
        last = git.log(repo, commit, path=entry.path, limit=1)[0]
        date = metadata.timestamp(last.date)
        item["lastCommit"] = {"id": last.oid, "title": last.title, "date": date}
    return item


def _gitignore(repo: Repository, tree: Mapping[str, Entry], payload: Mapping[str, Any]) -> str:
    if payload.get("gitIgnore") is not None:
        return str(payload["gitIgnore"]).encode("utf-8", "replace").decode()
    entry = tree.get(".gitignore")
    if entry is None or entry.is_folder:
        return ""
    return git.read_blobs(repo, [entry.oid])[0].decode("utf-8", "surrogateescape")


def _form(context: Context) -> Mapping[str, Any]:
    if "json" in context.request.headers.get("content-type", ""):
        return context.request.json()
    data = context.request.body.read(JSON_LIMIT + 1)
    if len(data) > JSON_LIMIT:
        raise RefusalError(413, f"The request body is larger than {JSON_LIMIT} bytes.")
    return parse_qs(data.decode("utf-8", "replace"))


def _first(value: Any) -> str:
    return str(value[0] if isinstance(value, list) and value else value)
