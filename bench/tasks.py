"""What ``run.py`` measures, each in a process of its own: prints one line of JSON."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

FIGURES = dict[str, float]


def status(field: str) -> int:
    """A size that the kernel keeps of this process (proc(5)), in bytes."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


class AnonymousMemory:
    """Peak of this process's anonymous memory above what it had at the start, in bytes."""

    def __enter__(self) -> AnonymousMemory:
        self.before = self.peak = self._now()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    @property
    def bytes(self) -> int:
        """Peak above the start."""
        return self.peak - self.before

    def _watch(self) -> None:
        while not self.stop.wait(0.002):
            self.peak = max(self.peak, self._now())

    def _now(self) -> int:
        return status("RssAnon")


@dataclass
class Clock:
    """Wall time of a block."""

    seconds: float = 0.0


@contextmanager
def settled() -> Iterator[Clock]:
    """Time a block that starts with nothing left to write for the disk by whoever ran before."""
    os.sync()
    clock, began = Clock(), time.perf_counter()
    yield clock
    clock.seconds = time.perf_counter() - began


def make(path: str, size: str, switches: str) -> FIGURES:
    """Write a checkpoint with optimizer state."""
    from checkpoints import write_checkpoint

    bools = {name: bool(value) for name, value in json.loads(switches).items()}
    write_checkpoint(Path(path), size, optimizer=True, **bools)
    return {}


def write_layout(name: str, sizes: str, hollow: str, folder: str) -> dict[str, object]:
    """Write a model in one of LAYOUTS; where it lies, and what no file of it records."""
    from layouts import LAYOUTS, Model

    layout, model = LAYOUTS[name], Model(json.loads(sizes), hollow == "hollow")
    Path(folder).mkdir(parents=True)
    path = layout.write(model, Path(folder))
    os.sync()
    return {"path": str(path), "given": json.dumps(layout.given(model))}


def convert(checkpoint: str, output: str, given: str = "{}") -> FIGURES:
    """Our conversion, files synced and the folder renamed."""
    import torch

    from slogpt_hf.checkpoints import read_checkpoint
    from slogpt_hf.conversion import plan_conversion, write_model
    from slogpt_hf.conversion.safetensors_layout import ITEM_SIZES
    from slogpt_hf.files import staged_folder

    torch.zeros(1).sum()
    shutil.rmtree(output, ignore_errors=True)
    with settled() as clock:
        source = read_checkpoint(Path(checkpoint), json.loads(given))
        with staged_folder(Path(output)) as folder:
            write_model(source, plan_conversion(source), folder)
    largest = max(math.prod(shape) for shape in source.tensors.shapes.values())
    return {
        "seconds": clock.seconds,
        "largest": largest * ITEM_SIZES[source.dtype],
        "written": sum(file.stat().st_size for file in Path(output).iterdir()),
    }


def memory(checkpoint: str, output: str, given: str = "{}", limit: str = "") -> FIGURES:
    """Peak of anonymous memory during our conversion, bytes above the imports.

    ``limit`` is the RLIMIT_DATA under which it runs, in bytes: the kernel refuses any more private
    writable memory, that of the interpreter and of torch included.
    """
    import torch

    import slogpt_hf.checkpoints.dialects.slo
    import slogpt_hf.conversion  # noqa: F401

    torch.zeros(1).sum()
    with AnonymousMemory() as watched:
        if limit:
            resource.setrlimit(resource.RLIMIT_DATA, (int(limit), int(limit)))
        figures = convert(checkpoint, output, given)
    return figures | {"anonymous": watched.bytes}


def inspect(checkpoint: str, given: str) -> FIGURES:
    """``slogpt-hf inspect`` without its imports, and how much memory it takes, all kinds of it."""
    import torch

    import slogpt_hf.conversion
    import slogpt_hf.inspection
    import slogpt_hf.tokenizers
    from slogpt_hf.settings import Settings

    torch.zeros(1).sum()
    said = tuple(f"{name}={value}" for name, value in json.loads(given).items())
    settings, before = Settings(set=said), status("VmRSS")
    with settled() as clock:
        slogpt_hf.inspection.inspect_checkpoint(Path(checkpoint), settings)
    return {"seconds": clock.seconds, "resident": status("VmHWM") - before}


