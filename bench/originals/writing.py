"""An entry of the table as a training repository has it: model.py, weights, checkpoints, data."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from originals.table import CONTEXT, ROWS, SIZES, SOURCES, Entry, Source

Recording = Literal["much", "little", "nothing"]
RECORDINGS: tuple[Recording, ...] = ("much", "little", "nothing")
HERE = Path(__file__).parent
CHARACTERS = "\n !',-.:;?ABCIMTWabcdefghiklmnopqrstuvwy"
TEXT = "To be, or not to be: that is the question.\nWhether 'tis nobler in the mind to suffer;\n"
LOSS_ROWS, BATCH, EVAL_ITERS = 40, 12, 50


@dataclass(frozen=True)
class Original:
    """A fork with weights.

    Attributes:
        entry: of the table.
        seed: of the weights.
        steps: of training on TEXT; 0 for weights drawn so that nothing is zero or one.
    """

    entry: Entry
    seed: int = 0
    steps: int = 0

    @property
    def source(self) -> Source:
        """The file that it is a fork of."""
        return SOURCES[self.entry.source]

    @cached_property
    def text(self) -> str:
        """Its ``model.py``: the file with the fork's defaults."""
        text = (HERE / f"{self.source.module}.py").read_text("utf-8")
        for name, value in self.entry.changes.items():
            text, n = re.subn(
                rf"^(    {name}: [^=\n]+ = )[^\n#]+?((?:  #.*)?)$",
                lambda found, value=value: f"{found[1]}{value!r}{found[2]}",
                text,
                count=1,
                flags=re.MULTILINE,
            )
            if n != 1:
                raise ValueError(f"{self.source.module}.py has no field {name}")
        return text

    @cached_property
    def module(self) -> ModuleType:
        """That file, run."""
        module = ModuleType(f"original_{zlib.crc32(self.text.encode()):08x}")
        sys.modules[module.__name__] = module  # dataclasses look there
        exec(compile(self.text, "model.py", "exec"), vars(module))
        return module

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The sizes that every trainer records, as its configuration calls them."""
        names = self.source.sizes
        return {names.get(name, name): value for name, value in SIZES.items()}

    @cached_property
    def config(self) -> Any:
        """Its configuration."""
        return getattr(self.module, self.source.config)(**self.sizes)

    @cached_property
    def model(self) -> nn.Module:
        """With weights, in float32."""
        torch.manual_seed(self.seed)
        model: nn.Module = getattr(self.module, self.source.model)(self.config).eval()
        if self.steps:
            _train(model, self.steps, self.seed)
            return model.requires_grad_(False)
        generator = torch.Generator().manual_seed(self.seed)
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            is_table = name.endswith(("wte.weight", "wpe.weight", "embeddings.weight"))
            if parameter.dim() < 2:
                drawn = 0.3 * drawn + (name.endswith("weight") and not self._adds_one)
            elif not is_table:
                drawn = drawn * 1.5 / parameter.shape[1] ** 0.5
            parameter.data.copy_(drawn)
        return model.requires_grad_(False)

    @property
    def _adds_one(self) -> bool:
        return bool(getattr(self.config, "norm_adds_one", False))

    def logits(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, T, V), of every position, in ``dtype``."""
        self.model.to(dtype)
        output = self.model(ids, ids)
        self.model.float()
        return output[0] if isinstance(output, tuple) else output

    def asked(self) -> dict[str, str]:
        """What the product asks for where nothing is recorded, as ``--set`` takes it."""
        config = self.config
        asked: dict[str, Any] = {"n_head": SIZES["n_head"]}
        if not any("pos" in n or "wpe" in n for n, _ in self.model.named_parameters()):
            asked["block_size"] = CONTEXT
        if hasattr(config, "use_rmsnorm") and not config.bias:
            asked["use_rmsnorm"] = str(config.use_rmsnorm).lower()
        return {name: str(value) for name, value in asked.items()}


