"""Settings that no file records, found by a witness: the trainer's class or recorded logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slogpt_hf.checkpoints import Checkpoint, read_checkpoint
from slogpt_hf.checkpoints.fields import head_counts
from slogpt_hf.errors import CheckpointError, SloGPTError, UsageError
from slogpt_hf.progress import SILENT, Progress
from slogpt_hf.settings import Settings, given_field

if TYPE_CHECKING:
    from torch import Tensor

    from slogpt_hf.checkpoints.spec import Spec
    from slogpt_hf.parity.oracles import Testimony
    from slogpt_hf.parity.searching import Found

TOKENS, ROWS, SEED = 64, 2, 1337
MOST_HEADS = 256  # first number of heads that is tried, to get at the shapes


@dataclass(frozen=True)
class Discovery:
    """What a search for settings found.

    Attributes:
        witness: whose function was looked for.
        note: what a person has to know of it.
        settings: options of ``--set`` under which the built-in model agrees, or comes nearest.
        found: the search.
        tokens: tokens of a row that the witness spoke of.
        guessed: settings that were needed to read the file and that the witness cannot tell.
    """

    witness: str
    note: str
    settings: tuple[str, ...]
    found: Found
    tokens: int
    guessed: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "witness": self.witness,
            "note": self.note,
            "agrees": self.found.agrees,
            "set": list(self.settings),
            "error": self.found.error,
            "bound": self.found.bound,
            "not_told_apart": list(self.found.alike),
            "guessed": list(self.guessed),
            "passes": self.found.passes,
            "stopped": self.found.stopped,
            "tokens": self.tokens,
        }


def discover(path: Path, settings: Settings, progress: Progress = SILENT) -> Discovery:
    """Find the settings under which the built-in model computes what a witness says.

    Args:
        path: the checkpoint.
        settings: ``reference`` names the class, by default ``auto``; ``set`` and ``base``.
        progress: told how many models were tried.

    Raises:
        UsageError: a path or setting cannot be meant, or there is no witness.
        CheckpointError: the checkpoint cannot be read with any setting, or its class not asked.
    """
    from slogpt_hf.parity.decoder import Decoder
    from slogpt_hf.parity.families import FAMILIES
    from slogpt_hf.parity.reference_name import require_reference
    from slogpt_hf.parity.searching import Evidence, Search, as_options, changed, loaded_once

    require_reference(settings.reference)
    checkpoint, guesses = _readable(path, settings)
    heads = tuple(_heads(checkpoint)) if "n_head" in guesses else ()
    said, note = _witness(checkpoint, guesses, settings)
    open_names = {each.name for each in checkpoint.assumptions} - {
        name for name in settings.given if name not in guesses
    }
    model = loaded_once(
        Decoder(
            FAMILIES[checkpoint.dialect], checkpoint.spec, checkpoint.tensors, checkpoint.adapters
        )
    )
    evidence = Evidence(said, model)
    names = open_names | ({"n_head"} if heads else set())
    with progress.stage("try", evidence.passes, "models") as advance:
        found = Search(evidence, names, heads, advance).run()
    told = {name: value for name, value in guesses.items() if name not in found.changes}
    if "norm" in found.changes:
        told.pop("use_rmsnorm", None)
    untold = [name for name in told if name == "block_size" or name in said.told]
    changes = {**told, **found.changes}
    changes |= _moved(path, settings, changes, changed(checkpoint.spec, found.changes))
    options = as_options(changes)
    note = "; ".join(filter(None, (note, _refusal(path, settings, options))))
    return Discovery(
        said.name, note, tuple(options), found, said.ids.shape[1], tuple(sorted(untold))
    )


def _moved(
    path: Path, settings: Settings, changes: Mapping[str, Any], found: Spec
) -> dict[str, Any]:
    """Settings that have to be said as well, since others move what is assumed for them.

    With ``norm=rmsnorm``, say, another epsilon is assumed than the one that was tried with it.
    """
    from slogpt_hf.parity.searching import as_options, value_in, values_for

    given = settings.given | dict(map(given_field, as_options(changes)))
    try:
        read = read_checkpoint(path, given, settings.base_path).spec
    except SloGPTError:
        return {}
    pairs = {name: (value_in(found, name), value_in(read, name)) for name in values_for(found)}
    return {name: a for name, (a, b) in pairs.items() if a != b and a is not None}


def _refusal(path: Path, settings: Settings, options: list[str]) -> str:
    """Why these options would not be accepted; empty if they would."""
    given = settings.given | dict(map(given_field, options))
    try:
        read_checkpoint(path, given, settings.base_path)
    except SloGPTError as error:
        return f"not accepted as it is: {error.message}"
    return ""


def _readable(path: Path, settings: Settings) -> tuple[Checkpoint, dict[str, Any]]:
    """The checkpoint, with guesses for the fields that it has to be read with."""
    first: SloGPTError | None = None
    for guess in _guesses(settings.given):
        try:
            return read_checkpoint(path, settings.given | guess, settings.base_path), guess
        except (CheckpointError, UsageError) as error:
            first = first or error
            missing = "does not record" in str(error) or "--set" in str(error)
            if not guess and not missing:
                raise
    assert first is not None
    raise first


def _guesses(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Guesses of fields that a file may lack, the smallest first."""
    yield {}
    heads = [{}] if "n_head" in given else [{}, *({"n_head": n} for n in range(1, MOST_HEADS + 1))]
    blocks = [{}] if "block_size" in given else [{}, {"block_size": TOKENS}]
    norms: list[dict[str, Any]] = [{}]
    if not {"norm", "use_rmsnorm"} & given.keys():
        norms.append({"use_rmsnorm": True})
    tied: list[dict[str, Any]] = [{}] if "tied" in given else [{}, {"tied": True}]
    rotary: list[dict[str, Any]] = [{}] if "use_rope" in given else [{}, {"use_rope": True}]
    for more in ({**a, **b, **c} for a in rotary for b in tied for c in norms):
        for head in heads:
            for block in blocks:
                if guess := {**more, **head, **block}:
                    yield guess


