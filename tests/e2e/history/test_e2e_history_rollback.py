"""``slogpt-hf rollback``: what the branch holds then, and what goes on after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from slogpt_hf.hub.embedded import Request

REPO = "me/model"
VERSIONS = ["1.0.0", "1.0.1", "1.0.2", "1.1.0"]
Cli = Callable[..., Any]


@pytest.mark.parametrize("version", ["1.0.0", "1.0.2", "1.1.0"])
def test_rollback_holds_exactly_the_release(
    version: str,
    hub: Path,
    rollback: Cli,
    change: Callable[..., str],
    tree: Callable[..., dict[str, str]],
    view: Callable[[], Any],
    record: Callable[..., Any],
    releases: Callable[[], Any],
) -> None:
    foreign: dict[str, bytes | None] = {"LICENSE": b"mine", "notes/try.ipynb": b"{}"}
    change(foreign)
    before, old, known = view(), tree(), releases()
    outcome = rollback(version, "--json")
    assert outcome.code == 0, outcome.err
    after, new, tagged = view(), tree(), tree(f"v{version}")
    assert after.tags == before.tags
    assert after.commits["main"] == (outcome.json["commit"], *before.commits["main"])
    assert after.commits["main-candidates"] == before.commits["main-candidates"]
    others = {"release.json", ".gitattributes"}
    assert {p: b for p, b in new.items() if p not in {*others, *foreign}} == {
        p: b for p, b in tagged.items() if p not in others
    }
    assert {p: new[p] for p in foreign} == {p: old[p] for p in foreign}
    own, there = record(), record(f"v{version}")
    entries, rolled = own.pop("previous"), own.pop("rollback")
    assert own == {name: value for name, value in there.items() if name != "previous"}
    assert rolled.pop("date") and rolled == {"commit": before.tags[f"v{version}"], "from": "1.0.1"}
    assert [entry["version"] for entry in entries] == [v for v in VERSIONS[::-1] if v != version]
    said = outcome.json
    assert (said["rolled_back"], said["version"], said["previous"]) == (True, version, "1.0.1")
    now = releases()
    assert "main" in now[version]["branches"] and now["1.0.1"]["branches"] == []
    drop = {"branches"}
    assert [{k: v for k, v in r.items() if k not in drop} for r in now.values()] == [
        {k: v for k, v in r.items() if k not in drop} for r in known.values()
    ]


def test_after_a_rollback_everything_goes_on(
    hub: Path,
    rollback: Cli,
    cli: Cli,
    release: Cli,
    runs: list[Any],
    write: Callable[..., Path],
    view: Callable[[], Any],
    record: Callable[..., Any],
) -> None:
    assert rollback("v1.0.0").code == 0
    before = view()
    for path, version, options in runs:
        found = release(hub, path, *options)
        assert (found["released"], found["version"]) == (False, version)
        assert found["commit"] == before.tags[f"v{version}"]
    assert view() == before
    for tag in before.tags:
        verified = cli("verify-release", f"{REPO}@{tag}", "--hub", hub)
        assert verified.code == 0, verified.text
    again = rollback("1.0.0")
    assert again.code == 0 and "Nothing to do: main of me/model holds 1.0.0" in again.out
    assert view() == before
    # Best is better than what the branch holds now, and the version above all that were given.
    following = release(hub, write(500, 1.4, seed=5, n_layer=2), "--promote", "best")
    assert (following["version"], following["branch"]) == ("1.1.1", "main")
    entries = following["record"]["previous"]
    assert [(e["version"], e["commit"]) for e in entries] == [
        (v, before.tags[f"v{v}"]) for v in VERSIONS[::-1]
    ]
    assert "rollback" not in record()
    assert cli("verify-release", f"{REPO}@v1.1.1", "--hub", hub).code == 0


def test_back_and_forth(rollback: Cli, view: Callable[[], Any], record: Callable[..., Any]) -> None:
    tags = view().tags
    for version, before in [("1.0.0", "1.0.1"), ("1.1.0", "1.0.0"), ("1.0.1", "1.1.0")]:
        assert rollback(version).code == 0
        assert record()["rollback"]["from"] == before
        assert len(record()["previous"]) == 3
    assert view().tags == tags


def test_nothing_large_travels(rollback: Cli, intercepted: Any) -> None:
    seen: list[str] = []

    def note(request: Request) -> None:
        seen.append(f"{request.server} {request.method} {'/'.join(request.path)}")

    intercepted(note)
    assert rollback("1.1.0").code == 0
    assert any("commit" in each for each in seen)
    assert not [each for each in seen if each.startswith("lfs") or "batch" in each], seen
    assert not [each for each in seen if each.endswith(".safetensors")]


def test_what_was_changed_by_hand_is_put_right(
    rollback: Cli,
    change: Callable[..., str],
    tree: Callable[..., dict[str, str]],
    view: Callable[[], Any],
) -> None:
    held = tree()
    assert rollback("1.0.1").out.startswith("Nothing to do")
    change({"README.md": b"# Mine\n", "config.json": b"{}", "parity.json": None})
    before = view()
    assert rollback("1.0.1").code == 0
    assert tree() == held == tree("v1.0.1")
    assert view().commits["main"][1:] == before.commits["main"]


def test_what_would_be_loaded_besides_is_refused(
    rollback: Cli, change: Callable[..., str], view: Callable[[], Any]
) -> None:
    change({"tokenizer.model": b"x"})
    before = view()
    refused = rollback("1.0.0")
    assert refused.code == 2 and "tokenizer.model" in refused.err
    assert view() == before


@pytest.mark.parametrize("name", ["1.1.0", "v1.1.0", "V1.1.0"])
def test_names_of_a_release(name: str, rollback: Cli, record: Callable[..., Any]) -> None:
    outcome = rollback(name)
    if name[0] == "V":  # the tags of git tell case apart
        assert outcome.code == 2 and "Did you mean 1.1.0 or v1.1.0?" in outcome.err
    else:
        assert outcome.code == 0 and record()["version"] == "1.1.0"


def test_the_message_of_the_commit(
    hub: Path, hub_client: Callable[[Path], Any], rollback: Cli, record: Callable[..., Any]
) -> None:
    assert rollback("1.0.0").code == 0
    assert rollback("1.1.0", "--message", "Back to {tag} of step {step}").code == 0
    with hub_client(hub) as api:
        titles = [commit.title for commit in api.list_repo_commits(REPO)]
    assert titles[:2] == ["Back to v1.1.0 of step 400", "Roll back to 1.0.0"]
    refused = rollback("1.0.1", "--message", "{branch}")
    assert refused.code == 2 and "{branch}" in refused.err
    for empty in ("", " "):
        refused = rollback("1.0.1", "--message", empty)
        assert refused.code == 2 and "--message is empty" in refused.err
    assert record()["version"] == "1.1.0"


def test_a_moved_tag_is_not_rolled_back_to(
    hub: Path, hub_client: Callable[[Path], Any], rollback: Cli, view: Callable[[], Any]
) -> None:
    with hub_client(hub) as api:
        api.delete_tag(REPO, tag="v1.0.0")
        api.create_tag(REPO, tag="v1.0.0", revision="v1.0.2")
    before = view()
    outcome = rollback("1.0.0")
    assert outcome.code == 4 and "slogpt-hf verify-release me/model@v1.0.0" in outcome.err
    assert view() == before


def test_a_tampered_release_is_not_rolled_back_to(
    hub: Path,
    hub_client: Callable[[Path], Any],
    rollback: Cli,
    change: Callable[..., str],
) -> None:
    commit = change({"config.json": b"{}"}, "main-candidates")
    with hub_client(hub) as api:
        api.delete_tag(REPO, tag="v1.1.0")
        api.create_tag(REPO, tag="v1.1.0", revision=commit)
    outcome = rollback("1.1.0")
    assert outcome.code == 4 and "does not hold what was proven: config.json" in outcome.err


def test_the_signature_stays_with_the_tag(
    hub: Path,
    rollback: Cli,
    cli: Cli,
    release: Cli,
    write: Callable[..., Path],
    tree: Callable[..., dict[str, str]],
    tmp_path: Path,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(private)
    (tmp_path / "key.pub").write_bytes(public)
    options = ("--sign", "--signing-key", str(tmp_path / "key.pem"))
    tag = release(hub, write(500, 1.0, seed=5, n_layer=2), *options)["tag"]
    held = tree()
    assert rollback(tag).out.startswith("Nothing to do") and tree() == held
    # Its record is not the signed one any more, but that of a branch that was put back.
    assert rollback("1.0.0").code == 0 and "model.sig" not in tree()
    assert rollback(tag).code == 0 and "model.sig" not in tree() and "model.sig" in tree(tag)
    by = ("--public-key", tmp_path / "key.pub")
    verified = cli("verify-release", f"{REPO}@{tag}", "--hub", hub, *by)
    assert verified.code == 0 and "signed by the key key.pub" in verified.out
    # What the signature vouched for is in the next release's way no more.
    following = release(hub, write(600, 1.0, seed=6, n_layer=2))
    assert "model.sig" not in tree(following["tag"])
