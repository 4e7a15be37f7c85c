"""The smoke test: what was published is loaded by its tag, or said not to be."""

from __future__ import annotations

import hashlib
import json
import math
import queue
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from slogpt_hf import smoke, smoke_child
from slogpt_hf.batch import worker
from slogpt_hf.batch.choosing import Chosen
from slogpt_hf.batch.running import Batch
from slogpt_hf.cli import run
from slogpt_hf.hub.embedded import serve
from slogpt_hf.hub.releases import Release
from slogpt_hf.progress import SILENT
from slogpt_hf.settings import Settings
from slogpt_hf.smoke import SmokeError
from slogpt_hf.verification.results import OK, Check

REPO, TAG = "me/model", "v1.0.0"
RELEASE = f"{REPO}@{TAG}"
NO_CALL = "load_release was called"
LOADED = Check("load", OK, "it loads")
Cli = Callable[..., Any]
Golden = Callable[[str], Path]
Files = Mapping[str, bytes | None]  # path to its new content; None deletes it


@pytest.fixture(autouse=True)
def _with_smoke_test(monkeypatch: pytest.MonkeyPatch, _clean_surroundings: None) -> None:
    monkeypatch.delenv("SLOGPT_SMOKE")


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    return tmp_path / "hub"


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory, golden: Golden, cli: Cli) -> Path:
    """A proven artefact of the smallest kind, which nothing changes."""
    folder = tmp_path_factory.mktemp("artefact") / "model"
    outcome = cli("convert-model", "-", golden("slo-classic") / "ckpt.pt", folder, "-q")
    assert outcome.code == 0, outcome.err
    return folder


