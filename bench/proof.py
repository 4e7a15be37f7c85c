"""Does the gate cry wolf, and does it miss anything? ``python bench/proof.py``.

Clean conversions of random architectures, sizes, weights, dtypes and seeds, some of them trained
first: every one must pass, and every fault of the list, planted in it, must be caught. With
``--tolerances`` the same planted faults are judged by the tolerances that conversion scripts use.
With ``--corpus`` originals that are known go through the product, and what it says is compared with
what is true.
The exit code is 1 if anything was missed or a clean conversion refused.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import layouts
import torch
from torch import Tensor

from slogpt_hf.checkpoints import Checkpoint, read_checkpoint
from slogpt_hf.checkpoints.dialects import slo
from slogpt_hf.checkpoints.parts import tensor_shapes
from slogpt_hf.conversion import plan_conversion, write_model
from slogpt_hf.demo.fitting import Recipe, fit
from slogpt_hf.parity import decoder, gate
from slogpt_hf.parity.controls import ROWS
from slogpt_hf.parity.faults import FAULTS, TOKENS, Patient
from slogpt_hf.parity.gate import verify_artefact
from slogpt_hf.parity.rounding import rounded
from slogpt_hf.parity.shaken import route_to
from slogpt_hf.parity.streamed import StoredTensors, stream_artefact

DTYPES = ("float32", "float32", "float32", "bfloat16", "float16")
TRAINING_STEPS = 30
OTHERS = ("llama2.c .pt", "SloughGPT step .pt", "NanoGPT variant")
SWITCHES = ("use_rope", "use_swiglu", "use_rmsnorm", "bias")


@dataclass(frozen=True)
class Case:
    """A clean conversion."""

    name: str
    checkpoint: Checkpoint
    folder: Path


def sizes_of(rng: random.Random) -> dict[str, int]:
    """Random sizes of a small model."""
    heads, head_dim = rng.choice((1, 2, 3, 4, 6)), rng.choice((2, 4, 6, 8, 16))
    return {
        "n_layer": rng.choice((1, 2, 3, 5)),
        "n_head": heads,
        "n_embd": heads * head_dim,
        "vocab_size": rng.choice((11, 65, 101, 300)),
        "block_size": rng.choice((2, 7, 16, 33, 64)),
    }


def slo_checkpoint(rng: random.Random, path: Path, trained: bool) -> str:
    """A Slo checkpoint of one of the sixteen architectures; fresh, spread out, or trained."""
    args: dict[str, Any] = sizes_of(rng) | {n: rng.random() < 0.5 for n in SWITCHES}
    args |= {"dropout": 0.0}
    spec = replace(slo.spec_from_model_args(args), tied=True)
    seed = rng.randrange(2**31)
    if trained:
        torch.manual_seed(seed)
        ids = torch.randint(0, spec.vocab_size, (4000,))
        recipe = replace(Recipe(), batch_size=4)
        tensors = dict(fit(spec, ids, recipe, TRAINING_STEPS, seed, lambda n, loss: None).tensors)
        kind = "trained"
    else:
        spread = rng.choice((0.02, 0.1, 0.5))
        kind = "fresh" if spread == 0.02 else f"spread {spread}"
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for name, shape in tensor_shapes(slo.names(spec), spec).items():
            drawn = spread * torch.randn(shape, generator=generator)
            fixed = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
            is_fresh = spread == 0.02 and len(shape) == 1
            tensors[name] = torch.full(shape, fixed) if is_fresh else drawn + fixed
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"]
    torch.save(
        {
            "model": tensors,
            "model_args": args,
            "iter_num": 1,
            "best_val_loss": torch.tensor(3.0),
            "config": {},
        },
        path,
    )
    on = "-".join(name.removeprefix("use_") for name in SWITCHES if args[name]) or "classic"
    return f"slo {on}, {kind}"


def other_checkpoint(rng: random.Random, folder: Path) -> tuple[str, Path, dict[str, int]]:
    """A checkpoint of another family, with grouped heads where the family has them."""
    sizes = sizes_of(rng)
    groups = [n for n in (1, 2, 3) if sizes["n_head"] % n == 0]
    sizes |= {"n_kv_head": rng.choice(groups), "n_hidden": 4 * rng.choice((5, 8, 16))}
    name = rng.choice(OTHERS)
    model = layouts.Model(sizes)
    layout = layouts.LAYOUTS[name]
    return name, layout.write(model, folder), layout.given(model)


def cases(count: int, trained: int, seed: int, folder: Path) -> Iterator[Case]:
    """Clean conversions, converted by the product's own code."""
    rng = random.Random(seed)
    for i in range(count):
        place = folder / str(i)
        place.mkdir()
        given: dict[str, int] = {}
        if i < trained or rng.random() < 0.75:
            path = place / "ckpt.pt"
            name = slo_checkpoint(rng, path, i < trained)
        else:
            name, path, given = other_checkpoint(rng, place)
        checkpoint = read_checkpoint(path, given)
        dtype = rng.choice(DTYPES)
        artefact = place / "artefact"
        artefact.mkdir()
        write_model(checkpoint, plan_conversion(checkpoint, dtype), artefact)
        yield Case(f"{i}: {name}, {dtype}", checkpoint, artefact)


