"""The table of routes, and the dispatch from a request to its handler."""

from __future__ import annotations

import logging

from slogpt_hf.hub.embedded import api, files, git, pages, xet
from slogpt_hf.hub.embedded.context import Context, Handler, Hub, Route
from slogpt_hf.hub.embedded.wire import RefusalError, Request, Response, refusal_response

_MODEL = "api/models/{ns}/{name}"
_LFS = "{ns}/{name}.git/info/lfs"
_XET = "xet/{run}/{ns}/{name}"

API: tuple[Route, ...] = (
    Route("GET", "", pages.index),
    Route("GET", "api/whoami-v2", api.whoami),
    Route("POST", "api/validate-yaml", api.validate_yaml),
    Route("POST", "api/repos/create", api.create_repo),
    Route("DELETE", "api/repos/delete", api.delete_repo),
    Route("GET", "api/models", api.list_models),
    Route("GET", _MODEL, api.model_info),
    Route("GET", f"{_MODEL}/revision/{{rev}}", api.model_info),
    Route("GET", f"{_MODEL}/auth-check", api.auth_check),
    Route("GET", f"{_MODEL}/auth-check/write", api.auth_check_write),
    Route("PUT", f"{_MODEL}/settings", api.update_settings),
    Route("GET", f"{_MODEL}/refs", api.refs),
    Route("GET", f"{_MODEL}/commits/{{rev}}", api.list_commits),
    Route("GET", f"{_MODEL}/tree/{{rev}}", api.list_tree),
    Route("GET", f"{_MODEL}/tree/{{rev}}/{{path*}}", api.list_tree),
    Route("POST", f"{_MODEL}/paths-info/{{rev}}", api.paths_info),
    Route("POST", f"{_MODEL}/preupload/{{rev}}", api.preupload),
    Route("POST", f"{_MODEL}/commit/{{rev}}", api.commit),
    Route("POST", f"{_MODEL}/tag/{{rev}}", api.create_tag),
    Route("DELETE", f"{_MODEL}/tag/{{rev}}", api.delete_tag),
    Route("POST", f"{_MODEL}/branch/{{rev}}", api.create_branch),
    Route("DELETE", f"{_MODEL}/branch/{{rev}}", api.delete_branch),
    Route("GET", f"{_MODEL}/xet-read-token/{{rev*}}", xet.read_token),
    Route("GET", f"{_MODEL}/xet-write-token/{{rev*}}", xet.write_token),
    Route("POST", f"{_LFS}/objects/batch", files.batch),
    Route("POST", f"{_LFS}/objects/verify", files.verify),
    Route("GET", "{ns}/{name}/resolve/{rev}/{path*}", files.resolve),
    Route("GET", "{ns}/{name}/raw/{rev}/{path*}", files.raw),
    Route("GET", "{ns}/{name}", pages.repository),
)

LFS: tuple[Route, ...] = (
    Route("GET", "{ns}/{name}/{oid}", files.download_object),
    Route("PUT", "{ns}/{name}/{oid}", files.upload_object),
    Route("POST", f"{_XET}/v1/xorbs/default/{{hash}}", xet.upload_xorb),
    Route("POST", f"{_XET}/v1/shards", xet.upload_shard),
    Route("POST", f"{_XET}/v2/shards", xet.upload_shard_v2),
    Route("POST", f"{_XET}/shards", xet.upload_shard),
)

_OTHER_KINDS = frozenset({"datasets", "spaces", "kernels", "buckets"})
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
        raise RefusalError(404, "The embedded hub serves models only.", "RepoNotFound")
    method = "GET" if request.method == "HEAD" else request.method
    if method != "GET" and "origin" in request.headers:
        raise RefusalError(403, "The embedded hub takes no changes from web pages.")
    for route in LFS if request.server == "lfs" else API:
        if (params := route.match(method, request.path)) is not None:
            return route.handler, Context(hub, request, params)
    unknown = f"The embedded hub does not know {method} /{'/'.join(request.path)}."
    raise RefusalError(404, unknown, "RepoNotFound" if _lacks_namespace(request.path) else "")


def _lacks_namespace(path: tuple[str, ...]) -> bool:
    """Whether the path is one of the Hub's own repositories without a namespace, like `gpt2`."""
    if path[:2] == ("api", "models"):
        return len(path) == 3 or path[3] in _BELOW_A_REPOSITORY
    return path[1:2] == ("resolve",)
