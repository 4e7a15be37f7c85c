"""The client's HTTP session while a hub is open: time-outs, tokens, renames, silence, transfer."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from slogpt_hf.hub.attempts import LONGEST_ASKED_SECONDS, wait_of_headers

if TYPE_CHECKING:
    import httpx2

CONNECT_SECONDS = 20.0
SILENT_SECONDS = 120.0  # without a byte sent or received; a commit of many files takes its time
MOVED = frozenset({301, 302, 307, 308})
REPO_IN_PATH = re.compile(
    r"^/api/(?:model|dataset)s/([^/]+/[^/]+)(?:/|$)|^/(?:datasets/)?([^/]+/[^/]+)/(?:resolve|raw)/"
)
CLIENT_LOGGER = "huggingface_hub"

RequestHook = Callable[["httpx2.Request"], None]
TIMEOUTS = {
    "connect": CONNECT_SECONDS,
    "pool": SILENT_SECONDS,
    "read": SILENT_SECONDS,
    "write": SILENT_SECONDS,
}


@contextmanager
def session(
    endpoint: str, authorise: RequestHook | None, renamed: dict[str, str]
) -> Iterator[None]:
    """The client's session with what it lacks by itself, for the time of the block.

    Args:
        endpoint: base URL of the hub.
        authorise: called with every request before it is sent; None to let the client look for a
            token by itself.
        renamed: gets old repository id to new one when the hub redirects to another.
    """
    from huggingface_hub import close_session, set_client_factory
    from huggingface_hub.utils import _http

    before = getattr(_http, "_GLOBAL_CLIENT_FACTORY", _http.default_client_factory)

    def note_rename(response: httpx2.Response) -> None:
        if response.status_code not in MOVED:
            return
        old = repo_in(endpoint, str(response.request.url))
        new = repo_in(endpoint, str(response.request.url.join(response.headers["location"])))
        if old and new and old != new:
            renamed[old] = new

    def make() -> Any:
        client = before()
        hooks = client.event_hooks
        client.event_hooks = {
            "request": [*hooks["request"], _limit_time, *([authorise] if authorise else [])],
            "response": [*hooks["response"], note_rename, _refuse_long_wait],
        }
        return client

    with ExitStack() as stack:
        stack.enter_context(_quiet_client())
        if authorise:
            stack.enter_context(_explicit_token())
        set_client_factory(make)
        stack.callback(close_session)
        stack.callback(set_client_factory, before)
        yield


def _refuse_long_wait(response: httpx2.Response) -> None:
    """Fail at once where the hub asks for a wait that is too long; the client would wait."""
    from huggingface_hub.utils import hf_raise_for_status

    wait = wait_of_headers(response.status_code, response.headers)
    if response.status_code >= 400 and wait is not None and wait > LONGEST_ASKED_SECONDS:
        response.read()
        hf_raise_for_status(response)


def _limit_time(request: httpx2.Request) -> None:
    """Time-outs for a request that has none: the client's default, and what it asks for itself."""
    given = request.extensions.get("timeout", {})
    limits = {name: given.get(name) or seconds for name, seconds in TIMEOUTS.items()}
    request.extensions["timeout"] = limits


def repo_in(endpoint: str, url: str) -> str | None:
    """The repository that a URL of the hub is about; None for any other URL."""
    base, target = urlsplit(endpoint), urlsplit(url)
    if (base.scheme, base.netloc) != (target.scheme, target.netloc):
        return None
    match = REPO_IN_PATH.match(target.path.removeprefix(base.path.rstrip("/")))
    return unquote(match[1] or match[2]) if match else None


@contextmanager
def _quiet_client() -> Iterator[None]:
    """Keep the client from printing each failed request, with the signed URL that it went to."""
    logger = logging.getLogger(CLIENT_LOGGER)
    before = logger.level
    logger.setLevel(logging.ERROR if before < logging.ERROR else before)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _explicit_token() -> Iterator[None]:
    """Keep the client from looking for another token where it was given none.

    The check of an uploaded file is such a place: it would exchange the CI's identity once more.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_DISABLE_IMPLICIT_TOKEN
    constants.HF_HUB_DISABLE_IMPLICIT_TOKEN = True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_IMPLICIT_TOKEN = before


@contextmanager
def transfer(way: str) -> Iterator[None]:
    """Upload large files by ``xet`` or ``lfs`` for the time of the block.

    The client decides by itself otherwise, and does not fall back from one to the other.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = way == "lfs"
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_XET = before
