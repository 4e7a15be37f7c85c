"""Clone, fetch and push over HTTP: `git http-backend`, for three requests of git's smart protocol.

What a client sends reaches git as standard input, and nothing of it as an argument, a path or a
setting: the repository is the one that the hub found by name, and configuration comes from here
alone. So no hook runs, nobody but the owner pushes, and objects are checked before they count. What
a push may write is read from its first lines: branches and tags of names that the API takes too,
and pull requests that are there. Large files travel beside git, by the LFS batch
API, whose address git-lfs derives from the repository's.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from slogpt_hf.hub.embedded import git, lfs, names
from slogpt_hf.hub.embedded.context import USER, Context, Handler
from slogpt_hf.hub.embedded.git import Repository
from slogpt_hf.hub.embedded.wire import JSON_LIMIT, FileSlice, RefusalError, Response

PUSH_LIMIT = 2 * 1024**3
"""Bytes of one push without its LFS objects."""

_SERVICES = ("git-upload-pack", "git-receive-pack")
_ASK = {"WWW-Authenticate": 'Basic realm="slogpt-hf embedded hub: the token is the password"'}
_PROTOCOL = re.compile(r"version=[012]")
_STATUS = re.compile(rb"(?mi)^status: (\d{3})")
_COMMAND = re.compile(rb"([0-9a-f]{40}) ([0-9a-f]{40}) ([^\0]+?)(?:\n|\0.*)?", re.S)
_MISUNDERSTOOD = re.compile(r"protocol error|invalid command|hung up unexpectedly|bad line length")
_CONTENT_TYPE = re.compile(rb"(?mi)^content-type: ([\w/.+-]+)")
_SETTINGS = (
    "http.getanyfile=false",
    "http.uploadpack=true",
    "receive.fsckObjects=true",
    "receive.autogc=false",
    "receive.advertisePushOptions=false",
    f"receive.maxInputSize={PUSH_LIMIT}",
    "receive.hideRefs=refs/",
    "receive.hideRefs=!refs/heads/",
    "receive.hideRefs=!refs/tags/",
    "receive.hideRefs=!refs/pr/",
    # Of a folder that another account made: the hub has opened it, git need not ask again. The
    # process has this one repository, which git 2.39 knows as ".", not by its path.
    "safe.directory=*",
)


def info_refs(context: Context) -> Response:
    """The refs, with which every clone, fetch and push begins."""
    service = context.request.first("service")
    if service not in _SERVICES:
        raise RefusalError(403, "The embedded hub speaks git's smart protocol only.")
    return _answer(context, "info/refs", service, 0)


def upload_pack(context: Context) -> Response:
    return _answer(context, "git-upload-pack", "git-upload-pack", JSON_LIMIT)


def receive_pack(context: Context) -> Response:
    return _answer(context, "git-receive-pack", "git-receive-pack", PUSH_LIMIT)


ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "info/refs", info_refs),
    ("POST", "git-upload-pack", upload_pack),
    ("POST", "git-receive-pack", receive_pack),
)


def _answer(context: Context, path: str, service: str, limit: int) -> Response:
    """What `git http-backend` answers; the body lies in a file that is removed as it is sent.

    Raises:
        RefusalError: 401, by which git asks for the token, where the caller may not do this, 404
            if there is no such repository, 413 for a body above `limit` bytes.
    """
    writes = service == "git-receive-pack"
    try:
        if writes:
            context.require_owner()
        repo = context.repository()
    except RefusalError as refusal:
        if refusal.status == 401:
            refusal.headers |= _ASK
        raise
    with tempfile.NamedTemporaryFile(dir=repo.incoming, prefix="git-request-") as body:
        size = 0
        for piece in lfs.pieces(context.request.body):
            size += len(piece)
            if size > limit:
                raise RefusalError(413, f"The request body is larger than {limit} bytes.")
            body.write(piece)
        body.flush()
        if writes and path != "info/refs":
            body.seek(0)
            if refused := _refused(repo, context.request.headers, body):
                return _remark(refused)
        environment = _cgi(context, repo, path, service if path == "info/refs" else "", size)
        return _run(repo, Path(body.name), environment, writes)


def _refused(repo: Repository, headers: Mapping[str, str], body: IO[bytes]) -> str:
    """Why a push may not be, for the user who pushes; empty if it may.

    Raises:
        RefusalError: 400 for what is no push, 415 for a compressed one, which no git sends.
    """
    if headers.get("content-encoding", "identity") != "identity":
        raise RefusalError(415, "A push cannot be compressed as a whole.")
    for line in _packets(body):
        if line.startswith(b"shallow "):
            continue
        if not (match := _COMMAND.fullmatch(line)):
            raise RefusalError(400, "The request is no push that the embedded hub understands.")
        name, deleted = match[3].decode("utf-8", "surrogateescape"), match[2] == b"0" * 40
        _, kind, short = name.split("/", 2) if name.count("/") > 1 else ("", "", "")
        if kind in ("heads", "tags") and not deleted and not names.is_new_ref_name(short):
            return f"{name!a} cannot be pushed: the hub takes no such name."
        if kind == "pr" and (deleted or not (names.is_pull_ref(name) and git.resolve(repo, name))):
            return f"{name!a} cannot be pushed: only commits for pull requests that are there can."
    return ""


def _packets(body: IO[bytes]) -> Iterator[bytes]:
    """The packet lines (gitprotocol-common(5)) before the first flush packet.

    Raises:
        RefusalError: 400 for what is none.
    """
    while (length := body.read(4)) != b"0000":
        size = int(length, 16) if re.fullmatch(rb"[0-9a-f]{4}", length) else 0
        line = body.read(max(size - 4, 0))
        if size <= 4 or len(line) != size - 4:
            raise RefusalError(400, "The request is not in git's protocol.")
        yield line


def _remark(text: str) -> Response:
    """An answer to a push that ends it; git shows the text behind `remote:`."""
    line = b"\x03" + text.encode()
    body = f"{len(line) + 4:04x}".encode() + line + b"0000"
    return Response(200, body, {"Content-Type": "application/x-git-receive-pack-result"})


def _cgi(context: Context, repo: Repository, path: str, query: str, size: int) -> dict[str, str]:
    """The request as the variables of CGI; of the client's text only what is in a known form."""
    headers = context.request.headers
    service = path.rpartition("/")[2]
    environment = {
        "GIT_PROJECT_ROOT": str(repo.git_dir),
        "GIT_HTTP_EXPORT_ALL": "1",
        "PATH_INFO": f"/{path}",
        "REQUEST_METHOD": "POST" if service in _SERVICES else "GET",
        "QUERY_STRING": f"service={query}" if query else "",
        "CONTENT_TYPE": f"application/x-{service}-request",
        "CONTENT_LENGTH": str(size),
        "REMOTE_USER": USER,
        "REMOTE_ADDR": "127.0.0.1",
    }
    if _PROTOCOL.fullmatch(protocol := headers.get("git-protocol", "")):
        environment["GIT_PROTOCOL"] = protocol
    if headers.get("content-encoding") in ("gzip", "x-gzip"):
        environment["HTTP_CONTENT_ENCODING"] = "gzip"
    return environment


