"""What a release publishes, and what it leaves alone."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from slogpt_hf.checkpoints import read_checkpoint
from slogpt_hf.hub import embedded, publish
from slogpt_hf.hub.embedded import Request, Response
from slogpt_hf.parity import decoder
from slogpt_hf.parity.decoder import Decoder
from slogpt_hf.parity.families import FAMILIES

Cli = Callable[..., Any]
View = Callable[[Path], dict[str, Any]]
Write = Callable[..., Path]

REPO = "me/model"
IDS = torch.arange(12)[None]
SMALL = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 12}


@pytest.fixture
def release(cli: Cli, characters: Path, tmp_path: Path) -> Cli:
    """Releases a checkpoint of 37 ids to REPO on the hub in ``tmp_path``."""

    def call(*arguments: Any, repo_id: str = REPO, dataset: Path = characters) -> Any:
        hub = tmp_path / "hub"
        return cli("release", *arguments, "--dataset", dataset, "--repo-id", repo_id, "--hub", hub)

    return call


@pytest.fixture
def view(hub_view: View, tmp_path: Path) -> Callable[[], dict[str, Any]]:
    return lambda: hub_view(tmp_path / "hub")


@pytest.fixture
def released_file(hub_file: Callable[..., bytes], tmp_path: Path) -> Callable[..., bytes]:
    return functools.partial(hub_file, tmp_path / "hub", REPO)


def target_class(switches: dict[str, bool]) -> str:
    """The table of the exact stock classes; custom code for everything that is not in it."""
    rope, swiglu, rmsnorm = (switches[f"use_{name}"] for name in ("rope", "swiglu", "rmsnorm"))
    if not rope and not swiglu and not rmsnorm:
        return "GPT2LMHeadModel"
    if rope and swiglu and rmsnorm:
        return "LlamaForCausalLM"
    if rope and not swiglu:
        return "ArceeForCausalLM" if rmsnorm else "Starcoder2ForCausalLM"
    if rope and not rmsnorm and not switches["bias"]:
        return "StableLmForCausalLM"
    return "SloGPTForCausalLM"


def test_all_sixteen_architectures_in_one_command(
    release: Cli,
    view: Any,
    released_file: Callable[..., bytes],
    slo_checkpoint: Write,
    sixteen: list[dict[str, bool]],
) -> None:
    paths = [slo_checkpoint(**switches, **SMALL) for switches in sixteen]
    outcome = release(*paths, "--json")
    assert outcome.code == 0, outcome.err
    expected = [target_class(switches) for switches in sixteen]
    assert [r["record"]["model"]["target_class"] for r in outcome.json] == expected
    assert sum(name != "SloGPTForCausalLM" for name in expected) == 9
    # Every switch is another architecture, so no user of the last release can just go on.
    assert [r["version"] for r in outcome.json] == [f"{i}.0.0" for i in range(1, 17)]
    repo = view()[REPO]
    assert repo.tags == {r["tag"]: r["commit"] for r in outcome.json}
    assert len(repo.tags) == 16 and len(repo.commits["main"]) == 17
    for result, name in zip(outcome.json, expected, strict=True):
        config = json.loads(released_file("config.json", result["tag"]))
        assert config["architectures"] == [name]
    again = release(*paths, "--json")
    assert again.code == 0
    assert [r["released"] for r in again.json] == [False] * 16
    assert [r["tag"] for r in again.json] == [r["tag"] for r in outcome.json]
    assert view()[REPO] == repo


VERSIONS: list[tuple[str, dict[str, Any]]] = [
    ("1.0.0", {}),
    ("1.0.1", {"seed": 1}),
    ("1.0.2", {"seed": 2, "dtype": "float16"}),
    ("1.1.0", {"block_size": 16}),
    ("1.2.0", {"block_size": 16, "n_layer": 2}),
    ("2.0.0", {"block_size": 16, "n_layer": 2, "bias": False}),
]


def test_versions_mean_compatibility(
    release: Cli,
    view: Any,
    slo_checkpoint: Write,
    write_meta: Callable[..., Path],
    characters: Path,
    tmp_path: Path,
) -> None:
    paths = [slo_checkpoint(**(SMALL | arguments)) for _, arguments in VERSIONS]
    outcome = release(*paths, "--json")
    assert [r["version"] for r in outcome.json] == [version for version, _ in VERSIONS]
    # The same weights over other characters are another vocabulary.
    other = write_meta(tmp_path / "other", "".join(map(chr, range(0x3B1, 0x3B1 + 37))))
    outcome = release(paths[-1], "--json", dataset=other)
    assert [r["version"] for r in outcome.json] == ["3.0.0"]
    outcome = release(paths[-1], "--json", "--unknown", "?")
    assert [r["version"] for r in outcome.json] == ["4.0.0"]
    assert len(view()[REPO].tags) == 8


def test_rerun_is_nothing_new(release: Cli, view: Any, slo_checkpoint: Write) -> None:
    path = slo_checkpoint(**SMALL)
    first = release(path)
    assert first.code == 0
    before = view()
    outcome = release(path)
    assert outcome.code == 0
    # What it assumes and how it is loaded is said again, word for word.
    assert "; assumed: " in first.out and "AutoTokenizer" in first.out
    assert outcome.out.splitlines()[2:] == first.out.splitlines()[2:]
    assert f"Nothing new: released before as {REPO} 1.0.0" in outcome.out
    assert f"  commit  {before[REPO].tags['v1.0.0']}" in outcome.out
    assert "convert" not in outcome.err
    (result,) = release(path, "--json").json
    assert result["released"] is False
    assert (result["version"], result["tag"]) == ("1.0.0", "v1.0.0")
    assert view() == before
    # Of an older release the ledger has no assumptions: the line says where they are.
    assert release(slo_checkpoint(**(SMALL | {"seed": 1}))).code == 0
    assert "as slogpt-hf knows it; what it assumes is in its card\n" in release(path).out


def test_what_was_assumed_is_released_again_with_a_witness(
    release: Cli, view: Any, slo_checkpoint: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, required = slo_checkpoint(**SMALL), ("--require-witness", "witnessed")
    assert release(path).code == 0
    before = view()
    assert release(path, *required).code == 4
    assert view() == before
    checkpoint = read_checkpoint(path)
    model = Decoder(FAMILIES["slo"], checkpoint.spec, checkpoint.tensors)
    logits = decoder.logits(model, IDS, torch.float32)
    save_file(
        {"input_ids": IDS, "logits": logits}, path.with_name(f"{path.stem}.parity.safetensors")
    )
    module, name, stop, code = STOPS["interrupted"]
    with monkeypatch.context() as patch:  # between commit and tag
        patch.setattr(module, name, stop)
        assert release(path, *required).code == code
    (result,) = release(path, *required, "--json").json
    assert (result["version"], result["tag"]) == ("1.0.1", "v1.0.1")
    after = view()[REPO]
    assert after.tags == before[REPO].tags | {"v1.0.1": after.commits["main"][0]}
    for more in (required, ()):
        assert f"released before as {REPO} 1.0.1" in release(path, *more).out
    assert view()[REPO] == after


def test_a_copy_elsewhere_is_nothing_new(
    release: Cli, view: Any, slo_checkpoint: Write, tmp_path: Path
) -> None:
    path = slo_checkpoint(**SMALL)
    assert release(path).code == 0
    before = view()
    copy = tmp_path / "renamed.pt"
    copy.write_bytes(path.read_bytes())
    assert "Nothing new" in release(copy).out
    assert view() == before


def test_another_dtype_is_another_release(
    release: Cli, view: Any, released_file: Callable[..., bytes], slo_checkpoint: Write
) -> None:
    path = slo_checkpoint(**SMALL)
    assert release(path).code == 0
    (result,) = release(path, "--dtype", "bfloat16", "--json").json
    assert result["released"] is True
    assert result["record"]["parity"]["passed"] is True
    assert set(view()[REPO].tags) == {"v1.0.0", result["tag"]}
    assert json.loads(released_file("config.json", result["tag"]))["dtype"] == "bfloat16"
    assert json.loads(released_file("config.json", "v1.0.0"))["dtype"] == "float32"
    assert release(path, "--dtype", "bfloat16", "--json").json[0]["released"] is False


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_dtype_is_kept_and_prefixes_are_dropped(
    cli: Cli,
    characters: Path,
    slo_checkpoint: Write,
    tmp_path: Path,
    dtype: str,
    prefix: str,
) -> None:
    from safetensors import safe_open

    path = slo_checkpoint(**SMALL, dtype=dtype, prefix=prefix, optimizer=True)
    outcome = cli("convert-model", characters, path, tmp_path / "artefact")
    assert outcome.code == 0, outcome.err
    with safe_open(tmp_path / "artefact" / "model.safetensors", "pt") as tensors:
        stored = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    assert {str(tensor.dtype) for tensor in stored.values()} == {f"torch.{dtype}"}
    assert not [name for name in stored if prefix in name]


def refused(request: Request) -> Response | None:
    """No tag can be made."""
    is_tag = request.method == "POST" and "tag" in request.path
    return Response(403, b'{"error": "no tags today"}') if is_tag else None


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


STOPS = {
    "tag refused": (embedded, "serve", functools.partial(embedded.serve, intercept=refused), 6),
    "interrupted": (publish, "create_tag", interrupted, 130),
}


@pytest.mark.parametrize("kind", STOPS)
def test_stopped_between_commit_and_tag(
    release: Cli, view: Any, slo_checkpoint: Write, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = slo_checkpoint(**SMALL)
    module, name, stop, code = STOPS[kind]
    with monkeypatch.context() as patch:
        patch.setattr(module, name, stop)
        outcome = release(path)
    assert outcome.code == code
    assert "Released" not in outcome.out
    before = view()[REPO]
    assert before.tags == {} and len(before.commits["main"]) == 2
    (result,) = release(path, "--json").json
    assert (result["released"], result["version"]) == (True, "1.0.0")
    after = view()[REPO]
    assert after.commits == before.commits
    assert after.tags == {"v1.0.0": before.commits["main"][0]} == {"v1.0.0": result["commit"]}


def test_tag_of_somebody_else_is_a_conflict(
    release: Cli, view: Any, hub_client: Any, slo_checkpoint: Write, tmp_path: Path
) -> None:
    with hub_client(tmp_path / "hub") as api:
        api.create_repo(REPO)
        api.create_tag(REPO, tag="v1.0.0")
    before = view()
    outcome = release(slo_checkpoint(**SMALL), "--tag", "v1.0.0")
    assert outcome.code == 7
    assert f"{REPO}: tag v1.0.0 exists already" in outcome.err
    assert "--tag" in outcome.err
    assert view() == before


def test_other_checkpoint_under_the_same_tag_is_a_conflict(
    release: Cli, view: Any, slo_checkpoint: Write
) -> None:
    assert release(slo_checkpoint(**SMALL), "--tag", "best").code == 0
    before = view()
    assert release(slo_checkpoint(**SMALL, seed=1), "--tag", "best").code == 7
    assert view() == before


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=T", "-c", "user.email=t@example.org"]
    surroundings = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    result = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, check=True, env=surroundings
    )
    return result.stdout.strip()


@pytest.fixture
def committed(slo_checkpoint: Write, tmp_path: Path) -> Path:
    """A checkpoint that lies on the branch ``runs/one`` of a git repository."""
    folder = tmp_path / "training"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=runs/one")
    path = folder / "ckpt.pt"
    path.write_bytes(slo_checkpoint(**SMALL).read_bytes())
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "Trained")
    return path


def test_commit_and_branch_are_published(
    release: Cli, released_file: Callable[..., bytes], committed: Path
) -> None:
    commit = git(committed.parent, "rev-parse", "HEAD")
    (result,) = release(committed, "--tag", "{branch}-step{step}", "--json").json
    assert result["tag"] == "runs/one-step250"
    record = json.loads(released_file("release.json", result["tag"]))
    assert record["source"] == {
        "commit": commit,
        "branch": "runs/one",
        "remote": None,
        "tracked": True,
        "dirty": False,
        "url": None,
        "etag": None,
        "run": None,
    }
    card = released_file("README.md", result["tag"]).decode()
    assert commit[:7] in card and "runs/one" in card
    assert 'revision="runs/one-step250"' in card
    assert str(committed.parent) not in json.dumps(record) + card


TEMPLATES = {
    "{nope}": "{nope}",
    "{branch}-x": "{branch}",  # outside of a repository
    "v{version": "not a template",
    "{}": "not a template",
    "{step.real}": "not a template",
    "{step:>9}": "not a template",
    "..": "git and the Hub take",
    "{version}.lock": "git and the Hub take",
    "/v{version}": "git and the Hub take",
    "": "git and the Hub take",
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_template_that_gives_no_tag(
    release: Cli, view: Any, slo_checkpoint: Write, template: str
) -> None:
    outcome = release(slo_checkpoint(**SMALL), "--tag", template)
    assert outcome.code == 2, outcome.err
    assert TEMPLATES[template] in outcome.err
    assert view() == {}


def test_stale_shards_go_and_files_of_others_stay(
    release: Cli, view: Any, hub_client: Any, slo_checkpoint: Write, tmp_path: Path
) -> None:
    path = slo_checkpoint(**SMALL)
    assert release(path, "--max-shard-size", "4kB").code == 0
    sharded = view()[REPO].files
    shards = {name for name in sharded if name.startswith("model-")}
    assert len(shards) > 1 and "model.safetensors.index.json" in sharded
    with hub_client(tmp_path / "hub") as api:
        api.upload_file(
            path_or_fileobj=b"{}", path_in_repo="notebook.ipynb", repo_id=REPO, token=False
        )
    commits = view()[REPO].commits["main"]
    outcome = release(path)
    assert outcome.code == 0, outcome.err
    repo = view()[REPO]
    assert repo.files >= {"notebook.ipynb", "model.safetensors"}
    assert not repo.files & (shards | {"model.safetensors.index.json"})
    assert repo.commits["main"][1:] == commits


def test_another_branch(release: Cli, view: Any, slo_checkpoint: Write) -> None:
    assert release(slo_checkpoint(**SMALL), "--max-shard-size", "4kB").code == 0
    main = view()[REPO]
    outcome = release(slo_checkpoint(**SMALL, seed=1), "--revision", "nightly", "--json")
    assert outcome.code == 0, outcome.err
    repo = view()[REPO]
    assert repo.commits["main"] == main.commits["main"]
    assert repo.commits["nightly"][1:] == main.commits["main"]
    assert outcome.json[0]["version"] == "1.0.1"
    assert repo.tags == main.tags | {"v1.0.1": repo.commits["nightly"][0]}


def test_output_keeps_the_artefact(
    release: Cli, cli: Cli, slo_checkpoint: Write, tmp_path: Path
) -> None:
    path = slo_checkpoint(**SMALL)
    assert release(path, "--output", tmp_path / "kept").code == 0
    assert cli("verify", path, tmp_path / "kept").code == 0
    # What was kept can be pushed elsewhere, and here it is nothing new.
    outcome = cli("push", tmp_path / "kept", "--repo-id", REPO, "--hub", tmp_path / "hub")
    assert outcome.code == 0 and "Nothing new" in outcome.out


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_failure_keeps_the_releases_before_it(
    release: Cli, view: Any, slo_checkpoint: Write, tmp_path: Path, options: tuple[str, ...]
) -> None:
    (tmp_path / "broken.pt").write_bytes(b"")
    outcome = release(slo_checkpoint(**SMALL), tmp_path / "broken.pt", *options)
    assert outcome.code == 3
    if options:
        assert [result["tag"] for result in outcome.json] == ["v1.0.0", None]
        assert outcome.json[1]["exit_code"] == 3 and "is empty" in outcome.json[1]["error"]
    else:
        assert f"Released {REPO} 1.0.0" in outcome.out
    assert set(view()[REPO].tags) == {"v1.0.0"}