def _heads(checkpoint: Checkpoint) -> Iterator[int]:
    spec = checkpoint.spec
    rotary = spec.positions == "rotary"
    return head_counts(spec.n_embd, spec.n_kv_head * spec.head_dim, rotary)


def _witness(
    checkpoint: Checkpoint, guesses: Mapping[str, Any], settings: Settings
) -> tuple[Testimony, str]:
    """Recorded logits or, where none lie beside the checkpoint or one is named, the class."""
    from slogpt_hf.parity.oracles import recorded_beside
    from slogpt_hf.parity.reference import hear_reference
    from slogpt_hf.parity.reference_name import AUTO

    if settings.reference is None:
        spec = replace(checkpoint.spec, block_size=max(checkpoint.spec.block_size, 1 << 20))
        longest = checkpoint if "block_size" not in guesses else replace(checkpoint, spec=spec)
        if (recorded := recorded_beside(longest)) is not None:
            return recorded, ""
    # The class is not told what was guessed here.
    heard = hear_reference(checkpoint, settings.reference or AUTO, _ids(checkpoint), guesses)
    if heard.testimony is None:
        raise UsageError(
            f"{checkpoint.path}: there is no witness of what was trained"
            f"{f': {heard.note}' if heard.note else ''}.",
            hint="Name the trainer's class with --reference FILE.py:CLASS, or record logits where "
            "training saves, with slogpt_hf.record_parity(model, PATH, ids).",
        )
    return heard.testimony, heard.note


def _ids(checkpoint: Checkpoint) -> Tensor:
    import torch

    spec = checkpoint.spec
    generator = torch.Generator().manual_seed(SEED)
    length = min(TOKENS, spec.block_size)
    return torch.randint(spec.vocab_size, (ROWS, length), generator=generator)
