"""A token that cannot publish is found out by one request, and the message says what to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from slogpt_hf.errors import HubError, UsageError
from slogpt_hf.hub import attempts
from slogpt_hf.hub.client import Hub
from slogpt_hf.hub.credentials import GITHUB, NONE, Credentials
from slogpt_hf.hub.embedded import Request, Response, serve
from slogpt_hf.hub.preflight import missing_right, repo_of_account, require_write_access

REPO = "me/model"
TOKEN = "planted-token-0123"
MINE = {"type": "user", "name": "me", "orgs": []}
Check = Callable[..., str]


class FakeHub:
    """Answers the two questions of a preflight."""

    def __init__(self) -> None:
        self.write = Response(200, b"{}")
        self.account = account("write")
        self.failures: list[Response] = []
        self.asked: list[str] = []

    def __call__(self, request: Request) -> Response | None:
        question = request.path[-1]
        if question not in ("write", "whoami-v2"):
            return None
        assert request.headers.get("authorization") == f"Bearer {TOKEN}"
        self.asked.append(question)
        if self.failures:
            return self.failures.pop(0)
        return self.write if question == "write" else self.account


def answer(body: Any, status: int = 200, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    content = json.dumps(body).encode()
    return Response(status, content, {"Content-Type": "application/json", **named})


def account(role: str, scoped: Any = None, **members: Any) -> Response:
    return answer(identity(role, scoped, **members))


def identity(role: str, scoped: Any = None, **members: Any) -> dict[str, Any]:
    access: dict[str, Any] = {"displayName": "ci", "role": role}
    if scoped is not None:
        access["fineGrained"] = {"canReadGatedRepos": False, "global": [], "scoped": scoped}
    return {**MINE, **members, "auth": {"type": "access_token", "accessToken": access}}


def scope(kind: str, name: str, *permissions: str) -> dict[str, Any]:
    return {"entity": {"_id": "0", "type": kind, "name": name}, "permissions": list(permissions)}


@pytest.fixture
def hub() -> FakeHub:
    return FakeHub()


@pytest.fixture
def check(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Check]:
    """Runs the preflight: ``(source, exists, create)`` to what it says, "" if it passes."""
    monkeypatch.setattr(attempts, "sleep", lambda seconds: None)
    with serve(tmp_path, intercept=hub) as running:

        def run(source: str = "HF_TOKEN", exists: bool = True, create: bool = True) -> str:
            api = HfApi(endpoint=running.endpoint, token="of another time")
            credentials = Credentials(source, False, lambda: TOKEN)
            try:
                require_write_access(
                    Hub(api, running.endpoint), REPO, credentials, exists=exists, create=create
                )
            except HubError as error:
                assert error.hint and TOKEN not in str(error) and "\n" not in str(error)
                assert str(error).startswith(f"{REPO}: ")
                return str(error)
            return ""

        yield run


def test_a_token_that_may_write(hub: FakeHub, check: Check) -> None:
    assert check() == "" and check("--token-file", create=False) == ""
    assert hub.asked == ["write", "write"]


def test_a_token_that_may_create(hub: FakeHub, check: Check) -> None:
    assert check(exists=False) == ""
    assert hub.asked == ["whoami-v2"]


def test_no_token() -> None:
    api = HfApi(endpoint="https://hub.invalid", token=False)  # a name that does not resolve
    nobody = Credentials(NONE, False, lambda: None)
    for exists in (True, False):
        with pytest.raises(HubError, match="no token to publish with") as caught:
            require_write_access(
                Hub(api, "https://hub.invalid"), REPO, nobody, exists=exists, create=True
            )
        for way in ("HF_TOKEN", "--token-file", "standard input", "--oidc", "login", "--hub"):
            assert way in caught.value.hint


@pytest.mark.parametrize("exists", [True, False])
def test_a_local_hub_decides_itself_whether_it_wants_a_token(tmp_path: Path, exists: bool) -> None:
    nobody = Credentials(NONE, False, lambda: None)
    for token in (None, "wanted"):
        with serve(tmp_path / "hub", token=token) as running:
            hub = Hub(HfApi(endpoint=running.endpoint, token=False), running.endpoint)
            if token is None:
                if exists:
                    hub.api.create_repo("local/model", token="any")
                require_write_access(hub, "local/model", nobody, exists=exists, create=True)
                continue
            with pytest.raises(HubError, match=r"no token to publish with \(status 401\)"):
                require_write_access(hub, "local/model", nobody, exists=exists, create=True)


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("message", ["Invalid credentials in Authorization header", "Unauthorized"])
def test_a_token_that_the_hub_does_not_know(
    hub: FakeHub, check: Check, exists: bool, message: str
) -> None:
    hub.write = hub.account = answer({"error": message}, 401, X_Error_Message=message)
    said = check(exists=exists)
    assert "token from HF_TOKEN (status 401)" in said and "expired" in said and REPO in said
    assert "trusted publisher" not in said and "lasts an hour" in check(GITHUB)


@pytest.mark.parametrize(
    ("given", "fragment"),
    [
        (account("read"), "can only read"),
        (account("write"), "lacks write access"),
        (account("fineGrained", [scope("model", REPO, "repo.content.read")]), "repo.write"),
        (account("write", name="you"), "who is no member of me"),
        (answer({"error": "no"}, 500), "lacks write access"),
        (answer(["?"]), "lacks write access"),
    ],
)
def test_a_token_that_may_not_write(
    hub: FakeHub, check: Check, given: Response, fragment: str
) -> None:
    hub.write, hub.account = answer({"error": "Forbidden"}, 403), given
    said = check()
    assert said.startswith(f"{REPO}: the token from HF_TOKEN ") and fragment in said
    assert "Access Tokens" in said
    assert hub.asked == ["write", "whoami-v2"]


def test_a_trusted_publisher_that_may_not_write(hub: FakeHub, check: Check) -> None:
    hub.write = answer({"error": "Forbidden"}, 403)
    assert "may be read-only" in check(GITHUB)
    assert hub.asked == ["write"]  # an OIDC token has no account to ask about


@pytest.mark.parametrize(
    ("refusal", "fragment"),
    [
        (answer({}, 403, X_Error_Code="GatedRepo"), "is gated"),
        (
            answer({}, 403, X_Error_Message="Access to this resource is disabled."),
            "has disabled this repository",
        ),
        (answer({}, 404, X_Error_Code="RepoNotFound"), "is not there any more"),
        (answer({"error": "boom"}, 500), "checking write access failed (status 500"),
    ],
)
def test_other_refusals(hub: FakeHub, check: Check, refusal: Response, fragment: str) -> None:
    hub.write = refusal
    assert fragment in check()


def test_a_failure_that_passes(hub: FakeHub, check: Check) -> None:
    hub.failures = [answer({}, 503), answer({}, 502)]
    assert check() == "" and len(hub.asked) == 3


def test_a_hub_without_these_questions(hub: FakeHub, check: Check) -> None:
    hub.write = hub.account = answer({"error": "Cannot GET"}, 404)
    assert check() == check(exists=False) == ""


def test_a_missing_repository(hub: FakeHub, check: Check) -> None:
    said = check(exists=False, create=False)
    assert "does not exist" in said and "--no-create" in said
    said = check(GITHUB, exists=False)
    assert "OIDC token cannot create it" in said and "trusted publisher" in said
    assert hub.asked == []


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (identity("write"), None),
        (identity("write", name="ME"), None),
        (identity("admin", name="you"), None),
        (identity("read"), "can only read"),
        (identity("write", name="you"), "belongs to you, who is no member of me"),
        (
            identity("write", name="you", orgs=[{"name": "me", "roleInOrg": "read"}]),
            "belongs to you, who may only read in me",
        ),
        *(
            (identity("write", name="you", orgs=[{"name": "Me", "roleInOrg": role}]), None)
            for role in ("admin", "write", "contributor", "of the future", None)
        ),
        (identity("fineGrained", [scope("user", "me", "repo.write")]), None),
        (identity("fineGrained", [scope("org", "ME", "repo.write")], name="you"), None),
        (identity("fineGrained", [scope("model", REPO, "repo.write")]), None),
        (identity("fineGrained", [scope("resource-group", "?", "repo.write")]), None),
        *(
            (
                identity("fineGrained", scoped),
                "has the permission repo.write neither for me nor for this repository",
            )
            for scoped in (
                [],
                [scope("user", "me", "repo.content.read", "discussion.write")],
                [scope("org", "other", "repo.write"), scope("model", "me/other", "repo.write")],
            )
        ),
        # What is not known here must not stop a release.
        (identity("fineGrained"), None),
        (identity("fineGrained", "?"), None),
        (identity("fineGrained", ["?", {"entity": 1, "permissions": ["repo.write"]}]), None),
        (identity("write", name="you", orgs=None), None),
        (identity("write", name="you", type="app"), None),
        (identity("write", name=7), None),
        ({**MINE, "auth": {"type": "oauth"}}, None),
        (MINE, None),
        (None, None),
        ([], None),
    ],
)
def test_missing_right(given: Any, missing: str | None) -> None:
    assert missing_right(given, REPO) == missing


@pytest.fixture
def owned(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Check]:
    """Whose repository a bare name is: ``(name, source, token)`` to NAMESPACE/NAME."""
    monkeypatch.setattr(attempts, "sleep", lambda seconds: None)
    with serve(tmp_path, intercept=hub) as running:

        def run(name: str = "model", source: str = "HF_TOKEN", token: str | None = TOKEN) -> str:
            api = HfApi(endpoint=running.endpoint, token=False)
            credentials = Credentials(source, False, lambda: token)
            return repo_of_account(Hub(api, running.endpoint, None, credentials), name)

        yield run


def test_a_bare_name_is_of_the_tokens_account(hub: FakeHub, owned: Check) -> None:
    hub.account = account("write", name="somebody")
    assert owned() == "somebody/model"
    hub.failures = [answer({}, 503)]
    assert owned("other.model") == "somebody/other.model"


@pytest.mark.parametrize("name", ["a b", "-x", "a..b", "", "x" * 200])
def test_a_bare_name_that_is_none(name: str, owned: Check) -> None:
    with pytest.raises(UsageError, match="NAMESPACE/NAME"):
        owned(name)


def test_a_bare_name_without_an_account(hub: FakeHub, owned: Check) -> None:
    with pytest.raises(UsageError, match="OIDC token has no account"):
        owned(source=GITHUB)
    hub.account = answer({"type": "user", "name": 3})
    with pytest.raises(HubError, match="names no account"):
        owned()
    hub.account = answer({"error": "Invalid credentials"}, 401)
    with pytest.raises(HubError, match="does not know the token"):
        owned()
    nobody = Credentials(NONE, False, lambda: None)
    api = HfApi(endpoint="https://hub.invalid", token=False)
    with pytest.raises(HubError, match="no token to publish with"):
        repo_of_account(Hub(api, "https://hub.invalid", None, nobody), "model")
