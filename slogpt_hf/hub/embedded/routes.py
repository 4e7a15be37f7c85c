"""The table of routes, and the dispatch from a request to its handler."""

from __future__ import annotations

import logging

from slogpt_hf.hub.embedded import api, discussions, files, git, git_http, pages, repos, xet
from slogpt_hf.hub.embedded.context import Context, Handler, Hub, Route
from slogpt_hf.hub.embedded.git import located
from slogpt_hf.hub.embedded.store import KINDS
from slogpt_hf.hub.embedded.wire import RefusalError, Request, Response, refusal_response

_OF_THE_HUB = (
    Route("GET", "", pages.index),
    Route("GET", "api/whoami-v2", api.whoami),
    Route("POST", "api/validate-yaml", api.validate_yaml),
    Route("POST", "api/repos/create", repos.create_repo),
    Route("DELETE", "api/repos/delete", repos.delete_repo),
    Route("POST", "api/repos/move", repos.move_repo),
    Route("GET", "api/settings/repositories", repos.list_owned),
    Route("GET", "api/organizations/{ns}/settings/repositories", repos.list_owned),
)


def _api(kind: str) -> tuple[Route, ...]:
    """The routes of repositories of a kind."""
    repo, page = f"api/{kind}s/{{ns}}/{{name}}", located("{ns}/{name}", kind)
    talk = f"{repo}/discussions"
    batch = f"{page}.git/info/lfs/objects"
    table: tuple[tuple[str, str, Handler], ...] = (
        ("GET", f"api/{kind}s", api.list_models),
        ("GET", repo, api.model_info),
        ("GET", f"{repo}/revision/{{rev}}", api.model_info),
        ("GET", f"{repo}/auth-check", api.auth_check),
        ("GET", f"{repo}/auth-check/write", api.auth_check_write),
        ("PUT", f"{repo}/settings", repos.update_settings),
        ("GET", f"{repo}/refs", api.refs),
        ("GET", f"{repo}/commits/{{rev}}", api.list_commits),
        ("GET", f"{repo}/tree/{{rev}}", api.list_tree),
        ("GET", f"{repo}/tree/{{rev}}/{{path*}}", api.list_tree),
        ("POST", f"{repo}/paths-info/{{rev}}", api.paths_info),
        ("POST", f"{repo}/preupload/{{rev}}", api.preupload),
        ("POST", f"{repo}/commit/{{rev}}", api.commit),
        ("POST", f"{repo}/tag/{{rev}}", api.create_tag),
        ("DELETE", f"{repo}/tag/{{rev}}", api.delete_tag),
        ("POST", f"{repo}/branch/{{rev}}", api.create_branch),
        ("DELETE", f"{repo}/branch/{{rev}}", api.delete_branch),
        ("POST", f"{repo}/super-squash/{{rev}}", repos.super_squash),
        ("GET", f"{repo}/lfs-files", repos.list_lfs_files),
        ("POST", f"{repo}/lfs-files/batch", repos.delete_lfs_files),
        ("GET", talk, discussions.list_discussions),
        ("POST", talk, discussions.create),
        ("GET", f"{talk}/{{num}}", discussions.details),
        ("POST", f"{talk}/{{num}}/comment", discussions.add_comment),
        ("POST", f"{talk}/{{num}}/comment/{{id}}/edit", discussions.edit_comment),
        ("POST", f"{talk}/{{num}}/comment/{{id}}/hide", discussions.hide_comment),
        ("POST", f"{talk}/{{num}}/title", discussions.rename),
        ("POST", f"{talk}/{{num}}/status", discussions.change_status),
        ("POST", f"{talk}/{{num}}/merge", discussions.merge),
        ("GET", f"{repo}/xet-read-token/{{rev*}}", xet.read_token),
        ("GET", f"{repo}/xet-write-token/{{rev*}}", xet.write_token),
        ("POST", f"{batch}/batch", files.batch),
        ("POST", f"{batch}/verify", files.verify),
        ("GET", f"{page}/resolve/{{rev}}/{{path*}}", files.resolve),
        ("GET", f"{page}/raw/{{rev}}/{{path*}}", files.raw),
        ("GET", page, pages.repository),
    )
    smart = [
        (method, f"{page}{suffix}/{path}", handler)
        for method, path, handler in git_http.ROUTES
        for suffix in (".git", "")
    ]
    return tuple(Route(*row, kind) for row in (*table, *smart))


def _lfs(kind: str) -> tuple[Route, ...]:
    """The routes of the LFS socket for repositories of a kind."""
    page = located("{ns}/{name}", kind)
    run = f"xet/{{run}}/{page}"
    table: tuple[tuple[str, str, Handler], ...] = (
        ("GET", f"{page}/{{oid}}", files.download_object),
        ("PUT", f"{page}/{{oid}}", files.upload_object),
        ("POST", f"{run}/v1/xorbs/default/{{hash}}", xet.upload_xorb),
        ("POST", f"{run}/v1/shards", xet.upload_shard),
        ("POST", f"{run}/v2/shards", xet.upload_shard_v2),
        ("POST", f"{run}/shards", xet.upload_shard),
    )
    return tuple(Route(*row, kind) for row in table)


# Models last: the path of a model's page could be almost any.
API = (*_OF_THE_HUB, *(route for kind in reversed(KINDS) for route in _api(kind)))
LFS = tuple(route for kind in KINDS for route in _lfs(kind))

_OTHER_KINDS = frozenset({"spaces", "kernels", "buckets"})
_BELOW_A_REPOSITORY = frozenset({"revision", "tree", "refs", "commits", "paths-info"})
_logger = logging.getLogger("slogpt_hf.hub.embedded")


def answer(hub: Hub, request: Request) -> Response:
    """The hub's answer to a request; every failure is one in the Hub's error form."""
    try:
        handler, context = _find(hub, request)
        return handler(context)
    except RefusalError as refusal:
        return refusal_response(refusal)
    except git.GitError as error:
        _logger.error("%s %s: %s", request.method, "/".join(request.path), error)
        return refusal_response(RefusalError(500, f"git: {error}"))


def _find(hub: Hub, request: Request) -> tuple[Handler, Context]:
    if _OTHER_KINDS.intersection(request.path[: 2 if request.path[0] == "api" else 1]):
        raise RefusalError(404, "The embedded hub serves models and datasets only.", "RepoNotFound")
    method = "GET" if request.method == "HEAD" else request.method
    if method != "GET" and "origin" in request.headers:
        raise RefusalError(403, "The embedded hub takes no changes from web pages.")
    for route in LFS if request.server == "lfs" else API:
        if (params := route.match(method, request.path)) is not None:
            return route.handler, Context(hub, request, params, route.kind)
    unknown = f"The embedded hub does not know {method} /{'/'.join(request.path)}."
    raise RefusalError(404, unknown, "RepoNotFound" if _lacks_namespace(request.path) else "")


def _lacks_namespace(path: tuple[str, ...]) -> bool:
    """Whether the path is one of the Hub's own repositories without a namespace, like `gpt2`."""
    if path[:2] in (("api", "models"), ("api", "datasets")):
        return len(path) == 3 or (len(path) > 3 and path[3] in _BELOW_A_REPOSITORY)
    return path[2 if path[0] == "datasets" else 1 :][:1] == ("resolve",)
