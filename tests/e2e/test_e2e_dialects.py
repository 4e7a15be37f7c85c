"""Checkpoints of every other dialect: released here, loaded by tag in another process."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

Cli = Callable[..., Any]
SOU_HEADER = struct.Struct("<4sII")
SOU_FIELDS = ("--set", "n_head=4", "--set", "block_size=48")
PROFILE = {
    "name": "Golden | `x` <img src=x> [a](//example.org) *b*",
    "description": "line one\n# line two\n</details>{{ 7 * 7 }}",
    "training_dataset": "/home/someone/data/shakespeare",
    "api_token": "hf_secretsecretsecret",
    "born_at": "2026-04-01T00:00:00Z",
}
LOADER = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

jobs, out = json.loads(sys.argv[1]), Path(sys.argv[2])
facts = {}
for name, (repo_id, tag, inputs) in jobs.items():
    tokenizer = AutoTokenizer.from_pretrained(repo_id, revision=tag)
    model = AutoModelForCausalLM.from_pretrained(repo_id, revision=tag)
    with torch.no_grad():
        logits = model(load_file(inputs)["input_ids"]).logits
    save_file({"logits": logits.contiguous()}, out / f"{name}.safetensors")
    facts[name] = {"class": type(model).__name__, "ids": tokenizer.encode("Release")}
(out / "facts.json").write_text(json.dumps(facts))
"""


@dataclass(frozen=True)
class Case:
    """A golden checkpoint: its file, its recorded logits, what it becomes and how it is asked."""

    file: str
    rows: int | None = None
    logits: str = "golden"
    target: str = "LlamaForCausalLM"
    options: tuple[str, ...] = ()


CASES = {
    "llama2c-pt": Case("llama2c-gqa-untied/ckpt.pt", 101),
    "llama2c-v0": Case("llama2c-gqa-untied/model_v0.bin", 101),
    "llama2c-v1": Case("llama2c-gqa-untied/model_v1.bin", 101),
    "llama2c-q80": Case("llama2c-gqa-untied/model_v2_q80.bin", 101, "golden_q80"),
    "llama2c-tied": Case("llama2c-tied/ckpt.pt", 96),
    "nanogpt": Case("nanogpt-variant/model.pt", target="GPT2LMHeadModel"),
    "sloughgpt-step": Case("sloughgpt-step/step_200.pt"),
    "sloughgpt-sou": Case("sloughgpt-sou/model.sou", options=SOU_FIELDS),
}


def with_profile(path: Path, profile: dict[str, Any], folder: Path) -> Path:
    """A ``.sou`` file with another profile before the same weights."""
    data = path.read_bytes()
    magic, version, length = SOU_HEADER.unpack_from(data)
    text = json.dumps(profile).encode()
    copy = folder / path.name
    rest = data[SOU_HEADER.size + length :]
    copy.write_bytes(SOU_HEADER.pack(magic, version, len(text)) + text + rest)
    (folder / "meta.pkl").write_bytes((path.parent / "meta.pkl").read_bytes())
    return copy


@dataclass(frozen=True)
class Released:
    """A hub with a release of each case, by the name of its repository, and what was printed."""

    folder: Path
    checkpoints: dict[str, Path]
    outcomes: dict[str, Any]


@pytest.fixture(scope="module")
def released(
    tmp_path_factory: pytest.TempPathFactory,
    golden: Callable[[str], Path],
    character_dataset: Callable[[int], Path],
    cli: Cli,
) -> Released:
    folder = tmp_path_factory.mktemp("dialects") / "hub"
    datasets = {rows: character_dataset(rows) for rows in (96, 101)}
    checkpoints, outcomes = {}, {}
    for name, case in CASES.items():
        path = golden(case.file)
        options: list[Any] = list(case.options)
        if case.rows:
            options += ["--dataset", datasets[case.rows]]
        if name == "llama2c-q80":
            options += ["--unquantised", path.with_name("ckpt.pt")]
        if name == "sloughgpt-sou":
            path = with_profile(path, PROFILE, tmp_path_factory.mktemp("sou"))
        checkpoints[name] = path
        outcomes[name] = cli(
            "release", path, "--repo-id", f"me/{name}", "--hub", folder, "--json", *options
        )
    return Released(folder, checkpoints, outcomes)


def test_every_dialect_is_released(
    released: Released, hub_view: Callable[..., Any], golden: Callable[[str], Path]
) -> None:
    view = hub_view(released.folder)
    assert view.keys() == {f"me/{name}" for name in CASES}
    for name, case in CASES.items():
        outcome = released.outcomes[name]
        assert outcome.code == 0, outcome.err
        (result,) = outcome.json
        record = result["record"]
        assert (result["released"], result["tag"]) == (True, "v1.0.0")
        assert view[f"me/{name}"].tags == {"v1.0.0": result["commit"]}
        assert record["model"]["target_class"] == case.target
        assert record["model"]["remote_code"] is False
        about = json.loads((golden(case.file).parent / "about.json").read_text())
        assert record["checkpoint"]["dialect"] == about["dialect"]
        assert record["parity"]["passed"] is True


