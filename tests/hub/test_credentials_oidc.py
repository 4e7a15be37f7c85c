"""Trusted publishing: minting, exchange, renewal, and what is said when it is refused."""

from __future__ import annotations

import base64
import json
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from slogpt_hf.errors import HubError
from slogpt_hf.files import sha256_of
from slogpt_hf.hub import attempts, oidc
from slogpt_hf.hub.client import open_hub
from slogpt_hf.hub.credentials import (
    GITHUB,
    RESOURCE_VARIABLE,
    TOKEN_VARIABLES,
    Credentials,
    find_credentials,
)
from slogpt_hf.hub.embedded import Request, Response, serve
from slogpt_hf.hub.oidc import (
    ATTEMPTS,
    ID_TOKEN_VARIABLE,
    LIFE_SECONDS,
    MINT_TOKEN_VARIABLE,
    MINT_URL_VARIABLE,
    Exchange,
    claims_of,
    renewed_token,
)
from slogpt_hf.hub.uploads import Uploads
from slogpt_hf.settings import Settings

REPO = "me/model"
ABORTED = {"error": "invalid_grant", "error_description": "This operation was aborted"}
NOT_TRUSTED = {"error": "invalid_grant", "error_description": "Invalid subject_token"}
MINT_SECRET = "mint-canary-8f1c"


def identity_with(**claims: Any) -> str:
    parts = ({"alg": "RS256"}, {"exp": time.time() + 300, **claims})
    encoded = [base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts]
    return ".".join((*encoded, "c2lnbmF0dXJl"))


