"""Trusted publishing: a CI's OIDC identity is exchanged for a Hub token that lasts an hour.

Protocol: RFC 8693 token exchange as the Hub's page on trusted publishers describes it,
https://huggingface.co/docs/hub/trusted-publishers. The client can do the same, in a private
module, without time-outs, for its own endpoint only and for one hour.
"""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

from slogpt_hf.errors import HubError, first_line
from slogpt_hf.hub.attempts import is_transient, status_of, wait_after
from slogpt_hf.redaction import register_secret, without_secrets

if TYPE_CHECKING:
    import httpx2

Result = TypeVar("Result")
Tell = Callable[[str], None]

ID_TOKEN_VARIABLE = "HF_OIDC_ID_TOKEN"  # the client's name for an identity minted beforehand
MINT_URL_VARIABLE = "ACTIONS_ID_TOKEN_REQUEST_URL"
MINT_TOKEN_VARIABLE = "ACTIONS_ID_TOKEN_REQUEST_TOKEN"
GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
ID_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:id_token"
LIFE_SECONDS = 3600.0  # of a Hub token whose answer does not tell
RENEWED_BEFORE_SECONDS = 600.0  # left when a token is renewed
RETRY_SECONDS = 60.0  # after a renewal that failed while the token still holds
ANSWER_SECONDS = 20.0  # the Hub gives up by itself after ten
ATTEMPTS = 4
# What tells a trusted publisher's settings from those of another job.
CLAIMS = (
    "iss",
    "sub",
    "repository",
    "project_path",
    "ref",
    "workflow_ref",
    "job_workflow_ref",
    "environment",
    "event_name",
)
SET_UP = "docs/oidc.md shows the set-up."


@dataclass(frozen=True)
class Grant:
    """A Hub token and how long it holds.

    Attributes:
        token: for the Authorization header.
        seconds: of its life, from the request that asked for it.
    """

    token: str = field(repr=False)
    seconds: float


@dataclass(frozen=True)
class Exchange:
    """Where an identity is exchanged, and for what.

    Attributes:
        endpoint: base URL of the hub; its origin is the audience of the identity.
        repo_id: the repository that the token may write to.
        tell: told of waits.
    """

    endpoint: str
    repo_id: str
    tell: Tell = lambda text: None

    @property
    def audience(self) -> str:
        """The ``aud`` claim that the hub asks for."""
        url = urlsplit(self.endpoint)
        return f"{url.scheme}://{url.netloc}"


