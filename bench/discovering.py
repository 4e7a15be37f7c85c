"""How often ``discover`` finds what makes a checkpoint of the corpus right: a part of ``--corpus``.

Found means that the settings are accepted and that the built-in model with them computes what the
original computes: to 1e-10 with its class as witness, with recorded logits to float32's rounding.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from originals.table import CONTEXT, ROWS, Entry
from originals.writing import Original, Recording, write

from slogpt_hf import record_parity
from slogpt_hf.checkpoints import read_checkpoint
from slogpt_hf.discover import discover
from slogpt_hf.errors import SloGPTError
from slogpt_hf.parity import decoder
from slogpt_hf.parity.comparing import deviation
from slogpt_hf.parity.decoder import Decoder
from slogpt_hf.parity.families import FAMILIES
from slogpt_hf.parity.gate import FP64_BOUND
from slogpt_hf.settings import Settings, given_field

SINGLE = 1e-5  # of the largest logit, where the witness has float32 alone
LEAST_SHARE = 0.95
RECORDINGS: tuple[Recording, ...] = ("little", "nothing")


@dataclass(frozen=True)
class Searched:
    """What became of one search; ``problem`` is empty where the settings were found."""

    entry: str
    recording: Recording
    witness: Literal["recorded", "reference"]
    problem: str
    seconds: float


def searched(
    entry: Entry, recording: Recording, witness: Literal["recorded", "reference"], seed: int
) -> Searched:
    """Write a checkpoint with its witness, and look for its settings."""
    original = Original(entry, seed, 0)
    ids = torch.randint(ROWS, (2, CONTEXT), generator=torch.Generator().manual_seed(seed))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="slogpt-hf-corpus-") as temporary:
        folder = Path(temporary)
        path = write(original, recording, folder, None)
        reference = f"{folder / 'model.py'}:{original.source.model}:{original.source.config}"
        if witness == "recorded":
            record_parity(original.model, path, ids)
        settings = Settings()
        if witness == "reference":
            # Its class cannot tell heads that no file records: it has a default of its own.
            said = original.asked() if recording == "nothing" else {}
            known = tuple(f"{name}={value}" for name, value in said.items())
            settings = Settings(reference=reference, set=known)
        problem = ""
        try:
            result = discover(path, settings)
            checkpoint = read_checkpoint(
                path, settings.given | dict(map(given_field, result.settings))
            )
            model = Decoder(
                FAMILIES[checkpoint.dialect],
                checkpoint.spec,
                checkpoint.tensors,
                checkpoint.adapters,
            )
            with torch.no_grad():
                theirs = original.logits(ids, torch.float64)
                error = deviation(decoder.logits(model, ids, torch.float64), theirs)
            bound = FP64_BOUND if witness == "reference" else SINGLE
            if not result.found.agrees:
                problem = f"not found; the nearest {result.found.error:.1e}"
            elif not error <= bound:
                problem = f"found {' '.join(result.settings)}, off by {error:.1e}"
        except SloGPTError as error:
            problem = str(error)[:200]
    return Searched(entry.name, recording, witness, problem, time.perf_counter() - started)


def discovered(entries: Sequence[Entry], seed: int) -> bool:
    """Search for every entry that some setting makes right, and print it; whether enough were."""
    inside = [entry for entry in entries if entry.settings is not None]
    results = [
        searched(entry, recording, witness, seed)
        for entry in inside
        for recording in RECORDINGS
        for witness in ("recorded", "reference")
    ]
    lost = [each for each in results if each.problem]
    share = 1 - len(lost) / max(1, len(results))
    longest = max((each.seconds for each in results), default=0.0)
    print(f"discover: {len(results) - len(lost)} of {len(results)} found ({share:.1%}, ", end="")
    print(f"wanted {LEAST_SHARE:.0%}), the longest {longest:.1f} s")
    for each in lost:
        print(f"- {each.entry}, {each.recording}, {each.witness}: {each.problem}")
    return share >= LEAST_SHARE