def write(
    original: Original, recording: Recording, folder: Path, loss: float | None = None
) -> Path:
    """The checkpoint of an original, with its ``model.py`` and its dataset beside."""
    (folder / "model.py").write_text(original.text, encoding="utf-8")
    content = _content(original, recording, loss)
    path = folder / "ckpt.pt"
    if original.entry.form == "config beside" and recording != "nothing":
        (folder / "config.json").write_text(json.dumps({"model": content["model_args"]}))
        content = content["model"]
    _save(content, path, original)
    data = folder / "data"
    data.mkdir()
    tables = {"itos": dict(enumerate(CHARACTERS)), "stoi": {c: i for i, c in enumerate(CHARACTERS)}}
    (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": ROWS, **tables}))
    if loss is not None:
        for name, n in (("train.bin", 4 * LOSS_ROWS), ("val.bin", LOSS_ROWS)):
            ids = torch.tensor(encoded(TEXT * n), dtype=torch.int64)
            (data / name).write_bytes(ids.to(torch.uint16).numpy().tobytes())
    return path


def _content(original: Original, recording: Recording, loss: float | None) -> Any:
    entry, source, config = original.entry, original.source, original.config
    weights = dict(original.model.state_dict())
    if recording == "nothing":
        return weights
    fields: dict[str, Any] = dict(original.sizes)
    heads = {
        name: getattr(config, name) for name in ("n_kv_head", "n_kv_heads") if name in entry.changes
    }
    usual = [name for name in source.usual if name != "bias" or entry.form != "no bias key"]
    fields |= {name: getattr(config, name) for name in usual} | heads
    if recording == "much":
        fields |= entry.changes
    if recording == "little":
        fields.pop("norm_eps", None)
    if entry.source == "sloughgpt":
        more = {"step": 200, "epoch": 1, "metrics": {"eval_loss": loss or 2.0}}
        return {"model_state_dict": weights, "config": fields, **more}
    if entry.form == "config object":
        # The trainer's own dataclass has what is recorded alone, not what makes the other entries.
        kind = dataclasses.make_dataclass(source.config, list(fields))
        return {"model": weights, "config": kind(**fields), "step": 9, "val_loss": loss or 2.0}
    return {
        "model": weights,
        "optimizer": {},
        "model_args": fields,
        "iter_num": 200,
        "best_val_loss": torch.tensor(loss or 2.0),
        "config": {
            "dataset": "data",
            "batch_size": BATCH,
            "block_size": CONTEXT,
            "eval_iters": EVAL_ITERS,
            "learning_rate": 1e-3,
        },
    }


def _save(content: Any, path: Path, original: Original) -> None:
    """``torch.save``, a configuration as the training script pickles it: ``__main__.GPTConfig``."""
    main, name = sys.modules["__main__"], original.source.config
    config = content.get("config") if isinstance(content, Mapping) else None
    if not dataclasses.is_dataclass(config):
        torch.save(content, path)
        return
    kind = type(config)
    kind.__module__ = "__main__"
    setattr(main, name, kind)
    try:
        torch.save(content, path)
    finally:
        delattr(main, name)
        kind.__module__ = original.module.__name__


def encoded(text: str) -> list[int]:
    """Ids of a text over CHARACTERS."""
    return [CHARACTERS.index(character) for character in text]


def batch(ids: Tensor, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random blocks and what follows each token, as the trainers' ``get_batch``."""
    starts = torch.randint(len(ids) - CONTEXT, (rows,), generator=generator).tolist()
    blocks = torch.stack([ids[start : start + CONTEXT + 1] for start in starts])
    return blocks[:, :-1], blocks[:, 1:]


def estimated_loss(original: Original) -> float:
    """The validation loss as the trainer estimates it: the mean over EVAL_ITERS batches."""
    ids = torch.tensor(encoded(TEXT * LOSS_ROWS))
    generator = torch.Generator().manual_seed(original.seed + 1)
    with torch.no_grad():
        losses = [
            _loss(original.model, *batch(ids, BATCH, generator)).item() for _ in range(EVAL_ITERS)
        ]
    return sum(losses) / len(losses)


def _loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    output = model(x, y)
    logits = output[0] if isinstance(output, tuple) else output
    return nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())


@torch.enable_grad()
def _train(model: nn.Module, steps: int, seed: int) -> None:
    """Some steps from torch's own initial values, with smaller embeddings."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.1)
    ids = torch.tensor(encoded(TEXT * LOSS_ROWS))
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        loss = _loss(model, *batch(ids, BATCH, generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
