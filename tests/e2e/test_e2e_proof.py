"""The proof as users meet it: its witnesses, its pictures, and a gate that is not what it says."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from slogpt_hf.parity import controls, reference
from slogpt_hf.parity.faults import Fault

REPO = "me/model"
PNG = b"\x89PNG\r\n\x1a\n"
SMALL = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 12}
Cli = Callable[..., Any]
Golden = Callable[[str], Path]

MODEL = (Path(__file__).parents[1] / "data" / "reference" / "model.py").read_text()


@pytest.fixture(autouse=True)
def _by_lfs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # read once, at its import


def copied(folder: Path, target: Path) -> Path:
    """A golden checkpoint and its vocabulary, with logits as its trainer would record them."""
    target.mkdir()
    for name in ("ckpt.pt", "meta.pkl"):
        shutil.copy(folder / name, target)
    said = load_file(folder / "golden.safetensors")
    save_file({n: said[n] for n in ("input_ids", "logits")}, target / "parity.safetensors")
    return target / "ckpt.pt"


@pytest.fixture(scope="module")
def released(
    tmp_path_factory: pytest.TempPathFactory, golden: Golden, cli: Cli
) -> tuple[Path, Path, list[Any]]:
    """A hub with a release that every witness speaks for, its checkpoint, what model.py saw."""
    folder = tmp_path_factory.mktemp("proof")
    checkpoint = copied(golden("slo-classic"), folder / "run")
    (folder / "model.py").write_text(MODEL)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.MonkeyPatch.context() as patch:
        (folder / "port").write_text(str(server.getsockname()[1]))
        patch.setenv("HF_TOKEN", "hf_abcdefghijklmnop")
        patch.chdir(folder)
        options = ("--repo-id", REPO, "--hub", folder / "hub", "--reference", "model.py:GPT")
        outcome = cli("release", checkpoint, *options)
    assert outcome.code == 0, outcome.err
    return folder / "hub", checkpoint, json.loads((folder / "seen.json").read_text())


def test_every_witness_is_asked_and_named(released: Any, hub_file: Callable[..., bytes]) -> None:
    hub, _, _ = released
    report = json.loads(hub_file(hub, REPO, "parity.json"))
    assert report["schema"] == 3 and report["verdict"] == "passed" and report["missed"] == []
    witnesses = {each["name"]: each for each in report["witnesses"]}
    assert list(witnesses) == ["model.py:GPT", "recorded logits"]
    assert witnesses["model.py:GPT"]["fp64_error"] <= 1e-10
    assert witnesses["recorded logits"]["fp64_error"] is None
    assert witnesses["recorded logits"]["batch"] == 3
    card = hub_file(hub, REPO, "README.md").decode()
    assert "- `model.py:GPT`, the model class of the training repository" in card
    assert "- `recorded logits`, which training left beside the checkpoint" in card
    assert f"{report['caught']} of {report['caught']} were caught" in card and report["caught"] > 9
    record = json.loads(hub_file(hub, REPO, "release.json"))
    assert record["parity"]["caught"] == report["caught"]
    assert record["parity"]["shaken_error"] == report["shaken_error"] <= 1e-10
    # What the training repository's code says stays there.
    assert "can_connect" not in json.dumps([report, record, card])
    assert "model.py" not in record["files"]


def test_the_reference_has_no_credentials_and_no_network(released: Any) -> None:
    environment, connected, parent = released[2]
    assert not [name for name in environment if "TOKEN" in name or name.startswith("SLOGPT_")]
    assert environment["HOME"] != os.environ.get("HOME")
    alone = (
        "import socket; from slogpt_hf.shielded import leave_the_network\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "leave_the_network()\n"
        "socket.create_connection(server.getsockname(), 5)"
    )
    can_leave = subprocess.run([sys.executable, "-c", alone], capture_output=True).returncode != 0
    assert connected is not can_leave
    if can_leave:
        assert "hf_abcdefghijklmnop" not in parent


def test_the_pictures_are_in_the_release(released: Any, hub_file: Callable[..., bytes]) -> None:
    hub, _, _ = released
    light, dark = (hub_file(hub, REPO, name) for name in ("parity.png", "parity-dark.png"))
    assert light.startswith(PNG) and dark.startswith(PNG) and light != dark
    record = json.loads(hub_file(hub, REPO, "release.json"))
    assert {"parity.png", "parity-dark.png"} <= record["files"].keys()
    card = hub_file(hub, REPO, "README.md").decode()
    assert '<source media="(prefers-color-scheme: dark)" srcset="parity-dark.png">' in card
    assert '<img src="parity.png"' in card


def test_neither_witness_makes_another_release(released: Any, cli: Cli) -> None:
    hub, checkpoint, _ = released
    options = ("--repo-id", REPO, "--hub", hub, "--json")
    assert cli("release", checkpoint, *options).json[0]["released"] is False
    assert cli("verify-release", f"{REPO}@v1.0.0", "--hub", hub).code == 0


@pytest.mark.parametrize("which", ["name", "tag", "commit"])
def test_a_release_is_verified_on_the_hub(
    released: Any, cli: Cli, hub_view: Callable[..., Any], which: str
) -> None:
    hub, checkpoint, _ = released
    commit = hub_view(hub)[REPO].tags["v1.0.0"]
    artefact = {"name": REPO, "tag": f"{REPO}@v1.0.0", "commit": f"{REPO}@{commit}"}[which]
    outcome = cli("verify", checkpoint, artefact, "--hub", hub, "--picture", "result.png")
    assert outcome.code == 0, outcome.err
    assert commit in outcome.err
    lines = outcome.out.splitlines()
    assert any(line.startswith("planted faults  ") and "caught" in line for line in lines)
    assert any(re.match("recorded logits +agrees", line) for line in lines)
    assert Path("result.png").read_bytes().startswith(PNG)


def test_what_the_hub_does_not_have(released: Any, cli: Cli) -> None:
    hub, checkpoint, _ = released
    for artefact, code in ((f"{REPO}@v9.9.9", 6), ("me/nothing", 6), (f"{REPO}@a..b", 2)):
        outcome = cli("verify", checkpoint, artefact, "--hub", hub)
        assert outcome.code == code, outcome.text
        assert outcome.err.count("error: ") == 1
    outcome = cli("verify", checkpoint, REPO, "--hub", hub, "--picture", "x.jpg")
    assert outcome.code == 2 and "--picture x.jpg" in outcome.err


def test_wrong_recorded_logits_refuse(
    cli: Cli, golden: Golden, tmp_path: Path, hub_view: Callable[..., Any]
) -> None:
    checkpoint = copied(golden("slo-classic"), tmp_path / "run")
    said = load_file(checkpoint.with_name("parity.safetensors"))
    said["logits"][1, 2, 3] += 1e-3
    save_file(said, checkpoint.with_name("parity.safetensors"))
    outcome = cli("release", checkpoint, "--repo-id", REPO, "--hub", tmp_path / "hub")
    assert outcome.code == 4
    message = outcome.err.splitlines()[-1]
    assert "NOT equal to the original; recorded logits: the built-in model" in message
    assert "leaves it at" not in message
    assert hub_view(tmp_path / "hub") == {}
    assert json.loads(Path("parity.json").read_text())["witnesses"][0]["agrees"] is False


def test_recorded_logits_of_another_shape(cli: Cli, golden: Golden, tmp_path: Path) -> None:
    checkpoint = copied(golden("slo-classic"), tmp_path / "run")
    recorded = checkpoint.with_name("ckpt.parity.safetensors")  # counts before the folder's
    save_file({"input_ids": torch.zeros(1, 2, dtype=torch.int64)}, recorded)
    outcome = cli("convert-model", "-", checkpoint, "artefact")
    assert outcome.code == 3 and f"{recorded}: is no recording" in outcome.err
    assert not Path("artefact").exists()


REFERENCES = {
    "model.py:Narrow": (3, "size mismatch"),
    "model.py:Raising": (3, "my own mistake"),
    "model.py:Hanging": (3, "did not end within"),
    "model.py:Nothing": (3, "Nothing"),
    "model.py:OtherModel": (4, "model.py:OtherModel: the built-in model"),
    "other.py:GPT": (2, "no such file"),
    "model.py": (2, "is not FILE.py:CLASS"),
}


@pytest.mark.parametrize("named", REFERENCES)
def test_a_reference_that_cannot_be_asked_is_one_message(
    cli: Cli,
    slo_checkpoint: Callable[..., Path],
    characters: Path,
    monkeypatch: pytest.MonkeyPatch,
    named: str,
) -> None:
    if named == "model.py:Hanging":
        monkeypatch.setattr(reference, "SECONDS", 6.0)
    Path("model.py").write_text(MODEL)
    Path("port").write_text("9")
    checkpoint = slo_checkpoint(**SMALL)
    options = ("--reference", named, "--quiet")
    outcome = cli("convert-model", characters, checkpoint, "artefact", *options)
    code, words = REFERENCES[named]
    assert outcome.code == code, outcome.text
    assert words in outcome.err and len(outcome.err.splitlines()) == 1
    assert not Path("artefact").exists()


def test_a_gate_that_misses_a_fault_is_invalid(
    cli: Cli,
    slo_checkpoint: Callable[..., Path],
    characters: Path,
    tmp_path: Path,
    hub_view: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harmless = Fault("a harmless fault", "block", lambda patient: nullcontext())
    checkpoint = slo_checkpoint(**SMALL)
    assert cli("convert-model", characters, checkpoint, "artefact").code == 0
    monkeypatch.setattr(controls, "FAULTS", (*controls.FAULTS[:3], harmless))
    hub = tmp_path / "hub"
    options = ("--dataset", characters, "--repo-id", REPO, "--hub", hub, "--report", "kept.json")
    outcome = cli("release", checkpoint, *options)
    assert outcome.code == 5
    message = outcome.err.splitlines()[-1]
    assert "the gate is invalid: 1 planted fault would not be caught: a harmless fault." in message
    assert hub_view(hub) == {}
    kept = json.loads(Path("kept.json").read_text())
    assert kept["verdict"] == "invalid" and kept["missed"] == ["a harmless fault"]
    assert kept["passed"] is False and kept["failures"] == []
    outcome = cli("verify", checkpoint, "artefact", "--dataset", characters)
    assert outcome.code == 5 and "NOT caught: a harmless fault" in outcome.out
    assert cli("verify", checkpoint, "artefact", "--dataset", characters, "--json").code == 5


def test_a_tokenizer_that_encodes_otherwise_is_not_equal(
    cli: Cli, golden: Golden, tmp_path: Path
) -> None:
    folder = golden("slo-classic")
    (tmp_path / "data").mkdir()
    shutil.copy(folder / "meta.pkl", tmp_path / "data")
    (tmp_path / "data" / "input.txt").write_text("To be, or not to be.\n" * 3)
    pair = (folder / "ckpt.pt", tmp_path / "artefact", "--dataset", tmp_path / "data")
    assert cli("convert-model", tmp_path / "data", *pair[:2], "--quiet").code == 0
    told = json.loads(cli("verify", *pair, "--json").out)
    (act,) = [each for each in told["behaviours"] if "tokenizer" in each["name"]]
    assert act["passed"] and act["note"] == "all 63 characters of input.txt"
    assert "all 63 characters of input.txt" in (tmp_path / "artefact" / "README.md").read_text()
    file = tmp_path / "artefact" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["normalizer"] = {"type": "Lowercase"}
    file.write_text(json.dumps(content))
    outcome = cli("verify", *pair)
    assert outcome.code == 4
    assert "tokenizer: " in outcome.err.splitlines()[-1]
    assert "tokenizer.json: normalizer is" in outcome.err and "NOT: tokenizer" in outcome.out
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        (tmp_path / "artefact" / name).unlink(missing_ok=True)
    outcome = cli("verify", *pair)  # somebody's artefact may have none
    assert outcome.code == 0 and "tokenizer" not in outcome.out


def test_a_reference_that_is_not_there_is_said_before_the_conversion(
    cli: Cli, slo_checkpoint: Callable[..., Path], characters: Path
) -> None:
    options = ("--reference", "nowhere.py:GPT")
    outcome = cli("convert-model", characters, slo_checkpoint(**SMALL), "artefact", *options)
    assert outcome.code == 2 and "nowhere.py: no such file" in outcome.err
    assert "convert" not in outcome.out and "plan:" not in outcome.err


def test_an_artefact_of_somebody_else_says_what_was_not_run(
    cli: Cli, golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slogpt_hf.parity import gate

    folder = golden("slo-classic")
    assert cli("convert-model", folder, folder / "ckpt.pt", "artefact", "--quiet").code == 0
    monkeypatch.setattr(gate, "route_to", lambda *arguments: None)
    outcome = cli("verify", folder / "ckpt.pt", "artefact")
    assert outcome.code == 0
    assert re.search("shaken weights +not run: how these tensors come", outcome.out)
    assert "planted faults" not in outcome.out
    outcome = cli("convert-model", folder, folder / "ckpt.pt", "another", "--quiet")
    assert outcome.code == 5 and "no fault could be planted" in outcome.err
    assert not Path("another").exists()  # of our own that is a hole in the proof


def test_what_a_trainer_records_is_what_the_proof_reads(
    cli: Cli,
    slo_checkpoint: Callable[..., Path],
    characters: Path,
    tmp_path: Path,
) -> None:
    import importlib.util

    import slogpt_hf

    Path("port").write_text("9")
    (tmp_path / "run").mkdir()
    checkpoint = Path(shutil.copy(slo_checkpoint(**SMALL), tmp_path / "run"))
    path = Path("model.py").absolute()
    path.write_text(MODEL)
    spec = importlib.util.spec_from_file_location("trainers_model", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    with contextlib.ExitStack() as stack:
        sys.modules["trainers_model"] = module
        stack.callback(sys.modules.pop, "trainers_model")
        spec.loader.exec_module(module)
    content = torch.load(checkpoint)
    args = content["model_args"]
    taken = {n: v for n, v in args.items() if n in module.GPTConfig.__dataclass_fields__}
    model = module.GPT(module.GPTConfig(**taken))
    model.load_state_dict(content["model"])
    ids = torch.arange(12).view(1, 12)
    written = slogpt_hf.record_parity(model, checkpoint, ids)
    assert written == tmp_path / "run" / "parity.safetensors" and model.training
    outcome = cli("convert-model", characters, checkpoint, "artefact")
    assert outcome.code == 0, outcome.err
    report = json.loads(Path("artefact", "parity.json").read_text())
    assert [each["name"] for each in report["witnesses"]] == ["recorded logits"]


def test_record_parity_needs_torch_alone() -> None:
    code = (
        "import sys, slogpt_hf; slogpt_hf.record_parity; "
        "print(sorted({n.split('.')[0] for n in sys.modules} & "
        "{'torch', 'transformers', 'safetensors', 'huggingface_hub', 'click', 'numpy'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_in_a_ci_the_reference_is_that_of_the_checkpoints_own_commit(
    cli: Cli, slo_checkpoint: Callable[..., Path], characters: Path, tmp_path: Path
) -> None:
    here, work = Path(), tmp_path / "work"

    def git(*arguments: str) -> None:
        names = ("-c", "user.name=me", "-c", "user.email=me@localhost")
        subprocess.run(["git", *names, *arguments], check=True, capture_output=True)

    git("init", "--quiet")
    shutil.copy(slo_checkpoint(**SMALL), here / "ckpt.pt")
    shutil.copy(characters / "meta.pkl", here)
    (here / "src").mkdir()
    (here / "src" / "model.py").write_text(MODEL)
    settings = f"repo-id: {REPO}\nhub: {tmp_path / 'hub'}\nreference: src/model.py:GPT\n"
    (here / ".slogpt-hf.yml").write_text(settings)
    git("add", ".")
    git("commit", "--quiet", "-m", "Train")
    (here / "src" / "model.py").write_text("raise RuntimeError('of another commit')")
    (here / "src" / "port").write_text("9")
    assert cli("ci", "prepare", work).code == 0
    outcome = cli("ci", "prove", work)
    assert outcome.code == 0, outcome.err
    (report,) = (work / "proof" / "reports").iterdir()
    (witness,) = json.loads(report.read_text())["witnesses"]
    assert witness["name"] == "model.py:GPT" and witness["agrees"]
    (model,) = (work / "checkpoints").rglob("model.py")
    assert model.with_name("seen.json").is_file()
