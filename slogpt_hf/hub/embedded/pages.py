"""Two plain pages for a browser: the repositories, and one repository's files, tags and card."""

from __future__ import annotations

from html import escape
from urllib.parse import quote

from slogpt_hf.hub.embedded import git, metadata
from slogpt_hf.hub.embedded.context import Context
from slogpt_hf.hub.embedded.store import KINDS, read_settings
from slogpt_hf.hub.embedded.wire import Response, text_response

_HTML = "text/html; charset=utf-8"


def index(context: Context) -> Response:
    owner = context.is_owner
    visible = [
        repo.location
        for kind in KINDS
        for repo in context.hub.store.repositories(kind)
        if owner or not read_settings(repo).get("private")
    ]
    items = "".join(f'<li><a href="/{escape(i)}">{escape(i)}</a></li>' for i in visible)
    return _page("slogpt-hf embedded hub", f"<ul>{items}</ul>")


def repository(context: Context) -> Response:
    repo = context.repository()
    commit = context.commit(repo)
    base = f"/{escape(repo.location)}/resolve/main"
    files = "".join(
        f'<li><a href="{base}/{escape(quote(e.path, errors="replace"))}">'
        f"{escape(_printable(e.path))}</a> {e.size:,} bytes</li>"
        for e in git.tree(repo, commit).values()
        if not e.is_folder
    )
    tags = "".join(
        f"<li>{escape(_printable(ref.name))} <code>{ref.commit}</code></li>"
        for ref in git.list_refs(repo, "tags")
    )
    card = escape(metadata.readme(repo, commit))
    body = f"<p>main <code>{commit}</code></p><h2>Files</h2><ul>{files}</ul>"
    return _page(
        repo.location, f"{body}<h2>Tags</h2><ul>{tags}</ul><h2>README</h2><pre>{card}</pre>"
    )


def _page(title: str, body: str) -> Response:
    head = f'<!doctype html><meta charset="utf-8"><title>{escape(title)}</title>'
    return text_response(f"{head}<h1>{escape(title)}</h1>{body}", _HTML)


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
