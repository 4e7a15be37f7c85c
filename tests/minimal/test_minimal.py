"""What works, and what is refused, where torch and transformers are not installed."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from slogpt_hf.cli import run
from slogpt_hf.hub.embedded import serve
from slogpt_hf.libraries import PROVING

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "data" / "golden"
MODERN = GOLDEN / "slo-modern"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub with a release, made by the whole install."""
    folder = tmp_path_factory.mktemp("hub") / "hub"
    release = ["release", MODERN / "ckpt.pt", "--repo-id", "me/modern", "--hub", folder]
    assert run([*map(str, release), "--quiet"]) == 0
    return folder


def test_the_list_is_pyprojects_without_what_proves() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    whole = {*project["dependencies"], *project["optional-dependencies"]["datasets"]}
    lines = (ROOT / "requirements-minimal.txt").read_text("utf-8").splitlines()
    minimal = {line for line in lines if not line.startswith("#")}
    rest = {Requirement(line).name for line in whole - minimal}
    assert minimal < whole
    assert rest == {*PROVING.values(), "tokenizers"}


@pytest.mark.parametrize("module", ["torch", "transformers", "tokenizers", "PIL"])
def test_the_environment_has_none_of_it(minimal: Any, module: str) -> None:
    assert f"No module named '{module}'" in minimal.python(f"import {module}").stderr