def alarms(count: int, trained: int, seed: int) -> bool:
    """Run the gate on clean conversions and print what it said; whether nothing was wrong."""
    caught: Counter[str] = Counter()
    never: Counter[str] = Counter()
    bad: list[str] = []
    worst = dict.fromkeys(("float64", "float32", "published"), 0.0)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="slogpt-hf-proof-") as temporary:
        for case in cases(count, trained, seed, Path(temporary)):
            report = verify_artefact(case.checkpoint, case.folder)
            if not report.passed:
                bad.append(f"{case.name}: {report.verdict} {report.failures} {report.missed}")
            worst["float64"] = max(worst["float64"], report.fp64_error, report.shaken_error or 0)
            share = report.fp32_error / report.fp32_bound * gate.FP32_NOISE_FACTOR
            worst["float32"] = max(worst["float32"], share)
            if report.published:
                share = report.published.error / report.published.bound * gate.FP32_NOISE_FACTOR
                worst["published"] = max(worst["published"], share)
            for control in report.controls:
                (caught if control.outcome == "caught" else never)[control.name] += 1
    seconds = time.perf_counter() - start
    print(f"{count} clean conversions, {trained} of them trained, in {seconds:.0f} s")
    print(f"refused or invalid: {len(bad)}")
    print(f"worst float64 error: {worst['float64']:.1e} (allowed {gate.FP64_BOUND:.0e})")
    print(f"worst float32 error: {worst['float32']:.2f} x the original's noise (allowed 4)")
    print(f"worst error in the published dtype: {worst['published']:.2f} x the noise (allowed 4)")
    print(f"{'fault':<42} {'caught':>7} {'cannot occur':>13}")
    for fault in FAULTS:
        print(f"{fault.name:<42} {caught[fault.name]:>7} {count - caught[fault.name]:>13}")
    print(f"planted: {sum(caught.values())}, missed: {sum('invalid' in each for each in bad)}")
    for line in bad:
        print(line)
    return not bad


# What conversion scripts in use compare, each with its own tolerance.
TOLERANCES: dict[str, Callable[[Tensor, Tensor], bool]] = {
    "atol 1e-3": lambda a, b: torch.allclose(a, b, rtol=0, atol=1e-3),
    "atol 1e-4": lambda a, b: torch.allclose(a, b, rtol=0, atol=1e-4),
    "allclose defaults": lambda a, b: torch.allclose(a, b),
    "cosine > 0.999": lambda a, b: bool(
        torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.999
    ),
    "same top-1": lambda a, b: torch.equal(a.argmax(-1), b.argmax(-1)),
    "NMSE < 1e-4": lambda a, b: bool(((a - b) ** 2).sum() / (b**2).sum() < 1e-4),
}


