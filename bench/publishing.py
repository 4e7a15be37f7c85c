"""An embedded hub in a process of its own, and artefacts to publish to it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GOLDEN = Path(__file__).parent.parent / "tests" / "data" / "golden" / "slo-classic"
WEIGHTS = "model.safetensors"
N_BYTES = 2**30  # of the weights
PIECE = 2**24


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The endpoint of an embedded hub over ``folder``, in another process."""
    command = [sys.executable, "-m", "slogpt_hf", "hub", "serve", str(folder), "--port", "0"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=quiet, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            yield line.partition("=")[2].split()[0]
        finally:
            process.terminate()


def make_artefact(folder: Path) -> Path:
    """An artefact whose weights are random bytes; nothing is loaded from it here."""
    from slogpt_hf import Settings, convert
    from slogpt_hf.card.record import RECORD_FILE, dump_json
    from slogpt_hf.files import sha256_of

    record = convert(GOLDEN / "ckpt.pt", folder, Settings(dataset=str(GOLDEN)))
    weights = folder / WEIGHTS
    with weights.open("wb") as file:
        for _ in range(N_BYTES // PIECE):
            file.write(os.urandom(PIECE))
    record["files"][WEIGHTS] = sha256_of(weights)
    (folder / RECORD_FILE).write_text(dump_json(record), encoding="utf-8")
    return folder
