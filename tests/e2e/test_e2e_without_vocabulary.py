"""A model whose ids stand for no text: converted, proven and released alone."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FILES = {"config.json", "generation_config.json", "model.safetensors"}
PROOF = {"parity.json", "parity.png", "parity-dark.png", "release.json", "README.md"}


@pytest.fixture(scope="module")
def released(
    slo_checkpoint: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
    cli: Callable[..., Any],
) -> tuple[Path, Path, Path, Any]:
    """Checkpoint, dataset of ids alone, hub, and what the release printed."""
    root = tmp_path_factory.mktemp("proteins")
    checkpoint, hub, data = slo_checkpoint(n_layer=1), root / "hub", root / "data"
    data.mkdir()
    np.arange(64, dtype="<u2").__mod__(37).astype("<u2").tofile(data / "val.bin")
    release = ("release", checkpoint, "--repo-id", "me/proteins", "--hub", hub)
    return checkpoint, data, hub, cli(*release, "--tokenizer", "none", "--dataset", data)


def test_release_holds_the_model_alone(released: Any, snapshot: Callable[..., Path]) -> None:
    _, _, hub, outcome = released
    assert outcome.code == 0, outcome.err
    assert "AutoModelForCausalLM.from_pretrained" in outcome.out
    assert "AutoTokenizer" not in outcome.out
    folder = snapshot(hub, "me/proteins")
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert names - {".gitattributes"} == FILES | PROOF
    record = json.loads((folder / "release.json").read_text())
    assert record["tokenizer"] == {"kind": "none", "sha256": None}
    assert record["model"]["tokenizer_sha256"] is None
    report = json.loads((folder / "parity.json").read_text())
    assert not [b for b in report["behaviours"] if "tokenizer" in b["name"]]
    # The dataset's ids ran through both models.
    assert "real text" in {batch["name"] for batch in report["comparisons"]}


def test_card_says_so_and_its_snippet_runs(released: Any, snapshot: Callable[..., Path]) -> None:
    folder = snapshot(released[2], "me/proteins")
    card = (folder / "README.md").read_text()
    assert "The model was released alone" in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    code = code.replace('"me/proteins", revision="v1.0.0"', repr(str(folder)))
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {})
    ids = json.loads(out.getvalue())
    assert ids[0] == 0 and len(ids) > 1 and all(0 <= i < 37 for i in ids)


def test_it_is_verified_diffed_and_known(
    released: Any, snapshot: Callable[..., Path], cli: Callable[..., Any], characters: Path
) -> None:
    checkpoint, _, hub, _ = released
    folder = snapshot(hub, "me/proteins")
    assert cli("verify-release", "me/proteins@v1.0.0", "--hub", hub).code == 0
    assert cli("verify", checkpoint, folder, "--tokenizer", "none").code == 0
    again = cli("release", checkpoint, "--repo-id", "me/proteins", "--hub", hub, *ALONE)
    assert again.code == 0 and "Nothing new" in again.out
    # The same weights with a vocabulary are another release, and another interface.
    args = ("release", checkpoint, "--repo-id", "me/proteins", "--hub", hub)
    named = cli(*args, "--dataset", characters)
    assert named.code == 0 and "Released me/proteins 2.0.0" in named.out
    assert cli("diff", "me/proteins", "v1.0.0", "v2.0.0", "--hub", hub).code == 0


ALONE = ("--tokenizer", "none")


def test_what_contradicts_it_is_refused(
    released: Any, tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, data, _, _ = released
    out = tmp_path / "out"
    refused = cli("convert-model", data, checkpoint, out, *ALONE, "--unknown", "?")
    assert refused.code == 2 and "no character can become '?'" in refused.err
    (tmp_path / "none").mkdir()
    monkeypatch.chdir(tmp_path)
    folder = cli("convert-model", data, checkpoint, out, "--tokenizer", "./none")
    assert folder.code == 3 and "tokenizer cannot be read" in folder.err
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    np.array([1, 37], dtype="<u2").tofile(wrong / "val.bin")
    beyond = cli("convert-model", wrong, checkpoint, out, *ALONE)
    assert beyond.code == 3 and "go up to 37" in beyond.err
    assert not out.exists()


def test_inspect_and_the_message_name_it(released: Any, cli: Callable[..., Any]) -> None:
    checkpoint = released[0]
    assert "no tokenizer, as asked for" in cli("inspect", checkpoint, *ALONE).out
    assert "--tokenizer none" in cli("release", checkpoint, "--repo-id", "me/x").err
