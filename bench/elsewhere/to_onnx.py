"""ONNX by optimum, and what onnxruntime computes with it: ``to_onnx.py FOLDER``.

A line of JSON on stdin, {model, out, ids}, gives one on stdout: {logits} (a row a position).
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any


def computed(model: str, out: str, ids: list[int]) -> list[list[float]]:
    """Export to ``out`` as transformers.js wants it laid out, and run."""
    import numpy as np
    import onnxruntime
    from optimum.exporters.onnx import main_export

    main_export(model, out, task="text-generation-with-past", do_validation=False)
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
    rows: list[list[float]] = logits[0].tolist()
    return rows


def main() -> None:
    """Answer every line."""
    shown, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        answer: dict[str, Any]
        try:
            answer = {"logits": computed(**json.loads(line))}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        shown.write(json.dumps(answer) + "\n")
        shown.flush()


main()
