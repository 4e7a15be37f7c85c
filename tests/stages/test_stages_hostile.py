"""Work folders that somebody else wrote into: what the proof says is checked before it is shown."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from stage_lab import Jobs, outputs, published, tags

from slogpt_hf.hub.embedded import RunningHub

DEEP = "[" * 200_000
NUMBER = '{"exit_code": ' + "9" * 10_000 + "}"
EVIL = "https://evil.example/me/model/tree/v9"


def proven_keys(job: Jobs) -> list[str]:
    return job.wanted()[:2]


def refuses(job: Jobs, *stages: str) -> None:
    for stage in stages or ("publish", "report"):
        ran = job.ci(stage)
        assert ran.code == 2, ran.err
        assert "is not what the stages of a job write" in ran.error


@pytest.mark.parametrize(
    "changes",
    [
        {"artefact": "/etc"},
        {"record": {}},
        {"status": "released"},
        {"status": "unpublished", "exit_code": 6},
        {"status": "nothing"},
        {"status": None},
        {"status": ["proven"]},
        {"name": 5},
        {"branch": ["main"]},
        {"message": None},
        {"message": {}},
        {"exit_code": "0"},
        {"exit_code": 0.5},
        {"exit_code": True},
        {"exit_code": 4},
        {"status": "refused", "exit_code": 0},
        {"status": "refused", "exit_code": 10**30},
        {"status": "refused", "exit_code": -1},
    ],
    ids=json.dumps,
)
def test_an_outcome_is_what_prove_writes(
    job: Jobs, changes: dict[str, Any], hub: RunningHub
) -> None:
    job.rewrite(f"proof/outcomes/{proven_keys(job)[1]}.json", **changes)
    refuses(job)
    assert tags(hub) == []


@pytest.mark.parametrize("content", ["", "[]", "null", "5", "{", DEEP, NUMBER, "\udcff", "{}"])
@pytest.mark.parametrize(
    "name",
    [
        "plan.json",
        "settings.json",
        "fetched.json",
        "proof/outcomes/KEY.json",
        "proof/reports/KEY.json",
        "proof/artefacts/KEY/release.json",
    ],
)
def test_what_is_no_file_of_a_stage_is_one_message(job: Jobs, name: str, content: str) -> None:
    path = job.work / name.replace("KEY", proven_keys(job)[0])
    path.write_text(content, errors="surrogateescape")
    if content == "{}" and ("fetched" in name or "reports" in name):
        assert job.ci("publish").code == 0  # nothing was fetched; nothing was compared
        return
    stages = ("publish",) if "settings" in name else ("publish", "report")
    for stage in stages:
        ran = job.ci(stage)
        assert ran.code == 2 and ran.error, ran.err


@pytest.mark.parametrize("make", ["folder", "pipe", "large"])
def test_what_cannot_be_read_as_a_file_is_not_read(job: Jobs, make: str) -> None:
    path = job.work / "proof" / "outcomes" / f"{proven_keys(job)[0]}.json"
    path.unlink()
    if make == "folder":
        path.mkdir()
    elif make == "pipe":
        os.mkfifo(path)
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
    refuses(job)


PLANS: list[Callable[[dict[str, Any]], object]] = [
    lambda plan: plan.pop("repo_id"),
    lambda plan: plan.update(repo_id=5),
    lambda plan: plan.update(decisions=None),
    lambda plan: plan.update(decisions={"a": 1}),
    lambda plan: plan["decisions"].append("text"),
    lambda plan: plan["decisions"][0].update(key="../../../outside"),
    lambda plan: plan["decisions"][0].update(key=""),
    lambda plan: plan["decisions"][0].update(key=7),
    lambda plan: plan["decisions"][0].update(wanted="yes"),
    lambda plan: plan["decisions"][0].update(more=1),
    lambda plan: plan["decisions"][0]["candidate"].update(name=None),
    lambda plan: plan["decisions"][0]["candidate"].update(kind="nothing"),
    lambda plan: plan["decisions"][0]["candidate"].update(provenance="text"),
    lambda plan: plan["decisions"][0]["candidate"]["provenance"].update(branch=5),
]


@pytest.mark.parametrize("change", PLANS)
def test_a_plan_is_what_prepare_writes(job: Jobs, change: Callable[[dict[str, Any]], Any]) -> None:
    content = job.read("plan.json")
    change(content)
    (job.work / "plan.json").write_text(json.dumps(content))
    refuses(job, "prove", "publish", "report")


@pytest.mark.parametrize(
    ("name", "value"),
    [("tag", 5), ("set", [5]), ("which", []), ("max_shard_size", None), ("sign", "no"), ("x", 1)],
)
def test_settings_are_what_prepare_writes(job: Jobs, name: str, value: Any) -> None:
    job.rewrite("settings.json", **{name: value})
    refuses(job, "prove", "publish")


def test_the_proof_does_not_say_where_a_release_goes(job: Jobs, hub: RunningHub) -> None:
    lies = {"repo_id": "evil/model", "version": "9.9.9", "tag": "v9.9.9", "url": EVIL}
    about = {"key": "another", "name": "::error::x", "branch": "evil", "commit": "0" * 40}
    for path in (job.work / "proof" / "outcomes").iterdir():
        job.rewrite(f"proof/outcomes/{path.name}", **lies, **about, release_commit="f" * 40)
    for key in proven_keys(job):
        record = {"repo_id": "evil/model", "tag": "v9.9.9", "version": "9.9.9", "previous": []}
        job.rewrite(f"proof/artefacts/{key}/release.json", **record)
    job.on("github")
    assert job.ci("report").code == 0  # before anything is published
    told = outputs(job.folder / "github_output")
    assert (told["released"], told["version"], told["tag"], told["url"]) == ("false", "", "", "")
    assert job.ci("publish").code == 0
    assert tags(hub) == ["v1.0.0", "v2.0.0"]
    assert [path.name for path in hub.folder.glob("*/*.git")] == ["model.git"]
    job.ci("report")
    text = (job.folder / "github_step_summary").read_text()
    assert "evil" not in text and "9.9.9" not in text and "::error" not in text


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("source", {"branch": "release"}),
        ("source", {"commit": "0" * 40}),
        ("checkpoint", {"sha256": "0" * 64}),
        ("checkpoint", {"step": "x"}),
        ("model", {"spec": None}),
        ("parity", {"fp64_error": "small"}),
    ],
)
def test_a_record_is_about_the_checkpoint_that_was_fetched(
    job: Jobs, hub: RunningHub, section: str, changes: dict[str, Any]
) -> None:
    # The branch of a record fills templates: it would choose the hub's branch.
    name = f"proof/artefacts/{proven_keys(job)[1]}/release.json"
    job.rewrite(name, **{section: job.read(name)[section] | changes})
    refuses(job)
    assert tags(hub) == []


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "parity.json", "more.bin"])
def test_a_file_that_was_not_proven_is_not_published(job: Jobs, hub: RunningHub, file: str) -> None:
    first, second = proven_keys(job)
    path = job.work / "proof" / "artefacts" / first / file
    path.write_bytes(path.read_bytes() + b" " if path.exists() else b"new")
    ran = job.ci("publish")
    assert ran.code == 4 and f"{file} changed since the artefact was proven" in ran.err
    assert tags(hub) == ["v1.0.0"]  # of the other one
    assert job.read(f"releases/{second}.json")["status"] == "released"


@pytest.mark.parametrize(
    "linked", ["artefact", "all artefacts", "record", "file", "more", "outcome"]
)
def test_no_link_is_followed(job: Jobs, hub: RunningHub, linked: str) -> None:
    key, proof = proven_keys(job)[0], job.work / "proof"
    path = {
        "artefact": proof / "artefacts" / key,
        "all artefacts": proof / "artefacts",
        "record": proof / "artefacts" / key / "release.json",
        "file": proof / "artefacts" / key / "config.json",
        "more": proof / "artefacts" / key / "README2.md",
        "outcome": proof / "outcomes" / f"{key}.json",
    }[linked]
    outside = job.folder / "outside"
    if path.exists():
        shutil.move(path, outside)
    else:
        outside.write_text("a secret of this machine")
    path.symlink_to(outside)
    refuses(job)
    assert tags(hub) == []


def test_a_link_to_another_artefact_is_no_proof(job: Jobs, hub: RunningHub) -> None:
    first, second = proven_keys(job)
    folder = job.work / "proof" / "artefacts"
    shutil.rmtree(folder / second)
    (folder / second).symlink_to(folder / first)
    refuses(job)
    (folder / second).unlink()
    shutil.copytree(folder / first, folder / second)
    refuses(job)
    assert tags(hub) == []


def test_links_in_a_circle(job: Jobs) -> None:
    path = job.work / "proof" / "outcomes" / f"{proven_keys(job)[0]}.json"
    path.unlink()
    path.symlink_to(path)
    refuses(job)


def test_the_record_of_what_is_published_is_written_anew(job: Jobs, hub: RunningHub) -> None:
    key = proven_keys(job)[0]
    card = job.work / "proof" / "artefacts" / key / "README.md"
    card.write_text("# Not what was proven")
    assert job.ci("publish").code == 0
    assert b"Not what was proven" not in published(hub, "v1.0.0", "README.md")


@pytest.mark.parametrize(
    "event",
    [
        {"GITHUB_ACTIONS": "true", "GITHUB_EVENT_NAME": "pull_request"},
        {"GITLAB_CI": "true", "CI_PIPELINE_SOURCE": "merge_request_event"},
        {"JENKINS_URL": "https://ci.example.com/", "CHANGE_ID": "7"},
        {"TF_BUILD": "True", "BUILD_REASON": "PullRequest"},
    ],
)
def test_a_pull_request_never_publishes(job: Jobs, hub: RunningHub, event: dict[str, str]) -> None:
    assert job.read("plan.json")["publish"] is True
    ran = job.ci("publish", **event)
    assert ran.code == 2 and "A pull request never publishes" in ran.error
    assert tags(hub) == []


@pytest.mark.parametrize("said", [False, None, "true", 1, {}])
def test_a_run_publishes_only_if_its_plan_says_so(job: Jobs, hub: RunningHub, said: Any) -> None:
    job.rewrite("plan.json", publish=said)
    assert job.ci("publish").code == 2
    assert tags(hub) == []
