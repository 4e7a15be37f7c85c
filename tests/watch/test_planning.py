from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slogpt_hf import planning
from slogpt_hf.errors import HubError, UsageError
from slogpt_hf.planning import Decision, Plan, best_of, plan_releases
from slogpt_hf.settings import Settings
from slogpt_hf.watch import Candidate, Provenance
from slogpt_hf.watch.event import Event
from slogpt_hf.watch.fetching import Fetched

NewGit = Callable[..., Any]
NewHub = Callable[..., Path]
Entry = Callable[..., dict[str, Any]]
SETTINGS = Settings(repo_id="me/model")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def rows(plan: Plan) -> list[tuple[str, bool, str]]:
    return [(each.candidate.name, each.wanted, each.reason) for each in plan.decisions]


def test_what_the_ledger_does_not_know_is_new(
    new_git: NewGit, new_hub: NewHub, ledger_entry: Entry
) -> None:
    git = new_git()
    first = git.commit({"ckpt.pt": b"1"})
    second, third = git.commit({"ckpt.pt": b"2"}), git.commit({"ckpt.pt": b"3"})
    hub = new_hub(
        ledger_entry("1.0.1", sha256=sha256(b"2"), commit=first),
        ledger_entry("1.0.0", sha256=sha256(b"1"), commit=first),
    )
    plan = plan_releases([str(git.folder)], replace(SETTINGS, hub=str(hub)))
    assert rows(plan) == [("ckpt.pt", False, "released as v1.0.1"), ("ckpt.pt", True, "new")]
    known, new = plan.decisions
    assert (known.tag, new.tag) == ("v1.0.1", None)
    assert known.candidate.provenance.commit == second
    assert new.key == sha256(b"3")[:12]
    assert plan.wanted == (new,)
    assert plan.matrix() == {
        "include": [
            {
                "key": new.key,
                "name": "ckpt.pt",
                "branch": "main",
                "commit": third,
                "sha256": sha256(b"3"),
            }
        ]
    }
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@pytest.mark.parametrize("content", [{}, {"repo_id": "a/b", "decisions": [{"key": "x"}]}])
def test_what_is_no_plan(content: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError)):
        Plan.from_dict(content)


def test_without_a_repository_or_a_hub(new_git: NewGit, tmp_path: Path) -> None:
    git = new_git()
    git.commit({"ckpt.pt": b"1"})
    with pytest.raises(UsageError, match="No repository is named"):
        plan_releases([str(git.folder)], Settings())
    settings = replace(SETTINGS, hub=str(tmp_path / "hub"))
    assert rows(plan_releases([str(git.folder)], settings)) == [("ckpt.pt", True, "new")]
    assert not (tmp_path / "hub").exists()


def test_the_same_content_twice(new_git: NewGit, tmp_path: Path) -> None:
    git = new_git()
    git.commit({"a/ckpt.pt": b"1", "b/ckpt.pt": b"1"})
    plan = plan_releases([str(git.folder)], replace(SETTINGS, hub=str(tmp_path / "hub")))
    assert rows(plan) == [("a/ckpt.pt", True, "new"), ("b/ckpt.pt", False, "the same as a/ckpt.pt")]
    assert plan.decisions[1].key == f"{plan.decisions[0].key}-2"


def test_the_latest_of_each_branch(new_git: NewGit, new_hub: NewHub, ledger_entry: Entry) -> None:
    git = new_git()
    git.commit({"a/ckpt.pt": b"1"})
    git.branch("train/x")
    git.commit({"b/ckpt.pt": b"2"})
    last = git.commit({"c/ckpt.pt": b"3"})
    git.branch("train/y", "main")
    git.commit({"d/ckpt.pt": b"4"})
    git.commit({"e/ckpt.pt": b"4"})
    hub = new_hub(ledger_entry("1.0.0", sha256=sha256(b"0")))
    settings = replace(SETTINGS, hub=str(hub), branches=("train/*",), which="latest")
    earlier = "an earlier one; --which latest"
    assert rows(plan_releases([str(git.folder)], settings)) == [
        ("a/ckpt.pt", False, earlier),
        ("b/ckpt.pt", False, earlier),
        ("c/ckpt.pt", True, "new"),
        ("d/ckpt.pt", True, "new"),
        ("e/ckpt.pt", False, "the same as d/ckpt.pt"),
    ]
    # After its release, those before it stay as they are.
    hub = new_hub(ledger_entry("1.0.1", sha256=sha256(b"3"), commit=last))
    git.run("checkout", "--quiet", "train/x")
    on_x = replace(settings, branches=())
    assert not plan_releases([str(git.folder)], on_x).wanted


