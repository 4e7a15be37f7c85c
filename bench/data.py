"""``convert`` of datasets: speed, memory, and how much of what is written an edit changes.

``python bench/run.py datasets``; ``python bench/data.py`` prints what an edit changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from slogpt_hf.dataset_build import convert_dataset
from slogpt_hf.demo.corpus import corpus_text, dataset_files
from slogpt_hf.settings import Settings, size_in_bytes

LEAST_MB_PER_SECOND = 100.0  # of ids, on two cores
MOST_MB = 300.0  # of memory, whatever the size
GROWTH_MB = 32.0
PIECE = 1 << 22
CHUNK_MASK = np.uint64(0xFFFF)  # a chunk has 64 KiB on average, as those of Xet
LEAST_CHUNK = 8192
GEAR = np.random.default_rng(0).integers(0, 2**63, 256).astype(np.uint64)
WINDOW = 32


def dataset_rows(folder: Path, size: str, rounds: int) -> Iterator[Row]:  # noqa: F821
    """Rows of the table of ``run.py``."""
    from run import Row, child

    found = {}
    for n_bytes in (size_in_bytes(size) // 4, size_in_bytes(size)):
        write_dataset(folder / "in", n_bytes)
        runs = [child("data", folder / "in", folder / "out") for _ in range(rounds)]
        found[n_bytes] = min(runs, key=lambda run: run["seconds"])
        run = found[n_bytes]
        figures = (
            f"{run['seconds']:.1f} s; {run['cpu']:.1f} s of the processors; load {run['load']}"
        )
        speed = n_bytes / 1e6 / run["seconds"]
        what = f"dataset of {n_bytes / 1e9:.1f} GB of ids"
        yield Row(f"{what}, MB/s", figures, speed, LEAST_MB_PER_SECOND, True)
        yield Row(f"{what}, MB of memory", "peak, all included", run["peak"] / 1e6, MOST_MB)
        shutil.rmtree(folder / "in")
    small, large = (run["peak"] / 1e6 for run in found.values())
    yield Row("MB of memory more for 4 x the ids", "", large - small, GROWTH_MB)


def measured(dataset: str, output: str) -> dict[str, float]:
    """Convert a dataset in this process, imports aside."""
    import pyarrow.parquet  # noqa: F401

    began, cpu = time.perf_counter(), time.process_time()
    convert_dataset(dataset, Path(output), Settings())
    seconds, used = time.perf_counter() - began, time.process_time() - cpu
    shutil.rmtree(output)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "cpu": used, "peak": peak, "load": os.getloadavg()[0]}


def write_dataset(folder: Path, n_bytes: int) -> None:
    """A character dataset whose ``train.bin`` has ``n_bytes``: paragraphs in random order."""
    text = corpus_text()
    files = dataset_files(text)
    folder.mkdir()
    (folder / "meta.pkl").write_bytes(files["meta.pkl"])
    with (folder / "train.bin").open("wb") as file:
        left = n_bytes
        while left > 0:
            left -= file.write(_shuffled(text, left)[: left // 2 * 2])


def _shuffled(text: str, seed: int) -> bytes:
    stoi = {character: i for i, character in enumerate(sorted(set(text)))}
    paragraphs = [
        np.array([stoi[c] for c in f"{paragraph}\n\n"], "<u2") for paragraph in text.split("\n\n")
    ]
    random = np.random.default_rng(seed)
    order = random.integers(0, len(paragraphs), PIECE // 200)
    return np.concatenate([paragraphs[i] for i in order]).tobytes()


def changed_shares() -> dict[str, dict[str, float]]:
    """Of each configuration the share of its bytes that are new to a store after an edit.

    The store keeps equal chunks once, which it cuts where the content says.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_dataset(folder / "in", 24_000_000)
        ids = np.fromfile(folder / "in" / "train.bin", "<u2")
        half = len(ids) // 2
        edits = {
            "ten ids changed": np.concatenate([ids[:half], ids[:10], ids[half + 10 :]]),
            "ten ids put in": np.concatenate([ids[:half], ids[:10], ids[half:]]),
            "ten thousand ids put behind": np.concatenate([ids, ids[:10_000]]),
        }
        convert_dataset(str(folder / "in"), folder / "before", Settings())
        shares = {}
        for number, (name, edited) in enumerate(edits.items()):
            edited.tofile(folder / "in" / "train.bin")
            output = folder / f"after{number}"
            convert_dataset(str(folder / "in"), output, Settings())
            shares[name] = {
                config: _new_share(*(_bytes(f / config) for f in (folder / "before", output)))
                for config in ("text", "tokens")
            }
    return shares


def _bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


def _new_share(before: bytes, after: bytes) -> float:
    known = {digest for digest, _ in _chunks(before)}
    return sum(n for digest, n in _chunks(after) if digest not in known) / len(after)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Digest and length of each chunk; a gear hash over WINDOW bytes says where one ends."""
    values = GEAR[np.frombuffer(data, np.uint8)]
    hashes: npt.NDArray[np.uint64] = np.zeros(len(values), np.uint64)
    for k in range(WINDOW):
        hashes[k:] += values[: len(values) - k] << np.uint64(k)
    start = 0
    for end in [*np.flatnonzero((hashes >> np.uint64(16)) & CHUNK_MASK == 0).tolist(), len(data)]:
        if end - start >= LEAST_CHUNK or end == len(data):
            yield hashlib.sha256(data[start:end]).digest(), end - start
            start = end


if __name__ == "__main__":
    json.dump(changed_shares(), sys.stdout, indent=2)
    print()
