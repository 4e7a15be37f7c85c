"""From a checkpoint to a proven folder, and what happens where the proof fails."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from slogpt_hf.conversion.operations import PairsToHalves

Cli = Callable[..., Any]
Write = Callable[..., Path]
SMALL = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 12}


def not_permuted(self: PairsToHalves, tensor: Tensor) -> Tensor:
    return tensor


@pytest.fixture
def artefact(cli: Cli, golden: Callable[[str], Path], tmp_path: Path) -> Path:
    """What ``convert-model`` makes of the golden rotary checkpoint."""
    folder = golden("slo-modern")
    outcome = cli("convert-model", folder, folder / "ckpt.pt", tmp_path / "artefact", "--quiet")
    assert outcome.code == 0, outcome.err
    return tmp_path / "artefact"


@pytest.mark.parametrize("report", [None, "kept/report.json"])
def test_unequal_model_is_not_published(
    cli: Cli,
    golden: Callable[[str], Path],
    hub_view: Callable[[Path], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    report: str | None,
) -> None:
    monkeypatch.setattr(PairsToHalves, "forward", not_permuted)
    path = golden("slo-modern") / "ckpt.pt"
    hub, output = tmp_path / "hub", tmp_path / "artefact"
    options = ("--report", report) if report else ()
    outcome = cli(
        "release", path, "--repo-id", "me/model", "--hub", hub, "--output", output, *options
    )
    assert outcome.code == 4
    message = outcome.err.splitlines()[-1]
    assert message.startswith(f"error: {path}: the converted model is NOT equal")
    assert "first leaves it at layer 0" in message
    assert (report or "parity.json") in message
    assert outcome.out == ""
    assert hub_view(hub) == {}
    assert {p.name for p in tmp_path.iterdir()} == {"hub", "here"}
    assert [str(p) for p in Path().rglob("*.json")] == [report or "parity.json"]
    kept = json.loads(Path(report or "parity.json").read_text())
    assert kept["passed"] is False and kept["first_divergence"] == "layer 0, attention"
    assert kept["fp64_error"] > kept["fp64_bound"]


def test_a_report_that_cannot_be_kept_does_not_change_the_verdict(
    cli: Cli,
    golden: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(PairsToHalves, "forward", not_permuted)
    folder = golden("slo-modern")
    blocked = tmp_path / "here" / "file"
    blocked.write_bytes(b"")
    report = blocked / "report.json"
    outcome = cli(
        "convert-model", folder, folder / "ckpt.pt", tmp_path / "artefact", "--report", report
    )
    assert outcome.code == 4
    assert "NOT equal" in outcome.err and "report could not be kept" in outcome.err


def test_unequal_model_is_not_kept(
    cli: Cli,
    golden: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(PairsToHalves, "forward", not_permuted)
    folder = golden("slo-modern")
    outcome = cli("convert-model", folder, folder / "ckpt.pt", tmp_path / "artefact")
    assert outcome.code == 4
    assert {p.name for p in tmp_path.iterdir()} == {"here"}


def test_libraries_do_not_talk_over_the_progress(
    cli: Cli, golden: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    """transformers warns of classes that it does not know; ours ships with the artefact."""
    folder = golden("slo-learned-rmsnorm-swiglu")
    outcome = cli("convert-model", folder, folder / "ckpt.pt", "artefact")
    assert outcome.code == 0, outcome.err
    stages = [line.partition(":")[0].strip() for line in outcome.err.splitlines()]
    assert stages == ["hash", "plan", "convert", "verify", "proof"]
    assert [record.getMessage() for record in caplog.records] == []


def test_verify_an_equal_pair(cli: Cli, golden: Callable[[str], Path], artefact: Path) -> None:
    path = golden("slo-modern") / "ckpt.pt"
    outcome = cli("verify", path, artefact)
    assert outcome.code == 0
    assert "proven equal to" in outcome.out and "NOT equal" not in outcome.out
    assert "full block" in outcome.out
    report = cli("verify", path, artefact, "--json").json
    assert report["passed"] is True and report["failures"] == []
    assert report["fp64_error"] <= report["fp64_bound"] == 1e-10


def test_verify_an_unequal_pair(
    cli: Cli, golden: Callable[[str], Path], artefact: Path, tmp_path: Path
) -> None:
    path = golden("slo-modern") / "ckpt.pt"
    config = json.loads((artefact / "config.json").read_text())
    assert config["rms_norm_eps"] == 1e-6
    (artefact / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
    outcome = cli("verify", path, artefact)
    assert outcome.code == 4
    assert (
        f"{artefact} is not equal to {path}: it first leaves it at layer 0, norm 1" in outcome.err
    )
    outcome = cli("verify", path, artefact, "--json")
    assert outcome.code == 4
    assert outcome.json["passed"] is False and outcome.json["first_divergence"] == "layer 0, norm 1"


def test_verify_what_is_no_artefact(
    cli: Cli, golden: Callable[[str], Path], tmp_path: Path
) -> None:
    path = golden("slo-modern") / "ckpt.pt"
    assert cli("verify", path, tmp_path / "nowhere").code == 2
    assert cli("verify", tmp_path / "nowhere.pt", tmp_path).code == 2


def test_verify_what_somebody_else_converted(
    cli: Cli, golden: Callable[[str], Path], artefact: Path, tmp_path: Path
) -> None:
    """Loaded and saved by transformers alone, without a record of ours."""
    from transformers import AutoModelForCausalLM

    theirs = tmp_path / "theirs"
    AutoModelForCausalLM.from_pretrained(artefact).save_pretrained(theirs)
    assert cli("verify", golden("slo-modern") / "ckpt.pt", theirs).code == 0
    assert cli("verify", golden("slo-classic") / "ckpt.pt", theirs).code != 0


def test_convert_card_push(
    cli: Cli,
    artefact: Path,
    hub_view: Callable[[Path], Any],
    hub_file: Callable[..., bytes],
    tmp_path: Path,
) -> None:
    hub = tmp_path / "hub"
    record = json.loads((artefact / "release.json").read_text())
    assert (record["repo_id"], record["version"], record["tag"]) == (None, None, None)
    shown = cli("card", artefact, "--license", "mit", "--language", "en")
    assert shown.code == 0
    assert "license: mit" in shown.out
    assert "license: mit" not in (artefact / "README.md").read_text()
    assert cli("card", artefact, "--license", "mit", "--language", "en", "--write").code == 0
    assert (artefact / "README.md").read_text() == shown.out
    outcome = cli("push", artefact, "--repo-id", "me/model", "--hub", hub)
    assert outcome.code == 0, outcome.err
    assert "Released me/model 1.0.0" in outcome.out
    repo = hub_view(hub)["me/model"]
    assert repo.tags == {"v1.0.0": repo.commits["main"][0]}
    card = hub_file(hub, "me/model", "README.md", "v1.0.0").decode()
    assert "license: mit" in card and 'revision="v1.0.0"' in card
    published = json.loads(hub_file(hub, "me/model", "release.json"))
    assert published["license"] == "mit" and published["tag"] == "v1.0.0"
    # The artefact itself stays as it was proven, so that it can be pushed elsewhere.
    assert json.loads((artefact / "release.json").read_text())["tag"] is None
    again = cli("push", artefact, "--repo-id", "me/model", "--hub", hub, "--json")
    assert again.code == 0 and again.json["released"] is False
    assert hub_view(hub)["me/model"] == repo


def test_released_is_what_is_pushed(
    cli: Cli, golden: Callable[[str], Path], artefact: Path, tmp_path: Path
) -> None:
    """Both ways to the hub are one release."""
    hub, path = tmp_path / "hub", golden("slo-modern") / "ckpt.pt"
    assert cli("push", artefact, "--repo-id", "me/model", "--hub", hub).code == 0
    outcome = cli("release", path, "--repo-id", "me/model", "--hub", hub, "--json")
    assert outcome.json[0]["released"] is False


def changed(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text() + "\n")


def flipped(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


CHANGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a changed file": (changed, "config.json"),
    "a flipped bit": (flipped, "model.safetensors"),
    "a missing file": (lambda folder: (folder / "vocab.json").unlink(), "vocab.json"),
    "a new file": (lambda folder: (folder / "evil.py").write_text("1"), "evil.py"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_what_changed_since_the_proof_is_not_pushed(
    cli: Cli, artefact: Path, hub_view: Callable[[Path], Any], tmp_path: Path, kind: str
) -> None:
    change, name = CHANGES[kind]
    change(artefact)
    outcome = cli("push", artefact, "--repo-id", "me/model", "--hub", tmp_path / "hub")
    assert outcome.code == 4
    assert f"{artefact}: {name} changed since the artefact was proven" in outcome.err
    assert hub_view(tmp_path / "hub") == {}


def test_folder_that_was_never_proven(
    cli: Cli, artefact: Path, hub_view: Callable[[Path], Any], tmp_path: Path
) -> None:
    (artefact / "release.json").unlink()
    hub = tmp_path / "hub"
    for folder in (artefact, tmp_path / "nowhere"):
        outcome = cli("push", folder, "--repo-id", "me/model", "--hub", hub)
        assert outcome.code == 2
        assert "release.json" in outcome.err and "convert-model" in outcome.err
    assert cli("card", artefact).code == 2
    assert hub_view(hub) == {}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 99}', "\x00"])
def test_record_that_is_none(cli: Cli, artefact: Path, tmp_path: Path, content: str) -> None:
    (artefact / "release.json").write_text(content)
    outcome = cli("push", artefact, "--repo-id", "me/model", "--hub", tmp_path / "hub")
    assert outcome.code == 3, outcome.err
    assert "release.json" in outcome.err


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("checkpoint", "step", "soon"),
        ("checkpoint", "step", None),
        ("checkpoint", "val_loss", "low"),
        ("checkpoint", "file", "\udcff.pt"),
        ("source", "branch", None),
        ("model", "remote_code", "no"),
        ("parity", "fp64_error", float("nan")),
    ],
)
def test_a_record_that_no_ledger_would_know_is_not_pushed(
    cli: Cli,
    artefact: Path,
    hub_view: Callable[[Path], Any],
    tmp_path: Path,
    section: str,
    field: str,
    value: Any,
) -> None:
    """Published, it would be released anew by every rerun."""
    path = artefact / "release.json"
    record = json.loads(path.read_text())
    record[section][field] = value
    if value is None:
        del record[section][field]
    path.write_text(json.dumps(record))
    outcome = cli("push", artefact, "--repo-id", "me/model", "--hub", tmp_path / "hub")
    assert outcome.code == 3 and f"{path}: is not" in outcome.err
    assert hub_view(tmp_path / "hub") == {}


def test_output_that_exists_is_untouched(
    cli: Cli, golden: Callable[[str], Path], artefact: Path
) -> None:
    before = {path: path.read_bytes() for path in artefact.iterdir()}
    folder = golden("slo-classic")
    outcome = cli("convert-model", folder, folder / "ckpt.pt", artefact)
    assert outcome.code == 2
    assert f"{artefact}: exists already" in outcome.err
    assert {path: path.read_bytes() for path in artefact.iterdir()} == before


@pytest.mark.parametrize("kind", ["name", "folder", "file", "beside", "recorded"])
def test_where_the_vocabulary_comes_from(
    cli: Cli, golden: Callable[[str], Path], slo_checkpoint: Write, characters: Path, kind: str
) -> None:
    here = Path("train")
    here.mkdir()
    shutil.copy(slo_checkpoint(**SMALL), here / "ckpt.pt")
    dataset = here if kind == "beside" else Path("datasets", "characters")
    dataset.mkdir(parents=True, exist_ok=True)
    shutil.copy(characters / "meta.pkl", dataset)
    argument = {"name": "characters", "folder": dataset, "file": dataset / "meta.pkl"}.get(
        kind, "-"
    )
    outcome = cli("convert-model", argument, here / "ckpt.pt", "artefact", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["tokenizer"]["entries"] == 37
    assert outcome.json["files"].keys() >= {"tokenizer.json", "vocab.json"}


def test_no_vocabulary(cli: Cli, slo_checkpoint: Write) -> None:
    outcome = cli("convert-model", "-", slo_checkpoint(**SMALL), "artefact")
    assert outcome.code == 2
    assert "--dataset" in outcome.err and "--tokenizer" in outcome.err
    assert not Path("artefact").exists()


def test_card_template(cli: Cli, artefact: Path) -> None:
    Path("card.md").write_text("---\nlicense: mit\n---\n# Mine: {{ target_class }}\n")
    outcome = cli("card", artefact, "--card-template", "card.md")
    assert outcome.code == 0, outcome.err
    assert "# Mine: LlamaForCausalLM" in outcome.out
    Path("card.md").write_text("{{ nothing }}{% broken")
    outcome = cli("card", artefact, "--card-template", "card.md", "--write")
    assert outcome.code == 2
    assert "card.md" in outcome.err
    assert "Mine" not in (artefact / "README.md").read_text()
