"""Every command line of ``huggingface_integration.py``, and every method of its class."""

from __future__ import annotations

import io
import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants

import slogpt_hf
from slogpt_hf import HuggingFaceManager, Settings
from slogpt_hf.hub.embedded import serve
from slogpt_hf.hub.embedded.wire import Response

SCRIPT = Path(__file__).parents[2] / "examples" / "huggingface_integration.py"
RELEASED, CANONICAL = "me/slo-classic", "openai-community/gpt2"
PARITY = {"verdict", "level", "fp64_error", "fp32_error"}


@pytest.fixture(autouse=True)
def _by_lfs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture(autouse=True)
def _trained(golden: Callable[[str], Path]) -> None:
    """What training with the dataset ``mydata`` left below the current folder."""
    for folder, name in (("datasets/mydata", "meta.pkl"), ("models/mydata", "ckpt.pt")):
        Path(folder).mkdir(parents=True)
        shutil.copy(golden("slo-classic") / name, folder)
    Path("models/mydata/ckpt.pt").rename("models/mydata/model.pt")
    # No val.bin: other ids than the trainer's would not give the loss that it recorded.
    (np.arange(3000, dtype="<u2") % 65).tofile("datasets/mydata/train.bin")


@pytest.fixture
def hub(
    golden_hub: tuple[Path, Any],
    hub_client: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Path]:
    """A hub with the golden releases and CANONICAL, that clients find at HF_ENDPOINT."""

    def canonical(request: Any) -> Response | None:
        """As the Hub moves who asks for a model of no namespace."""
        path = "/".join(request.path)
        if not path.startswith(("api/models/gpt2", "gpt2/")):
            return None
        moved = path.replace("gpt2", CANONICAL, 1)
        query = "&".join(f"{k}={v}" for k, values in request.query.items() for v in values)
        return Response(307, b"", {"Location": f"/{moved}?{query}"})

    folder = Path(shutil.copytree(golden_hub[0], tmp_path / "hub"))
    with hub_client(folder) as client:
        client.create_repo(CANONICAL)
        client.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id=CANONICAL)
    with serve(folder, intercept=canonical) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        yield folder


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[int, str]]:
    """Runs a command line of the script: its words to exit code and output."""

    def run(line: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *line.split()])
        out = io.StringIO()
        with redirect_stdout(out), redirect_stderr(out), pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        assert isinstance(ended.value.code, int)
        return ended.value.code, out.getvalue()

    return run


LINES = {
    "search slo --limit 10": RELEASED,
    "search slo": RELEASED,
    f"download {RELEASED}": "Downloaded me/slo-classic@main to models/me_slo-classic",
    "download gpt2 --local-name my_gpt2": "Downloaded gpt2@main to models/my_gpt2",
    "push mydata models/mydata/model.pt --repo_name my-model": "Released local/my-model 1.0.0",
    "push mydata models/mydata --repo_name my-secret --private": "Released local/my-secret 1.0.0",
    "convert mydata dataset": "dataset: 3,000 ids",
    "convert-model mydata models/mydata/model.pt hf_output": "proven equal to nanoGPT",
    "convert-model mydata models/mydata hf_folder": "proven equal to nanoGPT",
    "push mydata hf_output --repo_name converted": "Released local/converted 1.0.0",
    "list": "my_gpt2",
}


def test_every_command_line(
    script: Callable[[str], tuple[int, str]], hub: Path, cli: Any, hub_client: Any
) -> None:
    for line, words in LINES.items():
        code, text = script(line)
        assert code == 0 and words in text, (line, text)
    for name in ("my-model", "my-secret", "converted"):
        verified = cli("verify-release", f"local/{name}@v1.0.0", "--hub", hub, "-q")
        assert verified.code == 0, verified.out
    with hub_client(hub) as client:
        assert client.model_info("local/my-secret").private
        assert not client.model_info("local/my-model").private


def test_what_fails_has_an_exit_code(script: Callable[[str], tuple[int, str]], hub: Path) -> None:
    """The script of old ended with 0 whatever had happened."""
    for line, expected in {
        "download me/absent": 6,
        "push mydata absent --repo_name my-model": 2,
        "push mydata models/mydata": 2,
        "convert absent dataset": 2,
        "convert-model absent models/mydata/model.pt out": 2,
        "search": 2,
        "upload x": 2,
    }.items():
        code, text = script(line)
        assert code == expected and "rror" in text, (line, text)
    assert not Path("out").exists() and not Path("dataset").exists()


def test_as_a_script() -> None:
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == ""
    for name in ("search", "download", "push", "convert", "convert-model", "list"):
        assert f"\n  {name} " in done.stdout


def test_class_of_the_script_is_ours_and_its_import_is_instant() -> None:
    assert runpy.run_path(str(SCRIPT))["HuggingFaceManager"] is slogpt_hf.HuggingFaceManager
    code = "import sys, slogpt_hf; print(*sys.modules, sep='\\n'); slogpt_hf.HuggingFaceManager()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "slogpt_hf" in done.stdout.split()
    heavy = {"torch", "transformers", "huggingface_hub", "pyarrow", "numpy", "slogpt_hf.manager"}
    assert not heavy & set(done.stdout.split())


