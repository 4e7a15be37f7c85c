"""A rerun with nothing to do: no torch, for any kind of checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from slogpt_hf.build import hash_checkpoint, identity_of, open_checkpoint, tokenizer_for
from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.checkpoints.containers import distributed
from slogpt_hf.checkpoints.containers import folder as run_folder
from slogpt_hf.checkpoints.dialect import Dialect
from slogpt_hf.checkpoints.reader import CONTAINERS, DIALECTS
from slogpt_hf.progress import SILENT
from slogpt_hf.settings import Settings

DATA = Path(__file__).parents[1] / "data"
PIECES = DATA / "tokenizers" / "tokenizer.model"
FORBID = """
import sys, traceback
from importlib.machinery import ModuleSpec


class Forbidden:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name in ("torch", "transformers") else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        traceback.print_stack()
        sys.exit(f"imported {module.__name__}")


sys.meta_path.insert(0, Forbidden())
"""
RUN = f"{FORBID}\nfrom slogpt_hf.cli import run\nsys.exit(run(sys.argv[1:]))"
IDENTIFY = f"""{FORBID}
import json
from pathlib import Path
from slogpt_hf.build import hash_checkpoint, identity_of, open_checkpoint, tokenizer_for
from slogpt_hf.progress import SILENT
from slogpt_hf.settings import Settings

identities = {{}}
for name, (path, given) in json.loads(sys.argv[1]).items():
    sys.stderr.write(name + "\\n")
    settings = Settings(**given)
    checkpoint = open_checkpoint(Path(path), settings)
    choice = tokenizer_for(checkpoint, settings)
    digest = hash_checkpoint(checkpoint, SILENT)
    identities[name] = identity_of(digest, checkpoint, choice, settings)
print(json.dumps(identities))
"""

Case = tuple[str, dict[str, Any]]


def golden_cases(dataset: Callable[[int], Path]) -> dict[str, Case]:
    """Every golden checkpoint, and settings with which it has a tokenizer."""
    rows = {"llama2c-tied": 96, "llama2c-gqa-untied": 101, "nanogpt-variant": 65, "slo-": 13}
    datasets = {name: str(dataset(n)) for name, n in rows.items()}
    files = [p for kind in ("pt", "bin", "sou") for p in (DATA / "golden").glob(f"*/*.{kind}")]
    folders = [p.parent for p in (DATA / "distributed").glob("*/.metadata")]
    cases: dict[str, Case] = {}
    for path in sorted(files + folders):
        given: dict[str, Any] = {}
        name = path.name if path in folders else path.parent.name
        if path.suffix == ".sou":
            given["set"] = ("n_head=4", "block_size=48")
        elif path in folders and name.startswith("slo-"):
            given["dataset"] = datasets["slo-"]
        elif name in datasets:
            given["dataset"] = datasets[name]
        cases[f"{name}/{path.name}"] = (str(path), given)
    return cases


def made_cases(
    folder: Path, slo_checkpoint: Callable[..., Path], characters: Path
) -> dict[str, Case]:
    """Layouts that no golden file has: safetensors, a run folder, adapters, tied by value."""
    step = DATA / "golden" / "sloughgpt-step" / "step_200.pt"
    content = torch.load(step, weights_only=True)
    weights = content["model_state_dict"]
    recorded = {key: content[key] for key in ("config", "stoi", "itos", "metrics")}
    save_file(
        weights,
        folder / "m.safetensors",
        {key: json.dumps(value) for key, value in recorded.items()},
    )
    (folder / "run").mkdir()
    torch.save(weights, folder / "run" / "model.pt")
    (folder / "run" / "metadata.json").write_text(json.dumps(recorded))
    q = "blocks.0.attn.q_proj"
    rows, columns = weights[f"{q}.weight"].shape
    lora = {f"{q}.lora_A": torch.ones(2, columns), f"{q}.lora_B": torch.ones(rows, 2)}
    torch.save(lora | {"metadata": {"rank": 2, "alpha": torch.tensor(4)}}, folder / "lora.pt")
    torch.save(
        content | {"model_state_dict": weights | {f"{q}.lora_s": torch.ones(rows)}},
        folder / "ia3.pt",
    )
    cases: dict[str, Case] = {
        "safetensors": (str(folder / "m.safetensors"), {}),
        "run folder": (str(folder / "run"), {}),
        "adapter and base": (str(folder / "lora.pt"), {"base": str(step)}),
        "adapted": (str(folder / "ia3.pt"), {}),
        "pieces": (
            str(slo_checkpoint(vocab_size=600)),
            {"tokenizer": str(PIECES), "allow_spare_ids": True},
        ),
    }
    for dtype in ("float16", "bfloat16", "float64"):
        path = slo_checkpoint(dtype=dtype)
        saved = torch.load(path, weights_only=True)
        saved["model"]["lm_head.weight"] = saved["model"]["lm_head.weight"].clone()
        saved["best_val_loss"] = torch.tensor([1.5], dtype=getattr(torch, dtype))
        torch.save(saved, path)
        cases[f"{dtype}, tied by value"] = (str(path), {"dataset": str(characters)})
    return cases


def identity(checkpoint: Checkpoint, settings: Settings) -> str:
    choice = tokenizer_for(checkpoint, settings)
    return identity_of(hash_checkpoint(checkpoint, SILENT), checkpoint, choice, settings)


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_kind_of_checkpoint_is_identified_without_torch(
    tmp_path: Path,
    slo_checkpoint: Callable[..., Path],
    characters: Path,
    character_dataset: Callable[[int], Path],
) -> None:
    cases = golden_cases(character_dataset) | made_cases(tmp_path, slo_checkpoint, characters)
    found = python(IDENTIFY, json.dumps(cases))
    assert found.returncode == 0, found.stderr
    settings = {name: Settings(**given) for name, (_, given) in cases.items()}
    opened = {n: open_checkpoint(Path(path), settings[n]) for n, (path, _) in cases.items()}
    assert json.loads(found.stdout) == {n: identity(opened[n], settings[n]) for n in cases}
    containers = {container.name for container in CONTAINERS} | {distributed.NAME, run_folder.NAME}
    assert {each.container for each in opened.values()} == containers
    dialects = {dialect.name for dialect in DIALECTS if isinstance(dialect, Dialect)}
    assert {each.dialect for each in opened.values()} == dialects


def test_a_rerun_imports_no_torch(
    golden_hub: tuple[Path, dict[str, Any]], golden: Callable[[str], Path]
) -> None:
    folder, first = golden_hub
    assert first["slo-modern"].code == 0, first["slo-modern"].err
    path = golden("slo-modern") / "ckpt.pt"
    again = python(RUN, "release", path, "--repo-id", "me/slo-modern", "--hub", folder)
    assert again.returncode == 0, again.stderr
    assert "Nothing new" in again.stdout


@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_an_import_would_be_noticed(name: str) -> None:
    """The guard of the tests above fails a run, even where ImportErrors and others are caught."""
    code = f"{FORBID}\ntry:\n    import {name}\nexcept Exception:\n    pass"
    assert python(code).stderr.endswith(f"imported {name}\n")
