"""optimum's ONNX and onnxruntime as a process that answers: {model, out, ids} gives {logits}."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from answering import answer_all
from optimum.exporters.onnx import main_export

EXPORT = {
    "task": "text-generation-with-past",
    "do_validation": False,
    "trust_remote_code": True,
}


def computed(model: str, out: str, ids: list[int]) -> dict[str, Any]:
    """Export to ``out`` as transformers.js wants it laid out, and run."""
    main_export(model, out, **EXPORT)
    session = onnxruntime.InferenceSession(f"{out}/model.onnx")
    given = {
        "input_ids": np.array([ids]),
        "attention_mask": np.ones((1, len(ids)), int),
        "position_ids": np.arange(len(ids))[None],
    }
    feeds = {}
    for each in session.get_inputs():
        # What is not given is the cache, empty.
        sizes = [1 if size == "batch_size" else size for size in each.shape]
        empty = [size if isinstance(size, int) else 0 for size in sizes]
        feeds[each.name] = given.get(each.name, np.zeros(empty, np.float32))
    (logits,) = session.run(["logits"], feeds)
    Path(out, "onnx").mkdir()
    shutil.move(f"{out}/model.onnx", f"{out}/onnx/model.onnx")
    return {"logits": logits[0].tolist()}


answer_all(computed)