def test_methods(hub: Path) -> None:
    manager = HuggingFaceManager()
    assert RELEASED in [model["id"] for model in manager.search_models("slo")]
    assert len(manager.search_models("slo", limit=1)) == 1

    done = manager.download_model(RELEASED, "mine")
    assert set(done) == {"success", "message", "model_dir", "commit", "tag", "parity"}
    assert (done["success"], done["model_dir"], done["tag"]) == (True, "models/mine", "v1.0.0")
    assert set(done["parity"]) == PARITY and done["parity"]["verdict"] == "passed"

    (local,) = manager.list_local_models()
    assert local["model_id"] == RELEASED and local["commit"] == done["commit"]
    assert local["local_name"] == "mine" and local["repo_url"].endswith(f"/{RELEASED}")
    assert local["download_time"].startswith("20")

    done = manager.convert_slogpt_model_to_hf("mydata", "models/mydata", "converted")
    keys = {"success", "message", "output_dir", "config", "vocab_size", "parity"}
    assert set(done) == keys and done["success"] and set(done["parity"]) == PARITY
    assert done["config"] == json.loads(Path("converted/config.json").read_text())
    assert (done["output_dir"], done["vocab_size"]) == ("converted", 65)

    for model, repo in (("models/mydata/model.pt", "me/one"), ("converted", "two")):
        done = manager.push_model_to_hf("mydata", model, repo, private=True)
        keys = {"success", "message", "repo_url", "tag", "commit", "version", "released", "parity"}
        assert set(done) == keys, done
        assert done["repo_url"].endswith(f"/{'me/one' if model != 'converted' else 'local/two'}")
        assert (done["tag"], done["released"], len(done["commit"])) == ("v1.0.0", True, 40)
    assert manager.push_model_to_hf("mydata", "converted", "two")["released"] is False

    done = manager.convert_dataset_for_hf("mydata", "dataset")
    assert set(done) == {"success", "message", "output_dir", "vocab_size", "total_tokens"}
    assert (done["vocab_size"], done["total_tokens"]) == (65, 3000)
    assert Path(done["output_dir"], "README.md").is_file()


def test_embedded_hub_by_settings(golden_hub: tuple[Path, Any]) -> None:
    manager = HuggingFaceManager("elsewhere", Settings(hub=str(golden_hub[0])))
    done = manager.download_model(RELEASED)
    assert done["model_dir"] == "elsewhere/me_slo-classic"
    (local,) = manager.list_local_models()
    assert local["repo_url"] == (golden_hub[0] / f"{RELEASED}.git").as_uri()


def test_models_that_the_script_downloaded() -> None:
    old = {"model_id": "a/b", "local_name": "b", "download_time": "1769850000.25", "repo_url": "u"}
    Path("hf_models/b").mkdir(parents=True)
    Path("hf_models/b/hf_metadata.json").write_text(json.dumps(old))
    (found,) = HuggingFaceManager().list_local_models()
    assert found == old | {"revision": None, "commit": None, "tag": None}
    (found,) = HuggingFaceManager("hf_models").list_local_models()
    assert found["model_id"] == "a/b"
    assert HuggingFaceManager("elsewhere").list_local_models() == []


def test_mistakes_are_told_and_not_raised(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slogpt_hf.hub.attempts.sleep", lambda seconds: None)
    manager = HuggingFaceManager()
    results = {
        "me/absent": manager.download_model("me/absent"),
        "local-name": manager.download_model(RELEASED, "../up"),
        "is no name": manager.download_model("a/b/c"),
        "no such checkpoint": manager.push_model_to_hf("mydata", "absent", "me/x"),
        "NAMESPACE/NAME": manager.push_model_to_hf("mydata", "models/mydata", "a b"),
        "no meta.pkl": manager.convert_slogpt_model_to_hf("no", "models/mydata/model.pt", "out"),
        "exists already": manager.convert_slogpt_model_to_hf("mydata", "models/mydata", "models"),
        "absent": manager.convert_dataset_for_hf("absent", "out"),
        "model_id is None": manager.download_model(None),  # type: ignore[arg-type]
        "output_path is 'o": manager.convert_dataset_for_hf("mydata", "o\0"),
        "dataset_name is None": manager.convert_dataset_for_hf(None, "o"),  # type: ignore[arg-type]
        "model_path is 'a": manager.convert_slogpt_model_to_hf("mydata", "a\0", "out"),
        "repo_name is 5": manager.push_model_to_hf("mydata", "a", 5),  # type: ignore[arg-type]
    }
    for words, result in results.items():
        assert set(result) == {"success", "error"} and result["success"] is False
        assert words in result["error"], result
    with pytest.warns(UserWarning, match="limit"):
        assert manager.search_models("slo", 0) == []
    with pytest.warns(UserWarning, match="limit is '5', not a number"):
        assert manager.search_models("slo", "5") == []  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="no text of Unicode"):
        assert manager.search_models("\udcff") == []
    Path(".slogpt-hf.yml").write_text("unknown-key: 1")
    assert "unknown key" in manager.download_model(RELEASED)["error"]


def test_artefact_of_another_vocabulary(write_meta: Any, hub: Path) -> None:
    manager = HuggingFaceManager()
    assert manager.convert_slogpt_model_to_hf("mydata", "models/mydata", "converted")["success"]
    write_meta(Path("datasets/other"), "abc!")
    result = manager.push_model_to_hf("other", "converted", "me/x")
    assert "not converted with the vocabulary of datasets/other" in result["error"]
    assert manager.push_model_to_hf("-", "converted", "me/x")["success"]
