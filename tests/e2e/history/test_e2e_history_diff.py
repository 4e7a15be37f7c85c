"""``slogpt-hf diff``: what changed between two releases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slogpt_hf.cli.diff import SHORT, WIDEST, shown
from slogpt_hf.history.comparing import compare_url

REPO = "me/model"
OLD, NEW = "a" * 40, "b" * 40
Cli = Callable[..., Any]


@pytest.fixture
def diff(history: tuple[Path, list[Any]], cli: Cli) -> Cli:
    return lambda *arguments: cli("diff", REPO, *arguments, "--hub", history[0])


def test_what_changed_as_json(diff: Cli, history: tuple[Path, list[Any]]) -> None:
    found = diff("1.0.1", "v1.1.0", "--json").json
    a, b = (history[1][i]["record"] for i in (1, 3))
    assert (found["same"], found["a"]["version"], found["b"]["tag"]) == (False, "1.0.1", "v1.1.0")
    changed = {each["name"]: (each["a"], each["b"]) for each in found["differences"]}
    assert changed["version"] == ("1.0.1", "1.1.0") and changed["tag"] == ("v1.0.1", "v1.1.0")
    assert changed["architecture n_layer"] == (1, 2)
    for name in ("sha256", "step", "val_loss", "file"):
        assert changed[f"checkpoint {name}"] == (a["checkpoint"][name], b["checkpoint"][name])
    assert changed["model n_parameters"] == (a["model"]["n_parameters"], b["model"]["n_parameters"])
    assert changed["parity fp64_error"] == (a["parity"]["fp64_error"], b["parity"]["fp64_error"])
    # What is equal, or is text of the card, is not listed.
    assert not {name.split()[0] for name in changed} & {"tokenizer", "sample", "previous", "files"}
    assert not {"model target_class", "license", "checkpoint dtype"} & changed.keys()


def test_files_with_their_sizes(
    diff: Cli, hub_client: Any, history: tuple[Path, list[Any]]
) -> None:
    with hub_client(history[0]) as api:
        sizes = {
            tag: {f.path: f.size for f in api.list_repo_tree(REPO, revision=tag, recursive=True)}
            for tag in ("v1.0.1", "v1.0.2")
        }
    files = {each["path"]: each for each in diff("1.0.1", "1.0.2", "--json").json["files"]}
    shards = [path for path in sizes["v1.0.1"] if path.startswith("model-0")]
    assert len(shards) > 1
    assert all(files[path]["change"] == "removed" for path in shards)
    assert files["model.safetensors"] == {
        "path": "model.safetensors",
        "change": "added",
        "a_bytes": None,
        "b_bytes": sizes["v1.0.2"]["model.safetensors"],
    }
    assert files["README.md"]["change"] == "changed"
    assert files["README.md"]["a_bytes"] == sizes["v1.0.1"]["README.md"]
    assert not {"release.json", "tokenizer.json", ".gitattributes"} & files.keys()


def test_the_table(diff: Cli) -> None:
    outcome = diff("v1.0.0", "v1.0.1")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["v1.0.0", "v1.0.1"]
    rows = {line[: lines[0].index("v")].strip(): line.split() for line in lines[1:]}
    assert rows["checkpoint step"][-2:] == ["100", "200"]
    assert rows["checkpoint val_loss"][-2:] == ["1.5", "1.25"]
    assert [len(cell) for cell in rows["checkpoint sha256"][-2:]] == [SHORT, SHORT]
    assert rows["model.safetensors"][-1] == "(removed)"


def test_no_difference(diff: Cli) -> None:
    assert diff("1.0.2", "v1.0.2").out == "No difference.\n"
    found = diff("1.0.2", "v1.0.2", "--json").json
    assert found["same"] is True and found["differences"] == found["files"] == []


def test_no_weights_are_downloaded(hub: Path, cli: Cli, intercepted: Any) -> None:
    seen: list[str] = []
    intercepted(lambda request: seen.append("/".join(request.path)))
    assert cli("diff", REPO, "1.0.1", "1.1.0", "--hub", hub).code == 0
    assert len(seen) == 7 and not [path for path in seen if path.endswith(".safetensors")]


def test_a_commit_that_holds_another_release(
    hub: Path, cli: Cli, hub_client: Callable[[Path], Any]
) -> None:
    with hub_client(hub) as api:
        api.delete_tag(REPO, tag="v1.0.0")
        api.create_tag(REPO, tag="v1.0.0", revision="v1.0.2")
    outcome = cli("diff", REPO, "1.0.0", "1.0.1", "--hub", hub)
    assert outcome.code == 6 and "does not hold release 1.0.0" in outcome.err


@pytest.mark.parametrize(
    ("remote", "page"),
    [
        ("https://github.com/me/trainer", f"/compare/{OLD}...{NEW}"),
        ("https://gitlab.com/me/trainer.git", f"/-/compare/{OLD}...{NEW}"),
        ("https://bitbucket.org/me/trainer", f"/branches/compare/{NEW}%0D{OLD}"),
        ("https://git.example/me/trainer", None),
        ("git@github.com:me/trainer", None),
        (["https://github.com/me/trainer"], None),
        (None, None),
    ],
)
def test_the_page_that_compares_the_source(remote: Any, page: str | None) -> None:
    a, b = ({"remote": remote, "commit": commit} for commit in (OLD, NEW))
    shown = compare_url(a, b)
    assert shown == (page and f"{remote.removesuffix('.git')}{page}")
    assert compare_url(a, a) is None
    assert compare_url(a, b | {"remote": "https://github.com/other/one"}) is None
    assert compare_url(a, b | {"commit": None}) is None


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (None, "-"),
        ("adamw", "adamw"),
        (True, "true"),
        (12, "12"),
        (1.3799999952316284, "1.38"),
        (["en", "de"], json.dumps(["en", "de"])),
        ("0f" * 32, "0f" * (SHORT // 2)),
        ("x" * 99, "x" * WIDEST + "..."),
    ],
)
def test_a_value_as_a_cell(value: Any, cell: str) -> None:
    assert shown(value) == cell
