"""The training repository's own model class as a witness, in a process that can do no harm.

It is the one place where code of the training repository runs: only when it is asked for
(``--reference path/model.py:Class``), without credentials in its environment, without a network
where the system allows that, and for a limited time.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

import slogpt_hf
from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.errors import CheckpointError, first_line
from slogpt_hf.parity.oracles import Testimony
from slogpt_hf.parity.reference_name import split_reference
from slogpt_hf.redaction import without_secrets

SECONDS = 1800.0
KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "OMP_NUM_THREADS", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
REQUEST, ANSWER = "request.json", "answer.safetensors"
GET_DUMPABLE, SET_DUMPABLE = 3, 4  # of prctl(2)
MOST_WORDS = 300  # characters of what the class raised


def ask_reference(checkpoint: Checkpoint, reference: str, ids: Tensor) -> Testimony:
    """What the training repository's model class computes with the checkpoint's weights.

    Args:
        checkpoint: gives weights and sizes.
        reference: ``path/model.py:Class[:Config]``.
        ids: (B, T) token ids.

    Raises:
        UsageError: the reference cannot be meant.
        CheckpointError: the class cannot be made, does not take the weights, or gives no logits.
    """
    from safetensors.torch import load_file, save_file

    file, name, config = split_reference(reference)
    with tempfile.TemporaryDirectory(prefix="slogpt-hf-reference-") as temporary:
        folder = Path(temporary)
        request = {
            "file": str(file),
            "class": name,
            "config": config,
            "checkpoint": str(checkpoint.path.absolute()),
            "base": str(checkpoint.base.absolute()) if checkpoint.base else None,
            "given": dict(checkpoint.given),
            "paths": [str(Path(slogpt_hf.__file__).parents[1])],
        }
        (folder / REQUEST).write_text(json.dumps(request), encoding="utf-8")
        save_file({"ids": ids.contiguous()}, folder / "ids.safetensors")
        words = _run(folder, file.parent)
        answer = folder / ANSWER
        if words or not answer.is_file():
            raise CheckpointError(
                f"--reference {reference}: {words or 'gave no answer'}",
                hint="The class has to take the checkpoint's weights and give all logits.",
            )
        said = load_file(answer)
    if any(said[key].shape[:2] != ids.shape for key in ("logits", "exact")):
        raise CheckpointError(f"--reference {reference}: gives no logits of every position.")
    return Testimony(f"{file.name}:{name}", ids, said["logits"], said["exact"])


@contextmanager
def _unreadable() -> Iterator[None]:
    """For the time of the block no process of the same user reads this one's environment.

    Linux shows it below ``/proc`` only of a process that may be dumped: prctl(2).
    """
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError, TypeError):
        yield
        return
    before = prctl(GET_DUMPABLE)
    prctl(SET_DUMPABLE, 0)
    try:
        yield
    finally:
        prctl(SET_DUMPABLE, max(before, 0))


def _run(folder: Path, place: Path) -> str:
    """Run the child; what went wrong, empty if nothing did."""
    environment = {key: os.environ[key] for key in KEPT if key in os.environ}
    environment |= {"HOME": str(folder), "HF_HUB_OFFLINE": "1"}
    child = Path(__file__).with_name("reference_child.py")
    try:
        with _unreadable():
            done = subprocess.run(
                [sys.executable, "-I", "-B", str(child), str(folder)],
                cwd=place,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=SECONDS,
                check=False,
            )
    except subprocess.TimeoutExpired:
        return f"did not end within {SECONDS / 60:.0f} minutes."
    if done.returncode == 0:
        return ""
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it ended early"]
    return without_secrets(first_line(lines[-1], MOST_WORDS)) + "."