class Provider:
    """GitHub's minting URL and the Hub's token exchange on one loopback server."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.claims: dict[str, Any] = {"repository": "me/training", "ref": "refs/heads/main"}
        self.life: Any = 3600
        self.refusals: list[Response] = []
        self.minted: list[dict[str, Any]] = []
        self.exchanged: list[dict[str, Any]] = []
        self.authorised: list[str | None] = []
        self.open = threading.Event()
        self.open.set()

    def __call__(self, request: Request) -> Response | None:
        if request.path not in (("mint",), ("oauth", "token")):
            return None
        self.open.wait(20)
        if self.refusals:
            return self.refusals.pop(0)
        if request.path == ("mint",):
            self.minted.append(dict(request.query))
            self.authorised.append(request.headers.get("authorization"))
            audience = request.first("audience")
            return answer(200, {"value": identity_with(aud=audience, **self.claims)})
        self.exchanged.append(request.json())
        assert "authorization" not in request.headers
        token = f"exchanged-{len(self.exchanged)}"
        return answer(200, {"access_token": token, "expires_in": self.life})


def answer(status: int, body: Any) -> Response:
    return Response(status, json.dumps(body).encode(), {"Content-Type": "application/json"})


@pytest.fixture
def provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    """A provider, and an environment as that of a job on GitHub."""
    fake = Provider()
    with serve(tmp_path / "hub", intercept=fake) as running:
        fake.endpoint = running.endpoint
        for name in (*TOKEN_VARIABLES, RESOURCE_VARIABLE, ID_TOKEN_VARIABLE):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(MINT_URL_VARIABLE, f"{running.endpoint}/mint?api-version=2.0")
        monkeypatch.setenv(MINT_TOKEN_VARIABLE, MINT_SECRET)
        yield fake
        fake.open.set()


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr(attempts, "sleep", waited.append)
    return waited


def found(provider: Provider, **settings: Any) -> Credentials:
    return find_credentials(Settings(**settings), REPO, provider.endpoint)


def refused(provider: Provider, identity: str, *refusals: Response) -> str:
    """What is said of an exchange that the hub answers so; it is free of secrets."""
    provider.refusals = list(refusals)
    with pytest.raises(HubError) as caught:
        oidc.exchange_identity(Exchange(provider.endpoint, REPO), identity)
    text = "".join(traceback.format_exception(caught.value))
    assert identity not in text and "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{REPO}: ")
    return str(caught.value)


def test_on_github_an_identity_is_minted_and_exchanged(provider: Provider) -> None:
    credentials = found(provider, oidc=True)
    assert (credentials.source, credentials.renewable) == (GITHUB, True)
    assert provider.minted == []  # nothing is asked for before it is needed
    assert credentials.token() == "exchanged-1"
    assert credentials.token() == "exchanged-1"
    assert provider.minted == [{"api-version": ["2.0"], "audience": [provider.endpoint]}]
    assert provider.authorised == [f"Bearer {MINT_SECRET}"]
    (content,) = provider.exchanged
    assert content.pop("subject_token").count(".") == 2
    assert content == {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
        "resource": REPO,
    }


def test_an_identity_of_the_environment_is_exchanged_at_once(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = identity_with(aud=provider.endpoint)
    monkeypatch.setenv(ID_TOKEN_VARIABLE, f"{identity}\n")
    credentials = found(provider, oidc=True)
    assert (credentials.source, credentials.renewable) == (ID_TOKEN_VARIABLE, False)
    assert [content["subject_token"] for content in provider.exchanged] == [identity]
    assert credentials.token() == "exchanged-1" and provider.minted == []


def test_the_clients_own_variable_opts_in(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RESOURCE_VARIABLE, REPO)
    monkeypatch.setenv("HF_TOKEN", "other")
    assert found(provider).token() == "exchanged-1"
    assert provider.exchanged[0]["resource"] == REPO


@pytest.mark.parametrize("missing", [MINT_URL_VARIABLE, MINT_TOKEN_VARIABLE])
def test_without_an_identity(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.delenv(missing)
    with pytest.raises(HubError, match="has no OIDC identity") as caught:
        found(provider, oidc=True)
    for word in ("id-token: write", "fork", ID_TOKEN_VARIABLE, "docs/oidc.md"):
        assert word in caught.value.hint


@pytest.mark.parametrize(
    ("endpoint", "audience"),
    [
        ("https://huggingface.co", "https://huggingface.co"),
        ("https://hub.example.org:8443/prefix/", "https://hub.example.org:8443"),
    ],
)
def test_audience_is_the_origin_of_the_hub(endpoint: str, audience: str) -> None:
    assert Exchange(endpoint, REPO).audience == audience


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("life", "kept", "renewed"),
    [
        (3600, 2999, 3001),
        (None, LIFE_SECONDS - 601, LIFE_SECONDS - 599),
        ("60", LIFE_SECONDS - 601, LIFE_SECONDS - 599),
        (-1, LIFE_SECONDS - 601, LIFE_SECONDS - 599),
        (100, 49, 51),
    ],
)
def test_renewal_before_the_end(provider: Provider, life: Any, kept: float, renewed: float) -> None:
    provider.life, clock = life, Clock()
    token = renewed_token(Exchange(provider.endpoint, REPO), clock=clock)
    assert token() == "exchanged-1"
    clock.now = 1000 + kept
    assert token() == "exchanged-1"
    clock.now = 1000 + renewed
    assert token() == "exchanged-2" and len(provider.minted) == 2


def test_a_renewal_that_fails_leaves_the_token_until_it_ends(provider: Provider) -> None:
    clock = Clock()
    token = renewed_token(Exchange(provider.endpoint, REPO), clock=clock)
    token()
    refusals = [answer(403, {})] * 3
    provider.refusals = refusals
    clock.now += 3100
    assert token() == token() == "exchanged-1" and len(refusals) == 2  # not asked every time
    clock.now += 61
    assert token() == "exchanged-1" and len(refusals) == 1
    clock.now += 3600
    with pytest.raises(HubError, match="status 403"):
        token()
    assert token() == "exchanged-2"


def test_many_threads_share_one_exchange(provider: Provider) -> None:
    token = found(provider, oidc=True).token
    together = threading.Barrier(8)

    def ask(_: int) -> str | None:
        together.wait(20)
        return token()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {"exchanged-1"}
    assert len(provider.exchanged) == 1


def test_a_release_longer_than_the_token(provider: Provider, tmp_path: Path) -> None:
    """The hub takes the newest token only; the client knows but the first."""
    clock, refused = Clock(), []

    def check(request: Request) -> Response | None:
        if (handled := provider(request)) is not None:
            return handled
        current = f"Bearer exchanged-{len(provider.exchanged)}"
        if request.server == "lfs" and request.method == "PUT":
            clock.now += 7200  # a long upload: what follows it needs a new token
        elif request.server == "api" and request.headers.get("authorization") != current:
            refused.append(request.path)
        return None

    with serve(tmp_path / "other", intercept=check) as running:
        exchange = Exchange(running.endpoint, REPO)
        token = renewed_token(exchange, clock=clock)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HF_ENDPOINT", running.endpoint)
            patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
            with open_hub(None, Credentials(GITHUB, True, token)) as hub:
                hub.api.create_repo(REPO)
                for name in ("a.safetensors", "b.safetensors"):
                    hub.api.upload_file(
                        path_or_fileobj=name.encode() * 500, path_in_repo=name, repo_id=REPO
                    )
    assert refused == [] and len(provider.exchanged) == 3


@pytest.mark.parametrize("renewable", [True, False])
def test_a_token_that_ends_during_an_upload(
    renewable: bool, provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub refuses it; with a new one what is left is sent."""
    clock, asked = Clock(), []

    def end(request: Request) -> Response | None:
        if (handled := provider(request)) is not None:
            return handled
        if request.path[-1] == "batch":
            asked.append(request.headers.get("authorization"))
            if len(asked) == 1:
                clock.now += 7200
                return answer(401, {"error": "Invalid credentials"})
        return None

    path = tmp_path / "a.safetensors"
    path.write_bytes(b"a" * 5000)
    with serve(tmp_path / "other", intercept=end) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        token = renewed_token(Exchange(running.endpoint, REPO), clock=clock)
        with open_hub(None, Credentials(GITHUB, renewable, token)) as hub:
            hub.api.create_repo(REPO)
            uploads = Uploads(hub, REPO, "lfs")
            uploads.consist_of({path.name: path}, {path.name: sha256_of(path)})
            if renewable:
                assert uploads.send([path.name], "main")
            else:
                with pytest.raises(HubError, match="status 401"):
                    uploads.send([path.name], "main")
    assert asked == ["Bearer exchanged-1", "Bearer exchanged-2"][: 1 + renewable]


