"""Whether the token may publish, asked before the conversion: a bad one fails in seconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from slogpt_hf.errors import HubError, UsageError
from slogpt_hf.hub.attempts import persevere, status_of
from slogpt_hf.hub.client import Hub, readable_errors
from slogpt_hf.hub.credentials import Credentials
from slogpt_hf.hub.oidc import SET_UP
from slogpt_hf.settings import Settings

CHECK = "checking write access"
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
ANONYMOUS = "anonymous"  # what an embedded hub without a token of its own takes
WAYS = (
    "Set HF_TOKEN, pass --token-file FILE (or - for standard input), or --oidc in a CI that the "
    "repository trusts, or log in once with 'hf auth login'; --hub DIR needs no token."
)
NEW_TOKEN = (
    "Make a token with write access to {repo_id} in the Hub's settings under Access Tokens, and "
    "give it as HF_TOKEN or --token-file."
)
# As the Hub's answer to /api/whoami-v2 spells them.
READING_ROLES = frozenset({"read", "no_access"})  # of a member of an organisation
WRITE_PERMISSION = "repo.write"  # of a fine-grained token
OWNERS = frozenset({"user", "org"})
REPOSITORIES = frozenset({"model", "dataset", "space", "bucket", "kernel", "collection"})


def require_write_access(
    hub: Hub, repo_id: str, credentials: Credentials, *, exists: bool, create: bool
) -> None:
    """Raise unless the token may write to the repository, or create it where it is missing.

    One request. Where the Hub's answer about an account is of a form not known here, the token
    passes: publishing itself will tell.

    Args:
        hub: where to.
        repo_id: NAMESPACE/NAME.
        credentials: what the release identifies itself with.
        exists: whether the repository was found.
        create: whether a missing one may be created.

    Raises:
        HubError: what is wrong with the token or the repository, and what to do.
    """
    token = credentials.token() or (ANONYMOUS if _is_loopback(hub.endpoint) else None)
    if token is None:
        raise HubError(f"{repo_id}: there is no token to publish with.", hint=WAYS)
    if exists:
        _require_write(hub, repo_id, credentials, token)
    elif not create:
        raise HubError(
            f"{repo_id}: does not exist on {hub.shown_endpoint}, or the token may not see it.",
            hint="Check the name, create it there, or leave --no-create out.",
        )
    elif credentials.is_oidc:
        raise HubError(
            f"{repo_id}: does not exist on {hub.shown_endpoint}, and an OIDC token cannot create "
            "it.",
            hint=f"Create it there once and add the trusted publisher to it. {SET_UP}",
        )
    else:
        _require_creation(hub, repo_id, credentials, token)


def repo_of_account(hub: Hub, name: str) -> str:
    """NAMESPACE/NAME of a repository of the token's own account.

    Raises:
        UsageError: an OIDC token has no account, or ``name`` cannot name a repository.
        HubError: there is no token, or the hub does not say whose it is.
    """
    from huggingface_hub.errors import HfHubHTTPError

    credentials = hub.credentials
    if credentials is None or credentials.is_oidc:
        raise UsageError(
            f"{name[:100]!r} names no namespace, and an OIDC token has no account.",
            hint="Write NAMESPACE/NAME.",
        )
    token = credentials.token() or (ANONYMOUS if _is_loopback(hub.endpoint) else None)
    if token is None:
        raise HubError(f"{name}: there is no token to publish with.", hint=WAYS)
    with readable_errors("reading the account", name):
        try:
            account = persevere(lambda: hub.api.whoami(token=token), hub.tell)
        except HfHubHTTPError as error:
            if status_of(error) == 401:
                raise _not_accepted(name, credentials) from error
            raise
    owner = _member(account, "name")
    if not isinstance(owner, str):
        raise HubError(f"{name}: the hub names no account.", hint="Write NAMESPACE/NAME.")
    repo_id = f"{owner}/{name}"
    Settings(repo_id=repo_id)
    return repo_id


def _require_write(hub: Hub, repo_id: str, credentials: Credentials, token: str) -> None:
    from huggingface_hub import errors

    with readable_errors(CHECK, repo_id):
        try:
            persevere(
                lambda: hub.api.auth_check(
                    repo_id, repo_type=hub.repo_type, token=token, write=True
                ),
                hub.tell,
            )
        except errors.GatedRepoError as error:
            raise HubError(
                f"{repo_id}: is gated, and the token's account has no access.",
                hint="Ask for access on its page on the Hub, with the account of the token.",
            ) from error
        except errors.DisabledRepoError as error:
            raise HubError(
                f"{repo_id}: the Hub has disabled this repository.",
                hint="Its page on the Hub says why; release to another one meanwhile.",
            ) from error
        except errors.HfHubHTTPError as error:
            status = status_of(error)
            if status == 401:
                raise _not_accepted(repo_id, credentials) from error
            if status == 403:
                raise _forbidden(hub, repo_id, credentials, token) from error
            if status != 404:
                raise
            if isinstance(error, errors.RepositoryNotFoundError):
                raise HubError(
                    f"{repo_id}: is not there any more, or the token may not see it.",
                    hint="Check the name and the token's account.",
                ) from error
            # A hub without this check.


def _require_creation(hub: Hub, repo_id: str, credentials: Credentials, token: str) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    with readable_errors(CHECK, repo_id):
        try:
            account = persevere(lambda: hub.api.whoami(token=token), hub.tell)
        except HfHubHTTPError as error:
            if status_of(error) == 401:
                raise _not_accepted(repo_id, credentials) from error
            if status_of(error) in (403, 404):
                return  # a token that may not ask, or a hub without accounts
            raise
    if fault := missing_right(account, repo_id):
        raise _lacking(repo_id, credentials, fault)


def _forbidden(hub: Hub, repo_id: str, credentials: Credentials, token: str) -> HubError:
    if credentials.is_oidc:
        return HubError(
            f"{repo_id}: the token from {credentials.source} may not write.",
            hint="Its trusted publisher may be read-only, or be that of an account: in the "
            f"settings of {repo_id} add one that writes. {SET_UP}",
        )
    try:
        fault = missing_right(hub.api.whoami(token=token), repo_id)
    except Exception:  # the refusal stands, whatever else is known about the account
        fault = None
    return _lacking(repo_id, credentials, fault or "lacks write access to this repository")


def missing_right(account: Any, repo_id: str) -> str | None:
    """What an account's token lacks to create ``repo_id``, or to write to it.

    Args:
        account: the answer to ``/api/whoami-v2``.
        repo_id: NAMESPACE/NAME.

    Returns:
        A predicate of "the token", None if nothing is known to be missing.
    """
    access = _member(_member(account, "auth"), "accessToken")
    role, namespace = _member(access, "role"), repo_id.partition("/")[0]
    if role == "read":
        return "can only read"
    if role == "fineGrained":
        return _missing_scope(_member(access, "fineGrained"), repo_id)
    if role == "admin":
        return None
    name, organisations = _member(account, "name"), _member(account, "orgs")
    if _member(account, "type") != "user" or not isinstance(name, str):
        return None
    if not isinstance(organisations, list) or _same(name, namespace):
        return None
    for organisation in organisations:
        if _same(_member(organisation, "name"), namespace):
            if _member(organisation, "roleInOrg") in READING_ROLES:
                return f"belongs to {name}, who may only read in {namespace}"
            return None
    return f"belongs to {name}, who is no member of {namespace}"


def _missing_scope(permissions: Any, repo_id: str) -> str | None:
    scopes = _member(permissions, "scoped")
    if not isinstance(scopes, list) or WRITE_PERMISSION in _listed(permissions, "global"):
        return None
    namespace = repo_id.partition("/")[0]
    for scope in scopes:
        if WRITE_PERMISSION not in _listed(scope, "permissions"):
            continue
        entity = _member(scope, "entity")
        kind, name = _member(entity, "type"), _member(entity, "name")
        known = kind in OWNERS | REPOSITORIES and isinstance(name, str)
        if not known or _same(name, namespace if kind in OWNERS else repo_id):
            return None
    return f"has the permission {WRITE_PERMISSION} neither for {namespace} nor for this repository"


def _not_accepted(repo_id: str, credentials: Credentials) -> HubError:
    if credentials.token() is None:
        return HubError(f"{repo_id}: there is no token to publish with (status 401).", hint=WAYS)
    if credentials.is_oidc:
        return HubError(
            f"{repo_id}: the Hub does not take the token it gave for {credentials.source} "
            "(status 401).",
            hint="It lasts an hour at most; run the job again.",
        )
    return HubError(
        f"{repo_id}: the Hub does not know the token from {credentials.source} (status 401); it "
        "is mistyped, revoked or expired.",
        hint=NEW_TOKEN.format(repo_id=repo_id),
    )


def _lacking(repo_id: str, credentials: Credentials, fault: str) -> HubError:
    return HubError(
        f"{repo_id}: the token from {credentials.source} {fault}.",
        hint=NEW_TOKEN.format(repo_id=repo_id),
    )


def _is_loopback(endpoint: str) -> bool:
    return urlsplit(endpoint).hostname in LOOPBACK


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None


def _listed(value: Any, name: str) -> Iterable[Any]:
    listed = _member(value, name)
    return listed if isinstance(listed, list) else ()


def _same(name: Any, other: str) -> bool:
    return isinstance(name, str) and name.casefold() == other.casefold()
