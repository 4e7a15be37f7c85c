"""The process in which the training repository's own model class runs. Started by reference.py."""

from __future__ import annotations

import ctypes
import dataclasses
import importlib
import importlib.util
import inspect
import json
import os
import sys
from pathlib import Path
from typing import Any

NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000  # of unshare(2)


def leave_the_network() -> None:
    """Go where there is no network, if the system lets everyone do that.

    A user namespace of its own besides keeps from this process what other processes of the same
    user have in memory, such as the environment of the one that started it. Only a process of one
    thread can go there: before torch is imported.
    """
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(NEW_USER | NEW_NETWORK) != 0:
            libc.unshare(NEW_NETWORK)
    except (OSError, AttributeError, TypeError):
        return


def imported(path: Path) -> Any:
    """The module of a file, with what lies beside it or, in packages, around it importable."""
    names, folder = [path.stem], path.parent
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    sys.path.insert(0, str(folder))
    if len(names) > 1:
        return importlib.import_module(".".join(names))
    # ``from src.layers import Layer`` in src/model.py, which is run from above.
    sys.path.append(str(folder.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def fields_of(spec: Any) -> dict[str, Any]:
    """What the families' configurations call the sizes and switches of a spec."""
    return {
        "n_layer": spec.n_layer,
        "n_layers": spec.n_layer,
        "n_head": spec.n_head,
        "n_heads": spec.n_head,
        "n_kv_head": spec.n_kv_head,
        "n_kv_heads": spec.n_kv_head,
        "n_embd": spec.n_embd,
        "n_embed": spec.n_embd,
        "dim": spec.n_embd,
        "hidden_dim": spec.n_hidden,
        "vocab_size": spec.vocab_size,
        "block_size": spec.block_size,
        "max_seq_len": spec.block_size,
        "bias": spec.linear_bias or spec.norm_bias,
        "norm_eps": spec.norm_eps,
        "dropout": 0.0,
        "use_rope": spec.positions == "rotary",
        "use_swiglu": spec.mlp == "gated",
        "use_rmsnorm": spec.norm == "rmsnorm",
    }


def made(module: Any, name: str, config: str | None, spec: Any) -> Any:
    """An instance of the class, with the sizes of the checkpoint."""
    kind = getattr(module, name)
    known = fields_of(spec)
    settings = getattr(module, config) if config else config_class(module, kind)
    if settings is None:
        return kind(**chosen(kind, known))
    return kind(settings(**chosen(settings, known)))


def config_class(module: Any, kind: Any) -> Any:
    """The class of the first parameter of ``kind``, or the module's one dataclass."""
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    if parameters and parameters[0].name in ("config", "args", "params", "cfg"):
        hint = parameters[0].annotation
        named = getattr(module, hint, None) if isinstance(hint, str) else hint
        if inspect.isclass(named) and named is not inspect.Parameter.empty:
            return named
        found = [
            c for c in vars(module).values() if inspect.isclass(c) and dataclasses.is_dataclass(c)
        ]
        if len(found) == 1:
            return found[0]
        raise TypeError(f"name the configuration class too: FILE.py:{kind.__name__}:CONFIG")
    return None


def chosen(kind: Any, known: dict[str, Any]) -> dict[str, Any]:
    """Of what is known, what a class takes."""
    return {n: known[n] for n in inspect.signature(kind).parameters if n in known}


def logits_of(model: Any, ids: Any) -> Any:
    """Logits of every position."""
    from slogpt_hf.recorded import _logits

    return _logits(model, ids)


def loaded(module: Any, request: dict[str, Any], checkpoint: Any, dtype: Any) -> Any:
    """An instance with the checkpoint's weights: merged, where it has no place for adapters."""
    from slogpt_hf.parity.merging import Merged

    model = made(module, request["class"], request["config"], checkpoint.spec).eval().to(dtype)
    tensors = checkpoint.tensors
    if not tensors.keys() <= model.state_dict().keys():
        tensors = Merged(tensors, checkpoint.adapters)
    model.load_state_dict({name: tensors[name].to(dtype) for name in tensors}, strict=True)
    return model


def main(folder: Path) -> None:
    """Answer the request in a folder."""
    leave_the_network()
    request = json.loads((folder / "request.json").read_text("utf-8"))
    sys.path[:0] = request["paths"]
    import torch
    from safetensors.torch import load_file, save_file

    from slogpt_hf.checkpoints import read_checkpoint
    from slogpt_hf.parity.float64 import Float64Everywhere

    torch.manual_seed(0)
    base = Path(request["base"]) if request["base"] else None
    checkpoint = read_checkpoint(Path(request["checkpoint"]), request["given"], base)
    ids = load_file(folder / "ids.safetensors")["ids"]
    module = imported(Path(request["file"]))
    with torch.no_grad():
        single = logits_of(loaded(module, request, checkpoint, torch.float32), ids)
        with Float64Everywhere():
            exact = logits_of(loaded(module, request, checkpoint, torch.float64), ids)
    answer = {"logits": single.float().contiguous(), "exact": exact.double().contiguous()}
    save_file(answer, folder / "answer.safetensors")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except Exception as error:
        sys.stderr.write(f"{type(error).__name__}: {' '.join(str(error).split())}\n")
        sys.stderr.flush()
        os._exit(1)