def test_an_aborted_exchange_is_repeated(provider: Provider, waits: list[float]) -> None:
    provider.refusals = [answer(400, ABORTED), answer(503, {}), answer(400, ABORTED)]
    grant = oidc.exchange_identity(Exchange(provider.endpoint, REPO), "identity")
    assert grant.token == "exchanged-1" and "exchanged" not in repr(grant)
    assert len(waits) == 3 and waits == sorted(waits) and len(set(waits)) == 3


def test_aborted_again_and_again(provider: Provider, waits: list[float]) -> None:
    said = refused(provider, identity_with(), *[answer(400, ABORTED)] * ATTEMPTS)
    assert "This operation was aborted" in said and "run again" in said
    assert len(waits) == ATTEMPTS - 1


@pytest.mark.parametrize(
    "body", [NOT_TRUSTED, {"error": "invalid_request", "error_description": "resource"}]
)
def test_a_job_that_is_not_trusted_learns_its_claims(
    provider: Provider, waits: list[float], body: Any
) -> None:
    claims = {
        "aud": ["x", provider.endpoint],
        "repository": "me/training",
        "ref": "refs/heads/dev",
        "environment": "hub\x1b[2J",
        "actor": "somebody",
    }
    said = refused(provider, identity_with(**claims), answer(400, body))
    assert f"status 400: {body['error']}: {body['error_description']}" in said
    assert "repository me/training, ref refs/heads/dev, environment hub\\x1b[2J." in said
    assert "trusted publisher" in said and "somebody" not in said and waits == []


def test_an_expired_identity(provider: Provider) -> None:
    said = refused(provider, identity_with(exp=time.time() - 1), answer(400, NOT_TRUSTED))
    assert "has expired" in said and "longer than an hour" in said


@pytest.mark.parametrize("audience", ["https://other.example", ["https://other.example"]])
def test_an_identity_for_somebody_else(provider: Provider, audience: Any) -> None:
    said = refused(provider, identity_with(aud=audience), answer(400, NOT_TRUSTED))
    assert f"for the audience https://other.example, not {provider.endpoint}" in said


def test_an_identity_without_an_audience(provider: Provider) -> None:
    assert "audience none" in refused(provider, identity_with(), answer(400, NOT_TRUSTED))


@pytest.mark.parametrize("identity", ["garbage", "a.b.c", "a.bnVsbA.c", "x" * 3000])
def test_an_identity_that_is_none(provider: Provider, identity: str) -> None:
    assert claims_of(identity) == {}
    assert "not readable" in refused(provider, identity, answer(400, NOT_TRUSTED))


@pytest.mark.parametrize(
    "response", [Response(404, b"no such page"), answer(400, {"error": "unsupported_grant_type"})]
)
def test_a_hub_without_trusted_publishing(provider: Provider, response: Response) -> None:
    assert "knows no trusted publishing" in refused(provider, identity_with(), response)


@pytest.mark.parametrize(
    "response",
    [Response(200, b"<html>"), answer(200, {"token": 1}), Response(302, b"", {"Location": "/x"})],
)
def test_an_answer_that_is_none(provider: Provider, response: Response) -> None:
    said = refused(provider, identity_with(), *[response] * ATTEMPTS)
    assert "did not exchange the OIDC identity" in said


def test_a_server_that_repeats_the_identity(provider: Provider) -> None:
    identity = identity_with(aud=provider.endpoint)
    body = {"error": "invalid_grant", "error_description": f"bad token {identity}"}
    assert "bad token ***" in refused(provider, identity, answer(400, body))


def test_github_refuses(provider: Provider) -> None:
    provider.refusals = [answer(401, {"error": "no", "error_description": MINT_SECRET})]
    with pytest.raises(HubError, match="GitHub gave no OIDC identity") as caught:
        found(provider, oidc=True).token()
    text = "".join(traceback.format_exception(caught.value))
    assert "status 401" in text and MINT_SECRET not in text


def test_a_silent_hub_is_not_waited_for(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    monkeypatch.setattr(oidc, "ANSWER_SECONDS", 0.05)
    provider.open.clear()
    said = refused(provider, identity_with())
    assert "ReadTimeout" in said and len(waits) == ATTEMPTS - 1


def test_a_hub_that_is_not_there(provider: Provider, tmp_path: Path) -> None:
    with serve(tmp_path / "gone") as running:
        provider.endpoint = running.endpoint
    assert "ConnectError" in refused(provider, identity_with())
