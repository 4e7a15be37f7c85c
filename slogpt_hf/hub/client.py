"""The one way to a hub: ``huggingface_hub``, with time-outs and errors that say what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slogpt_hf.errors import HubError, SloGPTError, UsageError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TIMEOUT_SECONDS = 60.0
STATUS_HINTS = {
    400: "Correct what the Hub's message names.",
    401: "Set HF_TOKEN (or --token-file) to a token with write access to the repository.",
    403: "The token lacks write access to this repository, or the namespace is not yours.",
    404: "Check the repository's name and that the token may see it.",
    409: "Something of this name is there already; look at the repository.",
    413: "The Hub's limit for a file or the quota is reached.",
    429: "The Hub limits the rate; try again in a few minutes.",
}
ANY_HINT = "Check the network and the Hub's status; run again."


@dataclass(frozen=True)
class Hub:
    """A hub to release to.

    Attributes:
        api: the client, with endpoint and token.
        endpoint: base URL.
        folder: folder of an embedded hub; None for the real one.
    """

    api: HfApi
    endpoint: str
    folder: Path | None = None


@contextmanager
def open_hub(folder: Path | None = None, token: str | None = None) -> Iterator[Hub]:
    """The embedded hub over ``folder`` for the time of the block, or else the real one.

    Raises:
        UsageError: the folder cannot serve as a hub.
    """
    if folder is None:
        with _timeouts():
            yield _connect(os.environ.get("HF_ENDPOINT"), token)
        return
    from slogpt_hf.hub.embedded import serve

    with serve(folder) as running, _timeouts(), _without_xet():
        yield _connect(running.endpoint, token or "embedded", folder)


@contextmanager
def _timeouts() -> Iterator[None]:
    """A time-out for every request; the client has none of its own."""
    from huggingface_hub import get_session

    session = get_session()
    before, session.timeout = session.timeout, TIMEOUT_SECONDS
    try:
        yield
    finally:
        session.timeout = before


def _connect(endpoint: str | None, token: str | None, folder: Path | None = None) -> Hub:
    from huggingface_hub import HfApi, constants

    api = HfApi(endpoint=endpoint, token=token, library_name="slogpt-hf")
    return Hub(api, endpoint or constants.ENDPOINT, folder)


@contextmanager
def _without_xet() -> Iterator[None]:
    """Upload by LFS: the embedded hub has no Xet storage, and the client does not fall back."""
    from huggingface_hub import constants

    before = constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_XET = before


def read_token(token_file: str | None) -> str | None:
    """The Hub token from a file, or None to let the client look (HF_TOKEN, OIDC, login).

    Raises:
        UsageError: the file cannot be read or is empty.
    """
    if token_file is None:
        return None
    try:
        token = Path(token_file).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{token_file}: the token cannot be read.") from error
    if not token:
        raise UsageError(f"{token_file}: holds no token.")
    return token


@contextmanager
def readable_errors(what: str, repo_id: str) -> Iterator[None]:
    """Turn whatever the client raises into a HubError that says what to do."""
    try:
        yield
    except SloGPTError:
        raise
    except Exception as error:
        answered = _answered(error)
        status = getattr(getattr(answered, "response", None), "status_code", None)
        lines = [line.strip() for line in str(answered).splitlines() if line.strip()]
        detail = lines[-1] if lines else type(answered).__name__
        if status is None and not _is_transport(error):
            raise
        where = f"status {status}: {detail}" if status else detail
        raise HubError(
            f"{repo_id}: {what} failed ({where[:300]}).",
            hint=STATUS_HINTS.get(status or 0, ANY_HINT),
        ) from error


def _answered(error: BaseException) -> BaseException:
    """The error that carries the hub's answer, where the client wrapped it into another one."""
    inner: BaseException | None = error
    while inner is not None and getattr(inner, "response", None) is None:
        inner = inner.__cause__
    return inner or error


def _is_transport(error: BaseException | None) -> bool:
    """Whether the client could not speak with the hub at all."""
    while error is not None:
        module = type(error).__module__.split(".")[0]
        if isinstance(error, OSError) or module in {"httpx", "httpx2", "httpcore", "httpcore2"}:
            return True
        if module == "huggingface_hub":
            return True
        error = error.__cause__ or error.__context__
    return False
