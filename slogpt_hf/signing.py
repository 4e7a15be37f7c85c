"""Signatures of releases: OpenSSF model signing, with an EC key or the CI's OIDC identity.

A signature is a Sigstore bundle around an in-toto statement that lists every file with its SHA-256:
https://github.com/sigstore/model-transparency. The package ``model_signing`` makes and checks it.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from slogpt_hf.errors import HubError, SloGPTError, UsageError, first_line
from slogpt_hf.files import write_atomically
from slogpt_hf.redaction import without_secrets

if TYPE_CHECKING:
    from slogpt_hf.settings import Settings

SIGNATURE_FILE = "model.sig"  # at the top of the repository
PASSWORD_VARIABLE = "SIGNING_KEY_PASSWORD"
PACKAGES = ("model_signing", "OpenSSL")  # the first imports the second without asking for it
CURVES = ("secp256r1", "secp384r1", "secp521r1")  # those that model_signing takes
MOST_KEY_BYTES = 1 << 16
AUDIENCE = "sigstore"
PRIVATE_KEY_HINT = "Make one with: openssl ecparam -name prime256v1 -genkey -noout -out signing.pem"
PUBLIC_KEY_HINT = "Get it with: openssl ec -in signing.pem -pubout -out signing.pub"
IDENTITY_HINT = (
    "Pass --signing-key FILE, or run where there is an identity: on GitHub a job with "
    "'permissions: id-token: write', on GitLab one with an id_token SIGSTORE_ID_TOKEN of audience "
    "sigstore."
)


class SignatureError(SloGPTError):
    """A signature that is broken, or not that of the signer who was asked for."""

    exit_code = 4


class SigningServiceError(HubError):
    """Sigstore refused a request or could not be reached."""


@dataclass(frozen=True)
class Signer:
    """Whose signature is accepted: a key's, or that of an identity a provider vouches for.

    Attributes:
        public_key: PEM file of an EC public key; None for an identity.
        identity: as in the certificate: an e-mail address, or the URL of a workflow.
        provider: base URL of the OIDC provider that vouches for the identity.
    """

    public_key: Path | None = None
    identity: str | None = None
    provider: str | None = None

    def __str__(self) -> str:
        """Who it is, for a message."""
        if self.public_key:
            return f"the key {self.public_key.name}"
        return f"{self.identity} of {self.provider}"


def require_signing(settings: Settings) -> None:
    """Find early what would keep ``sign_artefact`` from signing.

    Raises:
        UsageError: the extra is not installed, the key cannot be used, or there is neither a key
            nor an OIDC identity.
    """
    _require_packages()
    if settings.signing_key:
        _password_of(Path(settings.signing_key))
    else:
        _require_identity()


def require_signer(signer: Signer) -> None:
    """Find early what would keep ``signed_files`` from checking a signature.

    Raises:
        UsageError: the extra is not installed, or the signer is not one public key that can be
            used, or one identity with its provider.
    """
    if bool(signer.identity) != bool(signer.provider) or bool(signer.public_key) == bool(
        signer.identity
    ):
        raise UsageError(
            "A signer is one public key, or one identity together with its provider.",
            hint="Pass --public-key FILE, or both --identity and --identity-provider.",
        )
    _require_packages()
    if signer.public_key:
        _require_public_key(signer.public_key)


def sign_artefact(
    folder: Path, signature: Path, *, key: Path | None, identity_token: str | None = None
) -> None:
    """Sign every file below a folder.

    Args:
        folder: the artefact as it will be published; its name becomes that of the statement's
            subject. Files may be links; a ``model.sig`` at the top is left out.
        signature: where the signature goes, as JSON.
        key: PEM file of an EC private key, with its password, if any, in the environment's
            ``SIGNING_KEY_PASSWORD``; None to sign with an OIDC identity.
        identity_token: OIDC token of audience ``sigstore``; None to ask the CI for one.

    Raises:
        UsageError: the extra is not installed, the key cannot be used, there is no identity, or
            ``signature`` cannot be written.
        SigningServiceError: Sigstore refused the identity or could not be reached.
    """
    _require_packages()
    if key is None and identity_token is None:
        _require_identity()  # without one the signer would open a browser
    from model_signing import hashing, signing

    config = signing.Config().set_hashing_config(
        hashing.Config()
        .set_ignored_paths(paths=[SIGNATURE_FILE], ignore_git_paths=False)
        .set_allow_symlinks(True)
    )
    with tempfile.TemporaryDirectory() as work:
        bundle = Path(work, SIGNATURE_FILE)
        if key:
            config.use_elliptic_key_signer(private_key=key, password=_password_of(key))
            config.sign(folder, bundle)
        else:
            with _sigstore("signing"):
                # An identity of the CI is asked for after hashing: it lasts for minutes.
                config.use_sigstore_signer(
                    identity_token=identity_token, use_ambient_credentials=True
                )
                config.sign(folder, bundle)
        write_atomically(signature, bundle.read_bytes())


def signed_files(signature: bytes, signer: Signer) -> dict[str, str]:
    """Path to SHA-256 of the files that a signature of ``signer`` vouches for.

    Args:
        signature: a Sigstore bundle as JSON.
        signer: whose signature it has to be; see ``require_signer``.

    Raises:
        SignatureError: it is not a valid signature, or another signer's.
        SigningServiceError: the keys of Sigstore itself could not be fetched.
    """
    from model_signing import verifying

    claimed = _claimed_files(signature, signer)
    config = verifying.Config().set_hashing_config(_Claimed(claimed))
    if signer.public_key:
        config.use_elliptic_key_verifier(public_key=signer.public_key)
    else:
        with _sigstore("fetching its keys"):
            config.use_sigstore_verifier(identity=signer.identity, oidc_issuer=signer.provider)
    with tempfile.TemporaryDirectory() as work, redirect_stdout(sys.stderr):
        path = Path(work, SIGNATURE_FILE)
        path.write_bytes(signature)
        try:
            # Fails too where the claims are not the very ones that were signed.
            config.verify(Path(work), path)
        except Exception as error:
            raise SignatureError(
                f"{SIGNATURE_FILE}: is not a signature of {signer} ({_reason(error)})."
            ) from error
    return claimed


@dataclass(frozen=True)
class _Claimed:
    """Where model_signing would hash files: those that the signature claims to sign."""

    files: dict[str, str]

    def hash(self, model_path: Path, *, files_to_hash: object = None) -> Any:
        """The files as model_signing's manifest, which it compares with the signed one."""
        from model_signing._hashing.hashing import Digest
        from model_signing.manifest import FileManifestItem, Manifest, SerializationType

        kind = {"method": "files", "hash_type": "sha256", "allow_symlinks": True}
        items = [
            FileManifestItem(path=PurePosixPath(name), digest=Digest("sha256", bytes.fromhex(sha)))
            for name, sha in self.files.items()
        ]
        return Manifest(model_path.name, items, SerializationType.from_args(kind))

    def add_ignored_paths(self, *, model_path: Path, paths: object) -> None:
        """Nothing is looked for, so nothing has to be ignored."""


