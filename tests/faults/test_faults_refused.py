"""What a hub refuses: one line that says what, where and what to do, and nothing half-published."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from slogpt_hf.errors import HubError, SloGPTError, UsageError
from slogpt_hf.hub import state
from slogpt_hf.hub.embedded import Request, Response

REPO = "me/model"
SIGNED = "X-Amz-Signature=5ecre7"
STEPS = {
    "released": (
        *(("refs", 1), ("file", 1), ("access", 1), ("tree", 1), ("preupload", 1), ("batch", 1)),
        *(("object", 1), ("verify", 1), ("card", 1), ("commit", 1), ("tree", 2), ("tag", 1)),
        ("tree", 3),
    ),
    "missing": (("whoami", 1), ("create", 1), ("refs", 2)),
}
REFUSALS = (401, 403, 404, 413)
PASSED = (("file", 404), ("access", 404), ("whoami", 403), ("whoami", 404))
MORE = (400, 402, 422, 507)  # where something is changed
CHANGES = ("create", "object", "commit", "tag")
CASES = [
    pytest.param(seed, step, status, id=f"{seed}-{step[0]}{step[1]}-{status}")
    for seed, steps in STEPS.items()
    for step in steps
    for status in REFUSALS + (MORE if step[0] in CHANGES else ())
    # A missing file is an answer, and so is that of a hub that knows no accounts.
    if (step[0], status) not in PASSED
]
SAID = {
    401: ("Invalid username or password.", "", "HF_TOKEN"),
    402: ("Payment required", "", "quota"),
    403: ("You don't have the rights", "", "lacks write access"),
    413: ("Payload too large", "", "limit for a file"),
    429: ("Too many requests", "", "try again"),
    404: ("Repository not found", "RepoNotFound", "the repository's name"),
}


def refusal(
    status: int, message: str = "refused", code: str = "", **headers: str
) -> Callable[[Request], Response]:
    fields = {
        "Content-Type": "application/json",
        "X-Error-Message": message,
        **({"X-Error-Code": code} if code else {}),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return lambda request: Response(status, json.dumps({"error": message}).encode(), fields)


def require_readable(error: SloGPTError) -> None:
    text = str(error)
    assert "\n" not in text and REPO in text and error.hint and len(text) < 700
    assert "hf_canary" not in text and SIGNED not in text and "Traceback" not in text


@pytest.mark.parametrize(("seed", "step", "status"), CASES)
def test_refused_for_good_then_healed(
    seed: str,
    step: tuple[str, int],
    status: int,
    faulty_hub: Any,
    seeds: Any,
    released: Any,
    view: Any,
    waits: list[float],
) -> None:
    faulty_hub.reset(seeds[seed])
    before = view(faulty_hub.folder)
    faulty_hub.always(step, refusal(status, f"no: https://s3.example/object?{SIGNED}"))
    with pytest.raises(HubError) as raised:
        released("single")
    assert raised.value.exit_code == 6 and not waits
    require_readable(raised.value)
    assert str(status) in str(raised.value) or step[0] in ("access", "whoami")
    after = view(faulty_hub.folder)
    if after is not None:
        after.require_whole_tags()
        made = set(after.branches["main"]) - set(before.branches["main"] if before else ())
        assert len(made) <= (1 if before else 2)
        assert not made or not before or after.is_whole("main")
        assert len(after.tags) == len(before.tags if before else ()) or step == ("tree", 3)
    faulty_hub.heal()
    release = released("single")
    healed = view(faulty_hub.folder)
    healed.require_whole_tags()
    assert release.version == ("1.0.1" if before else "1.0.0")
    assert healed.tags[release.tag] == release.commit == healed.branches["main"][0]
    assert len(healed.branches["main"]) == (4 if before else 2)
    assert len(healed.tags) == len(healed.ledger(release.tag)) == (2 if before else 1)


def test_each_refusal_has_a_message_of_its_own(
    faulty_hub: Any, seeds: Any, released: Any, waits: list[float]
) -> None:
    hints = set()
    cases = [(status, *said) for status, said in SAID.items()]
    cases += [
        (403, "Access to model me/model is restricted", "GatedRepo", "gated"),
        (403, "Access to this resource is disabled.", "", "disabled this repository"),
        (403, "Private storage limit reached", "", "storage quota"),
    ]
    for status, message, code, expected in cases:
        faulty_hub.reset(seeds["released"])
        faulty_hub.always(("preupload", 1), refusal(status, message, code))
        with pytest.raises(HubError) as raised:
            released("single")
        require_readable(raised.value)
        assert expected in raised.value.hint, status
        assert f"status {status}" in raised.value.message
        hints.add(raised.value.hint)
    assert len(hints) == len(cases) - 1  # a quota is one thing under two statuses


@pytest.mark.parametrize("route", ["refs", "tree", "preupload", "commit", "tag"])
@pytest.mark.parametrize("form", ["seconds", "date", "limit"])
def test_too_long_a_wait_is_said_not_waited_for(
    route: str, form: str, faulty_hub: Any, seeds: Any, released: Any, waits: list[float]
) -> None:
    in_two_hours = format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)
    headers = {
        "seconds": {"Retry_After": "7200"},
        "date": {"Retry_After": in_two_hours},
        "limit": {"RateLimit": '"api";r=0;t=7200'},
    }[form]
    faulty_hub.reset(seeds["released"])
    faulty_hub.always((route, 1), refusal(429, **headers))
    with pytest.raises(HubError, match=r"asks to wait 7(200|19\d) s") as raised:
        released("single")
    require_readable(raised.value)
    assert not waits and faulty_hub.count()[route] == 1


def test_a_date_to_wait_for(faulty_hub: Any, seeds: Any, released: Any, waits: list[float]) -> None:
    faulty_hub.reset(seeds["released"])
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    faulty_hub.once(("commit", 1), refusal(503, Retry_After=in_a_minute))
    assert released("single").version == "1.0.1"
    assert len(waits) == 1 and 55 < waits[0] < 62


@pytest.mark.parametrize("route", ["commit", "tag"])
def test_a_hub_that_is_busy_with_something_else(
    route: str, faulty_hub: Any, seeds: Any, released: Any, view: Any, waits: list[float]
) -> None:
    """The Hub says so with the status of a conflict."""
    faulty_hub.reset(seeds["released"])
    faulty_hub.once((route, 1), refusal(409, "Another operation is in progress, try again later."))
    release = released("single")
    after = view(faulty_hub.folder)
    after.require_whole_tags()
    assert after.tags["v1.0.1"] == release.commit and len(after.branches["main"]) == 4
    assert len(waits) == 1 and faulty_hub.count()[route] == 2


def test_a_gitignore_that_keeps_a_file_out(
    faulty_hub: Any, seeds: Any, released: Any, view: Any
) -> None:
    from huggingface_hub import HfApi

    faulty_hub.reset(seeds["released"])
    api = HfApi(endpoint=faulty_hub.endpoint, token="any")
    api.upload_file(path_or_fileobj=b"parity*\n", path_in_repo=".gitignore", repo_id=REPO)
    before = view(faulty_hub.folder)
    with pytest.raises(UsageError, match=r"\.gitignore keeps .*parity\.json.* out") as raised:
        released("single")
    require_readable(raised.value)
    assert view(faulty_hub.folder) == before


def test_a_record_without_end_is_not_read(
    faulty_hub: Any, seeds: Any, released: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty_hub.reset(seeds["released"])
    monkeypatch.setattr(state, "MOST_FILE_BYTES", 500)
    with pytest.raises(HubError, match=r"release\.json is larger than 500 bytes"):
        released("single")
    assert faulty_hub.count()["file"] == 1


def test_a_hub_that_stays_away(
    faulty_hub: Any, seeds: Any, released: Any, view: Any, waits: list[float]
) -> None:
    """Each route in turn: an end after some attempts, with waits that grow and differ."""
    runs = []
    for route in ("refs", "file", "access", "card", "commit", "tag", "commit"):
        faulty_hub.reset(seeds["released"])
        waits.clear()
        faulty_hub.always((route, 1), refusal(503))
        with pytest.raises(HubError, match="status 503") as raised:
            released("single")
        require_readable(raised.value)
        assert 3 <= len(waits) <= 10 and sum(waits) < 120 and max(waits) > 4
        runs.append(tuple(waits))
        assert view(faulty_hub.folder).tags.keys() == {"v1.0.0"}
    assert len(set(runs)) == len(runs)


@pytest.mark.parametrize("content", [b"<html>", b"", b"{}", b"null", b"[]", b'"text"'])
@pytest.mark.parametrize("route", ["refs", "access", "tree", "preupload", "batch", "commit"])
def test_something_that_is_no_hub(
    content: bytes, route: str, faulty_hub: Any, seeds: Any, released: Any, waits: list[float]
) -> None:
    faulty_hub.reset(seeds["released"])
    faulty_hub.always((route, 1), lambda request: Response(200, content))
    if route == "access":  # nothing but the status counts
        assert released("single").released
        return
    with pytest.raises(SloGPTError) as raised:
        released("single")
    require_readable(raised.value)
