"""Handlers of discussions and pull requests, in the Hub's form."""

from __future__ import annotations

import html
from typing import Any

from slogpt_hf.hub.embedded import git, metadata, pulls
from slogpt_hf.hub.embedded.context import USER, Context
from slogpt_hf.hub.embedded.git import Repository
from slogpt_hf.hub.embedded.pulls import Record
from slogpt_hf.hub.embedded.wire import RefusalError, Response, json_response

PAGE = 50
_OPEN = ("open", "draft")
_TYPES = {"discussion": False, "pull_request": True}


def list_discussions(context: Context) -> Response:
    """Discussions by `type`, `status` and `author`, the newest first, in pages of 50."""
    repo, request = context.repository(), context.request
    kind, status = request.first("type", "all"), request.first("status", "all")
    author, page = request.first("author"), request.first("p", "0")
    wanted = [
        _summary(repo, number, record)
        for number, record in pulls.read_all(repo)
        if (kind not in _TYPES or _TYPES[kind] == bool(record["base"]))
        and (status == "all" or (status == "open") == (record["status"] in _OPEN))
        and author in ("", record["author"] or USER)
    ]
    start = int(page[:9]) * PAGE if page.isascii() and page.isdigit() else 0
    shown = wanted[start : start + PAGE]
    return json_response({"discussions": shown, "count": len(wanted), "start": start})


def details(context: Context) -> Response:
    return json_response(_details(context, context.repository(), _number(context)))


def create(context: Context) -> Response:
    context.require_owner()
    repo, payload = context.repository(), context.request.json()
    base = "refs/heads/main" if payload.get("pullRequest") else ""
    title, text = (str(payload.get(key) or "") for key in ("title", "description"))
    number = pulls.create(repo, title, text, USER, base=base)
    url = context.url(repo, "discussions", str(number))
    return json_response({"num": number, "url": url, "pullRequest": bool(base)})


def add_comment(context: Context) -> Response:
    context.require_owner()
    text = _text(context, "comment")
    with pulls.changing(context.repository(), _number(context)) as record:
        record["events"].append(pulls.comment(text, USER))
    return json_response({"newMessage": _event(record["events"][-1])})


def edit_comment(context: Context) -> Response:
    context.require_owner()
    text = _text(context, "content")
    with pulls.changing(context.repository(), _number(context)) as record:
        found = _comment(context, record)
        if found["data"]["hidden"]:
            raise RefusalError(400, "A hidden comment cannot be edited.")
        found["data"]["versions"].append(pulls.version(text, USER))
    return json_response({"updatedComment": _event(found)})


def hide_comment(context: Context) -> Response:
    """Hide a comment for good: what it said is forgotten."""
    context.require_owner()
    with pulls.changing(context.repository(), _number(context)) as record:
        found = _comment(context, record)
        found["data"] |= {"hidden": True, "versions": [pulls.version("", USER)]}
    return json_response({"updatedComment": _event(found)})


def rename(context: Context) -> Response:
    context.require_owner()
    title = pulls.checked_title(_text(context, "title"))
    with pulls.changing(context.repository(), _number(context)) as record:
        new = pulls.event("title-change", USER, **{"from": record["title"], "to": title})
        record["title"] = title
        record["events"].append(new)
    return json_response({"newTitle": _event(new)})


def change_status(context: Context) -> Response:
    context.require_owner()
    payload = context.request.json()
    status, text = str(payload.get("status")), str(payload.get("comment") or "")
    if status not in ("open", "closed"):
        raise RefusalError(400, '"status" must be one of [open, closed]')
    with pulls.changing(context.repository(), _number(context)) as record:
        if record["status"] == "merged":
            raise RefusalError(400, "A merged pull request stays merged.")
        new = pulls.event("status-change", USER, status=status)
        record["status"] = status
        record["events"] += [*([pulls.comment(text, USER)] if text else []), new]
    return json_response({"newStatus": _event(new)})


def merge(context: Context) -> Response:
    context.require_owner()
    text = str(context.request.json().get("comment") or "")
    pulls.merge(context.repository(), _number(context), USER, text)
    return json_response({})


def _number(context: Context) -> int:
    text = context.params["num"]
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise RefusalError(404, f"Discussion {text[:40]} not found")
    return int(text)


def _text(context: Context, name: str) -> str:
    text = context.request.json().get(name)
    if not isinstance(text, str) or not text.strip():
        raise RefusalError(400, f'"{name}" is required')
    return text


def _comment(context: Context, record: Record) -> Record:
    for event in record["events"]:
        if event["type"] == "comment" and event["id"] == context.params["id"]:
            found: Record = event
            return found
    raise RefusalError(404, "Comment not found")


def _summary(repo: Repository, number: int, record: Record) -> Record:
    return {
        "num": number,
        "title": record["title"],
        "status": record["status"],
        "author": _author(record["author"]),
        "createdAt": record["at"],
        "isPullRequest": bool(record["base"]),
        "repo": {"name": repo.id, "type": repo.kind},
        "numComments": sum(event["type"] == "comment" for event in record["events"]),
    }


def _details(context: Context, repo: Repository, number: int) -> Record:
    record = pulls.read(repo, number)
    told = [_event(event) for event in record["events"]]
    answer = _summary(repo, number, record) | {"events": told}
    if record["base"]:
        told += [_commit_event(facts) for facts in pulls.commits_of(repo, number, record)]
        told[1:] = sorted(told[1:], key=lambda event: str(event["createdAt"]))
        merges = record["status"] in _OPEN
        answer["filesWithConflicts"] = (
            pulls.merged(repo, number, record).conflicts if merges else []
        )
        answer["changes"] = {"base": record["base"], "mergeCommitId": record["merge"] or None}
        if context.request.first("diff"):
            answer["diff"] = pulls.diff(repo, number, record)
    return answer


def _event(event: Record) -> Record:
    data = event["data"]
    if event["type"] == "comment":
        latest = [_version(v) for v in data["versions"]]
        edited = len(latest) > 1
        data = {"edited": edited, "hidden": data["hidden"], "latest": latest[-1]}
        data |= {"history": latest[:-1] if edited else [], "numEdits": len(latest) - 1}
    facts = {"id": event["id"], "type": event["type"], "createdAt": event["at"]}
    return {**facts, "author": _author(event["author"]), "data": data}


def _version(version: Record) -> Record:
    text = version["text"]
    rendered = f"<p>{html.escape(text)}</p>" if text else ""
    author = _author(version["author"])
    return {"raw": text, "html": rendered, "updatedAt": version["at"], "author": author}


def _commit_event(facts: git.CommitFacts) -> Record:
    data = {"subject": facts.title, "oid": facts.oid}
    created = metadata.timestamp(facts.date)
    known = {"id": facts.oid[:24], "type": "commit", "createdAt": created}
    return {**known, "author": _author(""), "data": data}


def _author(name: str) -> dict[str, Any]:
    return {"name": name or USER, "type": "user"}
