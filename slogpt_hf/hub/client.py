"""The one way to a hub: ``huggingface_hub``, with time-outs and errors that say what to do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlsplit

from slogpt_hf.errors import HubError, SloGPTError, UsageError
from slogpt_hf.files import is_folder
from slogpt_hf.hub.attempts import (
    ATTEMPTS,
    CLIENT,
    LFS_REFUSAL,
    TRANSPORT_MODULES,
    answer_of,
    asked_wait,
    causes,
    is_garbled,
    persevere,
    status_of,
)
from slogpt_hf.hub.credentials import (
    EMBEDDED,
    NONE,
    OIDC_SOURCES,
    Credentials,
    authorise,
    find_credentials,
    source_of,
)
from slogpt_hf.hub.session import session
from slogpt_hf.redaction import without_secrets
from slogpt_hf.settings import Settings

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Result = TypeVar("Result")

MODEL, DATASET = "model", "dataset"

STATUS_HINTS = {
    400: "Correct what the Hub's message names.",
    401: "Set HF_TOKEN (or --token-file) to a token with write access to the repository.",
    402: "The namespace's storage quota is reached: free some, or extend its plan.",
    403: "The token lacks write access to this repository, or the namespace is not yours.",
    404: "Check the repository's name and that the token may see it.",
    409: "Something of this name is there already; look at the repository.",
    413: "The Hub's limit for a file or the quota is reached.",
    429: "The Hub limits the rate; try again in a few minutes.",
    507: "The hub's disk is full.",
}
# Error code or part of the message, to what to do: they tell more than the status.
REASON_HINTS = {
    "GatedRepo": "The repository is gated: ask its owner for access with this token's account.",
    "resource is disabled": "The Hub has disabled this repository; its page says why.",
    "storage limit": "The namespace's storage quota is reached: free some, or extend its plan.",
    "RevisionNotFound": "Check the branch, tag or commit: slogpt-hf releases lists the releases.",
    "offline mode": "Unset HF_HUB_OFFLINE.",
    "The LFS content of": "The hub has lost this file's content: ask the repository's owner.",
    "folder failed: No space left": "The hub's disk is full.",
    "No space left on device": "The disk here is full: free some, or have TMPDIR name a folder on "
    "another one.",
    "quota": "The namespace's storage quota is reached: free some, or extend its plan.",
    "Invalid credentials": "The token is wrong, revoked or expired: make a new one with write "
    "access to the repository and set it as HF_TOKEN or --token-file.",
}
ANY_HINT = "Check the network and the status of {}; run again."
LONGEST_DETAIL = 300  # characters


@dataclass(frozen=True)
class Hub:
    """A hub to release to.

    Attributes:
        api: the client, with endpoint and token.
        endpoint: base URL.
        folder: folder of an embedded hub; None for the real one.
        credentials: where the token comes from; None if the client looked for it.
        renamed: old repository id to new one, as far as the hub redirected so far.
        tell: told of waits and of what else a user may wonder about.
        repo_type: of the repositories that are dealt with: ``model`` or ``dataset``.
    """

    api: HfApi
    endpoint: str
    folder: Path | None = None
    credentials: Credentials | None = None
    renamed: dict[str, str] = field(default_factory=dict)
    tell: Callable[[str], None] = lambda text: None
    repo_type: str = MODEL

    @property
    def shown_endpoint(self) -> str:
        """The base URL without the password that it may have."""
        return without_secrets(self.endpoint)

    def renew_token(self) -> None:
        """Give the client the token that is to be used now."""
        if self.credentials is not None:
            self.api.token = self.credentials.token()


@contextmanager
def open_hub(
    folder: Path | None = None,
    credentials: Credentials | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Iterator[Hub]:
    """The embedded hub over ``folder`` for the time of the block, or else the real one.

    Args:
        folder: of the embedded hub; made if missing.
        credentials: for the hub; None to let the client look (HF_TOKEN, login).
        tell: told of waits and renames.

    Raises:
        UsageError: the folder cannot serve as a hub.
        HubError: the hub refused to exchange an OIDC identity for a token.
    """
    if folder is None:
        with _connected(endpoint_of_environment(), credentials, None, tell) as hub:
            yield hub
        return
    from slogpt_hf.hub.embedded import serve

    own = credentials or Credentials(EMBEDDED, False, lambda: "embedded")
    with serve(folder) as running, _connected(running.endpoint, own, folder, tell) as hub:
        yield hub


@contextmanager
def hub_of(
    settings: Settings,
    repo_id: str,
    tell: Callable[[str], None] = lambda text: None,
    repo_type: str = MODEL,
) -> Iterator[Hub]:
    """The hub that the settings name, with their credentials, for the time of the block.

    Args:
        settings: ``hub``, ``token_file`` and ``oidc`` count.
        repo_id: NAMESPACE/NAME; an OIDC token is for it alone.
        tell: told of waits and renames.
        repo_type: ``model`` or ``dataset``.

    Raises:
        UsageError: the folder cannot serve as a hub, or what should be a token is none.
        HubError: the hub refused to exchange an OIDC identity for a token.
    """
    folder = Path(settings.hub) if settings.hub else None
    resource = repo_id if repo_type == MODEL else f"{repo_type}s/{repo_id}"
    credentials = find_credentials(settings, resource, endpoint_of_environment(), tell)
    with open_hub(folder, credentials, tell) as hub:
        yield replace(hub, repo_type=repo_type)


@contextmanager
def hub_to_search(
    settings: Settings, tell: Callable[[str], None] = lambda text: None
) -> Iterator[Hub]:
    """The hub that the settings name, for what is about no repository, for the time of the block.

    A CI's identity is left alone, since a token for it is for one repository.

    Args:
        settings: ``hub``, ``token_file`` and ``oidc`` count.
        tell: told of waits.

    Raises:
        UsageError: the folder cannot serve as a hub, or what should be a token is none.
    """
    if source_of(settings) in OIDC_SOURCES:
        with open_hub(None, Credentials(NONE, False, lambda: None), tell) as hub:
            yield hub
        return
    with hub_of(settings, "", tell) as hub:
        yield hub


def place_of(endpoint: str, folder: str | Path | None, repo_id: str) -> str:
    """URL of a repository: its page, or the git repository below an embedded hub's folder."""
    if folder is not None:
        return Path(folder, f"{repo_id}.git").absolute().as_uri()
    return f"{endpoint}/{quote(repo_id)}"


