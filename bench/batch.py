"""What a batch counts on: the memory of a conversion and its proof; and what jobs gain."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MIB = 2**20
# Wide, long, of many tokens, and of the usual shapes.
SHAPES: dict[str, dict[str, Any]] = {
    "small": {"n_embd": 64, "block_size": 64, "vocab_size": 65},
    "GPT-2": {"n_embd": 768, "block_size": 1024, "vocab_size": 50304},
    "wide": {"n_embd": 2048, "block_size": 256, "vocab_size": 1000},
    "long": {"n_embd": 512, "block_size": 4096, "vocab_size": 512},
    "long, narrow": {"n_embd": 256, "block_size": 2048, "vocab_size": 65},
    "narrow, many tokens": {"n_embd": 256, "block_size": 256, "vocab_size": 50304},
    "most covered tokens": {"n_embd": 512, "block_size": 256, "vocab_size": 8192},
    "gated": {
        "n_embd": 512,
        "block_size": 1024,
        "vocab_size": 8000,
        "use_rope": True,
        "use_swiglu": True,
        "use_rmsnorm": True,
    },
}
BATCH = {"n_embd": 128, "block_size": 128, "vocab_size": 65}
CHECKPOINTS = 6


def batch_rows(folder: Path, size: str, rounds: int) -> Iterator[Any]:
    """Rows of the table of ``run.py``."""
    from run import Row

    for name, shape in SHAPES.items():
        got = _child("need", folder / "need", shape)
        figures = f"{got['peak'] / MIB:.0f} MiB, taken to be {got['need'] / MIB:.0f}"
        yield Row(
            f"batch, {name}: memory / what is reserved", figures, got["peak"] / got["need"], 1
        )
    figures = f"{got['resident'] / MIB:.0f} MiB"
    yield Row(
        "batch, imports: memory / what is reserved", figures, got["resident"] / got["base"], 1
    )
    one, two = (_seconds(folder, jobs) for jobs in (1, 2))
    figures = f"{CHECKPOINTS} checkpoints, {one:.1f} s and {two:.1f} s"
    yield Row("batch, --jobs 2 / --jobs 1", figures, two / one, 0.9)


def _child(task: str, folder: Path, shape: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, __file__, task, str(folder), json.dumps(shape)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _seconds(folder: Path, jobs: int) -> float:
    runs = folder / "batch"
    if not runs.exists():
        for number in range(CHECKPOINTS):
            _child("write", runs / str(number), BATCH | {"n_layer": 4})
    command = [sys.executable, "-m", "slogpt_hf", "convert-model", "-", str(runs)]
    began = time.perf_counter()
    options = [str(folder / f"artefacts-{jobs}"), "--quiet", "--jobs", str(jobs)]
    subprocess.run([*command, *options], check=True, capture_output=True)
    return time.perf_counter() - began


def write(folder: Path, shape: dict[str, Any]) -> None:
    """Write a checkpoint and a vocabulary that fits."""
    import checkpoints

    folder.mkdir(parents=True, exist_ok=True)
    switches = {name: value for name, value in shape.items() if name.startswith("use_")}
    sizes = {name: value for name, value in shape.items() if name not in switches}
    checkpoints.SIZES["this"] = {"n_layer": 2, "n_head": 8, **sizes}
    checkpoints.write_checkpoint(folder / "ckpt.pt", "this", optimizer=False, **switches)
    letters = [chr(n) for n in range(33, 70_000) if not 0xD800 <= n < 0xE000][: shape["vocab_size"]]
    stoi = {letter: index for index, letter in enumerate(letters)}
    meta = {"vocab_size": len(letters), "stoi": stoi, "itos": dict(enumerate(letters))}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))


def need(folder: Path, shape: dict[str, Any]) -> dict[str, int]:
    """Peak of anonymous memory of ``convert`` above the imports, and what is reserved for it."""
    import shutil

    import torch  # noqa: F401
    import transformers
    from tasks import AnonymousMemory, status

    from slogpt_hf.batch.memory import RESIDENT, need_of
    from slogpt_hf.build import convert, open_checkpoint
    from slogpt_hf.settings import Settings

    assert transformers.GPT2LMHeadModel and transformers.LlamaForCausalLM
    if not folder.exists():  # in another process, whose memory does not count
        command = [sys.executable, __file__, "write", str(folder), json.dumps(shape)]
        subprocess.run(command, check=True)
    settings = Settings()
    reserved = need_of(open_checkpoint(folder / "ckpt.pt", settings), settings)
    resident = status("RssAnon")
    with AnonymousMemory() as watched:
        convert(folder / "ckpt.pt", folder / "artefact", settings)
    shutil.rmtree(folder)
    return {"peak": watched.bytes, "need": reserved, "resident": resident, "base": RESIDENT}


if __name__ == "__main__":
    task, place, given = sys.argv[1:]
    print(json.dumps({"write": write, "need": need}[task](Path(place), json.loads(given))))
