"""Ways to come up with inputs, each until its time is over, and what was found."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

from fuzzing.cases import Case, pack, unpack

MORE_BYTES = 4 << 30  # of addresses
SAVE_EVERY_S = 1.0
VARYING = re.compile(r"(/dev/shm|/tmp)/fuzz-\w+|'[^']*'|\"[^\"]*\"|\d+")


@dataclass
class Tally:
    """What became of the inputs of one reader.

    Attributes:
        messages: kinds of messages: numbers and quoted text do not make a difference.
        failures: kind of failure to the file that holds the first input with it.
    """

    reader: str
    folder: Path
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    worst_s: float = 0.0
    worst_bytes: int = 0
    messages: set[str] = field(default_factory=set)
    failures: dict[str, str] = field(default_factory=dict)
    saved_at: float = 0.0

    def judge(self, case: Case) -> None:
        """Read a case, note what became of it and keep it if it failed."""
        from fuzzing import oracle

        packed = pack(case)
        (self.folder / "current").write_bytes(packed)  # what is left if the process dies
        outcome = oracle.judge(case)
        self.inputs += 1
        self.accepted += outcome.kind == "accepted"
        self.refused += outcome.kind == "refused"
        self.worst_s = max(self.worst_s, outcome.seconds)
        self.worst_bytes = max(self.worst_bytes, outcome.n_bytes)
        if outcome.kind == "refused":
            self.messages.add(VARYING.sub("#", outcome.text))
        elif outcome.kind == "failed":
            self.fail(outcome.text, packed)
        if time.monotonic() - self.saved_at > SAVE_EVERY_S:
            self.save()

    def fail(self, text: str, packed: bytes) -> None:
        """Note a failure; the input is kept if it is the first or the shortest of its kind."""
        kind = VARYING.sub("#", " | ".join(text.strip().splitlines()[-3:]))[-300:]
        path = self.folder / f"{hashlib.sha256(kind.encode()).hexdigest()[:12]}.case"
        if not path.exists() or path.stat().st_size > len(packed):
            path.write_bytes(packed)
            path.with_suffix(".txt").write_text(text, errors="backslashreplace")
        self.failures[kind] = str(path)

    def save(self) -> None:
        """Write the tally for the process that waits for it."""
        self.saved_at = time.monotonic()
        content = asdict(self) | {"messages": sorted(self.messages), "folder": str(self.folder)}
        work = self.folder / "tally.partial"
        work.write_text(json.dumps(content, default=str))
        work.replace(self.folder / "tally.json")


def random_engine(tally: Tally, seconds: float, seed: int) -> None:
    """Seeded random mutations."""
    from fuzzing import mutate

    random, end = Random(f"{seed} {tally.reader}"), time.monotonic() + seconds
    while time.monotonic() < end:
        tally.judge(mutate.make(random, tally.reader))


def hypothesis_engine(tally: Tally, seconds: float, seed: int) -> None:
    """hypothesis' strategies, in rounds."""
    import hypothesis

    from fuzzing.strategies import cases

    end = time.monotonic() + seconds

    def check(case: Case) -> None:
        if time.monotonic() < end:
            tally.judge(case)

    settings = hypothesis.settings(
        max_examples=500,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    while time.monotonic() < end:
        seed += 1
        hypothesis.seed(seed)(settings(hypothesis.given(cases(tally.reader))(check)))()


def atheris_engine(tally: Tally, seconds: float, seed: int) -> None:
    """libFuzzer: inputs that reach code of slogpt_hf that none before did are mutated further."""
    import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

    from fuzzing import mutate
    from fuzzing.seeds import seeds

    corpus = tally.folder / "corpus"
    corpus.mkdir()
    for number, case in enumerate(seeds(tally.reader)):
        (corpus / str(number)).write_bytes(pack(case))

    def change(data: bytes, most: int, number: int) -> bytes:
        random = Random(number)
        try:
            case = unpack(data)
        except (ValueError, KeyError, TypeError, AttributeError):
            case = random.choice(seeds(tally.reader))
        fresh = random.random() < 0.2
        made = mutate.make(random, tally.reader) if fresh else mutate.mutate(random, case)
        packed = pack(made)
        return packed if len(packed) <= most else data

    def check(data: bytes) -> None:
        try:
            case = unpack(data)
        except (ValueError, KeyError, TypeError, AttributeError):
            return
        tally.judge(case)

    options = [f"-max_total_time={int(seconds)}", f"-seed={seed + 1}", "-max_len=400000"]
    options += ["-timeout=60", "-rss_limit_mb=0", "-print_final_stats=0", "-verbosity=0"]
    options += [f"-artifact_prefix={tally.folder}/"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], check, custom_mutator=change)
    atheris.Fuzz()


ENGINES: dict[str, Callable[[Tally, float, int], None]] = {
    "random": random_engine,
    "hypothesis": hypothesis_engine,
    "atheris": atheris_engine,
}


def work(reader: str, engine: str, seconds: float, seed: int, folder: Path) -> None:
    """Fuzz one reader in this process; the tally is in ``folder`` even if it dies."""
    if engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=["slogpt_hf"]):
            _prepare()
    else:
        _prepare()
    tally = Tally(reader, folder)
    tally.save()
    ENGINES[engine](tally, seconds, seed)
    tally.save()


def _prepare() -> None:
    from fuzzing import oracle

    oracle.prepare()
    limit = oracle.status("VmSize") + MORE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = os.devnull
