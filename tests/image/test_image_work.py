"""The work of a release done in the image: without shell, known user, rights or a writable root."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

DATA = Path(__file__).parents[1] / "data"
GOLDEN = DATA / "golden"
PYTHON = "/opt/slogpt-hf/bin/python"
# Runs the command line, then tells which modules were imported, and which had no byte code.
WITNESS = """
import atexit, importlib.util, json, os, sys
def tell():
    specs = [getattr(module, "__dict__", {}).get("__spec__") for module in sys.modules.values()]
    origins = [str(getattr(spec, "origin", None)) for spec in specs]
    plain = [o for o in origins if o.endswith(".py") and not o.startswith(("/tmp", "/shared"))
        and not os.path.exists(importlib.util.cache_from_source(o))]
    print(json.dumps([sorted(sys.modules), plain]), file=sys.__stdout__)
atexit.register(tell)
from slogpt_hf.cli import main
main(sys.argv[1:])
"""
CLASSES = {
    "slo-classic": "GPT2LMHeadModel",
    "slo-modern": "LlamaForCausalLM",
    "slo-rope-layernorm-gelu": "Starcoder2ForCausalLM",
    "slo-rope-rmsnorm-gelu": "ArceeForCausalLM",
    "slo-learned-rmsnorm-swiglu": "SloGPTForCausalLM",
}
# from_pretrained as a user of the artefact calls it.
LOAD = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
ids = tokenizer("the", return_tensors="pt").input_ids
print(type(model).__name__, tuple(model.generate(ids, max_new_tokens=4, do_sample=False).shape))
"""

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]


@pytest.fixture(scope="module")
def witness(run: Run) -> Callable[..., tuple[set[str], list[str]]]:
    """Run a command of slogpt-hf in the image; the modules it imported, those without byte code."""

    def call(*command: str, **given: object) -> tuple[set[str], list[str]]:
        told = run("-c", WITNESS, *command, program=PYTHON, **given).stdout
        imported, plain = json.loads(told.splitlines()[-1])
        return set(imported), plain

    return call


def mounted(shared: Path) -> dict[Path, str]:
    return {GOLDEN: "/golden:ro", shared: "/shared"}


@pytest.mark.parametrize("name", CLASSES)
def test_converts_proves_and_loads_every_target(run: Run, shared: Path, name: str) -> None:
    checkpoint, artefact = f"/golden/{name}/ckpt.pt", f"/shared/{name}"
    done = run("convert-model", "-", checkpoint, artefact, mounts=mounted(shared))
    assert f": {CLASSES[name]}, made of {checkpoint}, proven equal to " in done.stdout
    loaded = run("-c", LOAD, artefact, program=PYTHON, mounts=mounted(shared)).stdout
    assert loaded.splitlines()[-1].split(maxsplit=1)[0] == CLASSES[name]


def test_converts_a_model_with_a_sentencepiece_tokenizer(
    run: Run, shared: Path, slo_checkpoint: Callable[..., Path]
) -> None:
    shutil.copy(slo_checkpoint(vocab_size=512), shared / "ckpt.pt")
    done = run(
        *("convert-model", "-", "/shared/ckpt.pt", "/shared/x"),
        *("--tokenizer", "/tokenizers/tokenizer.model"),
        mounts=mounted(shared) | {DATA / "tokenizers": "/tokenizers:ro"},
    )
    assert "proven equal" in done.stdout
    loaded = run("-c", LOAD, "/shared/x", program=PYTHON, mounts=mounted(shared)).stdout
    assert loaded.startswith("GPT2LMHeadModel")


def test_releases_to_a_folder_signed_and_checks_the_release(run: Run, shared: Path) -> None:
    key = "from cryptography.hazmat.primitives.asymmetric import ec\n"
    key += "from cryptography.hazmat.primitives import serialization as s\n"
    key += "key = ec.generate_private_key(ec.SECP256R1())\n"
    key += "pem, none = s.Encoding.PEM, s.NoEncryption()\n"
    key += "open('/shared/key', 'xb').write("
    key += "key.private_bytes(pem, s.PrivateFormat.PKCS8, none))\n"
    key += "open('/shared/key.pub', 'xb').write("
    key += "key.public_key().public_bytes(pem, s.PublicFormat.SubjectPublicKeyInfo))\n"
    run("-c", key, program=PYTHON, mounts=mounted(shared))
    run(
        *("release", "/golden/slo-modern/ckpt.pt", "--sign", "--signing-key", "/shared/key"),
        mounts=mounted(shared),
        environment={"INPUT_REPO-ID": "me/model", "INPUT_HUB": "/shared/hub"},
    )
    checked = run(
        *("verify-release", "me/model@v1.0.0", "--hub", "/shared/hub", "--require-signature"),
        *("--public-key", "/shared/key.pub"),
        mounts=mounted(shared),
    )
    assert "signature" in checked.stdout


def test_a_rerun_with_nothing_new_imports_no_torch(
    witness: Callable[..., tuple[set[str], list[str]]], shared: Path
) -> None:
    release = ("release", "/golden/slo-classic/ckpt.pt", "--repo-id", "me/x", "--hub")
    first, plain = witness(*release, "/shared/hub", mounts=mounted(shared))
    assert "torch" in first
    assert plain == [], "modules that .ci/compile.py should compile"
    again, plain = witness(*release, "/shared/hub", mounts=mounted(shared))
    assert "slogpt_hf.hub.releases" in again
    assert not again & {"torch", "transformers"}
    assert plain == []
