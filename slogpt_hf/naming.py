"""What a release is called: its tag, its branch and its message, from the settings' templates."""

from __future__ import annotations

from typing import Any

from slogpt_hf.errors import UsageError
from slogpt_hf.hub.client import Hub
from slogpt_hf.hub.preflight import require_write_access
from slogpt_hf.hub.publish import require_free_tag, require_private
from slogpt_hf.hub.state import RepoState
from slogpt_hf.hub.versions import FIRST, filled, ref_from
from slogpt_hf.settings import Settings


def template_values(step: int | None, branch: str | None, date: str) -> dict[str, Any]:
    """What templates know before there is a version."""
    return {"step": step, "branch": branch, "date": date}


def require_names(settings: Settings, values: dict[str, Any]) -> None:
    """Raise UsageError where a template cannot be filled, before anything takes long."""
    with_version = values | {"version": FIRST}
    revision_of(settings, values)
    message_of(settings, with_version, ref_from(settings.tag, with_version))


def revision_of(settings: Settings, values: dict[str, Any]) -> str:
    return ref_from(settings.revision, values, "revision")


def tag_of(settings: Settings, values: dict[str, Any]) -> str | None:
    """The tag of a release whose version is not known yet; None if its version decides."""
    return None if "{version}" in settings.tag else ref_from(settings.tag, values)


def message_of(settings: Settings, values: dict[str, Any], tag: str) -> str:
    if settings.message is not None:
        message = filled(settings.message, values | {"tag": tag}, "message")
        if not message.strip():
            raise UsageError("--message is empty.", hint="Leave it out, or say something.")
        return message
    version = values["version"]
    return f"Release {version}" if tag == f"v{version}" else f"Release {version} ({tag})"


def require_publishable(hub: Hub, state: RepoState, settings: Settings, tag: str | None) -> None:
    """Find before a long conversion what the hub would refuse after it."""
    assert hub.credentials is not None
    require_write_access(
        hub, state.repo_id, hub.credentials, exists=state.exists, create=settings.create
    )
    if tag is not None:
        require_free_tag(tag, state.revision, state)
    if settings.private and state.exists:
        require_private(hub, state.repo_id)