def test_it_converts_the_same_and_says_that_nothing_is_proven(minimal: Any, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    arguments = ["convert-model", str(MODERN), str(MODERN / "ckpt.pt")]
    assert run([*arguments, str(whole), "--quiet"]) == 0
    made = minimal(*arguments, out, "--json")
    assert made.returncode == 0, made.stderr
    assert "NOT PROVEN, and not to be published: torch, transformers, pillow" in made.stderr
    assert "pip install torch 'transformers>=" in made.stderr
    facts = json.loads(made.stdout)
    assert facts["proven"] is False and facts["missing"] == ["torch", "transformers", "pillow"]
    record = json.loads((whole / "release.json").read_text())
    assert facts["n_parameters"] == record["model"]["n_parameters"]
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    ours, theirs = (json.loads((each / "config.json").read_text()) for each in (out, whole))
    assert ours == {k: v for k, v in theirs.items() if k != "transformers_version"}
    assert not {"release.json", "parity.json", "README.md"} & {p.name for p in out.iterdir()}
    assert "so nothing has shown" in (out / "NOT-PROVEN.txt").read_text()


def test_a_batch_converts_as_well(minimal: Any, tmp_path: Path) -> None:
    """What a process of the batch does; one that is started here would see the whole install."""
    code = (
        "from slogpt_hf.batch.worker import convert\n"
        "from slogpt_hf.progress import SILENT\n"
        "from slogpt_hf.settings import Settings\n"
        "path, dataset, output = sys.argv[1:]\n"
        "arguments = {'path': path, 'output': output}\n"
        "print(convert(arguments, Settings(dataset=dataset), SILENT, lambda need: None))"
    )
    out = tmp_path / "out"
    made = minimal.python(code, MODERN / "ckpt.pt", MODERN, out)
    assert "'status': 'not proven'" in made.stdout, made.stderr
    assert (out / "NOT-PROVEN.txt").exists() and not (out / "release.json").exists()


def test_the_class_of_old_converts_and_tells_mistakes(minimal: Any, tmp_path: Path) -> None:
    code = (
        "import json\n"
        "from slogpt_hf import HuggingFaceManager, Settings\n"
        "data, model, out = sys.argv[1:]\n"
        "manager = HuggingFaceManager(settings=Settings(hub=f'{out}-hub'))\n"
        "print(json.dumps([manager.convert_slogpt_model_to_hf(data, model, out),\n"
        "                  manager.push_model_to_hf(data, model, 'me/x')]))"
    )
    made = minimal.python(code, MODERN, MODERN / "ckpt.pt", tmp_path / "out")
    assert made.returncode == 0, made.stderr
    converted, pushed = json.loads(made.stdout)
    assert converted["success"] and converted["parity"] is None
    assert "NOT PROVEN: torch, transformers" in converted["message"]
    assert pushed["success"] is False and "pip install torch" in pushed["error"]


def test_datasets_go_there_and_back(minimal: Any, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    shutil.copyfile(MODERN / "meta.pkl", data / "meta.pkl")
    (data / "train.bin").write_bytes(bytes([1, 0, 2, 0] * 500))
    (data / "val.bin").write_bytes(bytes([3, 0, 2, 0] * 50))
    made = minimal("convert", data, tmp_path / "there")
    assert made.returncode == 0, made.stderr
    made = minimal("convert", "--back", tmp_path / "there", tmp_path / "back")
    assert made.returncode == 0, made.stderr
    for name in ("train.bin", "val.bin", "meta.pkl"):
        assert (tmp_path / "back" / name).read_bytes() == (data / name).read_bytes()


def test_search_and_download_and_list(minimal: Any, hub: Path) -> None:
    found = minimal("search", "modern", "--hub", hub, "--json")
    assert found.returncode == 0 and "me/modern" in found.stdout, found.stderr
    got = minimal("download", "me/modern", "--hub", hub)
    assert got.returncode == 0 and "parity ok" in got.stdout, got.stderr
    listed = json.loads(minimal("list", "--json").stdout)
    assert [each["origin"] for each in listed] == ["me/modern"]


def test_what_was_not_proven_is_published_by_no_install(
    minimal: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, hub = tmp_path / "out", tmp_path / "hub"
    assert minimal("convert-model", MODERN, MODERN / "ckpt.pt", out).returncode == 0
    push = ["push", str(out), "--repo-id", "me/x", "--hub", str(hub)]
    refused = minimal(*push)
    assert refused.returncode == 2 and "is not a proven artefact" in refused.stderr
    assert run(push) == 2
    assert "is not a proven artefact" in capsys.readouterr().err
    release = ("release", MODERN / "ckpt.pt", "--repo-id", "me/x", "--hub", hub)
    refused = minimal(*release)
    assert refused.returncode == 2
    assert "proving a model takes torch, transformers, pillow" in refused.stderr
    assert not list(hub.glob("**/refs/tags/*"))


def test_what_was_proven_elsewhere_is_published(minimal: Any, tmp_path: Path) -> None:
    out, hub = tmp_path / "out", tmp_path / "hub"
    arguments = ["convert-model", str(MODERN), str(MODERN / "ckpt.pt"), str(out), "--quiet"]
    assert run(arguments) == 0
    assert "Converted by" in minimal("card", out).stdout
    pushed = minimal("push", out, "--repo-id", "me/x", "--hub", hub, "--smoke")
    assert pushed.returncode == 0 and "Released me/x 1.0.0" in pushed.stdout
    assert "load    not checked: not loaded: needs torch, transformers\n" in pushed.stdout
    refused = minimal("verify-release", "me/x@v1.0.0", "--hub", hub, "--load")
    assert refused.returncode == 2 and "--load takes torch, transformers, not" in refused.stderr
    # What changed since it was proven is not.
    (out / "config.json").write_text("{}")
    refused = minimal("push", out, "--repo-id", "me/y", "--hub", hub)
    assert refused.returncode == 4 and "changed since" in refused.stderr


@pytest.mark.parametrize(
    "option", [("--require-witness", "witnessed"), ("--reference", "auto")], ids=" ".join
)
def test_an_option_of_the_proof_is_refused(
    minimal: Any, tmp_path: Path, option: tuple[str, str]
) -> None:
    made = minimal("convert-model", MODERN, MODERN / "ckpt.pt", tmp_path / "out", *option)
    assert made.returncode == 2 and f"{option[0]} asks for a proof" in made.stderr
    assert not (tmp_path / "out").exists()


def test_inspect(minimal: Any) -> None:
    paths = [path for kind in ("pt", "bin", "sou") for path in GOLDEN.glob(f"*/*.{kind}")]
    code = (
        "from slogpt_hf.cli import run\n"
        "given = ['--set', 'n_head=4', '--set', 'block_size=48']\n"
        "for path in sys.argv[1:]:\n"
        "    code = run(['inspect', path, *given * path.endswith('sou')])\n"
        "    assert code == 0, path\n"
    )
    shown = minimal.python(code, *paths)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("target class") == len(paths) > 9


def test_plan_and_releases_and_verify_release(minimal: Any, hub: Path, tmp_path: Path) -> None:
    listed = minimal("releases", "me/modern", "--hub", hub, "--json")
    assert listed.returncode == 0, listed.stderr
    assert "1.0.0" in listed.stdout
    checked = minimal("verify-release", "me/modern@v1.0.0", "--hub", hub)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    shutil.copyfile(MODERN / "ckpt.pt", tmp_path / "ckpt.pt")
    planned = minimal("plan", "--repo-id", "me/modern", "--hub", hub, "--checkpoints", "ckpt.pt")
    assert planned.returncode == 0, planned.stderr
    known = minimal("release", MODERN / "ckpt.pt", "--repo-id", "me/modern", "--hub", hub)
    assert known.returncode == 0 and "Nothing new" in known.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", MODERN / "ckpt.pt", MODERN),
        ("demo", "--steps", "1"),
        ("discover", MODERN / "ckpt.pt"),
        ("inspect", MODERN / "ckpt.pt", "--tokenizer", MODERN),
    ],
    ids=lambda arguments: arguments[0],
)
def test_whatever_needs_more_says_what(minimal: Any, arguments: tuple[Any, ...]) -> None:
    refused = minimal(*arguments)
    assert refused.returncode == 2, refused.stdout
    assert "pip install torch" in refused.stderr and "Traceback" not in refused.stderr


def test_doctor_says_what_this_install_can_do(minimal: Any) -> None:
    shown = minimal("doctor")
    assert shown.returncode == 2 and "converts without a proof" in shown.stdout
    found = {each["name"]: each for each in json.loads(minimal("doctor", "--json").stdout)}
    assert "It cannot prove, nor release. To prove it" in found["this install"]["advice"]
    lacking = {name for name, each in found.items() if each["required"] and not each["ok"]}
    assert lacking == {"torch", "transformers", "tokenizers", "pillow"}


def test_doctor_of_the_whole_install(capsys: pytest.CaptureFixture[str]) -> None:
    run(["doctor"])
    assert "proves and releases" in capsys.readouterr().out


def test_the_public_hub_client_is_the_real_one(minimal: Any, hub: Path, tmp_path: Path) -> None:
    with serve(hub) as running:
        code = (
            "from huggingface_hub import HfApi\n"
            f"print([m.id for m in HfApi({running.endpoint!r}, token=False).list_models()])"
        )
        assert "me/modern" in minimal.python(code).stdout
