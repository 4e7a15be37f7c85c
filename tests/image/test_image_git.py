"""git and git-lfs in the image, against servers on loopback."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

WEIGHTS = b"weights\n" * 1000
OID = hashlib.sha256(WEIGHTS).hexdigest()
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize {len(WEIGHTS)}\n"

Done = subprocess.CompletedProcess[str]


def git(folder: Path, *arguments: str) -> str:
    """Run the machine's own git, without its settings."""
    nobody = {
        f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    alone = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    environment = {"PATH": os.environ["PATH"]} | nobody | alone
    command = ["git", "-C", folder, *arguments]
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout


class Server(http.server.SimpleHTTPRequestHandler):
    """Files, and the batch requests of Git LFS for the one object there is."""

    def do_POST(self) -> None:
        """Answer where the object is."""
        self.rfile.read(int(self.headers["Content-Length"]))
        scheme = "https" if isinstance(self.connection, ssl.SSLSocket) else "http"
        href = f"{scheme}://{self.headers['Host']}/object"
        found = {"oid": OID, "size": len(WEIGHTS), "actions": {"download": {"href": href}}}
        body = json.dumps({"transfer": "basic", "objects": [found]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.git-lfs+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path, certificate: Path | None) -> Iterator[int]:
    """Serve a folder; the port."""
    handler = partial(Server, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture
def certificate(shared: Path) -> Path:
    """A key and the certificate of 127.0.0.1 that it signed itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name.from_rfc4514_string("CN=127.0.0.1")
    now = datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = shared / "certificate.pem"
    path.write_bytes(private + signed.public_bytes(pem))
    return path


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder to serve: a bare repository with a checkpoint in Git LFS, and its object."""
    source, folder = tmp_path / "source", tmp_path / "served"
    source.mkdir()
    folder.mkdir()
    git(source, "init", "--quiet", "--initial-branch", "train/a")
    (source / "ckpt.pt").write_text(POINTER)
    (source / ".gitattributes").write_text("*.pt filter=lfs diff=lfs merge=lfs -text\n")
    git(source, "add", ".")
    git(source, "commit", "--quiet", "--message", "step 1")
    git(tmp_path, "clone", "--quiet", "--bare", str(source), str(folder / "training.git"))
    git(folder / "training.git", "update-server-info")
    (folder / "object").write_bytes(WEIGHTS)
    return folder


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_clones_reads_and_fetches_from_lfs(
    run: Callable[..., Done], shared: Path, repository: Path, certificate: Path, scheme: str
) -> None:
    in_git = partial(
        run,
        program="git",
        network="host",
        mounts={shared: "/shared"},
        environment={
            "GIT_SSL_CAINFO": "/shared/certificate.pem",
            "SSL_CERT_FILE": "/shared/certificate.pem",
        },
    )
    with served(repository, certificate if scheme == "https" else None) as port:
        url = f"{scheme}://localhost:{port}/training.git"
        in_git("clone", "--quiet", url, "/shared/clone")
        in_clone = partial(in_git, "-C", "/shared/clone")
        in_clone("fetch", "--quiet", "origin", "+refs/heads/*:refs/remotes/origin/*")
        commit = in_clone("rev-list", "--max-count=1", "origin/train/a").stdout.strip()
        assert (
            in_clone("ls-tree", "-r", "--name-only", commit).stdout == ".gitattributes\nckpt.pt\n"
        )
        assert in_clone("cat-file", "blob", f"{commit}:ckpt.pt").stdout == POINTER
        in_clone(
            *("-c", "lfs.storage=/shared/lfs", "lfs", "fetch", "origin", commit),
            *("--include", "ckpt.pt"),
        )
    assert (shared / "lfs/objects" / OID[:2] / OID[2:4] / OID).read_bytes() == WEIGHTS
