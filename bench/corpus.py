"""What the product says of checkpoints whose original is known: ``python bench/proof.py --corpus``.

Each original of ``originals/table.py`` is written as checkpoints that record much, little and
nothing, and goes through the product as a user would send it: alone, with the right settings, with
recorded logits beside it, with its class as ``--reference``, with a recorded validation loss, and
through ``discover``. What was published is then compared with the original itself, in float64.
"""

from __future__ import annotations

import json
import random
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from discovering import discovered
from originals.table import CONTEXT, ENTRIES, ROWS, Entry
from originals.writing import RECORDINGS, Original, Recording, estimated_loss, write
from torch import Tensor

from slogpt_hf import record_parity
from slogpt_hf.build import convert
from slogpt_hf.errors import SloGPTError
from slogpt_hf.parity.gate import FP64_BOUND
from slogpt_hf.parity.streamed import StoredTensors, stream_artefact
from slogpt_hf.settings import Settings

Witness = Literal["none", "recorded", "reference", "loss"]
WITNESSING = ("recorded", "reference")
TRAINING_STEPS = 60
# Those that are trained, so that a validation loss means something.
TRAINED = (
    "nanogpt",
    "nanogpt of january 2023",
    "nanogpt relu",
    "nanogpt attention one",
    "nanogpt window",
    "llama2c",
    "llama2c halves",
    "llama2c theta 500000",
    "slo rope-swiglu-rmsnorm",
    "sloughgpt",
)


@dataclass(frozen=True)
class Case:
    """A checkpoint and how it is given to the product.

    Attributes:
        entry: the original.
        recording: how much its file records.
        witness: what the trainer left as a witness.
        right: the settings that make it right are given.
    """

    entry: Entry
    recording: Recording
    witness: Witness
    right: bool

    @property
    def way(self) -> str:
        """The kind of case, for the table."""
        settings = "right settings" if self.right else "no settings"
        return f"{self.witness} {settings}" if self.witness != "none" else settings

    @property
    def clean(self) -> bool:
        """Refusing it, or publishing another function, would be wrong.

        A file that records a fork's own switches may be refused for their names, unless a witness
        settles them.
        """
        if self.entry.settings is None or not (self.right or not self.entry.facts):
            return False
        return self.recording != "much" or self.witness in WITNESSING or not self.entry.facts


@dataclass(frozen=True)
class Outcome:
    """What the product said, and what is true.

    Attributes:
        case: what it was given.
        code: exit code.
        message: of a refusal.
        level: of the proof; None where nothing was published.
        assumptions: name to value, of those that are listed as not confirmed.
        exact_witness: one that agrees has logits in float64; those in float32 can hide a difference
            within their own rounding, if what they cannot tell is still called an assumption.
        difference: max |artefact - original| in float64, relative; None if nothing was published.
        seconds: that it took.
    """

    case: Case
    code: int
    message: str = ""
    level: str | None = None
    assumptions: Mapping[str, Any] = field(default_factory=dict)
    exact_witness: bool = False
    difference: float | None = None
    seconds: float = 0.0

    @property
    def differs(self) -> bool:
        """Another function was published."""
        return self.difference is not None and not self.difference <= FP64_BOUND

    @property
    def problem(self) -> str:
        """Which promise is broken; empty if none is."""
        if self.differs:
            if self.level == "witnessed" and self.exact_witness:
                return "witnessed in float64, but differs"
            if unnamed := self._unnamed():
                return f"{self.level}, but does not name {', '.join(unnamed)}"
            return "differs with the right settings" if self.case.clean else ""
        if self.code and self.case.clean:
            return "refused, but right"
        if self.code == 0 and self.case.witness in WITNESSING and self.level != "witnessed":
            return "right and witnessed, but not said so"
        return ""

    def _unnamed(self) -> list[str]:
        """Facts that differ from the family's and are not among the assumptions.

        What the file records, the product may have used.
        """
        facts = self.case.entry.facts
        unnamed = [each for each in facts if not set(each.split("|")) & self.assumptions.keys()]
        if self.case.recording == "much" and len(unnamed) < len(facts):
            return []
        return unnamed if facts else ["anything"]


def cases(entries: Sequence[Entry], seed: int, thorough: bool) -> Iterator[Case]:
    """The cases of some entries: which file a witness lies beside changes with the seed."""
    rng = random.Random(seed)
    for entry in entries:
        insides = (False, True) if entry.settings else (False,)
        for recording in RECORDINGS:
            yield from (Case(entry, recording, "none", right) for right in insides)
        for witness in WITNESSING:
            for recording in RECORDINGS if thorough else (rng.choice(RECORDINGS),):
                yield from (Case(entry, recording, witness, right) for right in insides)
        if entry.name in TRAINED:
            yield from (Case(entry, "little", "loss", right) for right in insides)


