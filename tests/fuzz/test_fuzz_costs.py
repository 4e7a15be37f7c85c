"""The worst inputs that could be thought of stay within the memory that is promised."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from fuzzing.oracle import MAX_BYTES

SCRIPT = Path(__file__).parent / "fuzzing" / "costs.py"
# One of each family; bench/fuzz.py runs them all, and looks at the time too.
NAMES = (
    "pickle: short texts",
    "pickle: tree of references",
    "tensors: 49,000 of one storage",
    "vocabulary: a long text",
    "safetensors: 65,000 tensors",
    "metadata.json: objects of one",
    "bin: 4,096 layers",
    "meta.pkl: 210,000 entries",
    "tokenizer.bin beside: 190,000 pieces",
    "settings: merged references",
    "settings: a long list",
    "--set: digits",
)


def test_memory_of_the_worst_inputs() -> None:
    command = [sys.executable, str(SCRIPT), *NAMES]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    costs = {cost["name"]: cost for cost in map(json.loads, output.splitlines())}
    assert costs.keys() == set(NAMES)
    too_much = {name: cost for name, cost in costs.items() if cost["n_bytes"] > MAX_BYTES}
    assert not too_much
    # A reader that does nothing costs nothing: the measure itself must be one.
    assert max(cost["n_bytes"] for cost in costs.values()) > MAX_BYTES // 8
