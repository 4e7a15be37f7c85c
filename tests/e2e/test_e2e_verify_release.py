"""``slogpt-hf verify-release`` against a hub, and against whoever tampers with it."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, constants

from slogpt_hf.signing import SIGNATURE_FILE, sign_artefact

REPO, TAG = "me/model", "v1.0.0"
RELEASE = f"{REPO}@{TAG}"
Cli = Callable[..., Any]
Files = Mapping[str, bytes | None]  # path to its new content; None deletes it


@pytest.fixture(autouse=True)
def _by_lfs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # read once, at its import


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two pairs of keys: ours and theirs."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        key = ec.generate_private_key(ec.SECP256R1())
        (folder / f"{name}.pem").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        (folder / f"{name}.pub").write_bytes(
            key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
    return folder


@pytest.fixture(scope="module")
def signed_hub(
    tmp_path_factory: pytest.TempPathFactory, golden: Callable[[str], Path], cli: Cli, keys: Path
) -> Path:
    """A hub with one signed release."""
    hub = tmp_path_factory.mktemp("signed") / "hub"
    checkpoint = golden("slo-classic") / "ckpt.pt"
    signing = ("--sign", "--signing-key", keys / "ours.pem")
    outcome = cli("release", checkpoint, "--repo-id", REPO, "--hub", hub, *signing, "-q")
    assert outcome.code == 0, outcome.err
    return hub


@pytest.fixture
def hub(signed_hub: Path, tmp_path: Path) -> Path:
    """A copy of it, to be tampered with."""
    return Path(shutil.copytree(signed_hub, tmp_path / "hub"))


@pytest.fixture
def verify(cli: Cli, keys: Path) -> Cli:
    """Verifies a release and gives the statuses of its checks and the outcome."""

    def run(hub: Path, *options: Any, release: str = RELEASE, key: str | None = "ours") -> Any:
        by = ("--public-key", keys / f"{key}.pub") if key else ()
        outcome = cli("verify-release", release, "--hub", hub, "--json", *by, *options)
        checks = json.loads(outcome.out)["checks"]
        statuses = {check["name"]: check["status"] for check in checks}
        assert outcome.code == (4 if "FAILED" in statuses.values() else 0)
        assert json.loads(outcome.out)["ok"] == (outcome.code == 0)
        details = {check["name"]: check["detail"] for check in checks}
        return statuses, details, outcome

    return run


@pytest.fixture
def tamper(hub_client: Callable[[Path], Any], hub: Path) -> Callable[[Files], None]:
    """Commits other files by the plain client and moves the tag to that commit."""

    def change(files: Files) -> None:
        operations = [
            CommitOperationDelete(path)
            if content is None
            else CommitOperationAdd(path_in_repo=path, path_or_fileobj=content)
            for path, content in files.items()
        ]
        with hub_client(hub) as api:
            commit = api.create_commit(REPO, operations, commit_message="Nothing to see").oid
            api.delete_tag(REPO, tag=TAG)
            api.create_tag(REPO, tag=TAG, revision=commit)

    return change


@pytest.fixture
def released(hub_file: Callable[..., bytes], signed_hub: Path) -> Callable[[str], bytes]:
    return lambda name: hub_file(signed_hub, REPO, name, TAG)


def test_a_signed_release_is_what_was_proven(signed_hub: Path, cli: Cli, keys: Path) -> None:
    arguments = ("verify-release", RELEASE, "--hub", signed_hub, "--public-key", keys / "ours.pub")
    outcome = cli(*arguments)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0].startswith(f"{RELEASE} on {signed_hub}, commit ")
    assert [line.split()[:2] for line in lines[2:8]] == [
        ["record", "ok"],
        ["files", "ok"],
        ["parity", "ok"],
        ["level", "ok"],
        ["code", "ok"],
        ["signature", "ok"],
    ]
    assert "SHA-256 of the bytes" in lines[3] and "signed by the key ours.pub" in lines[7]
    assert "Not of the release: .gitattributes" in outcome.out


def test_the_commit_of_the_tag_is_reported(
    signed_hub: Path, verify: Cli, hub_view: Callable[[Path], Any]
) -> None:
    found = json.loads(verify(signed_hub)[2].out)
    assert found["commit"] == hub_view(signed_hub)[REPO].tags[TAG]
    assert (found["repo_id"], found["tag"], found["ok"]) == (REPO, TAG, True)


def test_the_large_files_need_not_be_downloaded(signed_hub: Path, verify: Cli) -> None:
    statuses, details, _ = verify(signed_hub, "--no-download")
    assert set(statuses.values()) == {"ok"}
    assert "as the hub states it (--no-download)" in details["files"]


def test_an_unchecked_signature_is_said_so(signed_hub: Path, verify: Cli) -> None:
    statuses, details, outcome = verify(signed_hub, key=None)
    assert statuses["signature"] == "not checked" and outcome.code == 0
    assert "--public-key" in details["signature"]
    statuses, _, outcome = verify(signed_hub, "--require-signature", key=None)
    assert statuses["signature"] == "FAILED" and outcome.code == 4


def test_an_unsigned_release_has_no_signature(
    hub: Path, tamper: Callable[[Files], None], verify: Cli
) -> None:
    tamper({SIGNATURE_FILE: None})
    assert verify(hub, key=None)[0]["signature"] == "none"
    for options in ({"key": "ours"}, {"key": None}):
        flags = () if options["key"] else ("--require-signature",)
        statuses, details, _ = verify(hub, *flags, **options)
        assert statuses["signature"] == "FAILED"
        assert details["signature"] == "there is no model.sig"


def test_another_key_is_refused(signed_hub: Path, verify: Cli) -> None:
    statuses, details, outcome = verify(signed_hub, key="theirs")
    assert statuses.pop("signature") == "FAILED" and set(statuses.values()) == {"ok"}
    assert "is not a signature of the key theirs.pub" in details["signature"]
    assert "error: me/model@v1.0.0 is not what was proven: signature failed." in outcome.err


def flipped(content: bytes) -> bytes:
    """One bit of the middle byte changed; JSON stays JSON."""
    middle = next(i for i in range(len(content) // 2, len(content)) if content[i : i + 1].isalnum())
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "parity.json", "README.md"]
)
def test_every_changed_file_is_found(
    name: str,
    hub: Path,
    tamper: Callable[[Files], None],
    released: Callable[[str], bytes],
    verify: Cli,
) -> None:
    tamper({name: flipped(released(name))})
    for options in ((), ("--no-download",)):
        statuses, details, _ = verify(hub, *options)
        assert statuses["files"] == statuses["signature"] == "FAILED"
        assert f"{name} is not the file that release.json lists" in details["files"]
        assert f"{name} is signed, but was changed" in details["signature"]


@pytest.mark.parametrize("renamed", [None, "weights.bin", "sub/model.safetensors"])
def test_every_missing_file_is_found(
    renamed: str | None,
    hub: Path,
    tamper: Callable[[Files], None],
    released: Callable[[str], bytes],
    verify: Cli,
) -> None:
    added = {renamed: released("model.safetensors")} if renamed else {}
    tamper({"model.safetensors": None} | added)
    statuses, details, _ = verify(hub)
    assert statuses["files"] == statuses["signature"] == "FAILED"
    assert "model.safetensors is missing" in details["files"]
    assert "model.safetensors is signed, but is missing" in details["signature"]


def test_a_file_that_would_be_loaded_besides_is_found(
    hub: Path, tamper: Callable[[Files], None], verify: Cli
) -> None:
    tamper({"adapter_config.json": b"{}", "LICENSE": b"Apache", "notes.ipynb": b"{}"})
    statuses, details, outcome = verify(hub)
    assert statuses == {
        "record": "ok",
        "files": "FAILED",
        "parity": "ok",
        "level": "ok",
        "code": "ok",
        "signature": "ok",
    }
    assert "adapter_config.json is not of the release" in details["files"]
    assert "LICENSE" not in details["files"]
    assert {"LICENSE", "notes.ipynb"} < set(json.loads(outcome.out)["others"])


def test_files_that_nothing_loads_do_no_harm(
    hub: Path, tamper: Callable[[Files], None], verify: Cli
) -> None:
    tamper({"LICENSE": b"Apache", "notes.ipynb": b"{}", "docs/a.md": b"#"})
    assert set(verify(hub)[0].values()) == {"ok"}


def test_a_forgery_that_fits_together_is_found_by_the_signature_alone(
    hub: Path, tamper: Callable[[Files], None], released: Callable[[str], bytes], verify: Cli
) -> None:
    weights = flipped(released("model.safetensors"))
    record = json.loads(released("release.json"))
    record["files"]["model.safetensors"] = hashlib.sha256(weights).hexdigest()
    tamper({"model.safetensors": weights, "release.json": json.dumps(record).encode()})
    assert verify(hub, key=None)[2].code == 0
    statuses, details, _ = verify(hub)
    assert statuses.pop("signature") == "FAILED" and set(statuses.values()) == {"ok"}
    assert "model.safetensors is signed, but was changed" in details["signature"]
    assert "release.json is signed, but was changed" in details["signature"]


def test_a_proof_that_the_record_contradicts_is_found(
    hub: Path, tamper: Callable[[Files], None], released: Callable[[str], bytes], verify: Cli
) -> None:
    report, record = (json.loads(released(name)) for name in ("parity.json", "release.json"))
    report["fp32_bound"] *= 2
    content = json.dumps(report).encode()
    record["files"]["parity.json"] = hashlib.sha256(content).hexdigest()
    tamper({"parity.json": content, "release.json": json.dumps(record).encode()})
    statuses, details, _ = verify(hub, key=None)
    assert (statuses["files"], statuses["parity"]) == ("ok", "FAILED")
    assert "fp32_bound is" in details["parity"]


@pytest.mark.parametrize("content", [None, b"{}", b"not JSON", b"[" * 100_000])
def test_without_a_record_it_is_no_release(
    content: bytes | None, hub: Path, tamper: Callable[[Files], None], verify: Cli
) -> None:
    tamper({"release.json": content})
    statuses, _, _ = verify(hub)
    assert statuses.pop("record") == "FAILED" and set(statuses.values()) == {"not checked"}


def test_a_copied_release_is_named(
    hub: Path, hub_client: Callable[[Path], Any], snapshot: Callable[..., Path], verify: Cli
) -> None:
    with hub_client(hub) as api:
        api.create_tag(REPO, tag="v9.0.0", revision=TAG)
        api.create_repo("you/copy")
        api.upload_folder(repo_id="you/copy", folder_path=snapshot(hub, REPO, TAG))
        api.create_tag("you/copy", tag=TAG)
    for release in (f"{REPO}@v9.0.0", f"you/copy@{TAG}"):
        statuses, details, _ = verify(hub, release=release)
        assert statuses == {
            "record": "FAILED",
            "files": "ok",
            "parity": "ok",
            "level": "ok",
            "code": "ok",
            "signature": "ok",
        }
        assert f"release.json is that of {RELEASE}" in details["record"]


def test_a_signature_by_others_of_the_same_files_is_theirs(
    hub: Path,
    tamper: Callable[[Files], None],
    snapshot: Callable[..., Path],
    tmp_path: Path,
    keys: Path,
    verify: Cli,
) -> None:
    folder = snapshot(hub, REPO, TAG)
    shutil.rmtree(folder / ".cache")
    (folder / ".gitattributes").unlink()
    (folder / "LICENSE").write_bytes(b"Apache")
    signature = tmp_path / SIGNATURE_FILE
    sign_artefact(folder, signature, key=keys / "theirs.pem")
    tamper({SIGNATURE_FILE: signature.read_bytes(), "LICENSE": b"Apache"})
    assert verify(hub)[0]["signature"] == "FAILED"
    statuses, details, _ = verify(hub, key="theirs")
    assert statuses["signature"] == "ok" and details["signature"].startswith("12 files")
    tamper({"LICENSE": b"MIT"})
    details = verify(hub, key="theirs")[1]
    assert details["signature"] == "LICENSE is signed, but was changed"


def test_a_hub_that_serves_other_bytes_than_it_lists_is_found(hub: Path, verify: Cli) -> None:
    objects = [path for path in hub.rglob("lfs/objects/*/*/*") if path.is_file()]
    weights = max(objects, key=lambda path: path.stat().st_size)
    content = flipped(weights.read_bytes())
    weights.chmod(0o644)
    weights.write_bytes(content)
    assert set(verify(hub, "--no-download")[0].values()) == {"ok"}
    statuses, details, _ = verify(hub)
    assert statuses["files"] == statuses["signature"] == "FAILED"
    assert "model.safetensors is served with other bytes than the hub lists" in details["files"]


def test_a_later_unsigned_release_has_no_signature_left(
    hub: Path, cli: Cli, golden: Callable[[str], Path], verify: Cli
) -> None:
    outcome = cli(
        "release", golden("slo-modern") / "ckpt.pt", "--repo-id", REPO, "--hub", hub, "-q"
    )
    assert outcome.code == 0, outcome.err
    assert verify(hub, release=f"{REPO}@v2.0.0", key=None)[0]["signature"] == "none"
    assert set(verify(hub)[0].values()) == {"ok"}


def test_a_key_that_cannot_sign_stops_a_release_before_it_starts(
    cli: Cli, golden: Callable[[str], Path], tmp_path: Path
) -> None:
    hub, checkpoint = tmp_path / "hub", golden("slo-classic") / "ckpt.pt"
    signing = ("--sign", "--signing-key", tmp_path / "none.pem")
    outcome = cli("release", checkpoint, "--repo-id", REPO, "--hub", hub, *signing)
    assert outcome.code == 2 and "none.pem: is not a key file" in outcome.err
    assert "convert:" not in outcome.err and not (hub / "me").exists()


def test_the_package_itself_verifies_a_download(
    signed_hub: Path, snapshot: Callable[..., Path], keys: Path
) -> None:
    """As docs/supply-chain.md says."""
    folder = snapshot(signed_hub, REPO, TAG)
    arguments = ("--signature", folder / SIGNATURE_FILE, "--public_key", keys / "ours.pub")
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(folder)]
    command += [*map(str, arguments), "--ignore_unsigned_files"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "config.json").write_bytes(flipped((folder / "config.json").read_bytes()))
    assert subprocess.run(command, capture_output=True).returncode == 1


@pytest.mark.parametrize(
    ("release", "code", "message"),
    [
        ("me/model", 2, "is not REPO@TAG"),
        ("model@v1.0.0", 2, "is not NAMESPACE/NAME"),
        ("me/model@a b", 2, "is not a name that git and the Hub take"),
        ("me/model@v1.0.1", 2, "has no tag v1.0.1. Its tags: v1.0.0."),
        ("me/model@main", 2, "main is a branch, not a tag. Its tags: v1.0.0."),
        ("me/other@v1.0.0", 6, "me/other: reading the repository failed"),
    ],
)
def test_what_is_not_there_is_said_so(
    release: str, code: int, message: str, signed_hub: Path, cli: Cli
) -> None:
    outcome = cli("verify-release", release, "--hub", signed_hub)
    assert outcome.code == code and message in outcome.err and not outcome.out


def test_a_hub_that_does_not_exist_is_not_made(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("verify-release", RELEASE, "--hub", tmp_path / "none")
    assert outcome.code == 2 and "no such folder of a hub" in outcome.err
    assert not (tmp_path / "none").exists()


def test_a_hub_that_does_not_answer_is_said_so(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unheard.getsockname()[1]}")
        assert cli("verify-release", RELEASE).code == 6


@pytest.mark.parametrize(
    "options",
    [
        ("--identity", "me"),
        ("--identity-provider", "https://x"),
        ("--public-key", "none.pub"),
        ("--public-key", "none.pub", "--identity", "me", "--identity-provider", "https://x"),
    ],
)
def test_a_signer_that_cannot_be_meant_is_said_so(
    options: tuple[str, ...], signed_hub: Path, cli: Cli
) -> None:
    outcome = cli("verify-release", RELEASE, "--hub", signed_hub, *options)
    assert outcome.code == 2 and not outcome.out


def test_an_identity_does_not_accept_a_key(signed_hub: Path, verify: Cli) -> None:
    by = ("--identity", "me", "--identity-provider", "https://x")
    statuses, details, _ = verify(signed_hub, *by, key=None)
    assert statuses["signature"] == "FAILED" and "was made with a key" in details["signature"]
