"""``slogpt-hf inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from slogpt_hf.cli.options import (
    FIELDS,
    json_option,
    merged,
    print_json,
    print_table,
    settings_options,
)


@click.command("inspect", epilog="Example: slogpt-hf inspect out/ckpt.pt")
@click.argument("checkpoint")
@settings_options(*FIELDS, "dataset", "tokenizer", "dtype")
@json_option
def command(checkpoint: str, as_json: bool, **flags: Any) -> None:
    """Show what CHECKPOINT is: dialect, architecture, size, vocabulary, target class."""
    from slogpt_hf.inspection import inspect_checkpoint
    from slogpt_hf.progress import human_bytes

    facts = inspect_checkpoint(Path(checkpoint), merged(flags))
    if as_json:
        print_json(facts)
        return
    spec = facts["spec"]
    print_table(
        [
            ("file", f"{facts['file']} ({human_bytes(facts['file_bytes'])})"),
            ("layout", facts["container"]),
            ("dialect", facts["dialect"]),
            ("architecture", f"{spec['positions']} positions, {spec['norm']}, {spec['mlp']}"),
            ("linear biases", "yes" if spec["linear_bias"] else "no"),
            ("layers x heads x width", f"{spec['n_layer']} x {spec['n_head']} x {spec['n_embd']}"),
            ("key/value heads", spec["n_kv_head"]),
            ("context", f"{spec['block_size']} tokens"),
            ("vocabulary", f"{spec['vocab_size']} ids; {facts['vocabulary']}"),
            ("head", "tied to the embedding" if spec["tied"] else "its own matrix"),
            ("parameters", f"{facts['n_parameters']:,}"),
            ("dtype", facts["dtype"]),
            ("step", facts["step"]),
            ("validation loss", facts["val_loss"]),
            ("target class", facts["target_class"]),
            ("custom code", "yes, ships with the artefact" if facts["remote_code"] else "no"),
            ("weights", human_bytes(facts["weights_bytes"])),
            *(("assumed", f"{each['text']}: {each['why']}") for each in facts["assumptions"]),
            *(("note", note) for note in facts["notes"]),
        ]
    )
