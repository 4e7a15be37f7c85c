"""The comment on a pull request: who gets it, and what happens where it cannot be written."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from stage_lab import Jobs, outputs

GITHUB_TOKEN = "ghs_theTokenOfTheJobThatComments"


class Forge:
    """GitHub's and GitLab's comments of one pull request."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        self.comments: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str, str]] = []
        self.status = 200


@pytest.fixture
def forge() -> Iterator[Forge]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            sent = json.loads(self.rfile.read(length) or b"{}")
            token = self.headers.get("authorization") or self.headers.get("job-token") or ""
            place = self.path.partition("?")[0]
            found.requests.append((self.command, place, token))
            content: Any = {}
            if place.endswith("/user"):
                content = {"login": "bot"}
            elif self.command == "GET":
                content = found.comments
            elif self.command == "POST":
                content = {"id": 1, "body": sent["body"], "user": {"login": "bot"}}
                found.comments.append(content)
            else:
                found.comments[0]["body"] = sent["body"]
            body = json.dumps(content).encode()
            self.send_response(found.status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = do_PUT = answer  # noqa: N815

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Forge(server)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def request_job(job: Jobs, forge: Forge) -> Jobs:
    """A job for pull request 7 whose proof has ended, on GitHub."""
    payload = {"pull_request": {"number": 7, "head": {}}, "repository": {"full_name": "me/train"}}
    event = job.folder / "event.json"
    event.write_text(json.dumps(payload))
    job.on("github")
    job.environment |= {
        "GITHUB_EVENT_NAME": "pull_request",
        "GITHUB_EVENT_PATH": str(event),
        "GITHUB_REPOSITORY": "me/train",
        "GITHUB_API_URL": forge.url,
        "GITHUB_TOKEN": GITHUB_TOKEN,
        "HF_TOKEN": "",
    }
    return job


def test_one_comment_that_a_rerun_writes_again(request_job: Jobs, forge: Forge) -> None:
    for _ in range(2):
        ran = request_job.ci("report", "--comment")
        assert ran.code == 0 and "commented on the pull request" in ran.err
    (comment,) = forge.comments
    assert "2 proven, 1 refused" in comment["body"]
    assert "`out/half/ckpt.pt`" in comment["body"]
    place = "/repos/me/train/issues/7/comments"
    assert ("POST", place, f"Bearer {GITHUB_TOKEN}") in forge.requests
    assert forge.requests[-1][:2] == ("PATCH", "/repos/me/train/issues/comments/1")
    assert GITHUB_TOKEN not in comment["body"] + ran.err
    assert ran.out.splitlines()[0] == f"::add-mask::{GITHUB_TOKEN}"


def test_no_comment_is_asked_for(request_job: Jobs, forge: Forge) -> None:
    assert request_job.ci("report").code == 0
    assert forge.requests == []


def test_the_job_publish_comments_on_what_was_gathered(
    request_job: Jobs, forge: Forge, gathered: Path
) -> None:
    options = ("--job", "publish", "--artefacts", str(gathered), "--no-publish")
    assert request_job.ci("prepare", *options).code == 0
    assert request_job.ci("report", "--job", "publish", ACTION_COMMENT="true").code == 0
    assert "2 proven, 1 refused" in forge.comments[0]["body"]


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_comment_that_is_refused_is_a_warning(
    request_job: Jobs, forge: Forge, status: int
) -> None:
    forge.status = status
    ran = request_job.ci("report", "--comment")
    assert ran.code == 0
    assert sum(line.startswith("::warning ") for line in ran.out.splitlines()) == 1
    assert outputs(request_job.folder / "github_output")["parity"] == "passed"


def test_without_a_token_the_log_says_so(request_job: Jobs, forge: Forge) -> None:
    ran = request_job.ci("report", "--comment", GITHUB_TOKEN="")
    assert ran.code == 0 and "no comment" in ran.err
    assert forge.requests == []


def test_a_merge_request_of_gitlab(job: Jobs, forge: Forge) -> None:
    job.on("gitlab")
    job.environment |= {
        "CI_PIPELINE_SOURCE": "merge_request_event",
        "CI_MERGE_REQUEST_IID": "7",
        "CI_MERGE_REQUEST_PROJECT_ID": "42",
        "CI_API_V4_URL": forge.url,
        "CI_JOB_TOKEN": GITHUB_TOKEN,
    }
    assert job.ci("report", "--comment").code == 0
    assert ("POST", "/projects/42/merge_requests/7/notes", GITHUB_TOKEN) in forge.requests
