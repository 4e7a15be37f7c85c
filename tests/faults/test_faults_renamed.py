"""A repository that was renamed: the hub redirects the old name, releases go to the new one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import pytest

from slogpt_hf.hub.embedded import Request, Response

OLD, NOW, LATER = "me/old", "me/model", "me/later"
SAID = f"hub: {OLD} was renamed to {NOW}; going there."


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def redirected(request: Request, old: str, new: str) -> Response | None:
    """307 to the same route of the new name, as the Hub answers; None for other repositories."""
    line, git = "/".join(request.path), ".git" if f"{old}.git" in "/".join(request.path) else ""
    if f"{old}{git}/" not in f"{line}/":
        return None
    at = 2 if request.path[0] == "api" else 0
    segments = (*request.path[:at], *f"{new}{git}".split("/"), *request.path[at + 2 :])
    target = "/" + "/".join(quote(segment, safe="") for segment in segments)
    query = urlencode(request.query, doseq=True)
    return Response(307, b"", {"Location": f"{target}?{query}" if query else target})


def renaming(old: str, new: str) -> Callable[[Request], Response]:
    return lambda request: redirected(request, old, new) or request.proceed()


@pytest.fixture
def command(
    faulty_hub: Any,
    artefacts: dict[str, Path],
    waits: list[float],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Outcome]:
    """Runs a command line against the faulty hub; artefacts are given by their names."""
    from slogpt_hf.cli import run

    monkeypatch.setenv("HF_ENDPOINT", faulty_hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", "hf_canary")

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        words = [str(artefacts.get(str(argument), argument)) for argument in arguments]
        return Outcome(run(words), *capsys.readouterr())

    return call


@pytest.fixture
def pushed(command: Callable[..., Outcome]) -> Callable[..., tuple[dict[str, Any], str]]:
    """Pushes an artefact to a name; the JSON and what was said meanwhile."""

    def push(name: str, repo_id: str, *options: str) -> tuple[dict[str, Any], str]:
        done = command("push", name, "--repo-id", repo_id, "--transfer", "lfs", "--json", *options)
        assert done.code == 0, done.err
        return json.loads(done.out), done.err

    return push


@pytest.mark.parametrize("way", ["lfs", "xet", "auto"])
def test_a_release_to_the_old_name_goes_to_the_new_one(
    way: str, pushed: Any, faulty_hub: Any, seeds: Any, view: Any
) -> None:
    # Xet's client remembers what it sent: no artefact of which another test counts the requests.
    faulty_hub.reset(seeds["released"])
    before = view(faulty_hub.folder)
    faulty_hub.always(("*", 1), renaming(OLD, NOW))
    release, said = pushed("fifth", OLD, "--transfer", way)
    after = view(faulty_hub.folder)
    after.require_whole_tags()
    assert said.count(SAID) == 1 and "create" not in faulty_hub.count()
    assert (release["released"], release["repo_id"], release["tag"]) == (True, NOW, "v1.0.1")
    assert (
        after.records["v1.0.1"]["repo_id"] == NOW
        and not (faulty_hub.folder / "me/old.git").exists()
    )
    assert after.branches["main"] == (release["commit"], *before.branches["main"])
    assert faulty_hub.count()["commit"] == faulty_hub.count()["tag"] == 1
    for name in (OLD, NOW):
        again, _ = pushed("fifth", name)
        assert (again["released"], again["repo_id"], again["tag"]) == (False, NOW, "v1.0.1")
    assert view(faulty_hub.folder) == after


def test_a_candidate_and_a_private_one(pushed: Any, faulty_hub: Any, seeds: Any, view: Any) -> None:
    """The routes that make a branch and that read the repository are redirected, too."""
    from huggingface_hub import HfApi

    faulty_hub.reset(seeds["released"])
    api = HfApi(endpoint=faulty_hub.endpoint, token="hf_canary")
    api.update_repo_settings(NOW, private=True)
    faulty_hub.always(("*", 1), renaming(OLD, NOW))
    release, _ = pushed("single", OLD, "--private", "--promote", "never")
    assert release["branch"] == "main-candidates"
    assert view(faulty_hub.folder).records["v1.0.1"]["repo_id"] == NOW


@pytest.mark.parametrize(
    "step", ["file", "access", "tree", "preupload", "batch", "verify", "commit", "tag"]
)
@pytest.mark.parametrize("start", ["released", "missing"])
def test_renamed_during_a_release(
    step: str, start: str, pushed: Any, faulty_hub: Any, seeds: Any, view: Any
) -> None:
    faulty_hub.reset(seeds[start])
    me, renamed = faulty_hub.folder / "me", renaming(NOW, LATER)

    def rename(request: Request) -> Response:
        faulty_hub.settle(own=1)
        if (me / "model.git").exists():
            (me / "model.git").rename(me / "later.git")
        return renamed(request)

    def once_there(request: Request) -> Response:
        return renamed(request) if (me / "later.git").exists() else request.proceed()

    if start == "missing" and step == "access":
        step = "refs"  # of a repository to be made, read again
        faulty_hub.faults.append(("refs", 2, False, rename))
    else:
        # Of three objects at once the last, behind the others: a folder is no storage that outlives
        # its own name.
        faulty_hub.faults.append((step, 3 if step == "verify" else 1, False, rename))
    faulty_hub.always(("*", 1), once_there)
    release, _ = pushed("single", NOW)
    after = view(faulty_hub.folder, LATER)
    after.require_whole_tags()
    tags = ["v1.0.0"] if start == "missing" else ["v1.0.0", "v1.0.1"]
    assert release["released"] and sorted(after.tags) == tags
    assert after.branches["main"][0] == after.tags[tags[-1]] == release["commit"]
    assert len(after.ledger("main")) == len(tags) and not (me / "model.git").exists()
    for name in (NOW, LATER):
        again, _ = pushed("single", name)
        assert not again["released"] and again["repo_id"] == LATER
    assert view(faulty_hub.folder, LATER) == after


def test_commands_under_the_old_name(
    command: Any, pushed: Any, faulty_hub: Any, seeds: Any
) -> None:
    """A tag from before the rename is verified by the old name, a later one by the new one."""
    faulty_hub.reset(seeds["missing"])
    pushed("sharded", NOW)
    (faulty_hub.folder / "me/model.git").rename(faulty_hub.folder / "me/later.git")
    faulty_hub.always(("*", 1), renaming(NOW, LATER))
    pushed("single", NOW)
    listings = [command("releases", name, "--json") for name in (NOW, LATER)]
    shown = [[r["tag"] for r in json.loads(listing.out)] for listing in listings]
    assert shown == [["v1.0.1", "v1.0.0"]] * 2 and not any(listing.code for listing in listings)
    for release, code in {
        f"{NOW}@v1.0.0": 0,
        f"{LATER}@v1.0.1": 0,
        f"{NOW}@v1.0.1": 4,
        f"{LATER}@v1.0.0": 4,
    }.items():
        verified = command("verify-release", release)
        assert verified.code == code, verified
        assert ("a repository renamed since" in verified.out) is bool(code)
        assert ("by its old name" in verified.err) is bool(code)


def test_a_name_that_leads_in_a_circle(command: Any, faulty_hub: Any, seeds: Any) -> None:
    faulty_hub.reset(seeds["released"])
    faulty_hub.always(
        ("*", 1),
        lambda r: redirected(r, NOW, OLD) or redirected(r, OLD, NOW) or r.proceed(),
    )
    done = command("push", "single", "--repo-id", NOW, "--quiet")
    assert done.code == 6 and done.err.startswith(f"error: {NOW}: reading the repository failed")
    assert len(done.err.splitlines()) <= 2 and faulty_hub.count().keys() == {"refs"}