def usual(checkpoint: str, output: str) -> FIGURES:
    """The script that people write: load everything, fill a model, save it."""
    import transformers.models.gpt2.modeling_gpt2  # noqa: F401

    shutil.rmtree(output, ignore_errors=True)
    with settled() as clock:
        _usual(checkpoint, output)
    return {"seconds": clock.seconds}


def _usual(checkpoint: str, output: str) -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    args = content["model_args"]
    config = GPT2Config(
        vocab_size=args["vocab_size"],
        n_positions=args["block_size"],
        n_embd=args["n_embd"],
        n_layer=args["n_layer"],
        n_head=args["n_head"],
        activation_function="gelu",
    )
    model = GPT2LMHeadModel(config)
    transposed = (
        "attn.c_attn.weight",
        "attn.c_proj.weight",
        "mlp.c_fc.weight",
        "mlp.c_proj.weight",
    )
    state = {
        name: tensor.t() if name.endswith(transposed) else tensor
        for name, tensor in content["model"].items()
    }
    zeros = {n: torch.zeros_like(t) for n, t in model.state_dict().items() if n not in state}
    model.load_state_dict(state | zeros)
    model.save_pretrained(output)


def copy(source: str, target: str) -> FIGURES:
    """``cp``, as the shell does it."""
    Path(target).unlink(missing_ok=True)
    with settled() as clock:
        subprocess.run(["cp", source, target], check=True)
    return {"seconds": clock.seconds}


def start(*arguments: str) -> FIGURES:
    """A Python process from start to end."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return {"seconds": time.perf_counter() - began}


def imports() -> FIGURES:
    """How many of the heavy packages ``--help`` imports."""
    code = (
        "import sys, contextlib, io\n"
        "from slogpt_hf.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "    main(['--help'])\n"
        "print(sum(m in sys.modules for m in ('torch', 'transformers', 'huggingface_hub')))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    return {"heavy": int(output.stdout.split()[-1])}


def make_artefact(folder: str) -> FIGURES:
    """An artefact with large weights, to be published."""
    from publishing import N_BYTES
    from publishing import make_artefact as make

    make(Path(folder))
    return {"bytes": N_BYTES}


def publish(artefact: str, transfer: str) -> FIGURES:
    """``slogpt-hf push`` of an artefact as the first release of a repository, imports aside."""
    import hf_xet  # noqa: F401

    from slogpt_hf import Settings
    from slogpt_hf.release import push

    repo_id = f"bench/ours-{time.time_ns()}"
    with settled() as clock:
        push(Path(artefact), Settings(repo_id=repo_id, transfer=transfer))
    _delete(repo_id)
    return {"seconds": clock.seconds}


def upload(file: str, transfer: str) -> FIGURES:
    """The client's own upload of one file to a new repository, imports aside."""
    import hf_xet  # noqa: F401
    from huggingface_hub import HfApi, constants

    constants.HF_HUB_DISABLE_XET = transfer == "lfs"
    repo_id = f"bench/plain-{time.time_ns()}"
    api = HfApi(endpoint=os.environ["HF_ENDPOINT"], token="anonymous")
    with settled() as clock:
        api.create_repo(repo_id)
        api.upload_file(path_or_fileobj=file, path_in_repo=Path(file).name, repo_id=repo_id)
    _delete(repo_id)
    return {"seconds": clock.seconds}


def data(dataset: str, output: str) -> FIGURES:
    """``slogpt-hf convert`` of a dataset, imports aside."""
    from data import measured

    return measured(dataset, output)


def _delete(repo_id: str) -> None:
    from huggingface_hub import HfApi

    HfApi(endpoint=os.environ["HF_ENDPOINT"], token="anonymous").delete_repo(repo_id)