def renewed_token(
    exchange: Exchange,
    environment: Mapping[str, str] = os.environ,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[[], str]:
    """A function that gives a token with life left in it; safe to call from several threads.

    Raises:
        HubError: there is no identity; also from the function, where the exchange is refused and
            no token is left.
    """
    mint = identity_source(exchange, environment)
    return _kept_fresh(lambda: exchange_identity(exchange, mint()), clock)


def _kept_fresh(fetch: Callable[[], Grant], clock: Callable[[], float]) -> Callable[[], str]:
    lock = threading.Lock()
    token, expires_at, renew_at = "", -1.0, -1.0

    def fresh() -> str:
        nonlocal token, expires_at, renew_at
        with lock:
            now = clock()
            if token and now < renew_at:
                return token
            try:
                grant = fetch()
            except HubError:
                if not token or now >= expires_at:
                    raise
                renew_at = now + RETRY_SECONDS
                return token
            token, expires_at = grant.token, now + grant.seconds
            renew_at = expires_at - min(RENEWED_BEFORE_SECONDS, grant.seconds / 2)
            return token

    return fresh


def identity_source(
    exchange: Exchange, environment: Mapping[str, str] = os.environ
) -> Callable[[], str]:
    """A function that gives the CI's id token (a JWT): the one in the environment, or a new one.

    Raises:
        HubError: the environment has neither; from the function: GitHub minted none.
    """
    if identity := environment.get(ID_TOKEN_VARIABLE, "").strip():
        register_secret(identity)
        return lambda: identity
    url, secret = (environment.get(name) for name in (MINT_URL_VARIABLE, MINT_TOKEN_VARIABLE))
    if url and secret:
        register_secret(secret)
        return partial(mint_on_github, exchange, url, secret)
    raise HubError(
        f"{exchange.repo_id}: this job has no OIDC identity; neither {MINT_URL_VARIABLE} nor "
        f"{ID_TOKEN_VARIABLE} is set.",
        hint="On GitHub give the job 'permissions: id-token: write' (a pull request from a fork "
        f"never has it); elsewhere put the CI's id token into {ID_TOKEN_VARIABLE}. {SET_UP}",
    )


def mint_on_github(exchange: Exchange, url: str, secret: str) -> str:
    """A new id token from GitHub Actions for the hub's audience.

    Raises:
        HubError: GitHub refused or could not be reached.
    """
    separator = "&" if "?" in url else "?"
    asked = f"{url}{separator}audience={quote(exchange.audience, safe='')}"

    def mint() -> str:
        with _client() as client:
            answer = client.get(asked, headers={"Authorization": f"Bearer {secret}"})
            answer.raise_for_status()
            return str(answer.json()["value"])

    try:
        identity = _persevere(mint, exchange.tell)
    except Exception as error:
        raise HubError(
            f"{exchange.repo_id}: GitHub gave no OIDC identity ({_reason(error)}).",
            hint="Run the job again; where it stays so, check 'permissions: id-token: write'.",
        ) from error
    register_secret(identity)
    return identity


def exchange_identity(exchange: Exchange, identity: str) -> Grant:
    """A Hub token for an id token.

    Raises:
        HubError: the hub refused or could not be reached; the message gives the likely cause.
    """
    content = {
        "grant_type": GRANT_TYPE,
        "subject_token_type": ID_TOKEN_TYPE,
        "subject_token": identity,
        "resource": exchange.repo_id,
    }

    def post() -> Grant:
        with _client() as client:
            answer = client.post(f"{exchange.endpoint.rstrip('/')}/oauth/token", json=content)
            answer.raise_for_status()
            body = answer.json()
            register_secret(str(body["access_token"]))
            return Grant(str(body["access_token"]), _seconds(body.get("expires_in")))

    try:
        return _persevere(post, exchange.tell)
    except Exception as error:
        raise _refusal(exchange, identity, error) from error


def _client() -> httpx2.Client:
    """A session of its own: the client's would log and send tokens as it does with its own."""
    import httpx2

    return httpx2.Client(timeout=ANSWER_SECONDS, follow_redirects=False)


def _persevere(call: Callable[[], Result], tell: Tell) -> Result:
    for failed in range(1, ATTEMPTS):
        try:
            return call()
        except Exception as error:
            passing = is_transient(error) or "aborted" in _description(error)
            if not passing or not wait_after(error, failed, tell):
                raise
    return call()


def _seconds(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and value > 0 else LIFE_SECONDS


def _refusal(exchange: Exchange, identity: str, error: Exception) -> HubError:
    """Why an exchange failed. The Hub does not say which check did, so the claims must."""
    claims, repo_id = claims_of(identity), exchange.repo_id
    status, code = status_of(error), _member(error, "error")
    if "aborted" in _description(error) or is_transient(error) or not 400 <= (status or 0) < 500:
        return HubError(
            f"{repo_id}: {exchange.endpoint} did not exchange the OIDC identity "
            f"({_reason(error)}).",
            hint="Check the network and the Hub's status; run again.",
        )
    if status in (404, 405) or code == "unsupported_grant_type":
        return HubError(
            f"{repo_id}: {exchange.endpoint} knows no trusted publishing ({_reason(error)}).",
            hint="Leave --oidc out and give a token, e.g. as HF_TOKEN.",
        )
    expiry = claims.get("exp")
    if isinstance(expiry, int | float) and expiry < time.time():
        return HubError(
            f"{repo_id}: the OIDC identity has expired; {ID_TOKEN_VARIABLE} is minted once and "
            "lasts minutes, the Hub token that it gives an hour.",
            hint="Mint it right before the release; one that takes longer than an hour needs "
            "GitHub Actions, which mints anew, or a token in HF_TOKEN.",
        )
    audiences = claims.get("aud", [])
    audiences = audiences if isinstance(audiences, list) else [audiences]
    if claims and exchange.audience not in audiences:
        named = ", ".join(_shown(audience) for audience in audiences) or "none"
        return HubError(
            f"{repo_id}: the OIDC identity is for the audience {named}, not {exchange.audience}.",
            hint=f"Have the CI mint it with the audience {exchange.audience}. {SET_UP}",
        )
    held = ", ".join(f"{name} {_shown(claims[name])}" for name in CLAIMS if name in claims)
    return HubError(
        f"{repo_id}: the Hub did not take this job's OIDC identity ({_reason(error)}). "
        f"Its claims: {held or 'not readable'}.",
        hint=f"In the settings of {repo_id} on the Hub, which must exist, add a trusted publisher "
        f"whose claims are exactly these. {SET_UP}",
    )


def claims_of(identity: str) -> dict[str, Any]:
    """The claims of a JSON Web Token (RFC 7519), not verified; none where it is not readable."""
    try:
        payload = identity.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _member(error: Exception, name: str) -> str:
    """A member of the OAuth error (RFC 6749 section 5.2) that was answered."""
    try:
        return str(error.response.json()[name])  # type: ignore[attr-defined]
    except (AttributeError, ValueError, KeyError, TypeError):
        return ""


def _description(error: Exception) -> str:
    return _member(error, "error_description") if _member(error, "error") else ""


def _reason(error: Exception) -> str:
    """Status and code of an answer, or why there was none."""
    if status := status_of(error):
        said = ": ".join(filter(None, (_member(error, "error"), _description(error))))
        return f"status {status}{': ' if said else ''}{first_line(without_secrets(said)[:200])}"
    return first_line(without_secrets(f"{type(error).__name__}: {error}"))


def _shown(claim: Any) -> str:
    return first_line(without_secrets(str(claim)), 120)
