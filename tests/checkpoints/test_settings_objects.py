"""Settings that are pickled as objects are read as their fields; no class of theirs is loaded."""

from __future__ import annotations

import argparse
import enum
import sys
import types
from collections.abc import Callable
from dataclasses import make_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from slogpt_hf.checkpoints import read_checkpoint
from slogpt_hf.checkpoints.containers.settings_objects import is_settings_class
from slogpt_hf.checkpoints.unknown import require_known
from slogpt_hf.errors import CheckpointError

Content = Callable[..., dict[str, Any]]


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module that is gone when the checkpoint is read, as the trainer's is."""
    module = types.ModuleType("the_trainer")
    monkeypatch.setitem(sys.modules, "the_trainer", module)
    return module


def belonging_to(module: types.ModuleType, kind: Any) -> Any:
    kind.__module__, kind.__qualname__ = module.__name__, kind.__name__
    setattr(module, kind.__name__, kind)
    return kind


def saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    sys.modules.pop("the_trainer", None)
    return path


def with_settings(make: Content, settings: Any) -> dict[str, Any]:
    content = make()
    del content["model_args"]
    return {**content, "config": settings}


def test_a_dataclass_is_read(
    slo_content: Content, trainer: types.ModuleType, tmp_path: Path
) -> None:
    args = slo_content()["model_args"]
    config = belonging_to(trainer, make_dataclass("GPTConfig", list(args), slots=False))
    path = saved(with_settings(slo_content, config(**args)), tmp_path / "ckpt.pt")
    spec = read_checkpoint(path).spec
    assert (spec.n_layer, spec.n_head) == (args["n_layer"], args["n_head"])


def test_slots_and_an_enum_are_read(
    slo_content: Content, trainer: types.ModuleType, tmp_path: Path
) -> None:
    kinds = belonging_to(trainer, enum.Enum("Kind", {"SQUARED": "squared_relu"}))
    args = slo_content()["model_args"] | {"activation": kinds.SQUARED}
    config = belonging_to(trainer, make_dataclass("GPTConfig", list(args), slots=True))
    path = saved(with_settings(slo_content, config(**args)), tmp_path / "ckpt.pt")
    assert read_checkpoint(path).spec.activation == "relu2"


@pytest.mark.parametrize("holder", [argparse.Namespace, types.SimpleNamespace])
def test_a_namespace_is_read(slo_content: Content, holder: Any, tmp_path: Path) -> None:
    args = slo_content()["model_args"]
    path = saved(with_settings(slo_content, holder(**args)), tmp_path / "ckpt.pt")
    assert read_checkpoint(path).spec.n_head == args["n_head"]


def test_what_an_object_records_is_not_ignored(slo_content: Content, tmp_path: Path) -> None:
    args = slo_content()["model_args"] | {"attention_logit_cap": 30.0}
    path = saved(with_settings(slo_content, argparse.Namespace(**args)), tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=r"config\.attention_logit_cap"):
        require_known(read_checkpoint(path))


def test_a_whole_model_is_refused_by_name(trainer: types.ModuleType, tmp_path: Path) -> None:
    kind = belonging_to(trainer, type("GPT", (torch.nn.Module,), {}))
    path = saved(kind(), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"the_trainer\.GPT"):
        read_checkpoint(path)


def test_a_call_with_arguments_is_no_settings(trainer: types.ModuleType, tmp_path: Path) -> None:
    class Calls:
        def __reduce__(self) -> Any:
            return belonging_to(trainer, type("Pair", (), {})), (1, 2)

    path = saved({"model": {}, "config": Calls()}, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=r"the_trainer\.Pair"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "name", ["os.system", "posix.system", "builtins.eval", "subprocess.Popen", "torch.load", "nt.x"]
)
def test_what_runs_code_is_no_settings_class(name: str) -> None:
    assert not is_settings_class(name)
    assert is_settings_class("__main__.GPTConfig") and is_settings_class("model.Args")
