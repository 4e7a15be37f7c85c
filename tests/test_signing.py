"""Signing with a key and checking the signature, by the real package."""

from __future__ import annotations

import base64
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from model_signing import hashing, signing, verifying

from slogpt_hf.card.record import artefact_files
from slogpt_hf.errors import UsageError
from slogpt_hf.files import sha256_of
from slogpt_hf.settings import Settings
from slogpt_hf.signing import (
    CURVES,
    PASSWORD_VARIABLE,
    SIGNATURE_FILE,
    SignatureError,
    Signer,
    require_signer,
    require_signing,
    sign_artefact,
    signed_files,
)

PASSWORD = "canary-of-the-password"
Pair = tuple[Path, Path]


def write_pair(folder: Path, key: Any, password: str | None = None) -> Pair:
    """Private and public key as PEM files."""
    lock = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    private, public = folder / "signing.pem", folder / "signing.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


@pytest.fixture(autouse=True)
def _no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(tmp_path_factory.mktemp("keys"), ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    """Files of every kind: in a folder, hidden, empty, of git's, hard and symbolic links."""
    folder, elsewhere = tmp_path / "artefact", tmp_path / "elsewhere"
    (folder / "sub").mkdir(parents=True)
    elsewhere.write_bytes(b"linked")
    contents = {"release.json": b"{}", "sub/model.safetensors": bytes(3000), "ä b.txt": b"1"}
    for name, content in (contents | {".hidden": b"2", "empty": b"", ".gitignore": b"x"}).items():
        (folder / name).write_bytes(content)
    (folder / "hard").hardlink_to(elsewhere)
    (folder / "soft").symlink_to(elsewhere)
    return folder


@pytest.fixture
def signature(artefact: Path, pair: Pair, tmp_path: Path) -> Path:
    path = tmp_path / SIGNATURE_FILE
    sign_artefact(artefact, path, key=pair[0])
    return path


def digests(folder: Path) -> dict[str, str]:
    return {name: sha256_of(path) for name, path in artefact_files(folder).items()}


def plain_verify(artefact: Path, signature: Path, public: Path) -> None:
    """As a user without slogpt-hf does it."""
    files = hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)
    config = verifying.Config().use_elliptic_key_verifier(public_key=public)
    config.set_hashing_config(files.set_allow_symlinks(True)).verify(artefact, signature)


def test_every_file_is_signed_and_no_other(artefact: Path, signature: Path, pair: Pair) -> None:
    assert signed_files(signature.read_bytes(), Signer(pair[1])) == digests(artefact)
    assert len(digests(artefact)) == 8
    plain_verify(artefact, signature, pair[1])


def test_a_signature_inside_the_folder_is_left_out(artefact: Path, pair: Pair) -> None:
    before = digests(artefact)
    for _ in range(2):
        sign_artefact(artefact, artefact / SIGNATURE_FILE, key=pair[0])
        content = (artefact / SIGNATURE_FILE).read_bytes()
        assert signed_files(content, Signer(pair[1])) == before


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
@pytest.mark.parametrize("password", [None, PASSWORD])
def test_every_curve_with_and_without_a_password(
    artefact: Path,
    tmp_path: Path,
    curve: ec.EllipticCurve,
    password: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert curve.name in CURVES
    private, public = write_pair(tmp_path, ec.generate_private_key(curve), password)
    monkeypatch.setenv(PASSWORD_VARIABLE, password or "of another key")
    require_signing(Settings(sign=True, signing_key=str(private)))
    sign_artefact(artefact, tmp_path / SIGNATURE_FILE, key=private)
    require_signer(Signer(public))
    content = (tmp_path / SIGNATURE_FILE).read_bytes()
    assert signed_files(content, Signer(public)) == digests(artefact)


def test_the_plain_package_and_this_one_take_each_others_signatures(
    artefact: Path, tmp_path: Path, pair: Pair
) -> None:
    (artefact / "soft").unlink()
    (artefact / ".gitignore").unlink()
    theirs = tmp_path / "theirs.sig"
    signing.Config().use_elliptic_key_signer(private_key=pair[0]).sign(artefact, theirs)
    assert signed_files(theirs.read_bytes(), Signer(pair[1])) == digests(artefact)
    ours = tmp_path / "ours.sig"
    sign_artefact(artefact, ours, key=pair[0])
    arguments = ["verify", "key", artefact, "--signature", ours, "--public_key", pair[1]]
    command = [sys.executable, "-m", "model_signing", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (artefact / "empty").write_bytes(b"no more")
    assert subprocess.run(command, capture_output=True).returncode == 1


def change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes() or b"\0")
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)