def test_loaded_by_tag_in_another_process(
    released: Released,
    golden: Callable[[str], Path],
    serving: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """Over HTTP, the logits are those that the original model's own code recorded."""
    _, line = serving(released.folder)
    exported = dict(part.split("=", 1) for part in line.split()[1:])
    recorded = {
        name: golden(case.file).with_name(f"{case.logits}.safetensors")
        for name, case in CASES.items()
    }
    jobs = {name: (f"me/{name}", "v1.0.0", str(path)) for name, path in recorded.items()}
    result = subprocess.run(
        [sys.executable, "-c", LOADER, json.dumps(jobs), tmp_path],
        env=os.environ | exported | {"HF_HOME": str(tmp_path / "home")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert result.returncode == 0, result.stderr
    facts = json.loads((tmp_path / "facts.json").read_text())
    for name, case in CASES.items():
        original = load_file(recorded[name])
        logits = load_file(tmp_path / f"{name}.safetensors")["logits"]
        noise = distance(original["logits"], original["logits_fp64"])
        assert logits.shape == original["logits"].shape
        assert 0 < noise < 1e-5
        assert distance(logits, original["logits"]) <= 4 * noise
        assert facts[name]["class"] == case.target
        assert len(facts[name]["ids"]) == len("Release")


def test_three_layouts_of_one_model_become_one_artefact(released: Released) -> None:
    """The weights of ``ckpt.pt``, ``.bin`` v0 and v1 are the same, and so are the files."""
    digests = [
        {
            file: digest
            for file, digest in record_of(released, name)["files"].items()
            if file in ("config.json", "model.safetensors", "tokenizer.json")
        }
        for name in ("llama2c-pt", "llama2c-v0", "llama2c-v1", "llama2c-q80")
    ]
    assert len(digests[0]) == 3
    assert digests[0] == digests[1] == digests[2]
    assert digests[0]["model.safetensors"] != digests[3]["model.safetensors"]
    assert digests[0]["config.json"] == digests[3]["config.json"]


def test_heads_of_each_checkpoint(released: Released) -> None:
    specs = {name: record_of(released, name)["model"]["spec"] for name in CASES}
    assert {name for name, spec in specs.items() if spec["tied"]} == {"llama2c-tied"}
    heads = {name: (spec["n_head"], spec["n_kv_head"]) for name, spec in specs.items()}
    assert heads.pop("llama2c-pt") == heads.pop("llama2c-q80") == (4, 2)
    assert heads.pop("llama2c-v0") == heads.pop("llama2c-v1") == (4, 2)
    assert set(heads.values()) == {(4, 4)}


@torch.no_grad()
def test_card_tells_what_quantising_cost(
    released: Released,
    golden: Callable[[str], Path],
    hub_file: Callable[..., bytes],
    snapshot: Callable[..., Path],
) -> None:
    """Both figures of the card, measured once more: on the files, and with transformers."""
    card = " ".join(hub_file(released.folder, "me/llama2c-q80", "README.md").decode().split())
    assert "Q8\\_0, groups of 32 values" in card
    bound = card_number(card, r"a weight is at most (\S+) from the unquantised one")
    weight = card_number(card, r"unquantised ckpt\.pt: a weight differs by at most (\S+),")
    logit = card_number(card, r"a logit by at most (\S+) \(largest logit")

    models = [
        converted(snapshot(released.folder, f"me/{n}")) for n in ("llama2c-q80", "llama2c-pt")
    ]
    quantised, original = (model.state_dict() for model in models)
    measured = max(distance(quantised[name], original[name]) for name in original)
    assert weight == pytest.approx(measured, rel=5e-3)
    assert weight <= bound

    inputs = load_file(golden("llama2c-gqa-untied") / "golden.safetensors")["input_ids"]
    a, b = (model(inputs).logits for model in models)
    # The card's figure is over the gate's inputs, of which the recorded ones are no part.
    assert distance(a, b) / 2 < logit < 2 * distance(a, b)
    assert (
        "Measured against" not in hub_file(released.folder, "me/llama2c-v1", "README.md").decode()
    )


@torch.no_grad()
def test_the_measured_logit_is_that_of_the_gates_inputs(
    released: Released, hub_file: Callable[..., bytes], snapshot: Callable[..., Path]
) -> None:
    from slogpt_hf.checkpoints import read_checkpoint
    from slogpt_hf.parity.inputs import inputs_for

    card = " ".join(hub_file(released.folder, "me/llama2c-q80", "README.md").decode().split())
    logit = card_number(card, r"a logit by at most (\S+) \(largest logit")
    largest = card_number(card, r"\(largest logit (\S+)\)")
    models = [
        converted(snapshot(released.folder, f"me/{n}")) for n in ("llama2c-q80", "llama2c-pt")
    ]
    spec = read_checkpoint(released.checkpoints["llama2c-q80"]).spec
    both = [tuple(model(batch.ids).logits for model in models) for batch in inputs_for(spec)]
    assert logit == pytest.approx(max(distance(a, b) for a, b in both), rel=5e-3)
    assert largest == pytest.approx(max(b.abs().max().item() for _, b in both), rel=5e-3)


def test_card_carries_the_profile_as_text(
    released: Released, hub_file: Callable[..., bytes]
) -> None:
    card = hub_file(released.folder, "me/sloughgpt-sou", "README.md").decode()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", card, re.MULTILINE))
    assert rows["born_at"] == "2026-04-01T00:00:00Z"
    assert rows["training_dataset"] == "shakespeare"
    assert "Golden" in rows["name"] and "line one" in rows["description"]
    for raw in ("<img src=x", "[a](", "hf_secret", "/home/someone", "\n# line two", "</details>{{"):
        assert raw not in card
    assert "49" not in rows["description"]
    assert rows["name"].count("|") == 0
    assert "given by hand: n\\_head=4, block\\_size=48" in card


def test_inspect_json_has_the_same_keys_for_every_layout(
    cli: Cli, golden: Callable[[str], Path]
) -> None:
    """Keys that programs may rely on, for each file of each golden folder."""
    spec = {"positions", "norm", "mlp", "linear_bias", "norm_bias", "n_layer", "n_head"}
    spec |= {"n_kv_head", "n_embd", "n_hidden", "vocab_size", "block_size", "norm_eps", "tied"}
    spec |= {"rope_theta", "rotary_pairs"}
    keys = {"file", "file_bytes", "container", "dialect", "spec", "n_parameters", "dtype", "step"}
    keys |= {"val_loss", "dataset", "vocabulary", "target_class", "remote_code", "target_dtype"}
    keys |= {"weights_bytes", "adapters", "quantisation", "profile", "notes"}
    containers, tied = set(), set()
    for folder in sorted(path for path in golden("").iterdir() if path.is_dir()):
        for path in sorted(folder.glob("[ms][ot][de][ep]*")) + sorted(folder.glob("*.pt")):
            if path.suffix not in (".pt", ".bin", ".sou"):
                continue
            options = SOU_FIELDS if path.suffix == ".sou" else ()
            outcome = cli("inspect", path, "--json", *options)
            assert (outcome.code, outcome.err) == (0, "")
            facts = outcome.json
            assert facts.keys() >= keys and facts["spec"].keys() >= spec
            assert (facts["quantisation"] is not None) == ("q80" in path.name)
            containers.add(facts["container"])
            if facts["spec"]["tied"] and facts["dialect"] == "llama2c":
                tied.add(path.name)
    assert containers == {"torch.save file", "llama2.c .bin file", "SloughGPT .sou file"}
    assert tied == {"ckpt.pt", "model_v0.bin", "model_v1.bin", "model_v2_q80.bin"}


class TestFieldsGivenByHand:
    """Whatever place says them, the same fields make the same release."""

    @pytest.fixture
    def again(self, released: Released, cli: Cli) -> Callable[..., Any]:
        def release(*options: Any) -> Any:
            path = released.checkpoints["sloughgpt-sou"]
            where = ("--repo-id", "me/sloughgpt-sou", "--hub", released.folder)
            outcome = cli("release", path, *where, "--json", *options)
            assert outcome.code == 0, outcome.err
            return outcome.json[0]

        return release

    def test_the_place_does_not_matter(
        self,
        released: Released,
        again: Callable[..., Any],
        hub_view: Callable[..., Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        before = hub_view(released.folder)
        first = released.outcomes["sloughgpt-sou"].json[0]
        results = [again("--set", "block_size=48", "--set", "n_head=2", "--set", "n_head=4")]
        file = Path(".slogpt-hf.yml")
        file.write_text("set: {block_size: 48, n_head: 4}\n")
        results.append(again())
        file.write_text("set: block_size=48 n_head=8\n")
        monkeypatch.setenv("SLOGPT_SET", "n_head=4")
        results.append(again())
        file.unlink()
        monkeypatch.setenv("SLOGPT_SET", "n_head=8 block_size=48")
        results.append(again("--set", "n_head=4"))
        assert {result["released"] for result in results} == {False}
        assert {result["commit"] for result in results} == {first["commit"]}
        assert hub_view(released.folder) == before

    def test_another_value_is_another_release(
        self, released: Released, again: Callable[..., Any]
    ) -> None:
        first = released.outcomes["sloughgpt-sou"].json[0]
        other = again(*SOU_FIELDS, "--set", "norm_eps=1e-6")
        assert other["released"] is True
        assert other["record"]["identity"] != first["record"]["identity"]
        assert other["tag"] != first["tag"]
        assert other["record"]["model"]["spec"]["norm_eps"] == 1e-6


def record_of(released: Released, name: str) -> Any:
    return released.outcomes[name].json[0]["record"]


def card_number(card: str, pattern: str) -> float:
    found = re.search(pattern, card)
    assert found, pattern
    return float(found[1])


def converted(folder: Path) -> Any:
    """The artefact in float64, as transformers loads it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)


def distance(a: Tensor, b: Tensor) -> float:
    return (a.double() - b.double()).abs().max().item()
