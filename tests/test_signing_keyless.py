"""Signing with the CI's identity, up to the border of the package: Sigstore itself is far away."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from model_signing import signing, verifying

from slogpt_hf.errors import HubError, UsageError
from slogpt_hf.settings import Settings
from slogpt_hf.signing import (
    SIGNATURE_FILE,
    SignatureError,
    Signer,
    SigningServiceError,
    require_signing,
    sign_artefact,
    signed_files,
)

CI_VARIABLES = (
    "GITHUB_ACTIONS",
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
    "ACTIONS_ID_TOKEN_REQUEST_URL",
    "GITLAB_CI",
    "SIGSTORE_ID_TOKEN",
    "BUILDKITE",
    "CIRCLECI",
    "GOOGLE_SERVICE_ACCOUNT_NAME",
)
IDENTITY = Signer(identity="https://github.com/me/r/.github/workflows/x.yml", provider="https://i")
KEYLESS = Settings(sign=True)


def token_for(audience: str) -> str:
    """An unsigned JSON Web Token."""
    parts = [{"alg": "none"}, {"aud": audience, "sub": "canary"}, {}]
    return ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts
    )


TOKEN = token_for("sigstore")


@pytest.fixture(autouse=True)
def _no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CI_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("id._internal.oidc.ambient.detect_gcp", lambda audience: None)


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    """Stands for a job on GitHub; ``(status, body)`` is what its token service answers."""
    servers = []

    def start(status: int, body: str) -> list[str]:
        asked: list[str] = []

        class Service(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(f"{self.path} {self.headers['Authorization']}")
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *arguments: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Service)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "canary-request-token")
        monkeypatch.setenv(
            "ACTIONS_ID_TOKEN_REQUEST_URL", f"http://127.0.0.1:{server.server_port}/t?v=1"
        )
        return asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    folder = tmp_path / "artefact"
    folder.mkdir()
    (folder / "release.json").write_bytes(b"{}")
    return folder


@pytest.fixture
def sigstore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """In place of Sigstore's signer one with a key of its own; what it was asked for."""
    asked: list[dict[str, Any]] = []
    key = tmp_path / "service.pem"
    key.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
    )

    def use_sigstore_signer(config: signing.Config, **options: Any) -> signing.Config:
        asked.append(options)
        return config.use_elliptic_key_signer(private_key=key)

    monkeypatch.setattr(signing.Config, "use_sigstore_signer", use_sigstore_signer)
    return asked


def test_the_identity_of_a_job_on_github_is_enough(
    github: Callable[..., list[str]],
    sigstore: list[dict[str, Any]],
    artefact: Path,
    tmp_path: Path,
) -> None:
    asked = github(200, json.dumps({"value": TOKEN}))
    require_signing(KEYLESS)
    assert asked == ["/t?v=1&audience=sigstore bearer canary-request-token"]
    sign_artefact(artefact, tmp_path / SIGNATURE_FILE, key=None)
    # The package asks for a token by itself, when the files are hashed.
    assert sigstore == [{"identity_token": None, "use_ambient_credentials": True}]
    assert json.loads((tmp_path / SIGNATURE_FILE).read_text())["dsseEnvelope"]


def test_the_identity_of_a_job_on_gitlab_is_enough(
    sigstore: list[dict[str, Any]],
    artefact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GITLAB_CI", "true")
    with pytest.raises(UsageError, match="SIGSTORE_ID_TOKEN not found"):
        require_signing(KEYLESS)
    monkeypatch.setenv("SIGSTORE_ID_TOKEN", TOKEN)
    require_signing(KEYLESS)
    sign_artefact(artefact, tmp_path / SIGNATURE_FILE, key=None)
    assert len(sigstore) == 1


def test_a_token_can_be_given(
    sigstore: list[dict[str, Any]], artefact: Path, tmp_path: Path
) -> None:
    sign_artefact(artefact, tmp_path / SIGNATURE_FILE, key=None, identity_token=TOKEN)
    assert sigstore == [{"identity_token": TOKEN, "use_ambient_credentials": True}]


def test_without_an_identity_nobody_is_asked_to_log_in(
    sigstore: list[dict[str, Any]], artefact: Path, tmp_path: Path
) -> None:
    calls: list[Callable[[], None]] = [
        lambda: require_signing(KEYLESS),
        lambda: sign_artefact(artefact, tmp_path / SIGNATURE_FILE, key=None),
    ]
    for call in calls:
        with pytest.raises(UsageError, match="neither a signing key nor an identity") as found:
            call()
        assert "--signing-key" in str(found.value) and "id-token: write" in str(found.value)
    assert not sigstore and not (tmp_path / SIGNATURE_FILE).exists()


def test_a_job_without_the_permission_is_told_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    with pytest.raises(UsageError, match="insufficient OIDC token permissions") as found:
        require_signing(KEYLESS)
    assert "permissions: id-token: write" in str(found.value)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, f"canary {TOKEN}"),
        (200, f"canary {TOKEN}"),
        (200, json.dumps({"value": token_for("canary")})),
        (200, json.dumps({"value": "canary"})),
        (200, json.dumps({"value": ["canary"]})),
    ],
)
def test_a_token_service_that_fails_is_said_so_and_not_quoted(
    github: Callable[..., list[str]], status: int, body: str
) -> None:
    github(status, body)
    with pytest.raises(UsageError, match="The CI gives no identity") as found:
        require_signing(KEYLESS)
    assert "canary" not in str(found.value) and "eyJ" not in str(found.value)
    assert found.value.__suppress_context__