MUTATIONS: dict[str, Callable[[Path], object]] = {
    "a byte": change_a_byte,
    "another name": lambda path: path.rename(path.with_name("renamed")),
    "removed": lambda path: path.unlink(),
    "emptied": lambda path: path.unlink() or path.write_bytes(b"\n"),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("name", ["release.json", "sub/model.safetensors", "empty", "soft"])
def test_every_change_is_seen(
    artefact: Path, signature: Path, pair: Pair, mutation: str, name: str
) -> None:
    MUTATIONS[mutation](artefact / name)
    signed = signed_files(signature.read_bytes(), Signer(pair[1]))
    assert digests(artefact).get(name) != signed[name]
    with pytest.raises(ValueError):
        plain_verify(artefact, signature, pair[1])


def test_another_key_is_another_signer(signature: Path, tmp_path: Path) -> None:
    _, other = write_pair(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(SignatureError, match=r"not a signature of the key signing\.pub"):
        signed_files(signature.read_bytes(), Signer(other))


def test_a_signature_by_a_key_is_none_by_an_identity(signature: Path) -> None:
    with pytest.raises(SignatureError, match="made with a key; check it with --public-key"):
        signed_files(signature.read_bytes(), Signer(identity="me", provider="https://x"))


def edited(signature: Path, edit: Callable[[dict[str, Any]], object]) -> bytes:
    """A signature whose statement was edited, and not signed again."""
    bundle = json.loads(signature.read_bytes())
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    edit(statement)
    payload = base64.b64encode(json.dumps(statement).encode()).decode()
    bundle["dsseEnvelope"]["payload"] = payload
    return json.dumps(bundle).encode()


@pytest.mark.parametrize(
    "edit",
    [
        lambda statement: statement["predicate"]["resources"].pop(),
        lambda statement: statement["predicate"]["resources"][0].update(digest="00" * 32),
        lambda statement: statement["predicate"]["resources"][0].update(name="other"),
        lambda statement: statement["predicate"]["resources"][0].update(algorithm="blake3"),
        lambda statement: statement["predicate"].update(resources=[]),
        lambda statement: statement.update(predicateType="https://model_signing/Digests/v0.1"),
        lambda statement: statement.pop("predicate"),
        lambda statement: None,  # the same statement, spelt in other bytes
    ],
)
def test_an_edited_statement_is_not_signed(
    signature: Path, pair: Pair, edit: Callable[[dict[str, Any]], object]
) -> None:
    with pytest.raises(SignatureError):
        signed_files(edited(signature, edit), Signer(pair[1]))


@pytest.mark.parametrize("options", [{"hashing_algorithm": "blake3"}, {"shard_size": 1000}])
def test_a_signature_of_other_digests_is_refused(
    artefact: Path, tmp_path: Path, pair: Pair, options: dict[str, Any]
) -> None:
    (artefact / "soft").unlink()
    kinds = hashing.Config()
    by = kinds.use_shard_serialization if "shard_size" in options else kinds.use_file_serialization
    theirs = tmp_path / SIGNATURE_FILE
    config = signing.Config().use_elliptic_key_signer(private_key=pair[0])
    config.set_hashing_config(by(**options)).sign(artefact, theirs)
    with pytest.raises(SignatureError, match="not the SHA-256 of each file"):
        signed_files(theirs.read_bytes(), Signer(pair[1]))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_is_changed_in_a_signature_changes_nothing_or_breaks_it(
    tmp_path_factory: pytest.TempPathFactory, pair: Pair, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "signature-fuzz"
    path = folder / "model.sig"
    if not path.exists():
        (folder / "artefact").mkdir(parents=True, exist_ok=True)
        (folder / "artefact" / "a").write_bytes(b"a")
        sign_artefact(folder / "artefact", path, key=pair[0])
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        assert signed_files(bytes(content), Signer(pair[1])) == digests(folder / "artefact")
    except SignatureError as error:
        assert error.exit_code == 4


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["verificationMaterial", "dsseEnvelope", "publicKey", "payload"]),
                inner,
                max_size=4,
            )
        ),
    )
)
@settings(max_examples=150, deadline=None)
def test_what_is_no_signature_is_said_so(pair: Pair, content: Any) -> None:
    with pytest.raises(SignatureError, match="is not a model signature"):
        signed_files(json.dumps(content).encode(), Signer(pair[1]))


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_no_signature(pair: Pair, content: bytes) -> None:
    with pytest.raises(SignatureError, match="is not a model signature"):
        signed_files(content, Signer(pair[1]))