@pytest.fixture
def changed(artefact: Path, tmp_path: Path) -> Callable[[str, bytes], Path]:
    """A copy of it with another file, of which its record says that it was proven."""

    def change(name: str, content: bytes) -> Path:
        folder = Path(shutil.copytree(artefact, tmp_path / "changed"))
        (folder / name).write_bytes(content)
        record = json.loads((folder / "release.json").read_text())
        record["files"][name] = hashlib.sha256(content).hexdigest()
        (folder / "release.json").write_text(json.dumps(record))
        return folder

    return change


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Loading always succeeds at once; the tags of what was loaded."""
    loaded: list[str] = []

    def load(hub: Any, repo_id: str, tag: str, *rest: Any, **more: Any) -> Check:
        loaded.append(f"{repo_id}@{tag}")
        return LOADED

    monkeypatch.setattr(smoke, "load_release", load)
    return loaded


def tamper(hub: Any, files: Files) -> None:
    """Commit other files by the plain client and move the tag to that commit."""
    operations = [
        CommitOperationDelete(path)
        if content is None
        else CommitOperationAdd(path_in_repo=path, path_or_fileobj=content)
        for path, content in files.items()
    ]
    commit = hub.api.create_commit(REPO, operations, commit_message="Nothing to see").oid
    hub.api.delete_tag(REPO, tag=TAG)
    hub.api.create_tag(REPO, tag=TAG, revision=commit)


def tagged(hub: Path, hub_view: Callable[[Path], Any]) -> bool:
    return TAG in hub_view(hub)[REPO].tags


def test_a_release_is_loaded_and_continues_a_text(golden: Golden, hub: Path, cli: Cli) -> None:
    """With the modeling file that ships."""
    checkpoint = golden("slo-learned-rmsnorm-swiglu") / "ckpt.pt"
    outcome = cli("release", checkpoint, "--repo-id", REPO, "--hub", hub)
    assert outcome.code == 0, outcome.err
    (line,) = (each for each in outcome.out.splitlines() if each.startswith("  load "))
    assert "SloGPTForCausalLM, transformers " in line and "'The ' goes on '" in line
    assert line.removeprefix("  load    ") in outcome.err  # while it works, too
    assert "trust_remote_code=True" in outcome.out


def test_a_private_model_without_tokenizer_is_loaded_over_a_socket(
    slo_checkpoint: Callable[..., Path],
    hub: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serve(hub, token="hf_theTokenOfThisTest") as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        monkeypatch.setenv("HF_TOKEN", "hf_theTokenOfThisTest")
        options = ("--repo-id", REPO, "--private", "--tokenizer", "none", "--json", "-q")
        outcome = cli("release", slo_checkpoint(n_layer=1), *options)
        assert outcome.code == 0, outcome.err
        with pytest.raises(Exception, match=r"401|404"):
            HfApi(endpoint=running.endpoint, token=False).model_info(REPO)
    (release,) = outcome.json
    assert release["smoke"]["status"] == "ok"
    assert ": id 0 goes on with " in release["smoke"]["detail"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.safetensors", b"\0" * 4096, "the hub serves another model.safetensors than"),
        ("config.json", None, "config.json is missing"),
    ],
)
def test_what_the_hub_serves_otherwise_is_said(
    name: str,
    content: bytes | None,
    words: str,
    artefact: Path,
    hub: Path,
    cli: Cli,
    hub_view: Callable[[Path], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commit_of_tag = smoke.commit_of_tag

    def meanwhile(hub: Any, *arguments: Any) -> str:
        tamper(hub, {name: content})
        return commit_of_tag(hub, *arguments)

    monkeypatch.setattr(smoke, "commit_of_tag", meanwhile)
    outcome = cli("push", artefact, "--repo-id", REPO, "--hub", hub)
    assert outcome.code == 4 and tagged(hub, hub_view)
    assert f"Released {REPO} 1.0.0" in outcome.out and "  load    FAILED: " in outcome.out
    assert "Load it" not in outcome.out
    assert f"error: {RELEASE} IS PUBLISHED, BUT DOES NOT LOAD: " in outcome.err
    assert words in outcome.err
    assert f"slogpt-hf verify-release {RELEASE} --load --debug --hub {hub}" in outcome.err
    assert f"slogpt-hf rollback {REPO} VERSION" in outcome.err


def test_a_tag_that_is_gone_is_said(
    artefact: Path, hub: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_of_tag = smoke.commit_of_tag

    def meanwhile(hub: Any, *arguments: Any) -> str:
        hub.api.delete_tag(REPO, tag=TAG)
        return commit_of_tag(hub, *arguments)

    monkeypatch.setattr(smoke, "commit_of_tag", meanwhile)
    outcome = cli("push", artefact, "--repo-id", REPO, "--hub", hub, "--json")
    assert outcome.code == 4 and "has no tag v1.0.0" in outcome.err
    assert outcome.json["released"] and outcome.json["smoke"]["status"] == "FAILED"


def test_an_interruption_leaves_what_is_published_and_says_so(
    artefact: Path, hub: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(smoke, "load_release", interrupted)
    outcome = cli("push", artefact, "--repo-id", REPO, "--hub", hub)
    assert outcome.code == 130
    assert f"load: interrupted; {RELEASE} is published and stays" in outcome.err
    assert cli("releases", REPO, "--hub", hub, "--json").json[0]["tag"] == TAG


def test_a_model_that_transformers_does_not_know_is_said_with_its_trace(
    changed: Callable[[str, bytes], Path],
    artefact: Path,
    hub: Path,
    cli: Cli,
    hub_view: Callable[[Path], Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = json.loads((artefact / "config.json").read_text())
    config["architectures"], config["model_type"] = ["OddForCausalLM"], "odd\x1b[31m"
    folder = changed("config.json", json.dumps(config).encode())
    assert cli("push", folder, "--repo-id", REPO, "--hub", hub, "--no-smoke").code == 0
    capsys.readouterr()
    code = run(["verify-release", RELEASE, "--hub", str(hub), "--load", "--debug"])
    out, err = capsys.readouterr()
    assert code == 4 and tagged(hub, hub_view)
    assert "load       FAILED" in out and "in a clean process: ValueError: " in out
    assert f"error: {RELEASE} is not what was proven: load failed." in err
    assert "smoke_child.py" in err and "AutoModelForCausalLM.from_pretrained" in err
    assert "\x1b" not in out + err
    again = cli("push", folder, "--repo-id", REPO, "--hub", hub)
    assert again.code == 0 and "Nothing new" in again.out and "load  " not in again.out


@pytest.mark.parametrize(
    ("change", "words"),
    [({"n_layer": 4}, "missing tensors: "), ({"n_layer": 1}, "unexpected tensors: ")],
)
def test_weights_that_are_not_the_models_are_not_filled_at_random(
    change: dict[str, int], words: str, changed: Callable[[str, bytes], Path], artefact: Path
) -> None:
    config = json.loads((artefact / "config.json").read_text()) | change
    folder = changed("config.json", json.dumps(config).encode())
    with pytest.raises(ValueError, match=words):
        smoke_child.loaded(str(folder), {}, False)


def test_a_model_that_generates_nothing_sensible_is_said(artefact: Path) -> None:
    tokenizer, model = smoke_child.loaded(str(artefact), {}, True)
    with torch.no_grad():
        answer = smoke_child.continued(model, tokenizer)
        assert answer["text"] == "The " and tokenizer.decode(answer["new"]) == answer["more"]
        assert smoke_child.continued(model, tokenizer) == answer
        model.transformer.ln_f.bias[0] = math.nan
        with pytest.raises(ValueError, match="no finite numbers"):
            smoke_child.continued(model, tokenizer)


@pytest.mark.parametrize("characters", ["The quick", "\nab", "xyz"])
def test_the_text_is_of_the_models_own_vocabulary(characters: str) -> None:
    tokenizer = SimpleNamespace(all_special_ids=[0])
    entries = ["<pad>", *dict.fromkeys(characters)]
    tokenizer.decode = lambda ids: "".join(entries[each] for each in ids)
    found = [t for t in smoke_child.texts(tokenizer, len(entries)) if set(t) <= set(entries)]
    assert found[0] == {"T": "The ", "\n": "\n", "x": "x"}[characters[0]]


def test_one_that_takes_too_long_is_said(
    artefact: Path, hub: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoke, "SECONDS", 0.01)
    outcome = cli("push", artefact, "--repo-id", REPO, "--hub", hub)
    assert outcome.code == 4 and "did not end within 0 minutes" in outcome.err


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os; os.kill(os.getpid(), 9)", "was ended by signal 9, as where memory runs out"),
        ("print('nothing')", "gave no answer"),
        (
            "import pathlib, sys; pathlib.Path(sys.argv[1], 'answer.json').write_text('[1]')",
            "gave no answer",
        ),
        ("raise ValueError('hf_abcdefghijklmnopqrstuvwxyz \\x1b[31m')", "ValueError: "),
    ],
)
def test_whatever_becomes_of_the_process_is_one_message(
    code: str, words: str, artefact: Path, hub: Path, cli: Cli, monkeypatch: Any, tmp_path: Path
) -> None:
    child = tmp_path / "child.py"
    child.write_text(code)
    monkeypatch.setattr(smoke, "CHILD", child)
    outcome = cli("push", artefact, "--repo-id", REPO, "--hub", hub, "-q")
    assert outcome.code == 4 and words in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert "abcdefghijklmnop" not in outcome.text and "\x1b" not in outcome.text


def test_the_process_that_loads_has_no_token(
    artefact: Path,
    hub: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    child = tmp_path / "child.py"
    child.write_text(
        "import json, os, pathlib, sys\n"
        "text = ' '.join(f'{n}={v}' for n, v in sorted(os.environ.items()))\n"
        "answer = {'class': 'C', 'transformers': '5', 'text': 'a', 'more': text}\n"
        "pathlib.Path(sys.argv[1], 'answer.json').write_text(json.dumps(answer))\n"
    )
    monkeypatch.setattr(smoke, "CHILD", child)
    monkeypatch.setattr(smoke, "MOST_SHOWN", 10_000)
    monkeypatch.setenv("HF_TOKEN", "hf_theTokenOfThisTest")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "theKeyOfThisTest")
    outcome = cli("push", artefact, "--repo-id", REPO, "--hub", hub, "--json")
    assert outcome.code == 0, outcome.err
    seen = outcome.json["smoke"]["detail"]
    assert "HF_HUB_OFFLINE=1" in seen and "HF_HOME=" in seen
    assert "OfThisTest" not in seen and "TOKEN=hf" not in seen and "SLOGPT" not in seen


def test_what_cannot_be_loaded_here_is_not_a_failure(
    artefact: Path, hub: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoke, "available", lambda: 1)
    outcome = cli("push", artefact, "--repo-id", REPO, "--hub", hub)
    assert outcome.code == 0
    assert "load    not checked: not loaded: takes " in outcome.out
    assert " of memory, and 1 B are free" in outcome.out
    monkeypatch.setattr(smoke, "missing", lambda names: ("torch",))
    outcome = cli("push", artefact, "--repo-id", "me/other", "--hub", hub)
    assert outcome.code == 0
    assert "load    not checked: not loaded: needs torch" in outcome.out


def test_no_smoke_and_nothing_new_load_nothing(
    artefact: Path, hub: Path, cli: Cli, stubbed: list[str]
) -> None:
    push = ("push", artefact, "--hub", hub, "--repo-id")
    for options in (("me/a", "--no-smoke"), ("me/a",), ("me/b",), ("me/b",)):
        assert cli(*push, *options).code == 0
    assert stubbed == ["me/b@v1.0.0"]


def test_of_several_one_that_does_not_load_is_published_and_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = {"parity": {}}
    release = Release(True, REPO, "1.0.0", TAG, "c" * 40, "main", "http://hub", record)

    def publish(*rest: Any) -> Any:
        raise SmokeError("it does not load", release, hint="Look.")

    monkeypatch.setitem(worker.TASKS, "publish", publish)
    sent: list[dict[str, Any]] = []
    request = {"do": "publish", "arguments": {}, "settings": asdict(Settings())}
    worker._do(request, queue.Queue(), sent.append, threading.Event())
    batch = Batch([Chosen(Path("a.pt"), "a")], Settings(), 1, None, SILENT)
    outcome = batch._ended(0, json.loads(json.dumps(sent[-1])))
    assert outcome is not None and (outcome.exit_code, outcome.output) == (4, RELEASE)
    told = outcome.to_dict(["tag", "branch", "record"])
    assert (told["tag"], told["exit_code"], told["error"]) == (TAG, 4, "it does not load Look.")


def test_code_that_was_never_shipped_is_not_run(
    golden: Golden, hub: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = golden("slo-learned-rmsnorm-swiglu") / "ckpt.pt"
    monkeypatch.setattr(smoke, "SHIPPED", {})
    monkeypatch.setattr(smoke, "CHILD", Path("/nowhere"))
    outcome = cli("release", checkpoint, "--repo-id", REPO, "--hub", hub)
    assert outcome.code == 0
    assert "not loaded: modeling_slogpt.py is none that this version" in outcome.out


def test_verify_release_loads_only_what_is_well(
    artefact: Path, hub: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("push", artefact, "--repo-id", REPO, "--hub", hub, "--no-smoke").code == 0
    verify = ("verify-release", RELEASE, "--hub", hub)
    outcome = cli(*verify, "--load", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["checks"][-1]["name"] == "load"
    assert outcome.json["checks"][-1]["status"] == "ok"
    assert "load" not in cli(*verify).out.split()
    with serve(hub) as running:
        api = HfApi(endpoint=running.endpoint, token="any")
        tamper(SimpleNamespace(api=api), {"config.json": b"{}"})
    monkeypatch.setattr(smoke, "load_release", lambda *a, **b: pytest.fail(NO_CALL))
    outcome = cli(*verify, "--load")
    assert outcome.code == 4 and "what failed is not loaded" in outcome.out
    monkeypatch.setattr("slogpt_hf.libraries.find_spec", lambda name: None)
    outcome = cli(*verify, "--load")
    assert outcome.code == 2 and "--load takes torch, transformers" in outcome.err


def test_what_is_shown_is_one_line_without_commands() -> None:
    answer = {"class": "A\nB", "transformers": "5\x1b[31m", "text": "\u202e", "more": "x" * 100}
    line = smoke._words(answer)
    assert line.isprintable() and len(line) < 200
    assert line.endswith("…'")