def rerun(folder: str) -> FIGURES:
    """``slogpt-hf release`` of what was released before: requests, heavy imports, seconds."""
    from publishing import GOLDEN

    from slogpt_hf.hub.embedded import serve

    command = [sys.executable, "-X", "importtime", "-m", "slogpt_hf", "release"]
    command += [str(GOLDEN / "ckpt.pt"), "--dataset", str(GOLDEN), "--repo-id", "bench/rerun"]
    asked: list[object] = []
    with serve(Path(folder), intercept=lambda request: asked.append(request)) as running:
        environment = {**os.environ, "HF_ENDPOINT": running.endpoint, "HF_TOKEN": "anonymous"}
        first = subprocess.run(command, check=True, capture_output=True, env=environment)
        assert b"Released" in first.stdout
        asked.clear()
        started = time.perf_counter()
        again = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        seconds = time.perf_counter() - started
    assert "Nothing new" in again.stdout
    imported = {line.rpartition("|")[2].strip() for line in again.stderr.splitlines()}
    heavy = len(imported & {"torch", "transformers"})
    return {"requests": len(asked), "heavy": heavy, "seconds": seconds}


def verify(checkpoint: str, artefact: str, given: str = "{}") -> FIGURES:
    """The gate: its seconds, and its anonymous memory above the imports."""
    import slogpt_hf.parity.picture  # noqa: F401
    from slogpt_hf.checkpoints import read_checkpoint
    from slogpt_hf.parity import loading
    from slogpt_hf.parity.gate import verify_artefact

    loading.import_class(Path(artefact))
    source = read_checkpoint(Path(checkpoint), json.loads(given))
    with AnonymousMemory() as watched:
        report = verify_artefact(source, Path(artefact))
    assert report.passed, report.failures
    return {"seconds": report.seconds, "peak": watched.bytes}


def passes(checkpoint: str, artefact: str) -> FIGURES:
    """Original and artefact, whole in memory, in two precisions: one pass each of every batch."""
    import torch

    from slogpt_hf.checkpoints import read_checkpoint
    from slogpt_hf.parity import decoder, loading
    from slogpt_hf.parity.float64 import Float64Everywhere
    from slogpt_hf.parity.inputs import inputs_for
    from slogpt_hf.parity.rounding import rounded

    source, folder = read_checkpoint(Path(checkpoint)), Path(artefact)
    original, batches = rounded(source, torch.float32), inputs_for(source.spec)
    seconds = 0.0
    for dtype in (torch.float64, torch.float32):
        model = loading.load_artefact(folder, dtype)
        mode = Float64Everywhere() if dtype == torch.float64 else nullcontext()
        with torch.no_grad(), settled() as clock:
            for batch in batches:
                decoder.logits(original, batch.ids, dtype)
                with mode:
                    loading.logits(model, batch.ids)
        seconds += clock.seconds
    return {"seconds": seconds}


def lockstep(checkpoint: str, artefact: str) -> FIGURES:
    """Most anonymous memory of a block of tokens in lockstep, and the largest block in float64."""
    import torch

    from slogpt_hf.checkpoints import read_checkpoint
    from slogpt_hf.parity.inputs import Inputs
    from slogpt_hf.parity.lockstep import Models, in_lockstep
    from slogpt_hf.parity.rounding import rounded
    from slogpt_hf.parity.streamed import StoredTensors, stream_artefact

    original, folder = read_checkpoint(Path(checkpoint)), Path(artefact)
    stored = StoredTensors(folder)
    exact, single = (stream_artefact(folder, d, stored) for d in (torch.float64, torch.float32))
    built_in = rounded(original, torch.float32)
    models = Models(built_in, exact, single, True, lambda passes: None)
    length = original.spec.block_size
    with torch.no_grad():
        in_lockstep(models, Inputs("warm", torch.zeros((1, 1), dtype=torch.int64)))
        with AnonymousMemory() as memory:
            in_lockstep(models, Inputs("full", torch.arange(length)[None]))
    block = sum(parameter.numel() for parameter in exact.blocks[0].parameters()) * 8
    return {"peak": memory.bytes, "block": block}


if __name__ == "__main__":
    tasks: dict[str, Callable[..., object]] = {
        f.__name__: f
        for f in (
            *(make, write_layout, convert, memory, inspect, usual),
            *(copy, start, imports, verify, passes, lockstep),
            *(make_artefact, publish, upload, rerun, data),
        )
    }
    print(json.dumps(tasks[sys.argv[1]](*sys.argv[2:])))
