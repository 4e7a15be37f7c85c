"""Memory of a lockstep run: some blocks in float64, however many the model has."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from slogpt_hf.checkpoints import Checkpoint

Write = Callable[..., Path]
Convert = Callable[..., tuple[Checkpoint, Path]]

WIDTH, VOCABULARY, TOKENS = 256, 512, 64
MEASURE = """
import sys
from pathlib import Path
import torch
from slogpt_hf.checkpoints import read_checkpoint
from slogpt_hf.parity.rounding import rounded
from slogpt_hf.parity.inputs import Inputs
from slogpt_hf.parity.lockstep import Models, in_lockstep
from slogpt_hf.parity.streamed import StoredTensors, stream_artefact

def anonymous():
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))

most = 0

def watch(*arguments):
    global most
    most = max(most, anonymous())

checkpoint, folder = read_checkpoint(Path(sys.argv[1])), Path(sys.argv[2])
stored = StoredTensors(folder)
exact, single = (stream_artefact(folder, d, stored) for d in (torch.float64, torch.float32))
models = Models(rounded(checkpoint, torch.float32), exact, single, True, lambda passes: None)
with torch.no_grad():
    one = Inputs("one token", torch.zeros((1, 1), dtype=torch.int64))
    in_lockstep(models, one)
    before = anonymous()
    for model in (exact, single):
        for module in model.model.modules():
            module.register_forward_hook(watch)
    in_lockstep(models, Inputs("x", torch.arange(int(sys.argv[3]))[None]))
print((max(most, anonymous()) - before) * 1024)
"""


WHOLE = """
import sys, threading
from pathlib import Path
from slogpt_hf.checkpoints import read_checkpoint
from slogpt_hf.parity import gate, loading, memory

memory.SLACK = 8 << 20
loading.import_class(Path(sys.argv[2]))
checkpoint = read_checkpoint(Path(sys.argv[1]))
first = read_checkpoint(Path(sys.argv[3]))
gate.verify_artefact(first, Path(sys.argv[4]))  # what is imported once
memory.give_back()
before = most = memory.anonymous()
over = threading.Event()

def watch():
    global most
    while not over.wait(0.001):
        most = max(most, memory.anonymous())

thread = threading.Thread(target=watch)
thread.start()
report = gate.verify_artefact(checkpoint, Path(sys.argv[2]))
over.set()
thread.join()
assert report.passed, report.reason
print(most - before)
"""


def measured(path: Path, folder: Path) -> int:
    return run(MEASURE, path, folder, TOKENS)


def run(script: str, *arguments: object) -> int:
    """What a script prints: bytes."""
    result = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    return int(result.stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="RssAnon is Linux's")
@pytest.mark.parametrize("modern", [False, True])
def test_memory_is_that_of_a_few_blocks(
    modern: bool, slo_checkpoint: Write, convert: Convert
) -> None:
    """Twelve layers, and twenty-four, of which each is 6 MB or more in float64."""
    switches = dict.fromkeys(("use_rope", "use_swiglu", "use_rmsnorm"), modern)
    block = (16 if modern else 12) * WIDTH * WIDTH * 8
    activations = 40 * TOKENS * max(4 * WIDTH, VOCABULARY) * 8
    peaks = []
    for n_layer in (12, 24):
        sizes = {"n_embd": WIDTH, "vocab_size": VOCABULARY, "block_size": TOKENS}
        path = slo_checkpoint(n_layer=n_layer, **sizes, **switches)
        checkpoint, folder = convert(path)
        assert checkpoint.n_parameters * 8 > n_layer * block
        peaks.append(measured(path, folder))
        path.unlink()
        (folder / "model.safetensors").unlink()
    assert max(peaks) < 4 * block + activations
    assert peaks[1] < peaks[0] + 3 * block  # 12 more layers; an allocator keeps some


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="anonymous memory is Linux's")
def test_memory_of_the_whole_gate_is_not_that_of_the_model(
    slo_checkpoint: Write, convert: Convert
) -> None:
    """Caches, shaken weights, planted faults and all; without giving back it is most of it."""
    sizes = {"n_embd": 512, "vocab_size": VOCABULARY, "block_size": TOKENS}
    pairs = [convert(slo_checkpoint(n_layer=n_layer, **sizes)) for n_layer in (24, 1)]
    paths = [path for checkpoint, folder in pairs for path in (checkpoint.path, folder)]
    assert run(WHOLE, *paths) < pairs[0][0].n_parameters * 2  # half of the model, in float32
    for checkpoint, folder in pairs:
        checkpoint.path.unlink()
        (folder / "model.safetensors").unlink()