def test_nothing_half_written_is_left(artefact: Path, tmp_path: Path, pair: Pair) -> None:
    (artefact / "broken").symlink_to(tmp_path / "nothing")
    with pytest.raises(ValueError, match="broken"):
        sign_artefact(artefact, tmp_path / "out" / SIGNATURE_FILE, key=pair[0])
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_bytes(b"")
    (artefact / "broken").unlink()
    with pytest.raises(UsageError, match="cannot be written"):
        sign_artefact(artefact, tmp_path / "file" / SIGNATURE_FILE, key=pair[0])


def private_pem(key: Any, password: str | None = None) -> Callable[[Path], Path]:
    return lambda folder: write_pair(folder, key, password)[0]


def file_of(content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "signing.pem").write_bytes(content)
        return folder / "signing.pem"

    return write


BAD_KEYS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "none.pem", "is not a key file"),
    "folder": (lambda folder: folder, "is not a key file"),
    "large": (file_of(bytes(1 << 20)), "is not a key file"),
    "empty": (file_of(b""), "is not a private key in PEM"),
    "garbage": (file_of(b"-----BEGIN PRIVATE KEY-----\n"), "is not a private key in PEM"),
    "rsa": (private_pem(rsa.generate_private_key(65537, 2048)), "is no elliptic curve key"),
    "ed25519": (private_pem(ed25519.Ed25519PrivateKey.generate()), "is no elliptic curve key"),
    "curve": (private_pem(ec.generate_private_key(ec.SECP256K1())), "a key of curve secp256k1"),
    "public": (
        lambda folder: write_pair(folder, ec.generate_private_key(ec.SECP256R1()))[1],
        "is not a private key in PEM",
    ),
    "encrypted": (
        private_pem(ec.generate_private_key(ec.SECP256R1()), "another password"),
        f"the key is encrypted. Set {PASSWORD_VARIABLE}",
    ),
}


@pytest.mark.parametrize("kind", BAD_KEYS)
def test_a_key_that_cannot_sign_is_found_beforehand(
    kind: str, tmp_path: Path, artefact: Path
) -> None:
    make, message = BAD_KEYS[kind]
    key = make(tmp_path)
    with pytest.raises(UsageError) as found:
        require_signing(Settings(sign=True, signing_key=str(key)))
    assert message in str(found.value) and str(key) in str(found.value)
    with pytest.raises(UsageError) as again:
        sign_artefact(artefact, tmp_path / "out.sig", key=key)
    assert str(again.value) == str(found.value) and not (tmp_path / "out.sig").exists()


def test_no_error_tells_the_password_or_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, _ = write_pair(tmp_path, ec.generate_private_key(ec.SECP256R1()), "another")
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    with pytest.raises(UsageError, match="cannot be opened with the password") as found:
        require_signing(Settings(sign=True, signing_key=str(private)))
    assert PASSWORD not in str(found.value)
    assert found.value.__suppress_context__
    assert private.read_text().splitlines()[1] not in str(found.value)


def test_a_key_that_may_not_be_read_is_said_so(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UsageError, match="the key cannot be read: Permission denied"):
        require_signing(Settings(sign=True, signing_key=str(pair[0])))


@pytest.mark.parametrize("package", ["model_signing", "OpenSSL"])
def test_a_missing_extra_is_said_with_what_to_install(
    package: str, tmp_path: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import util

    monkeypatch.setattr(
        "slogpt_hf.signing.importlib.util.find_spec",
        lambda name, find=util.find_spec: None if name == package else find(name),
    )
    calls: list[Callable[[], object]] = [
        lambda: require_signing(Settings(sign=True, signing_key=str(pair[0]))),
        lambda: require_signer(Signer(pair[1])),
        lambda: sign_artefact(tmp_path, tmp_path / "out.sig", key=pair[0]),
    ]
    for call in calls:
        with pytest.raises(UsageError, match=r"pip install 'slogpt-hf\[sign\]'") as found:
            call()
        assert package in str(found.value)


@pytest.mark.parametrize(
    "signer",
    [
        Signer(),
        Signer(identity="me"),
        Signer(provider="https://x"),
        Signer(Path("key"), "me", "https://x"),
        Signer(Path("key"), provider="https://x"),
    ],
)
def test_a_signer_is_a_key_or_an_identity(signer: Signer) -> None:
    with pytest.raises(UsageError, match="one public key, or one identity together with"):
        require_signer(signer)


def test_a_public_key_that_cannot_check_is_found_beforehand(tmp_path: Path, pair: Pair) -> None:
    for key in (pair[0], tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError) as found:
            require_signer(Signer(key))
        assert str(key) in str(found.value) and "openssl ec" in str(found.value)
    _, other = write_pair(tmp_path, ed25519.Ed25519PrivateKey.generate())
    with pytest.raises(UsageError, match="is no elliptic curve key"):
        require_signer(Signer(other))
