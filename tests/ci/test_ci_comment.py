"""One comment a pull request and Hub repository, on servers that stand for GitHub and GitLab."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from slogpt_hf.ci.comment import PER_PAGE, Thread, comment, marker, thread_of
from slogpt_hf.ci.detect import CI
from slogpt_hf.watch.event import Event

TOKEN = "ghs_0123456789abcdef0123456789"
BOT = "github-actions[bot]"


@dataclass
class Server:
    """Comments in the order they were made, and what was asked."""

    comments: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    status: int = 200
    login: str | None = None
    answer: bytes | None = None
    url: str = ""

    def add(self, body: str, login: str = BOT) -> int:
        number = len(self.comments) + 1
        who = {"login": login, "username": login}
        self.comments.append({"id": number, "body": body, "user": who, "author": who})
        return number


class Handler(BaseHTTPRequestHandler):
    def _do(self) -> None:
        state: Server = self.server.state  # type: ignore[attr-defined]
        parts = urlsplit(self.path)
        state.asked.append((self.command, parts.path))
        state.headers.append({name.lower(): value for name, value in self.headers.items()})
        size = int(self.headers.get("content-length", 0))
        body = json.loads(self.rfile.read(size))["body"] if size else ""
        content: Any = {}
        status = state.status
        if parts.path.endswith("/user"):
            content, status = {"login": state.login}, 200 if state.login else 403
        elif self.command == "GET":
            query = parse_qs(parts.query)
            page, size = int(query["page"][0]), int(query["per_page"][0])
            content = state.comments[(page - 1) * size : page * size]
        elif status < 400 and self.command == "POST":
            state.add(body, state.login or BOT)
        elif status < 400:
            state.comments[int(parts.path.rpartition("/")[2]) - 1]["body"] = body
        answer = state.answer if state.answer is not None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PATCH = do_PUT = _do  # noqa: N815

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Server(url=f"http://127.0.0.1:{http.server_port}")
    http.state = state  # type: ignore[attr-defined]
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


def ci(name: str, repository: str = "me/gpt", request: int | None = 7) -> CI:
    return CI(name, Event("pull_request"), repository=repository, request=request)


def github(server: Server) -> Thread:
    found = thread_of(ci("GitHub Actions"), {"GITHUB_TOKEN": TOKEN, "GITHUB_API_URL": server.url})
    assert found is not None
    return found


def gitlab(server: Server, **tokens: str) -> Thread:
    environment = {"CI_API_V4_URL": f"{server.url}/api/v4", "CI_MERGE_REQUEST_PROJECT_ID": "4"}
    found = thread_of(ci("GitLab CI", "group/gpt"), environment | tokens)
    assert found is not None
    return found


def test_the_second_run_changes_the_comment_of_the_first(server: Server) -> None:
    server.add("looks fine", "someone")
    assert comment(github(server), "me/tiny", "first") is None
    assert comment(github(server), "me/tiny", "second") is None
    assert comment(github(server), "me/other", "another repository") is None
    bodies = [each["body"] for each in server.comments]
    assert bodies == [
        "looks fine",
        f"{marker('me/tiny')}\nsecond",
        f"{marker('me/other')}\nanother repository",
    ]
    assert ("PATCH", "/repos/me/gpt/issues/comments/2") in server.asked
    assert ("POST", "/repos/me/gpt/issues/7/comments") in server.asked
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {TOKEN}"}


def test_a_comment_of_somebody_else_is_left_alone(server: Server) -> None:
    server.add(f"{marker('me/tiny')}\nforged", "someone")
    server.add(f"> {marker('me/tiny')}\nquoted")
    assert comment(github(server), "me/tiny", "text") is None
    assert server.comments[0]["body"].endswith("forged")
    assert server.comments[1]["body"].endswith("quoted")
    assert len(server.comments) == 3


def test_a_personal_token_finds_its_own_comment(server: Server) -> None:
    server.login = "me"
    comment(github(server), "me/tiny", "first")
    comment(github(server), "me/tiny", "second")
    assert [each["body"] for each in server.comments] == [f"{marker('me/tiny')}\nsecond"]


def test_the_comment_is_found_on_a_later_page(server: Server) -> None:
    for index in range(2 * PER_PAGE + 5):
        server.add(f"remark {index}", "someone")
    own = server.add(f"{marker('me/tiny')}\nold")
    assert comment(github(server), "me/tiny", "new") is None
    assert server.comments[own - 1]["body"].endswith("new")
    assert len(server.comments) == own


def test_gitlab_notes(server: Server) -> None:
    server.login = "bot"
    thread = gitlab(server, GITLAB_TOKEN="glpat-0123456789")
    assert comment(thread, "me/tiny", "first") is None
    assert comment(thread, "me/tiny", "second") is None
    assert [each["body"] for each in server.comments] == [f"{marker('me/tiny')}\nsecond"]
    assert ("PUT", "/api/v4/projects/4/merge_requests/7/notes/1") in server.asked
    assert server.headers[-1]["private-token"] == "glpat-0123456789"


def test_gitlab_job_token(server: Server) -> None:
    thread = gitlab(server, CI_JOB_TOKEN="glcbt-0123456789", GITLAB_USER_LOGIN=BOT)
    comment(thread, "me/tiny", "first")
    assert comment(thread, "me/tiny", "second") is None
    assert len(server.comments) == 1
    assert server.headers[-1]["job-token"] == "glcbt-0123456789"


@pytest.mark.parametrize("status", [401, 403, 404, 410, 422, 429, 500, 302])
def test_a_refusal_is_a_warning_without_the_token(server: Server, status: int) -> None:
    server.status = status
    said = comment(github(server), "me/tiny", "text")
    assert said is not None and str(status) in said
    assert TOKEN not in said
    assert server.comments == []


@pytest.mark.parametrize("answer", [b"", b"{}", b"<html>", b"\xff", b"[1, null, {}]"])
def test_an_answer_that_is_none_is_no_failure(server: Server, answer: bytes) -> None:
    server.answer = answer
    said = comment(github(server), "me/tiny", "text")
    assert said is None or "could not be reached or read" in said


def test_a_server_that_is_not_there_is_a_warning() -> None:
    environment = {"GITHUB_TOKEN": TOKEN, "GITHUB_API_URL": "http://127.0.0.1:1"}
    thread = thread_of(ci("GitHub Actions"), environment)
    assert thread is not None
    said = comment(thread, "me/tiny", "text")
    assert said is not None and "could not be reached" in said


@pytest.mark.parametrize(
    ("where", "environment"),
    [
        (ci("GitHub Actions"), {}),
        (ci("GitHub Actions", request=None), {"GITHUB_TOKEN": TOKEN}),
        (ci("GitHub Actions"), {"GITHUB_TOKEN": TOKEN, "GITHUB_API_URL": "http://api.example"}),
        (ci("GitLab CI"), {"CI_API_V4_URL": "https://gitlab.example/api/v4"}),
        (ci("GitLab CI"), {"GITLAB_TOKEN": TOKEN}),
        (ci("Jenkins"), {"GITHUB_TOKEN": TOKEN}),
    ],
)
def test_where_nothing_can_be_commented(where: CI, environment: dict[str, str]) -> None:
    assert thread_of(where, environment) is None


def test_the_token_is_not_shown(server: Server) -> None:
    assert TOKEN not in repr(github(server))


@pytest.mark.parametrize("repo_id", ["me/tiny", "--> <b>", "\ud800"])
def test_the_marker_is_one_hidden_line(repo_id: str) -> None:
    assert marker(repo_id).count("-->") == 1 and marker(repo_id).endswith(" -->")
