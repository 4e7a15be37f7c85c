"""Checkpoints whose values are of other types, sizes and names than any trainer writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from fuzzing.models import Block, Saved, Storage
from fuzzing.raw import BOUNDARIES

NAMES = (
    *(
        "layers.999999999.attention.wq.weight",
        "blocks.999999999999.x",
        "transformer.h.1.ln_1.weight",
    ),
    *(
        "layers.-1.x",
        "blocks.00.norm1.weight",
        "blocks.٣.norm1.weight",
        "\ud800",
        "\x1b[2J",
        "a\nb",
    ),
    *(
        "",
        " ",
        ".",
        "\u202egpj",
        "x" * 5000,
        "_orig_mod.module." * 50 + "tok_emb.weight",
        "__class__",
    ),
    *(
        "blocks.0.attn.q_proj.lora_A",
        "blocks.0.attn.q_proj.lora_s",
        "norm.lora_A",
        "lm_head.lora_B",
    ),
    *("model", "module.model", "itos", "vocab_size", "n_layer", "token_embedding_table", "bias"),
)
FIELDS = (
    *(
        "n_layer",
        "n_head",
        "n_kv_head",
        "n_embd",
        "vocab_size",
        "block_size",
        "norm_eps",
        "hidden_dim",
    ),
    *("rope_theta", "lora_alpha", "lora_rank", "alpha", "rank", "itos", "stoi", "chars", "step"),
    *(
        "iter_num",
        "best_val_loss",
        "use_rope",
        "bias",
        "config",
        "metadata",
        "model_args",
        "profile",
    ),
    *("training_info", "meta", "dataset", "metrics", "eval_loss", "role"),
)


def scalar(random: Random) -> Any:
    """A value that is no container."""
    return random.choice(
        (
            *(
                None,
                True,
                False,
                "",
                "8",
                "\ud800",
                "\x1b[31m\n",
                "\u2028",
                "x" * 3000,
                b"",
                b"\xff",
            ),
            *(0.0, -1.5, 8.0, float("nan"), float("inf"), 1e308, 5e-324, 2**100, 2**2000, -(2**64)),
            *(1j, "/etc/passwd", "../" * 20 + "etc", "a\0b", "con", "~", "0", "gpt2"),
            *BOUNDARIES,
        )
    )


def anything(random: Random, depth: int = 3) -> Any:
    """A value of any type."""
    kind = random.randrange(8) if depth else 0
    few = range(random.choice((0, 1, 3)))
    if kind == 1:
        return [anything(random, depth - 1) for _ in few]
    if kind == 2:
        return tuple(anything(random, depth - 1) for _ in few)
    if kind == 3:
        return {random.choice(FIELDS): anything(random, depth - 1) for _ in few}
    if kind == 4:
        return {random.choice((0, -1, 2**60, None, 1.5, b"k")): scalar(random) for _ in few}
    if kind == 5:
        return block(random, Block(Storage("0", 40), (5, 8), (8, 1)))
    if kind == 6:
        return [random.choice("abcd\n\ud800") for _ in range(random.choice((5, 300)))]
    return scalar(random)


def block(random: Random, old: Block) -> Block:
    """A tensor of impossible or unusual layout."""
    shape, stride = old.shape, old.stride
    if not isinstance(shape, tuple) or not shape or not isinstance(stride, tuple) or not stride:
        return Block(old.storage, (1,), (1,))
    storage: Any = old.storage
    at, number = random.randrange(min(len(shape), len(stride))), random.choice(BOUNDARIES)
    kind = random.randrange(14)
    if kind == 0:
        return replace_at(old, shape=(*shape[:at], number, *shape[at + 1 :]))
    if kind == 1:
        return replace_at(old, stride=(*stride[:at], number, *stride[at + 1 :]))
    if kind == 2:
        return replace_at(old, offset=number)
    if kind == 3:
        return replace_at(old, shape=(2**62, 4), stride=(0, 0))
    if kind == 4:
        n = random.choice((1, 8, 60, 64, 65, 5000))
        return replace_at(old, shape=(*shape, *(1,) * n), stride=(*stride, *(1,) * n))
    if kind == 5:
        return replace_at(old, shape=(), stride=())
    if kind == 6:
        return replace_at(old, shape=(*shape[:at], 0, *shape[at + 1 :]))
    if kind == 7:
        return replace_at(old, shape=shape[::-1], stride=stride[::-1])
    if kind == 8:
        return replace_at(old, shape=anything(random, 1))
    if kind == 9:
        return replace_at(old, stride=anything(random, 1))
    if kind == 10:
        return replace_at(old, offset=scalar(random))
    if kind == 11:
        return replace_at(old, storage=anything(random, 1))
    if not isinstance(storage, Storage):
        return old
    change: Callable[[], Storage] = random.choice(
        (
            lambda: replace(storage, count=random.choice((*BOUNDARIES, None, "1"))),
            lambda: replace(
                storage, key=random.choice(("1", "999", "../data.pkl", "", 0, None, b"0"))
            ),
            lambda: replace(storage, device=scalar(random)),
            lambda: replace(storage, kind=random.choice(("HalfStorage", "LongStorage"))),
            lambda: replace(storage, kind="QInt8Storage"),
            lambda: replace(storage, kind="DoubleStorage", count=storage.count // 2),
        )
    )
    return replace_at(old, storage=change())


def replace_at(old: Block, **changes: Any) -> Block:
    """A block with other fields."""
    return Block(**{**vars(old), **changes})


def mutate(random: Random, saved: Saved) -> Saved:
    """A checkpoint with some other values."""
    value = saved.value
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        as_recorded = isinstance(value, dict) and random.random() < 0.25
        value = recorded(random, value) if as_recorded else change(random, value)
    return Saved(value, saved.storages)


PLACES = ("config", "metadata", "model_args", "training_info", "profile", "meta", "metrics")


def recorded(random: Random, value: Any) -> Any:
    """A field at one of the places where trainers record fields."""
    place = random.choice(PLACES)
    holder = value.get(place) if isinstance(value, dict) else None
    fields = holder if isinstance(holder, dict) else {}
    made = scalar(random) if random.random() < 0.7 else anything(random)
    return {**value, place: {**fields, random.choice(FIELDS): made}}


def change(random: Random, value: Any) -> Any:
    """A value with one thing in it changed."""
    if isinstance(value, Block) and random.random() < 0.8:
        return block(random, value)
    if isinstance(value, dict) and value and random.random() < 0.97:
        return _change_dict(random, dict(value))
    if isinstance(value, list) and value and random.random() < 0.5:
        at = random.randrange(len(value))
        return [*value[:at], change(random, value[at]), *value[at + 1 :]]
    return anything(random)


def _change_dict(random: Random, value: dict[Any, Any]) -> dict[Any, Any]:
    key = random.choice(list(value))
    kind = random.randrange(10)
    if kind == 0:
        del value[key]
    elif kind == 1:
        value[random.choice(NAMES)] = value.pop(key)
    elif kind == 2:
        value[random.choice((*NAMES, *FIELDS))] = value[key]
    elif kind == 3:
        value[random.choice(FIELDS)] = anything(random)
    elif kind == 4:
        value[key] = value[random.choice(list(value))]
    elif kind == 5:
        return {random.choice(("model", "state_dict", "app", "x")): value}
    else:
        value[key] = change(random, value[key])
    return value