def require_hub_folder(settings: Settings) -> None:
    """Raise UsageError unless the embedded hub that is only read is there."""
    if settings.hub and not is_folder(Path(settings.hub)):
        raise UsageError(f"{settings.hub}: no such folder of a hub.", hint="Check --hub.")


def endpoint_of_environment() -> str:
    """Base URL of the hub that the environment names, or else of the real one."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


@contextmanager
def _connected(
    endpoint: str,
    credentials: Credentials | None,
    folder: Path | None,
    tell: Callable[[str], None],
) -> Iterator[Hub]:
    from huggingface_hub import HfApi

    renamed: dict[str, str] = {}
    token = credentials.token() if credentials else None
    api = HfApi(endpoint=endpoint, token=token, library_name="slogpt-hf")
    hook = authorise(credentials, endpoint) if credentials else None
    with session(endpoint, hook, renamed):
        yield Hub(api, endpoint, folder, credentials, renamed, tell)


def request(
    hub: Hub, what: str, repo_id: str, call: Callable[[], Result], attempts: int = ATTEMPTS
) -> Result:
    """The result of a request that may be sent twice, sent again where the failure may pass.

    Args:
        hub: where to.
        what: what it does, as a message says it: ``reading the repository``.
        repo_id: what it is about.
        call: the request.
        attempts: at most; 1 where the client itself tries several times.

    Raises:
        HubError: the hub refused, or could not be reached in several attempts.
    """
    with readable_errors(what, repo_id):
        return persevere(call, hub.tell, attempts)


@contextmanager
def readable_errors(what: str, repo_id: str) -> Iterator[None]:
    """Turn whatever the client raises into a HubError that says what to do."""
    try:
        yield
    except SloGPTError:
        raise
    except Exception as error:
        if status_of(error) is None and not _is_transport(error):
            raise
        raise hub_error(what, repo_id, error) from error


def hub_error(what: str, repo_id: str, error: BaseException) -> HubError:
    """What the client raised, as one message."""
    answered, status = answer_of(error), status_of(error)
    headers = getattr(getattr(answered, "response", None), "headers", {})
    lines = [line.strip() for line in str(answered).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith("For more information")]
    said = headers.get("x-error-message") or (told[-1] if told else type(answered).__name__)
    detail = without_secrets(said)[:LONGEST_DETAIL]
    if is_garbled(error):
        detail = "what answered is no Hub"
    everything = " ".join([headers.get("x-error-code", ""), *map(str, causes(error))])
    hint = next((h for words, h in REASON_HINTS.items() if words in everything), None)
    wait = asked_wait(error)
    if wait and hint is None:
        hint = f"The Hub asks to wait {wait:.0f} s; run again after that."
    return HubError(
        f"{repo_id}: {what} failed ({f'status {status}: ' if status else ''}{detail}).",
        hint=hint or STATUS_HINTS.get(status or 0) or ANY_HINT.format(_asked(error)),
    )


def _asked(error: BaseException) -> str:
    """The hub that was asked, as its address: HF_ENDPOINT may name one that is not up."""
    for cause in causes(error):
        with suppress(AttributeError, RuntimeError):  # one without a request
            url = urlsplit(str(cause.request.url))  # type: ignore[attr-defined]
            return without_secrets(f"{url.scheme}://{url.netloc}")
    return "the Hub"


def _is_transport(error: BaseException) -> bool:
    """Whether the client could not speak with the hub at all."""
    return is_garbled(error) or any(
        isinstance(cause, OSError)
        or type(cause).__module__.split(".")[0] in {*TRANSPORT_MODULES, CLIENT}
        or LFS_REFUSAL in str(cause)
        for cause in causes(error)
    )
