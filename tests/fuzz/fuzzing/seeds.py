"""One small valid case or more for every reader."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path

from fuzzing import models
from fuzzing.cases import Case
from fuzzing.models import Saved

DATA = Path(__file__).parents[2] / "data"
PROFILE = {
    **{"name": "tiny", "personality": {"traits": ["calm", 0.5]}, "vocab_size": models.VOCAB},
    **{"n_layer": 1, "n_embed": models.N, "training_dataset": "tiny", "final_val_loss": 1.5},
}
FIELDS = (f"n_head={models.HEADS}", f"block_size={models.BLOCK}")
SETTINGS = b"""dtype: float32
language: [en, de]
max-shard-size: 5GB
allow-spare-ids: true
set:
  n_head: 2
  block_size: 6
"""


def saved_file(reader: str, *made: Saved, given: tuple[str, ...] = ()) -> tuple[Case, ...]:
    """Cases of one archive each."""
    return tuple(
        Case(reader, {"ckpt.pt": models.torch_file(each)}, "ckpt.pt", given) for each in made
    )


def _sou() -> tuple[Case, ...]:
    profile = json.dumps(PROFILE).encode()
    content = models.sou_file(profile, Saved(*models.tensors(models.SLOUGHGPT)))
    both = {"m.sou": content, "m.sou.meta.json": json.dumps({**PROFILE, "extra": 1}).encode()}
    return (Case("sou", {"m.sou": content}, "m.sou", FIELDS), Case("sou", both, "m.sou", FIELDS))


def _safetensors() -> tuple[Case, ...]:
    metadata = {name: str(value) for name, value in models.SLOUGHGPT_CONFIG.items()}
    metadata["stoi"] = json.dumps(models.STOI)
    header, data = models.safetensors_header(models.SLOUGHGPT, metadata)
    content = models.safetensors_file(header, data)
    return (Case("safetensors", {"m.safetensors": content}, "m.safetensors"),)


def _bins(version: int) -> tuple[Case, ...]:
    return (Case(f"bin v{version}", {"m.bin": models.bin_file(version)}, "m.bin"),)


def _run_folder() -> tuple[Case, ...]:
    model = models.torch_file(Saved(*models.tensors(models.SLOUGHGPT)))
    metadata = {"step": 9, "config": models.SLOUGHGPT_CONFIG, "training_info": {"eval_loss": 2.5}}
    metadata |= {"stoi": models.STOI, "itos": {str(i): c for i, c in models.ITOS.items()}}
    text = json.dumps(metadata).encode()
    return (Case("run folder", {"r/model.pt": model, "r/metadata.json": text}, "r"),)


def _distributed() -> tuple[Case, ...]:
    return tuple(
        Case(
            "DCP folder",
            {
                f"d/{p.name}": p.read_bytes()
                for p in sorted((DATA / "distributed" / name).iterdir())
            },
            "d",
        )
        for name in ("slo-one", "slo-two", "sloughgpt-two")
    )


def _meta() -> tuple[Case, ...]:
    value = {"vocab_size": models.VOCAB, "itos": models.ITOS, "stoi": models.STOI}
    listed = value | {"itos": list(models.STOI)}
    contents = [pickle.dumps(v, p) for v, p in ((value, 0), (value, 2), (value, 4), (listed, 5))]
    return tuple(Case("meta.pkl", {"meta.pkl": content}, "meta.pkl") for content in contents)


def _tokenizer(name: str) -> tuple[Case, ...]:
    return (Case(name, {name: (DATA / "tokenizers" / name).read_bytes()}, name),)


def _settings() -> tuple[Case, ...]:
    content = models.torch_file(Saved(*models.tensors(models.NANOGPT)))
    files = {"ckpt.pt": content, ".slogpt-hf.yml": SETTINGS}
    return (Case(".slogpt-hf.yml", files, "ckpt.pt"),)


def _given() -> tuple[Case, ...]:
    return saved_file("--set", models.bare(), given=("n_head=2", "norm_eps=1e-5"))


BUILDERS: dict[str, Callable[[], tuple[Case, ...]]] = {
    "slo": lambda: saved_file("slo", models.slo()),
    "llama2c": lambda: saved_file("llama2c", models.llama()),
    "sloughgpt": lambda: saved_file("sloughgpt", models.sloughgpt()),
    "nanogpt": lambda: saved_file("nanogpt", models.nanogpt()),
    "bare": lambda: saved_file("bare", models.bare(), given=("n_head=2",)),
    "adapters": lambda: saved_file("adapters", models.sloughgpt(adapters=True)),
    "sou": _sou,
    "safetensors": _safetensors,
    "bin v0": lambda: _bins(0),
    "bin v1": lambda: _bins(1),
    "bin v2": lambda: _bins(2),
    "run folder": _run_folder,
    "DCP folder": _distributed,
    "meta.pkl": _meta,
    "tokenizer.model": lambda: _tokenizer("tokenizer.model"),
    "tokenizer.bin": lambda: _tokenizer("tokenizer.bin"),
    ".slogpt-hf.yml": _settings,
    "--set": _given,
}
READERS = tuple(BUILDERS)


@cache
def seeds(reader: str) -> tuple[Case, ...]:
    """The valid cases of a reader."""
    return BUILDERS[reader]()


MODELS: dict[str, Callable[[], Saved]] = {
    "slo": models.slo,
    "llama2c": models.llama,
    "sloughgpt": models.sloughgpt,
    "nanogpt": models.nanogpt,
    "bare": models.bare,
    "adapters": lambda: models.sloughgpt(adapters=True),
}
