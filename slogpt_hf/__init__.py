"""Release SloGPT checkpoints on the Hugging Face Hub, with a proof that says what it rests on.

>>> from pathlib import Path
>>> import slogpt_hf
>>> settings = slogpt_hf.Settings(repo_id="me/my-model", dataset="shakespeare", hub="hub")
>>> for done in slogpt_hf.release_checkpoints([Path("out/ckpt.pt")], settings):
...     print(done.version, done.tag, done.commit)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from slogpt_hf.version import __version__

if TYPE_CHECKING:
    from slogpt_hf.build import convert, verify
    from slogpt_hf.checkpoints import read_checkpoint
    from slogpt_hf.hub.embedded import serve
    from slogpt_hf.inspection import inspect_checkpoint
    from slogpt_hf.manager import HuggingFaceManager
    from slogpt_hf.recorded import record_parity
    from slogpt_hf.release import Release, push, release_checkpoints
    from slogpt_hf.settings import Settings
    from slogpt_hf.simple_tokenizer import SimpleCharTokenizer

__all__ = [
    "HuggingFaceManager",
    "Release",
    "Settings",
    "SimpleCharTokenizer",
    "__version__",
    "convert",
    "inspect_checkpoint",
    "push",
    "read_checkpoint",
    "record_parity",
    "release_checkpoints",
    "serve",
    "verify",
]
_HOMES = {
    "HuggingFaceManager": "manager",
    "Release": "release",
    "Settings": "settings",
    "SimpleCharTokenizer": "simple_tokenizer",
    "convert": "build",
    "inspect_checkpoint": "inspection",
    "push": "release",
    "read_checkpoint": "checkpoints",
    "record_parity": "recorded",
    "release_checkpoints": "release",
    "serve": "hub.embedded",
    "verify": "build",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import slogpt_hf`` stays instant."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
