"""Hostile inputs as hypothesis strategies: values shrink, mutations follow a seed."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from hypothesis import strategies as st

from fuzzing import models, mutate
from fuzzing.cases import Case
from fuzzing.models import Block, Saved, Storage
from fuzzing.raw import BOUNDARIES
from fuzzing.seeds import MODELS
from fuzzing.values import FIELDS, NAMES

SEEDS = st.integers(0, 2**64 - 1)
INTEGERS = st.one_of(st.sampled_from(BOUNDARIES), st.integers())
TEXTS = st.one_of(
    st.sampled_from(NAMES), st.text(st.characters(), max_size=20)
)  # lone surrogates included
SCALARS = st.one_of(st.none(), st.booleans(), INTEGERS, st.floats(), st.binary(max_size=8), TEXTS)
SIZES = st.one_of(
    st.lists(st.one_of(st.sampled_from((0, 1, 5, 8)), INTEGERS), max_size=4).map(tuple),
    st.sampled_from(((1,) * 60, (2**62, 4), (8, -1), (2**32, 2**32), ())),
    SCALARS,
)
BLOCKS = st.builds(
    Block,
    st.one_of(st.builds(Storage, st.just("0"), st.sampled_from((40, 0, 2**61))), SCALARS),
    SIZES,
    SIZES,
    st.one_of(st.just(0), INTEGERS, SCALARS),
)
KEYS = st.one_of(st.sampled_from(FIELDS), TEXTS, st.integers(-2, 2**62), st.none())
ANYTHING = st.recursive(
    st.one_of(SCALARS, BLOCKS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
    ),
    max_leaves=8,
)


def mutated(reader: str) -> st.SearchStrategy[Case]:
    """Cases of a reader, changed at any of their layers."""
    return SEEDS.map(lambda seed: mutate.make(Random(seed), reader))


@st.composite
def valued(draw: Callable[[st.SearchStrategy[Any]], Any], reader: str) -> Case:
    """Sound archives in which one value, at any depth up to two, is any value."""
    saved = MODELS[reader]()
    value = dict(saved.value)
    holders = [value, *(v for v in value.values() if isinstance(v, dict))]
    holder = draw(st.sampled_from(holders))
    key = draw(st.one_of(st.sampled_from(list(holder) or ["x"]), KEYS))
    holder[key] = draw(ANYTHING)
    content = models.torch_file(Saved(value, saved.storages))
    return Case(reader, {"ckpt.pt": content}, "ckpt.pt")


def cases(reader: str) -> st.SearchStrategy[Case]:
    """All of the above that fit a reader."""
    return mutated(reader) if reader not in MODELS else st.one_of(mutated(reader), valued(reader))
