"""One comment on the pull request at hand, written again by each run: GitHub's and GitLab's.

Sources: https://docs.github.com/rest/issues/comments, https://docs.gitlab.com/api/notes/
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from slogpt_hf.ci.detect import CI

if TYPE_CHECKING:
    import httpx2

CONNECT_SECONDS = 10.0
SILENT_SECONDS = 30.0
MOST_PAGES = 30
PER_PAGE = 100
LARGEST = 60_000  # bytes; GitHub takes 65,536 characters
LOOPBACK = ("localhost", "127.0.0.1", "::1")
REFUSALS = {
    401: "the token is not valid there",
    403: "the token may not comment; GitHub wants `pull-requests: write`, which a fork has not",
    404: "there is no such pull request for this token",
    410: "comments are locked there",
    422: "the comment was not taken",
    429: "there were too many requests",
}


@dataclass(frozen=True)
class Thread:
    """Where comments of a pull request are read and written.

    Attributes:
        comments: URL that lists them (GET) and takes a new one (POST).
        one: URL of a comment, less its id.
        update: method that changes one.
        user: URL that tells whose token it is.
        otherwise: name of the one who comments, where ``user`` is not for this token.
        headers: of every request; a token is in there, so they are not shown.
    """

    comments: str
    one: str
    update: str
    user: str
    otherwise: str | None
    headers: Mapping[str, str] = field(repr=False)


def marker(repo_id: str) -> str:
    """The line, which nobody sees, that tells this comment from those of other repositories."""
    name = hashlib.sha256(repo_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"<!-- slogpt-hf {name} -->"


def thread_of(ci: CI, environment: Mapping[str, str]) -> Thread | None:
    """The comments of the pull request that the CI runs for; None where it cannot be commented.

    Tokens: ``GITHUB_TOKEN``; on GitLab ``GITLAB_TOKEN``, or else ``CI_JOB_TOKEN``, which newer
    servers may let comment. A token is not sent in the clear.
    """
    if ci.request is None or ci.name not in THREADS:
        return None
    thread = THREADS[ci.name](ci, environment)
    target = urlsplit(thread.comments) if thread else None
    is_safe = target and (target.scheme == "https" or target.hostname in LOOPBACK)
    return thread if is_safe else None


def _github(ci: CI, environment: Mapping[str, str]) -> Thread | None:
    token = environment.get("GITHUB_TOKEN")
    if not token or ci.repository is None:
        return None
    base = (environment.get("GITHUB_API_URL") or "https://api.github.com").rstrip("/")
    issues = f"{base}/repos/{quote(ci.repository)}/issues"
    return Thread(
        comments=f"{issues}/{ci.request}/comments",
        one=f"{issues}/comments",
        update="PATCH",
        user=f"{base}/user",
        otherwise="github-actions[bot]",
        headers={
            "authorization": f"Bearer {token}",
            "accept": "application/vnd.github+json",
            "x-github-api-version": "2022-11-28",
        },
    )


def _gitlab(ci: CI, environment: Mapping[str, str]) -> Thread | None:
    tokens = {"private-token": "GITLAB_TOKEN", "job-token": "CI_JOB_TOKEN"}
    given = [(name, environment[v]) for name, v in tokens.items() if environment.get(v)]
    base = environment.get("CI_API_V4_URL", "").rstrip("/")
    project = environment.get("CI_MERGE_REQUEST_PROJECT_ID") or ci.repository
    if not given or not base or not project:
        return None
    notes = f"{base}/projects/{quote(project, safe='')}/merge_requests/{ci.request}/notes"
    own = environment.get("GITLAB_USER_LOGIN")
    return Thread(notes, notes, "PUT", f"{base}/user", own, headers=dict(given[:1]))


THREADS: Mapping[str, Callable[[CI, Mapping[str, str]], Thread | None]] = {
    "GitHub Actions": _github,
    "GitLab CI": _gitlab,
}


def comment(
    thread: Thread,
    repo_id: str,
    markdown: str,
    client: httpx2.Client | None = None,
) -> str | None:
    """Write the comment of a Hub repository: that of a run before if there is one, or a new one.

    Args:
        thread: of the pull request.
        repo_id: of the Hub repository; each has its own comment.
        markdown: the comment.
        client: to send requests with.

    Returns:
        Why there is no comment, for a warning; None if there is. Nothing is raised: a release
        does not depend on it.
    """
    import httpx2

    body = f"{marker(repo_id)}\n{markdown}"
    timeout = httpx2.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS)
    try:
        with client or httpx2.Client(timeout=timeout, follow_redirects=False) as session:
            session.headers.update(thread.headers)
            own = _own_comment(session, thread, marker(repo_id))
            answer = (
                session.post(thread.comments, json={"body": body})
                if own is None
                else session.request(thread.update, f"{thread.one}/{own}", json={"body": body})
            )
            answer.raise_for_status()
    except httpx2.HTTPStatusError as error:
        status = error.response.status_code
        return f"No comment: {REFUSALS.get(status, 'the server refused it')} (status {status})."
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, UnicodeError) as error:
        return f"No comment: the server could not be reached or read ({type(error).__name__})."
    return None


def _own_comment(session: httpx2.Client, thread: Thread, mark: str) -> int | None:
    """The id of the comment that begins with the marker and is the token's own."""
    login = _login(session, thread)
    for page in range(1, MOST_PAGES + 1):
        answer = session.get(thread.comments, params={"per_page": PER_PAGE, "page": page})
        answer.raise_for_status()
        comments = answer.json()
        if not isinstance(comments, list):
            raise ValueError("not a list of comments")
        for found in filter(_is_comment, comments):
            if found["body"].startswith(mark) and _name(found) == login:
                return int(found["id"])
        if len(comments) < PER_PAGE:
            break
    return None


def _login(session: httpx2.Client, thread: Thread) -> str | None:
    answer = session.get(thread.user)
    return (_name({"user": answer.json()}) if answer.is_success else None) or thread.otherwise


def _is_comment(found: Any) -> bool:
    return (
        isinstance(found, dict)
        and isinstance(found.get("body"), str)
        and isinstance(found.get("id"), int)
    )


def _name(found: Mapping[str, Any]) -> str | None:
    """Who wrote a comment: GitHub's ``user.login``, GitLab's ``author.username``."""
    user = found.get("user") or found.get("author")
    name = user.get("login") or user.get("username") if isinstance(user, dict) else None
    return name if isinstance(name, str) else None