def test_the_best_of_what_was_fetched(
    slo_content: Callable[..., dict[str, Any]], tmp_path: Path, new_git: NewGit
) -> None:
    import torch

    def saved(name: str, loss: float | None) -> tuple[str, Fetched]:
        content = slo_content()
        content["best_val_loss"] = loss
        torch.save(content, tmp_path / name)
        return name, Fetched(tmp_path / name, tmp_path, "")

    damaged = tmp_path / "damaged"
    damaged.write_bytes(b"x")
    broken = ("damaged", Fetched(damaged, tmp_path, ""))
    found = [saved("a", 2.0), broken, saved("b", 1.5), saved("c", 1.75), saved("none", None)]
    assert best_of(found, SETTINGS) == "b"
    assert best_of([found[0], broken], SETTINGS) == "a"
    assert best_of([found[4], broken], SETTINGS) == "damaged"
    assert best_of([], SETTINGS) is None
    # What is released already counts, too.
    assert best_of(found, SETTINGS, 1.6) == "b"
    assert best_of(found, SETTINGS, 1.5) is None
    assert best_of([found[4], broken], SETTINGS, 1.5) is None
    git = new_git()
    git.commit({"a/ckpt.pt": b"1", "b/ckpt.pt": b"2"})
    settings = replace(SETTINGS, hub=str(tmp_path / "hub"), which="best")
    plan = plan_releases([str(git.folder)], settings)
    assert [each.wanted for each in plan.decisions] == [True, True]
    assert "the best is chosen" in plan.decisions[0].reason


def test_what_only_a_download_can_tell(new_git: NewGit, tmp_path: Path) -> None:
    git = new_git()
    git.commit({"a/ckpt.pt": b"1", "b/ckpt.pt": b"2"})
    settings = replace(SETTINGS, hub=str(tmp_path / "hub"), base="nowhere.pt")
    plan = plan_releases([str(git.folder)], settings)
    assert {each.reason for each in plan.wanted} == {
        "its base nowhere.pt is not known, so it may be new"
    }
    keys = [each.key for each in plan.decisions]
    assert len(set(keys)) == 2
    assert keys == [each.key for each in plan_releases([str(git.folder)], settings).decisions]


@pytest.mark.parametrize("revision", ["{branch}", "step{step}", "main"])
def test_the_ledger_of_the_branch_that_a_release_goes_to(
    new_git: NewGit, new_hub: NewHub, ledger_entry: Entry, revision: str
) -> None:
    git = new_git()
    git.commit({"ckpt.pt": b"1"})
    git.branch("train-a")
    git.commit({"b/ckpt.pt": b"2"})
    branch = {"{branch}": "train-a", "step{step}": "step10", "main": "other"}[revision]
    hub = new_hub(ledger_entry("2.0.0", sha256=sha256(b"0")))
    new_hub(ledger_entry("1.0.0", sha256=sha256(b"1")), branch=branch)
    settings = replace(SETTINGS, hub=str(hub), revision=revision)
    reasons = [each.reason for each in plan_releases([str(git.folder)], settings).decisions]
    assert reasons == ["new" if revision == "main" else "released as v1.0.0", "new"]


def test_few_requests(
    new_git: NewGit, new_hub: NewHub, ledger_entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx2

    git = new_git()
    git.commit({"ckpt.pt": b"1"})
    hub = new_hub(ledger_entry("1.0.0", sha256=sha256(b"1")))
    seen: list[str] = []
    send = httpx2.Client.send

    def count(client: httpx2.Client, request: httpx2.Request, **options: Any) -> httpx2.Response:
        seen.append(str(request.url))
        return send(client, request, **options)

    monkeypatch.setattr(httpx2.Client, "send", count)
    settings = replace(SETTINGS, hub=str(hub), branches=("**",))
    assert not plan_releases([str(git.folder)], settings).wanted
    assert len(seen) == 2


@pytest.mark.parametrize("status", [401, 403, 404, 402])
def test_a_pull_request_that_may_not_read_the_ledger(
    new_git: NewGit,
    new_hub: NewHub,
    ledger_entry: Entry,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
) -> None:
    import httpx2

    git = new_git()
    head = git.commit({"ckpt.pt": b"1"})
    hub = new_hub(ledger_entry("1.0.0", sha256=sha256(b"1")))

    def refuse(client: httpx2.Client, request: httpx2.Request, **options: Any) -> httpx2.Response:
        return httpx2.Response(status, request=request)

    monkeypatch.setattr(httpx2.Client, "send", refuse)
    settings = replace(SETTINGS, hub=str(hub))
    event = Event("pull_request", head, "topic", is_pull_request=True)
    with pytest.raises(HubError):
        plan_releases([str(git.folder)], settings, replace(event, is_pull_request=False))
    if status == 402:
        with pytest.raises(HubError):
            plan_releases([str(git.folder)], settings, event)
    else:
        (decision,) = plan_releases([str(git.folder)], settings, event).decisions
        assert decision.reason == "new; the ledger of me/model cannot be read without a token"


def test_no_more_jobs_than_a_matrix_may_have() -> None:
    decisions = tuple(
        Decision(str(i), Candidate("ckpt.pt", "git", "/", Provenance()), True, "new")
        for i in range(300)
    )
    assert len(Plan("me/model", decisions).matrix()["include"]) == planning.MOST_JOBS == 256


def test_no_torch_for_a_push_with_nothing_new(
    new_git: NewGit, new_hub: NewHub, ledger_entry: Entry
) -> None:
    git = new_git()
    git.commit({"ckpt.pt": b"1"})
    hub = new_hub(ledger_entry("1.0.0", sha256=sha256(b"1")))
    program = (
        "import sys; from slogpt_hf.planning import plan_releases\n"
        "from slogpt_hf.settings import Settings\n"
        f"settings = Settings(repo_id='me/model', hub={str(hub)!r})\n"
        f"plan = plan_releases([{str(git.folder)!r}], settings)\n"
        "assert plan.decisions and not plan.wanted\n"
        "print(*sorted({'torch', 'transformers', 'numpy'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
