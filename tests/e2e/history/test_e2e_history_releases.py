"""Promotion, and what ``slogpt-hf releases`` lists."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slogpt_hf.cli.releases import COLUMNS

REPO = "me/model"
VERSIONS = ["1.0.0", "1.0.1", "1.0.2", "1.1.0"]
Cli = Callable[..., Any]


def test_promotion_moves_the_branch_for_the_best_only(
    history: tuple[Path, list[Any]], hub_view: Callable[[Path], Any]
) -> None:
    folder, said = history
    assert [each["version"] for each in said] == VERSIONS
    branches = ["main", "main", "main-candidates", "main-candidates"]
    assert [each["branch"] for each in said] == branches
    repo, commits = hub_view(folder)[REPO], [each["commit"] for each in said]
    assert repo.tags == {f"v{v}": c for v, c in zip(VERSIONS, commits, strict=True)}
    assert list(repo.commits["main"][:2]) == commits[1::-1]
    assert list(repo.commits["main-candidates"][:4]) == commits[::-1]


def test_a_rerun_finds_a_candidate(
    hub: Path, release: Cli, runs: list[Any], view: Callable[[], Any]
) -> None:
    before = view()
    for path, version, options in runs:
        found = release(hub, path, *options)
        assert (found["released"], found["version"]) == (False, version)
    # However it is to be promoted: what is released is found, and stays where it is.
    assert release(hub, runs[2][0], "--promote", "latest")["released"] is False
    assert view() == before


def test_promoted_and_candidates_share_one_ledger(
    hub: Path, release: Cli, write: Callable[..., Path]
) -> None:
    worse = release(hub, write(500, 1.3, seed=5, n_layer=2), "--promote", "best")
    better = release(hub, write(600, 1.2, seed=6, n_layer=2), "--promote", "best")
    latest = release(hub, write(700, 9.0, seed=7, n_layer=2))
    found = [(each["version"], each["branch"]) for each in (worse, better, latest)]
    assert found == [("1.1.1", "main-candidates"), ("1.1.2", "main"), ("1.1.3", "main")]
    known = [entry["version"] for entry in latest["record"]["previous"]]
    assert sorted(known, reverse=True) == known == ["1.1.2", "1.1.1", *reversed(VERSIONS)]


def test_releases_as_a_table(hub: Path, cli: Cli) -> None:
    outcome = cli("releases", REPO, "--hub", hub)
    assert outcome.code == 0, outcome.err
    heading, *rows = [line.split() for line in outcome.out.splitlines()]
    assert heading == list(COLUMNS)
    assert [row[0] for row in rows] == VERSIONS[::-1]
    shown = [(r[1], r[2], r[7], r[8]) for r in rows]
    assert shown == [
        ("400", "1.1250", "v1.1.0", "main-candidates"),
        ("300", "1.3750", "v1.0.2", "-"),
        ("200", "1.2500", "v1.0.1", "main"),
        ("100", "1.5000", "v1.0.0", "-"),
    ]
    assert all(float(row[3]) < 1e-10 for row in rows)
    assert {row[4] for row in rows} <= {"assumed", "corroborated"}


def test_releases_as_json(history: tuple[Path, list[Any]], releases: Callable[[], Any]) -> None:
    found = releases()
    assert list(found) == VERSIONS[::-1]
    for said in history[1]:
        each = found[said["version"]]
        assert (each["commit"], each["tag"], each["tagged"]) == (said["commit"], said["tag"], True)
        assert each["identity"] == said["record"]["identity"]
        parity = said["record"]["parity"]
        assert each["parity"] == {n: v for n, v in parity.items() if n != "assumptions"}
        assert each["checkpoint"] == said["record"]["checkpoint"]["file"]


def test_a_list_costs_one_request_and_one_for_each_head(
    hub: Path, cli: Cli, intercepted: Any
) -> None:
    seen: list[str] = []
    intercepted(lambda request: seen.append("/".join(request.path)))
    assert cli("releases", REPO, "--hub", hub).code == 0
    assert len(seen) == 3, seen


def test_releases_of_other_branches_and_of_tags_alone(
    hub: Path,
    hub_client: Callable[[Path], Any],
    release: Cli,
    write: Callable[..., Path],
    releases: Callable[[], Any],
) -> None:
    nightly = release(hub, write(800, 1.0, seed=8), "--revision", "nightly")
    with hub_client(hub) as api:
        api.delete_branch(REPO, branch="main-candidates")
        api.create_tag(REPO, tag="stable", revision="v1.0.0")
        root = api.list_repo_commits(REPO)[-1].commit_id
        api.create_tag(REPO, tag="empty", revision=root)
    found = releases()
    assert list(found) == [nightly["version"], *VERSIONS[::-1]]
    assert found[nightly["version"]]["branches"] == ["nightly"]
    assert found["1.1.0"]["branches"] == [] and found["1.0.1"]["branches"] == ["main"]


def test_a_release_without_its_tag_is_untagged(
    hub: Path,
    cli: Cli,
    hub_client: Callable[[Path], Any],
    release: Cli,
    runs: list[Any],
    rollback: Cli,
    view: Callable[[], Any],
) -> None:
    before = view()
    with hub_client(hub) as api:
        api.delete_tag(REPO, tag="v1.0.0")
    assert cli("releases", REPO, "--hub", hub).out.splitlines()[-1].split()[7] == "untagged"
    refused = rollback("1.0.0")
    assert refused.code == 2 and "Release its checkpoint again" in refused.err
    assert release(hub, runs[0][0])["tag"] == "v1.0.0"
    assert view() == before
    assert rollback("1.0.0").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("rollback", REPO, "nightly"), 2, "list all with: slogpt-hf releases me/model"),
        (("rollback", REPO, "1.0.9"), 2, "Did you mean 1.0."),
        (("rollback", REPO, "1.0.0", "--revision", "nightly"), 2, "has no branch 'nightly'"),
        (("rollback", REPO, "1.0.0", "--revision", "a b"), 2, "revision"),
        (("rollback", "me/none", "1.0.0"), 6, "does not exist"),
        (("releases", "me/none"), 6, "Check the name"),
        (("diff", "me/none", "1.0.0", "1.0.1"), 6, "does not exist"),
        (("diff", REPO, "1.0.0", "7.0.0"), 2, "has no release '7.0.0'"),
        (("releases", "none"), 2, "NAMESPACE/NAME"),
    ],
)
def test_what_cannot_be_meant(
    arguments: tuple[str, ...],
    code: int,
    says: str,
    hub: Path,
    cli: Cli,
    hub_view: Callable[[Path], Any],
) -> None:
    before = hub_view(hub)
    outcome = cli(*arguments, "--hub", hub)
    assert outcome.code == code and says in outcome.err and not outcome.out
    assert hub_view(hub) == before


def test_no_releases_and_no_hub(cli: Cli, tmp_path: Path, hub_client: Any) -> None:
    with hub_client(tmp_path / "hub") as api:
        api.create_repo(REPO)
    empty = cli("releases", REPO, "--hub", tmp_path / "hub")
    assert (empty.code, empty.out) == (0, "me/model has no releases.\n")
    assert cli("releases", REPO, "--hub", tmp_path / "hub", "--json").json == []
    refused = cli("rollback", REPO, "1.0.0", "--hub", tmp_path / "hub")
    assert refused.code == 2 and "has no releases" in refused.err
    for command in (("releases",), ("rollback", "1.0.0"), ("diff", "1.0.0", "1.0.1")):
        missing = cli(command[0], REPO, *command[1:], "--hub", tmp_path / "none")
        assert missing.code == 2 and "no such folder of a hub" in missing.err
    assert not (tmp_path / "none").exists()


def test_text_of_a_hub_does_nothing_to_the_terminal(
    hub: Path, cli: Cli, change: Callable[..., str], record: Callable[..., Any]
) -> None:
    hostile, evil = record(), "x\x1b]0;x\x07\n"
    hostile["previous"][0] |= {"date": evil, "source": {"commit": evil, "branch": [evil]}}
    hostile["previous"] += [
        {"version": f"9.0.0{evil}", "tag": "v9", "identity": "i", "checkpoint": 1, "parity": 3},
        {"version": "9" * 5000 + ".0.0", "tag": evil, "identity": "j", "source": []},
    ]
    hostile["checkpoint"] |= {"dialect": evil, "dataset": evil}
    change({"release.json": json.dumps(hostile).encode()})
    outcomes = [
        cli(*arguments, "--hub", hub)
        for arguments in (("releases", REPO), ("rollback", REPO, evil), ("diff", REPO, "1", evil))
    ]
    assert [outcome.code for outcome in outcomes] == [0, 2, 2]
    assert all(c.isprintable() or c == "\n" for outcome in outcomes for c in outcome.text)
    listed = [line.split()[0] for line in outcomes[0].out.splitlines()]
    assert [version for version in listed if version in VERSIONS] == VERSIONS[::-1]
    assert json.loads(cli("releases", REPO, "--hub", hub, "--json").out)


def test_a_version_of_two_branches_is_named_by_its_tag(
    hub: Path, release: Cli, write: Callable[..., Path], rollback: Cli, record: Callable[..., Any]
) -> None:
    """Where tags do not carry versions, branches count on their own."""
    tag = ("--tag", "step{step}")
    for step, n_layer, branch in ((500, 1, ("--revision", "nightly")), (600, 2, ())):
        said = release(hub, write(step, 1.0, seed=step, n_layer=n_layer), *tag, *branch)
        assert (said["version"], said["tag"]) == ("1.1.1", f"step{step}")
    refused = rollback("1.1.1")
    assert refused.code == 2 and "Name the tag: step" in refused.err
    assert rollback("step500").code == 0 and record()["checkpoint"]["step"] == 500
    assert rollback("step600").code == 0 and record()["rollback"]["from"] == "1.1.1"


def test_what_was_uploaded_by_hand_is_no_release(
    hub_client: Callable[[Path], Any], cli: Cli, characters: Path, runs: list[Any], tmp_path: Path
) -> None:
    hub, artefact = tmp_path / "by hand", tmp_path / "artefact"
    assert cli("convert-model", characters, runs[0][0], artefact, "-q").code == 0
    with hub_client(hub) as api:
        api.create_repo(REPO)
        api.upload_folder(repo_id=REPO, folder_path=artefact)
    assert cli("releases", REPO, "--hub", hub).out == "me/model has no releases.\n"
    named = ("--dataset", characters, "--repo-id", REPO, "--hub", hub)
    assert cli("release", runs[0][0], *named, "-q").code in (0, 2)
