"""Converting where nothing can be proven, since torch or transformers are not installed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slogpt_hf.build import open_checkpoint, tokenizer_for
from slogpt_hf.checkpoints.unknown import require_known
from slogpt_hf.conversion import plan_conversion, write_model
from slogpt_hf.errors import UsageError
from slogpt_hf.files import staged_folder
from slogpt_hf.libraries import TO_PROVE, missing
from slogpt_hf.progress import SILENT, Progress
from slogpt_hf.settings import Settings

NOTE_FILE = "NOT-PROVEN.txt"
NOTE = (
    "This model was converted by slogpt-hf without {absent}, so nothing has shown that it\n"
    "computes what the original computes. slogpt-hf does not publish it. {remedy}\n"
)


@dataclass(frozen=True)
class Unproven:
    """A converted model that nothing vouches for.

    Attributes:
        output: the folder.
        target_class: the transformers class.
        dtype: of the weights.
        n_parameters: parameters; a tied head counts once.
        missing: packages without which nothing can be proven.
        proven: never.
    """

    output: str
    target_class: str
    dtype: str
    n_parameters: int
    missing: tuple[str, ...]
    proven: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


def convert_unproven(
    checkpoint_path: Path, output: Path, settings: Settings, progress: Progress = SILENT
) -> Unproven:
    """Convert a checkpoint with numpy alone; the folder has no record, so it cannot be published.

    Args:
        checkpoint_path: file or folder that the trainer saved.
        output: folder to make; it appears only when whole.
        settings: dataset, tokenizer, dtype and so on.
        progress: told what happens.

    Raises:
        UsageError: ``output`` exists, a setting cannot be meant, or one asks for a proof.
        CheckpointError: the checkpoint or vocabulary cannot be read, or it records what is not
            known.
    """
    absent = missing()
    for name in ("require_witness", "reference", "unquantised"):
        if getattr(settings, name) not in (None, "none"):
            raise UsageError(
                f"--{name.replace('_', '-')} asks for a proof, which takes {', '.join(absent)}.",
                hint=TO_PROVE,
            )
    checkpoint = open_checkpoint(checkpoint_path, settings)
    choice = tokenizer_for(checkpoint, settings)
    require_known(checkpoint)
    conversion = plan_conversion(checkpoint, settings.dtype, choice.special)
    with staged_folder(output) as folder:
        with progress.stage("convert", conversion.n_bytes) as advance:
            artefact = write_model(
                checkpoint,
                conversion,
                folder,
                max_shard_bytes=settings.max_shard_bytes,
                advance=advance,
            )
        choice.write(folder, checkpoint)
        checkpoint.require_unchanged()
        note = NOTE.format(absent=", ".join(absent), remedy=TO_PROVE)
        (folder / NOTE_FILE).write_text(note, encoding="utf-8")
    return Unproven(
        str(output), artefact.target_class, artefact.dtype, artefact.n_parameters, absent
    )
