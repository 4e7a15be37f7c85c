"""Files of other people that are no model to release: a message to act on, and nothing left."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

Cli = Callable[..., Any]


@pytest.fixture
def refused(cli: Cli, tmp_path: Path, hub_view: Callable[[Path], Any]) -> Callable[..., str]:
    """Releases, converts and inspects what must be refused alike; gives the message."""

    def call(path: Path, *options: Any, code: int = 3) -> str:
        hub, output = tmp_path / "hub", tmp_path / "artefact"
        before = set(tmp_path.rglob("*"))
        where = ("--repo-id", "me/model", "--hub", hub, "--output", output, "--quiet")
        outcomes = [
            cli("release", path, *where, *options),
            cli("convert-model", "-", path, output, "--quiet", *options),
            cli("inspect", path, *options),
            cli("inspect", path, "--json", *options),
        ]
        messages = {outcome.err for outcome in outcomes}
        assert {(outcome.code, outcome.out) for outcome in outcomes} == {(code, "")}
        (message,) = messages
        assert message.startswith("error: ") and message.count("\n") == 1
        assert hub_view(hub) == {}
        assert {p for p in set(tmp_path.rglob("*")) - before if hub not in (p, *p.parents)} == set()
        return str(message)

    return call


def demonstration() -> dict[str, Any]:
    layer: dict[str, tuple[int, ...]]
    layer = {"ln_1": (8,), "attn_qkv": (8, 24), "attn_proj": (8, 8), "ln_2": (8,), "ffn": (8, 32)}
    outer: dict[str, tuple[int, ...]] = {
        "token_embedding_table": (9, 8),
        "position_embedding_table": (16, 8),
    }
    outer |= {"final_layer_norm": (8,), "output_projection": (8, 9)}
    shapes = outer | {f"layer_{i}_{name}": shape for i in range(4) for name, shape in layer.items()}
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    assert len(tensors) == 24
    return {"n_embed": 8, "n_layer": 4, "n_head": 2, "vocab_size": 9, **tensors}


def test_flat_demonstration_dict(refused: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(demonstration(), path)
    message = refused(path)
    assert "flat demonstration dict" in message and "no function to reproduce" in message
    for i in range(4):
        assert f"layer_{i}_ffn_proj" in message


def unknown_torch(path: Path) -> None:
    torch.save({"model": {"conv.weight": torch.zeros(3, 5), "conv.bias": torch.zeros(3)}}, path)


def unknown_safetensors(path: Path) -> None:
    save_file({"conv.weight": torch.zeros(3, 5), "conv.bias": torch.zeros(3)}, path)


def unknown_folder(path: Path) -> None:
    path.mkdir()
    unknown_torch(path / "model.pt")


MARKS = {
    "transformer.wte.weight": "Slo",
    "tok_embeddings.weight": "llama2.c",
    "tok_emb.weight": "SloughGPT",
    "token_embedding_table.weight": "NanoGPT variant",
    "token_embedding_table": "flat demonstration dict",
}


@pytest.mark.parametrize("write", [unknown_torch, unknown_safetensors, unknown_folder])
def test_unknown_tensors_are_shown_beside_what_was_looked_for(
    refused: Callable[..., str], tmp_path: Path, write: Callable[[Path], None]
) -> None:
    path = tmp_path / "ckpt.pt"
    write(path)
    message = refused(path)
    for mark, title in MARKS.items():
        assert f"{mark} ({title})" in message
    assert "conv.weight (3, 5)" in message and "conv.bias (3,)" in message
    assert "report" in message


def test_file_of_no_known_layout(refused: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"RIFF" + bytes(300))
    message = refused(path)
    assert "RIFF" in message
    for layout in ("torch.save", ".sou", "safetensors", "llama2.c .bin"):
        assert layout in message


@pytest.mark.parametrize("model", ["llama2c-gqa-untied", "llama2c-tied"])
@pytest.mark.parametrize("layout", ["v0", "v1", "v2_q80"])
@pytest.mark.parametrize("change", [-1, 1])
def test_bin_a_byte_short_or_long(
    refused: Callable[..., str],
    golden: Callable[[str], Path],
    tmp_path: Path,
    model: str,
    layout: str,
    change: int,
) -> None:
    data = (golden(model) / f"model_{layout}.bin").read_bytes()
    path = tmp_path / "model.bin"
    path.write_bytes(data[:-1] if change < 0 else data + b"\0")
    numbers = {int(number) for number in re.findall(r"\b\d+\b", refused(path))}
    assert {len(data), len(data) + change} <= numbers


@pytest.mark.parametrize(
    ("given", "missing", "others"),
    [
        ({}, ("n_head", "block_size"), ()),
        ({"n_head": 4}, ("block_size",), ("n_head",)),
        ({"block_size": 48}, ("n_head",), ("block_size",)),
    ],
)
def test_missing_fields_are_listed_and_no_others(
    refused: Callable[..., str],
    golden: Callable[[str], Path],
    given: dict[str, int],
    missing: tuple[str, ...],
    others: tuple[str, ...],
) -> None:
    options = [part for name, value in given.items() for part in ("--set", f"{name}={value}")]
    message = refused(golden("sloughgpt-sou") / "model.sou", *options)
    for name in missing:
        assert f"--set {name}=..." in message
    for name in others:
        assert name not in message
    assert ".slogpt-hf.yml" in message
    assert ("one of 1, 2, 4, 8, 16, 32." in message) == ("n_head" in missing)


def test_heads_that_do_not_divide_the_width(
    refused: Callable[..., str], golden: Callable[[str], Path]
) -> None:
    path = golden("sloughgpt-sou") / "model.sou"
    message = refused(path, "--set", "n_head=5", "--set", "block_size=48")
    assert "n_head is 5" in message and "one of 1, 2, 4, 8, 16, 32." in message


def test_what_the_file_records_cannot_be_set(
    refused: Callable[..., str], golden: Callable[[str], Path]
) -> None:
    message = refused(golden("sloughgpt-step") / "step_200.pt", "--set", "n_head=8", code=2)
    assert "records config.n_head = 4" in message


def test_field_that_does_not_exist(
    refused: Callable[..., str], golden: Callable[[str], Path]
) -> None:
    message = refused(golden("sloughgpt-step") / "step_200.pt", "--set", "n_haed=4", code=2)
    assert "n_haed" in message and "n_head, n_kv_head, block_size" in message


@pytest.mark.parametrize(("rows", "spare"), [(96, False), (102, True)])
def test_vocabulary_of_another_size(
    refused: Callable[..., str],
    cli: Cli,
    golden: Callable[[str], Path],
    character_dataset: Callable[[int], Path],
    tmp_path: Path,
    rows: int,
    spare: bool,
) -> None:
    """Fewer entries than rows need ``--allow-spare-ids``; more never pass."""
    dataset, output = character_dataset(rows), tmp_path / "artefact"
    arguments = ("convert-model", dataset, golden("llama2c-gqa-untied") / "model_v1.bin", output)
    outcome = cli(*arguments, "--quiet", *(["--allow-spare-ids"] if spare else []))
    assert outcome.code == 3, outcome.text
    assert f"has {rows} entries" in outcome.err and "101 rows" in outcome.err
    assert ("--allow-spare-ids" in outcome.err) == (rows < 101)
    assert not output.exists()
    if not spare:
        assert cli(*arguments, "--quiet", "--allow-spare-ids").code == 0
