"""What other programs compute with artefacts: ``python bench/elsewhere/run.py TOOLS [WORD...]``

TOOLS is a folder; what is missing there is installed by npm and pip. Every case of artefacts.py
goes through every program; with words only the cases whose name has them all. Each line has the
largest difference of a logit from transformers here, relative to the largest logit.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import artefacts
import numpy as np
import programs
import torch
from answering import RefusedError

N_IDS = 24
PROGRAMS = {
    "llama.cpp": programs.LlamaCpp,
    "ctranslate2": programs.CTranslate2,
    "onnxruntime": programs.Onnx,
    "transformers.js": programs.TransformersJs,
}


def expected(model: Path, ids: list[int]) -> np.ndarray:
    """The logits of transformers here, in float32."""
    from transformers import AutoModelForCausalLM

    with torch.inference_mode():
        loaded = AutoModelForCausalLM.from_pretrained(
            model, dtype=torch.float32, trust_remote_code=True
        ).eval()
        return loaded(torch.tensor([ids])).logits[0].double().numpy()


def measured(running: dict[str, programs.Program], case: artefacts.Case) -> dict[str, float | str]:
    """Program to the difference, or to why it computes nothing."""
    found: dict[str, float | str] = {}
    with tempfile.TemporaryDirectory(prefix="slogpt-hf-elsewhere-") as name:
        work = Path(name)
        model = artefacts.write(case, work)
        ids = np.random.default_rng(0).integers(0, artefacts.SIZES["vocab_size"], N_IDS).tolist()
        right = expected(model, ids)
        for program, each in running.items():
            try:
                got = np.array(each.logits(model, ids, work), np.float64)
                if got.shape != right.shape:
                    raise RefusedError(f"logits of shape {got.shape}")
                found[program] = float(np.abs(got - right).max() / np.abs(right).max())
            except RefusedError as refused:
                found[program] = str(refused)
    return found


def main() -> None:
    """Print the table as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tools", type=Path)
    parser.add_argument("words", nargs="*")
    arguments = parser.parse_args()
    tools = arguments.tools.resolve()
    programs.install(tools)
    print(json.dumps(programs.versions(tools)))
    running = {name: program(tools) for name, program in PROGRAMS.items()}
    for case in artefacts.cases():
        if all(word in str(case) for word in arguments.words):
            print(json.dumps({"case": str(case), **measured(running, case)}), flush=True)
    for each in running.values():
        each.end()


if __name__ == "__main__":
    sys.exit(main())