def test_what_sigstore_refuses_is_no_bug_and_tells_no_token(
    artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(config: signing.Config, **options: Any) -> signing.Config:
        raise ConnectionError(f"no route for {options['identity_token']}")

    monkeypatch.setattr(signing.Config, "use_sigstore_signer", refuse)
    with pytest.raises(SigningServiceError, match="signing failed") as found:
        sign_artefact(artefact, tmp_path / SIGNATURE_FILE, key=None, identity_token=TOKEN)
    assert isinstance(found.value, HubError) and found.value.exit_code == 6
    assert "eyJ" not in str(found.value) and "sigstore.dev" in str(found.value)
    assert found.value.__suppress_context__
    assert not (tmp_path / SIGNATURE_FILE).exists()


@pytest.fixture
def by_identity(sigstore: list[dict[str, Any]], artefact: Path, tmp_path: Path) -> bytes:
    """A signature with a certificate in place of the key."""
    path = tmp_path / SIGNATURE_FILE
    sign_artefact(artefact, path, key=None, identity_token=TOKEN)
    bundle = json.loads(path.read_bytes())
    del bundle["verificationMaterial"]["publicKey"]
    bundle["verificationMaterial"]["certificate"] = {"rawBytes": base64.b64encode(b"x").decode()}
    return json.dumps(bundle).encode()


def sigstore_verifier(
    outcome: Callable[[dict[str, Any]], Any], asked: list[dict[str, Any]]
) -> Callable[..., verifying.Config]:
    """In place of Sigstore's verifier one that takes ``outcome`` of the statement for verified."""

    class Verifier:
        def verify(self, signature: Any) -> Any:
            return outcome(json.loads(signature.bundle.dsse_envelope.payload))

    def use_sigstore_verifier(config: verifying.Config, **options: Any) -> verifying.Config:
        asked.append(options)
        config._verifier = Verifier()
        return config

    return use_sigstore_verifier


def test_a_signature_of_the_identity_vouches_for_the_files(
    by_identity: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model_signing._signing.signing import dsse_payload_to_manifest

    asked: list[dict[str, Any]] = []
    fake = sigstore_verifier(dsse_payload_to_manifest, asked)
    monkeypatch.setattr(verifying.Config, "use_sigstore_verifier", fake)
    assert signed_files(by_identity, IDENTITY).keys() == {"release.json"}
    assert asked == [{"identity": IDENTITY.identity, "oidc_issuer": IDENTITY.provider}]


def test_the_certificate_of_someone_else_is_refused(
    by_identity: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sigstore.errors import VerificationError

    def refuse(statement: dict[str, Any]) -> Any:
        raise VerificationError("Certificate's SANs do not match")

    fake = sigstore_verifier(refuse, [])
    monkeypatch.setattr(verifying.Config, "use_sigstore_verifier", fake)
    with pytest.raises(SignatureError, match="SANs do not match") as found:
        signed_files(by_identity, IDENTITY)
    assert str(IDENTITY.identity) in str(found.value)


def test_keys_of_sigstore_that_cannot_be_fetched_are_no_bad_signature(
    by_identity: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sigstore.errors import TUFError

    def unreachable(config: verifying.Config, **options: Any) -> verifying.Config:
        raise TUFError("Failed to refresh TUF metadata")

    monkeypatch.setattr(verifying.Config, "use_sigstore_verifier", unreachable)
    with pytest.raises(SigningServiceError, match="fetching its keys failed"):
        signed_files(by_identity, IDENTITY)


def test_a_signature_by_an_identity_is_none_by_a_key(by_identity: bytes, tmp_path: Path) -> None:
    with pytest.raises(SignatureError, match="made with an identity; check it with --identity"):
        signed_files(by_identity, Signer(tmp_path / "key"))
