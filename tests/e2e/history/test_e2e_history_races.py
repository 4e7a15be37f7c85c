"""A rollback over lost answers, beside others, without permission."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slogpt_hf.hub.embedded import Request, Response

REPO = "me/model"
VERSIONS = ["1.0.0", "1.0.1", "1.0.2", "1.1.0"]
Cli = Callable[..., Any]


def is_commit(request: Request) -> bool:
    return request.method == "POST" and "commit" in request.path


@pytest.mark.parametrize("applied", [True, False])
def test_a_lost_answer_is_one_rollback(
    applied: bool,
    rollback: Cli,
    intercepted: Any,
    hub: Path,
    hub_view: Callable[[Path], Any],
) -> None:
    before, seen = hub_view(hub)[REPO], []

    def lose(request: Request) -> Response | None:
        if not is_commit(request) or seen:
            return None
        seen.append(request)
        if applied:
            request.proceed()
        return Response(502, b"")

    intercepted(lose)
    outcome = rollback("1.0.0", "--json", "-q")
    assert outcome.code == 0, outcome.err
    after = hub_view(hub)[REPO]
    assert after.commits["main"] == (outcome.json["commit"], *before.commits["main"])
    assert (outcome.json["rolled_back"], outcome.json["previous"]) == (True, "1.0.1")


def test_a_hub_that_makes_something_else_of_the_commit(rollback: Cli, intercepted: Any) -> None:
    """What the branch holds afterwards is looked at."""
    made: list[Request] = []

    def change(request: Request) -> Response | None:
        if is_commit(request):
            made.append(request)
        if not made or "tree" not in request.path:
            return None
        answer = request.proceed()
        assert isinstance(answer.body, bytes)
        entries = json.loads(answer.body)
        next(entry for entry in entries if entry["path"] == "config.json")["oid"] = "0" * 40
        return Response(answer.status, json.dumps(entries).encode(), answer.headers)

    intercepted(change)
    outcome = rollback("1.0.0")
    assert outcome.code == 4 and "does not hold what was proven: config.json" in outcome.err


def test_a_release_that_comes_first_stays_in_the_ledger(
    hub: Path,
    rollback: Cli,
    intercepted: Any,
    record: Callable[..., Any],
    view: Callable[[], Any],
) -> None:
    """Somebody promotes 1.1.0 between our reading and our commit."""
    done: list[str] = []

    def overtake(request: Request) -> Response | None:
        if is_commit(request) and not done:
            done.append("once")
            # In a process of its own, since the client's session is the process's.
            command = [sys.executable, "-m", "slogpt_hf", "rollback", REPO, "1.1.0", "--hub", hub]
            subprocess.run(command, check=True, capture_output=True)
        return None

    before = view()
    intercepted(overtake)
    outcome = rollback("1.0.0", "--json")
    assert outcome.code == 0, outcome.err
    assert "somebody committed to main" in outcome.err
    assert outcome.json["previous"] == "1.1.0" == record()["rollback"]["from"]
    after = view()
    assert after.tags == before.tags and after.commits["main"][2:] == before.commits["main"]
    assert len(record()["previous"]) == 3


def test_a_token_that_may_not_write_is_refused_before_anything(
    rollback: Cli, intercepted: Any, hub: Path, hub_view: Callable[[Path], Any]
) -> None:
    before, posted = hub_view(hub), []

    def forbid(request: Request) -> Response | None:
        if request.method == "POST":
            posted.append(request.path)
        return Response(403, b'{"error": "no"}') if "auth-check" in request.path else None

    intercepted(forbid)
    refused = rollback("1.0.0")
    assert refused.code == 6 and "write" in refused.err
    assert not [path for path in posted if "preupload" in path or "commit" in path]
    assert hub_view(hub) == before
    assert rollback("1.0.1").code == 0  # there is nothing to do, which anybody may
