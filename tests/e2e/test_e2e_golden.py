"""Checkpoints of the original trainer: released here, loaded by tag in another process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

EXAMPLES = Path(__file__).parents[2] / "examples"
CLASSES = {
    "slo-classic": "GPT2LMHeadModel",
    "slo-modern": "LlamaForCausalLM",
    "slo-learned-rmsnorm-swiglu": "SloGPTForCausalLM",
}
LOADER = """
import json, runpy, sys
import torch
from pathlib import Path
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

jobs, out, example = json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
facts = {}
for name, (repo_id, tag, inputs, trust) in jobs.items():
    tokenizer = AutoTokenizer.from_pretrained(repo_id, revision=tag, trust_remote_code=trust)
    model = AutoModelForCausalLM.from_pretrained(repo_id, revision=tag, trust_remote_code=trust)
    with torch.no_grad():
        logits = model(load_file(inputs)["input_ids"]).logits
    save_file({"logits": logits.contiguous()}, out / f"{name}.safetensors")
    prompt = tokenizer("ROMEO:", return_tensors="pt")
    ids = model.generate(**prompt, max_new_tokens=20, do_sample=False)[0]
    facts[name] = {
        "class": type(model).__name__,
        "ids": ids.tolist(),
        "text": tokenizer.decode(ids),
        "again": tokenizer.encode(tokenizer.decode(ids)),
    }
(out / "facts.json").write_text(json.dumps(facts))
sys.argv = [example, *jobs["slo-modern"][:2], "JULIET:"]
runpy.run_path(example, run_name="__main__")
"""


def test_release_says_what_it_did(golden_hub: Any, hub_view: Callable[..., Any]) -> None:
    folder, outcomes = golden_hub
    view = hub_view(folder)
    assert view.keys() == {f"me/{name}" for name in CLASSES}
    for name, outcome in outcomes.items():
        assert outcome.code == 0, outcome.err
        repo = view[f"me/{name}"]
        assert repo.tags == {"v1.0.0": repo.commits["main"][0]}
        assert f"Released me/{name} 1.0.0" in outcome.out
        assert "  tag     v1.0.0" in outcome.out
        assert f"  commit  {repo.tags['v1.0.0']}" in outcome.out
        assert "float64 error" in outcome.out and "(bound 1e-10)" in outcome.out
        assert f"hub serve {folder}" in outcome.out
        assert f'"me/{name}", revision="v1.0.0"' in outcome.out
        remote_code = CLASSES[name] == "SloGPTForCausalLM"
        assert ("trust_remote_code=True" in outcome.out) == remote_code
        assert ("modeling_slogpt.py" in repo.files) == remote_code
        for stage in ("hash", "plan", "convert", "verify", "proof", "upload"):
            assert f"{stage}: " in outcome.err


def test_a_release_is_one_commit_with_everything(
    golden_hub: Any, hub_view: Callable[..., Any], hub_file: Callable[..., bytes]
) -> None:
    folder, _ = golden_hub
    for name, class_name in CLASSES.items():
        repo = hub_view(folder)[f"me/{name}"]
        assert len(repo.commits["main"]) == 2  # the Hub's own first commit, and the release
        assert repo.files >= {
            "README.md",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "parity.json",
            "release.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.json",
        }
        record = json.loads(hub_file(folder, f"me/{name}", "release.json", "v1.0.0"))
        assert (record["version"], record["tag"], record["repo_id"]) == (
            "1.0.0",
            "v1.0.0",
            f"me/{name}",
        )
        assert record["model"]["target_class"] == class_name
        assert record["parity"]["passed"] is True
        assert json.loads(hub_file(folder, f"me/{name}", "parity.json"))["passed"] is True
        card = hub_file(folder, f"me/{name}", "README.md").decode()
        assert 'revision="v1.0.0"' in card
        assert record["checkpoint"]["sha256"] in card


def test_loaded_by_tag_in_another_process(
    golden_hub: Any, golden: Callable[[str], Path], serving: Callable[..., Any], tmp_path: Path
) -> None:
    """Tokenizer and model load over HTTP, the logits are the original's, and text comes out."""
    folder, _ = golden_hub
    _, line = serving(folder)
    exported = dict(part.split("=", 1) for part in line.split()[1:])
    assert exported.keys() == {"HF_ENDPOINT"}  # where the hub has Xet, nothing else is needed
    jobs = {
        name: (
            f"me/{name}",
            "v1.0.0",
            str(golden(name) / "golden.safetensors"),
            class_name == "SloGPTForCausalLM",
        )
        for name, class_name in CLASSES.items()
    }
    result = subprocess.run(
        [sys.executable, "-c", LOADER, json.dumps(jobs), tmp_path, EXAMPLES / "generate.py"],
        env=os.environ | exported | {"HF_HOME": str(tmp_path / "home")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    for name, facts in json.loads((tmp_path / "facts.json").read_text()).items():
        assert facts["class"] == CLASSES[name]
        original = load_file(golden(name) / "golden.safetensors")["logits"]
        logits = load_file(tmp_path / f"{name}.safetensors")["logits"]
        about = json.loads((golden(name) / "about.json").read_text())
        assert logits.shape == original.shape
        assert (logits - original).abs().max().item() <= 4 * about["fp32_noise"]
        assert len(facts["ids"]) == len("ROMEO:") + 20
        assert facts["text"].startswith("ROMEO:")
        assert facts["again"] == facts["ids"]
    # examples/generate.py ran last: the prompt, up to block_size, and print's newline.
    assert result.stdout.startswith("JULIET:")
    assert len(result.stdout) == 48 + 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_hub_serve_stops_on_a_signal(
    serving: Callable[..., Any], tmp_path: Path, number: signal.Signals
) -> None:
    process, line = serving(tmp_path / "hub")
    assert line.startswith("export HF_ENDPOINT=http://127.0.0.1:")
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out == ""
    assert set(err.splitlines()) <= {"Serving until Ctrl-C."}