def tolerances(count: int, trained: int, seed: int) -> None:
    """Plant every fault, on the weights as they are, and judge whole logits by each tolerance."""
    passed: dict[str, Counter[str]] = defaultdict(Counter)
    planted_count: Counter[str] = Counter()
    clean: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="slogpt-hf-proof-") as temporary:
        for case in cases(count, trained, seed, Path(temporary)):
            with torch.no_grad():
                for fault, verdicts in _verdicts(case):
                    if fault is None:
                        clean.update(verdicts)
                    else:
                        planted_count[fault] += 1
                        passed[fault].update(verdicts)
    print(f"{count} conversions; a cell: how many of the faulty ones a tolerance lets pass")
    print(f"{'fault':<42} {'planted':>8} " + " ".join(f"{n:>18}" for n in TOLERANCES))
    for name, n in planted_count.items():
        cells = " ".join(f"{passed[name][each]:>18}" for each in TOLERANCES)
        print(f"{name:<42} {n:>8} {cells}")
    cells = " ".join(f"{count - clean[each]:>18}" for each in TOLERANCES)
    print(f"{'clean conversions that it refuses':<42} {count:>8} {cells}")


def _verdicts(case: Case) -> Iterator[tuple[str | None, list[str]]]:
    """Names of the tolerances that let the clean conversion (None) and each fault pass."""
    stored = StoredTensors(case.folder)
    original = rounded(case.checkpoint, _dtype(stored))
    ids = _ids(case.checkpoint)
    theirs = decoder.logits(original, ids, torch.float32)
    patient = _patient(case, stored)

    def passing() -> list[str]:
        ours = _logits(patient, ids)
        return [name for name, judge in TOLERANCES.items() if judge(ours, theirs)]

    yield None, passing()
    for fault in FAULTS:
        if (planted := fault.plant(patient)) is not None:
            with planted:
                names = passing()
            yield fault.name, names


def _dtype(stored: StoredTensors) -> torch.dtype:
    return next(iter(stored.values())).dtype


def _ids(checkpoint: Checkpoint) -> Tensor:
    spec = checkpoint.spec
    generator = torch.Generator().manual_seed(1)
    size = (ROWS, min(TOKENS, spec.block_size))
    return torch.randint(0, spec.vocab_size, size, generator=generator)


def _patient(case: Case, stored: StoredTensors) -> Patient:
    name = json.loads((case.folder / "config.json").read_text())["architectures"][0]
    route = route_to(case.checkpoint, name, stored)
    assert route is not None
    planted: dict[str, Tensor] = {}

    def plain(name: str) -> Tensor:
        return stored[name].double()

    def fetch(name: str) -> Tensor:
        return planted[name] if name in planted else plain(name)

    model = stream_artefact(case.folder, torch.float32, stored, fetch=fetch)
    return Patient(case.checkpoint.spec, route, model, plain, stored, planted)


def _logits(patient: Patient, ids: Tensor) -> Tensor:
    logits: Tensor = patient.model.model(input_ids=ids, use_cache=False).logits
    return logits


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=200, help="conversions")
    parser.add_argument("--trained", type=int, default=12, help="of these, trained first")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tolerances", action="store_true", help="judge by other tolerances")
    parser.add_argument("--corpus", action="store_true", help="what is said of known originals")
    parser.add_argument("--entries", type=int, help="of the corpus, so many by the seed")
    parser.add_argument("--only", default="", help="of the corpus, names that match this")
    parser.add_argument("--thorough", action="store_true", help="witnesses of every file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.corpus:
        from corpus import corpus

        return 0 if corpus(given.entries, given.seed, given.thorough, given.only) else 1
    if given.tolerances:
        tolerances(given.count, given.trained, given.seed)
        return 0
    return 0 if alarms(given.count, given.trained, given.seed) else 1


if __name__ == "__main__":
    sys.exit(main())