def _claimed_files(signature: bytes, signer: Signer) -> dict[str, str]:
    """What a signature says that it signs, path to SHA-256; not yet known to be true."""
    try:
        bundle = json.loads(signature)
        by_key = "publicKey" in bundle["verificationMaterial"]
        statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        resources = statement["predicate"]["resources"]
        kinds = {resource["algorithm"] for resource in resources}
        claimed = {str(r["name"]): bytes.fromhex(r["digest"]).hex() for r in resources}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise SignatureError(
            f"{SIGNATURE_FILE}: is not a model signature ({first_line(error)})."
        ) from error
    if kinds != {"sha256"}:
        raise SignatureError(
            f"{SIGNATURE_FILE}: signs {', '.join(map(str, kinds)) or 'nothing'}, not the SHA-256 "
            "of each file."
        )
    if by_key != bool(signer.public_key):
        made, how = ("a key", "--public-key") if by_key else ("an identity", "--identity")
        raise SignatureError(f"{SIGNATURE_FILE}: was made with {made}; check it with {how}.")
    return claimed


def _require_packages() -> None:
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise UsageError(
            f"Signatures need the package {missing[0]}, which is not installed.",
            hint="Install it with: pip install 'slogpt-hf[sign]'",
        )


def _require_identity() -> None:
    """Raise UsageError unless the CI gives an OIDC identity; no one is asked to log in."""
    from id import IdentityError, detect_credential

    try:
        found = detect_credential(AUDIENCE)
    except IdentityError as error:
        reason = without_secrets(first_line(error)).partition(" (")[0]
        raise UsageError(f"The CI gives no identity: {reason}.", hint=IDENTITY_HINT) from None
    if found is None:
        raise UsageError("There is neither a signing key nor an identity.", hint=IDENTITY_HINT)


def _password_of(key: Path) -> Any:
    """What opens an EC private key: None, or the password in the environment as bytes.

    Raises:
        UsageError: the key cannot be read, opened or used.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content, password = _read_key(key, PRIVATE_KEY_HINT), None
    try:
        try:
            loaded = load_pem_private_key(content, None)
        except TypeError:  # it is encrypted
            password = os.environ.get(PASSWORD_VARIABLE, "").encode()
            if not password:
                raise UsageError(
                    f"{key}: the key is encrypted.",
                    hint=f"Set {PASSWORD_VARIABLE} to its password.",
                ) from None
            loaded = load_pem_private_key(content, password)
    except (ValueError, UnsupportedAlgorithm):
        if password:
            raise UsageError(
                f"{key}: cannot be opened with the password in {PASSWORD_VARIABLE}."
            ) from None
        raise UsageError(f"{key}: is not a private key in PEM.", hint=PRIVATE_KEY_HINT) from None
    _require_curve(key, loaded, PRIVATE_KEY_HINT)
    return password


def _require_public_key(path: Path) -> None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        loaded = load_pem_public_key(_read_key(path, PUBLIC_KEY_HINT))
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(f"{path}: is not a public key in PEM.", hint=PUBLIC_KEY_HINT) from None
    _require_curve(path, loaded, PUBLIC_KEY_HINT)


def _read_key(path: Path, hint: str) -> bytes:
    try:
        if not path.is_file() or path.stat().st_size > MOST_KEY_BYTES:
            raise UsageError(f"{path}: is not a key file.", hint=hint)
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: the key cannot be read: {error.strerror}.") from error


def _require_curve(path: Path, key: object, hint: str) -> None:
    curve = getattr(getattr(key, "curve", None), "name", None)
    if curve not in CURVES:
        raise UsageError(
            f"{path}: is {f'a key of curve {curve}' if curve else 'no elliptic curve key'}; "
            f"signatures take {', '.join(CURVES)}.",
            hint=hint,
        )


@contextmanager
def _sigstore(what: str) -> Iterator[None]:
    """Turn whatever fails into a SigningServiceError that holds no token."""
    try:
        yield
    except Exception as error:
        raise SigningServiceError(
            f"Sigstore: {what} failed ({_reason(error)}).",
            hint="It needs fulcio, rekor and tuf-repo-cdn of sigstore.dev: run again or use a key.",
        ) from None


def _reason(error: Exception) -> str:
    name, text = type(error).__name__, without_secrets(first_line(error))
    return text if text in ("", name) or isinstance(error, ValueError) else f"{name}: {text}"