def run(case: Case, seed: int) -> Outcome:
    """Send a checkpoint through the product, in a folder of its own."""
    steps = TRAINING_STEPS if case.witness == "loss" else 0
    original = Original(case.entry, seed, steps)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="slogpt-hf-corpus-") as temporary:
        folder = Path(temporary)
        loss = estimated_loss(original) if steps else None
        path = write(original, case.recording, folder, loss)
        ids = token_ids(seed)
        if case.witness == "recorded":
            record_parity(original.model, path, ids)
        output = folder / "artefact"
        try:
            convert(path, output, settings_of(case, original, folder))
        except SloGPTError as error:
            return Outcome(case, error.exit_code, str(error), seconds=since(started))
        report = json.loads((output / "parity.json").read_text("utf-8"))
        return Outcome(
            case,
            0,
            level=report["level"],
            assumptions={each["name"]: each["value"] for each in report["assumptions"]},
            exact_witness=any(
                each["agrees"] and each["fp64_error"] is not None for each in report["witnesses"]
            ),
            difference=difference(original, output, ids),
            seconds=since(started),
        )


def settings_of(case: Case, original: Original, folder: Path) -> Settings:
    """The options that a user gives."""
    said = original.asked() if case.recording == "nothing" else {}
    for each in case.entry.settings or () if case.right else ():
        name, _, value = each.partition("=")
        said[name] = value
    source = original.source
    return Settings(
        dataset=str(folder / "data"),
        set=tuple(f"{name}={value}" for name, value in said.items()),
        reference=f"{folder / 'model.py'}:{source.model}:{source.config}"
        if case.witness == "reference"
        else None,
        report=str(folder / "parity.json"),
    )


def token_ids(seed: int) -> Tensor:
    """Two rows of random ids, as long as the context."""
    return torch.randint(ROWS, (2, CONTEXT), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def difference(original: Original, artefact: Path, ids: Tensor) -> float:
    """max |artefact - original| in float64, relative to the original's largest logit."""
    theirs = original.logits(ids, torch.float64)
    ours = stream_artefact(artefact, torch.float64, StoredTensors(artefact)).logits(ids)
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def since(started: float) -> float:
    """Seconds since a time."""
    return time.perf_counter() - started


def chosen(count: int | None, seed: int, matching: str = "") -> list[Entry]:
    """Some entries, in the table's order; None for all."""
    entries = [entry for entry in ENTRIES if re.search(matching, entry.name)]
    if count is None or count >= len(entries):
        return entries
    some = set(random.Random(seed).sample(range(len(entries)), count))
    return [entry for i, entry in enumerate(entries) if i in some]


def printed(outcomes: Sequence[Outcome]) -> bool:
    """Print what was found as a table; whether nothing was wrong."""
    print(
        f"{'way':<26} {'cases':>6} {'refused':>8} {'equal':>6} {'differ, named':>14} {'wrong':>6}"
    )
    for way in dict.fromkeys(outcome.case.way for outcome in outcomes):
        some = [outcome for outcome in outcomes if outcome.case.way == way]
        refused = sum(outcome.code != 0 for outcome in some)
        named = sum(outcome.differs and not outcome.problem for outcome in some)
        equal = sum(outcome.code == 0 and not outcome.differs for outcome in some)
        wrong = sum(bool(outcome.problem) for outcome in some)
        counts = (len(some), refused, equal, named, wrong)
        print(f"{way:<26} " + " ".join(f"{n:>8}" for n in counts))
    clean = [outcome for outcome in outcomes if outcome.case.clean]
    claimed = [outcome for outcome in outcomes if outcome.differs and outcome.level == "witnessed"]
    single = [outcome for outcome in claimed if not outcome.problem]
    lost = [outcome for outcome in outcomes if outcome.level == "corroborated" and outcome.differs]
    unnamed = [outcome for outcome in outcomes if "does not name" in outcome.problem]
    print(f"witnessed, but differs: {len(claimed) - len(single)}")
    print(f"- within the rounding of float32 logits, and names why: {len(single)}")
    print(f"corroborated, but differs: {sum(bool(outcome.problem) for outcome in lost)}")
    print(f"- within the error of the loss, and names why: {sum(not o.problem for o in lost)}")
    print(f"differs, and does not name why: {len(unnamed)}")
    print(f"refused, of {len(clean)} clean: {sum(outcome.code != 0 for outcome in clean)}")
    problems = [outcome for outcome in outcomes if outcome.problem]
    for outcome in problems:
        case = outcome.case
        said = outcome.message[:300] or f"off by {outcome.difference:.1e}"
        print(f"- {case.entry.name}, {case.recording}, {case.way}: {outcome.problem}; {said}")
    return not problems


def corpus(count: int | None, seed: int, thorough: bool = False, matching: str = "") -> bool:
    """Run the corpus and print what was found; whether nothing was wrong."""
    started = time.perf_counter()
    entries = chosen(count, seed, matching)
    outcomes = [run(case, seed) for case in cases(entries, seed, thorough)]
    took = since(started)
    print(f"{len(entries)} originals, {len(outcomes)} checkpoints, in {took:.0f} s, seed {seed}")
    right = printed(outcomes)
    return discovered(entries, seed) and right