def _run(repo: Repository, body: Path, environment: dict[str, str], writes: bool) -> Response:
    settings = (*_SETTINGS, f"http.receivepack={str(writes).lower()}")
    options = [part for setting in settings for part in ("-c", setting)]
    descriptor, name = tempfile.mkstemp(dir=repo.incoming, prefix="git-answer-")
    try:
        with body.open("rb") as stdin, os.fdopen(descriptor, "wb") as stdout:
            done = subprocess.run(
                ["git", *git.OPTIONS, *options, "http-backend"],
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.PIPE,
                cwd=repo.git_dir,
                env={**git.environment(), **environment},
                pass_fds=(repo.lock_fd,),
                check=False,
            )
        with Path(name).open("rb") as answer:
            head, end, _ = answer.read(4096).partition(b"\r\n\r\n")
            length = Path(name).stat().st_size
        kind = _CONTENT_TYPE.search(head)
        if done.returncode or not end or not kind:
            message = done.stderr.decode(errors="replace").strip()
            if _MISUNDERSTOOD.search(message):
                raise RefusalError(400, f"git: {message[:300]}")
            raise git.GitError(message or "git http-backend failed", done.returncode)
        status = _STATUS.search(head)
        start = len(head) + len(end)
        headers = {"Content-Type": kind[1].decode(), "Cache-Control": "no-cache"}
        part = FileSlice(Path(name), start, length - start, temporary=True)
        return Response(int(status[1]) if status else 200, part, headers)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
