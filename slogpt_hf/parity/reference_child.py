"""The process in which the training repository's own model class runs. Started by reference.py."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def main(folder: Path) -> None:
    """Answer the request in a folder."""
    request = json.loads((folder / "request.json").read_text("utf-8"))
    sys.path[:0] = request["paths"]
    from slogpt_hf.shielded import leave_the_network

    leave_the_network()
    import torch
    from safetensors.torch import load_file, save_file

    from slogpt_hf.checkpoints import read_checkpoint
    from slogpt_hf.parity.float64 import Float64Everywhere
    from slogpt_hf.parity.merging import Merged
    from slogpt_hf.parity.reference_made import loaded, made, said_of
    from slogpt_hf.parity.reference_module import imported
    from slogpt_hf.parity.reference_trace import traced
    from slogpt_hf.recorded import _logits

    torch.manual_seed(0)
    base = Path(request["base"]) if request["base"] else None
    checkpoint = read_checkpoint(Path(request["checkpoint"]), request["given"], base)
    known, constants = recorded_by(checkpoint, request)
    ids = load_file(folder / "ids.safetensors")["ids"]
    module = imported(Path(request["file"]), request["class"])
    tensors = checkpoint.tensors
    said: dict[str, Any] = {}

    def instance(dtype: Any) -> Any:
        def make(each: Any) -> Any:
            return made(module, request["class"], request["config"], each)

        weights: Any = tensors
        if checkpoint.adapters and not tensors.keys() <= make(known).state_dict().keys():
            weights = Merged(tensors, checkpoint.adapters)
        model, told = loaded(make, known, checkpoint.spec.n_hidden, weights, constants, dtype)
        said.update(said_of(told))
        return model

    answer: dict[str, Any] = {}
    with torch.no_grad():
        answer["logits"] = _logits(instance(torch.float32), ids).float()
        torch.set_default_dtype(torch.float64)
        with Float64Everywhere():
            model = instance(torch.float64)
            answer["exact"] = _logits(model, ids).double()
            with traced(model, checkpoint.dialect) as parts:
                _logits(model, ids[:1, : request["traced"]])
    answer |= parts
    save_file({n: t.contiguous() for n, t in answer.items()}, folder / "answer.safetensors")
    (folder / "said.json").write_text(json.dumps(said), encoding="utf-8")


def recorded_by(checkpoint: Any, request: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What is known of the model, and the constants that its file holds beside the weights."""
    from slogpt_hf.checkpoints.reader import read_contents
    from slogpt_hf.checkpoints.state_dict import read_state_dict
    from slogpt_hf.parity.reference_known import Known, assumed_in, seen_in, settings_in

    own = Path(request["base"] or request["checkpoint"])
    contents = read_contents(own)
    state = read_state_dict(own, contents.value)
    places, constants = {}, {}
    if state is not None:
        places = settings_in(state.fields)
        constants = {
            name: stored.read()
            for name, stored in state.tensors.items()
            if name not in checkpoint.tensors
        }
    spec = checkpoint.spec
    known = Known(places, request["told"], seen_in(spec), assumed_in(spec))
    return known, constants


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except Exception as error:
        sys.stderr.write(f"{type(error).__name__}: {' '.join(str(error).split())}\n")
        sys.stderr.flush()
        os._exit(1)
