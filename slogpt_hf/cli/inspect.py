"""``slogpt-hf inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from slogpt_hf.cli import printable
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
    """Show what CHECKPOINT is: dialect, architecture, size, vocabulary, target class.

    What is assumed is what the function rests on and no file records: a proof without a witness
    of the trainer's rests on it. Most of it can be set with --set. What is not known is recorded
    and may change the function: it is not released unless a witness settles it, or you do.
    """
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
            ("architecture", f"{spec['positions']} positions, {spec['norm']}, {_mlp(spec)}"),
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
            *(("note", note) for note in facts["notes"]),
            *(("not known", printable(_unknown(entry))) for entry in facts["unknown"]),
            *(("assumed", printable(f"{a['text']}: {a['why']}")) for a in facts["assumptions"]),
        ]
    )


def _mlp(spec: dict[str, Any]) -> str:
    from slogpt_hf.card.facts import ACTIVATIONS

    gate = "a gated" if spec["mlp"] == "gated" else "an"
    return f"{gate} MLP with {ACTIVATIONS[spec['activation']]}"


def _unknown(entry: dict[str, Any]) -> str:
    where = f"{entry['place']}.{entry['name']}" if entry["place"] else entry["name"]
    return f"{where} is {entry['value']!r}; a witness settles it, or --set ignore={entry['name']}"
