"""Plans: every source row once, every target once, and back again bit for bit."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slogpt_hf.checkpoints import Spec
from slogpt_hf.checkpoints.dialects import slo
from slogpt_hf.checkpoints.parts import parts_for, tensor_shapes
from slogpt_hf.conversion.operations import Operation, PairsToHalves, Shape, Transpose
from slogpt_hf.conversion.plan import Copy, Move, Plan, Zeros, check_plan, restore
from slogpt_hf.conversion.safetensors_layout import shards_for
from slogpt_hf.conversion.targets import plan_for, target_for
from slogpt_hf.errors import CheckpointError


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    """Any Slo architecture of any small size."""
    rotary, swiglu, rmsnorm, bias, tied = (draw(st.booleans()) for _ in range(5))
    n_head = draw(st.integers(1, 5))
    head_dim = 2 * draw(st.integers(1, 4)) if rotary else draw(st.integers(1, 8))
    return Spec(
        positions="rotary" if rotary else "learned",
        norm="rmsnorm" if rmsnorm else "layernorm",
        mlp="gated" if swiglu else "plain",
        activation="silu" if swiglu else "gelu",
        linear_bias=bias,
        norm_bias=bias and not rmsnorm,
        n_layer=draw(st.integers(1, 4)),
        n_head=n_head,
        n_kv_head=n_head,
        n_embd=n_head * head_dim,
        n_hidden=4 * n_head * head_dim,
        vocab_size=draw(st.integers(1, 70)),
        block_size=draw(st.integers(1, 40)),
        norm_eps=1e-5,
        tied=tied,
        rope_theta=10_000.0 if rotary else None,
        rotary_pairs="interleaved" if rotary else None,
    )


dtypes = st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16])


def random_bits(shape: Shape, dtype: torch.dtype, seed: int) -> Tensor:
    """Any bits at all: NaN, infinities and negative zeros too."""
    generator = torch.Generator().manual_seed(seed)
    octets = torch.randint(256, (*shape[:-1], shape[-1] * dtype.itemsize), generator=generator)
    return octets.to(torch.uint8).view(dtype)


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)


def run(plan: Plan, sources: dict[str, Tensor]) -> dict[str, Tensor]:
    targets = {name: move.run(sources[move.source]) for name, move in plan.made.items()}
    return targets | {zeros.target: torch.zeros(zeros.shape) for zeros in plan.zeros}


@settings(deadline=None, max_examples=120)
@given(spec=specs(), dtype=dtypes, seed=st.integers(0, 2**32))
def test_plan_runs_backwards_to_the_source(spec: Spec, dtype: torch.dtype, seed: int) -> None:
    shapes = tensor_shapes(slo.names(spec), spec)
    sources = {name: random_bits(s, dtype, seed + i) for i, (name, s) in enumerate(shapes.items())}
    if spec.tied:
        sources["lm_head.weight"] = sources["transformer.wte.weight"]
    plan = plan_for(spec, parts_for(slo.names(spec), spec), target_for(spec), {})
    check_plan(plan, shapes)
    targets = run(plan, sources)
    assert {k: tuple(t.shape) for k, t in targets.items()} == plan.target_shapes(shapes)
    restored = restore(plan, targets)
    assert restored.keys() == sources.keys()
    for name, source in sources.items():
        assert restored[name].dtype == dtype
        assert torch.equal(bits(restored[name]), bits(source)), name


def n_elements(shapes: Mapping[str, Shape]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


@settings(deadline=None, max_examples=60)
@given(spec=specs())
def test_plan_keeps_every_element_and_adds_only_zeros(spec: Spec) -> None:
    shapes = tensor_shapes(slo.names(spec), spec)
    plan = plan_for(spec, parts_for(slo.names(spec), spec), target_for(spec), {})
    added = sum(zeros.shape[0] for zeros in plan.zeros)
    dropped = n_elements({copy.source: shapes[copy.source] for copy in plan.copies})
    again = n_elements({repeat.source: shapes[repeat.source] for repeat in plan.repeats})
    assert n_elements(plan.target_shapes(shapes)) == n_elements(shapes) + added + again - dropped


@st.composite
def operations(draw: st.DrawFn) -> tuple[Operation, Shape]:
    width = draw(st.integers(1, 6))
    if draw(st.booleans()):
        return Transpose(), (draw(st.integers(1, 6)), width)
    heads, half = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    rows = heads * half * 2
    return PairsToHalves(heads), draw(st.sampled_from([(rows,), (rows, width)]))


@settings(deadline=None)
@given(case=operations(), seed=st.integers(0, 2**32))
def test_every_operation_has_an_inverse(case: tuple[Operation, Shape], seed: int) -> None:
    operation, shape = case
    tensor = random_bits(shape, torch.float32, seed)
    forward = operation.forward(tensor)
    assert tuple(forward.shape) == operation.shape(shape)
    assert torch.equal(bits(operation.inverse(forward)), bits(tensor))
    back = torch.arange(tensor.numel()).reshape(operation.shape(shape))
    assert torch.equal(operation.forward(operation.inverse(back)), back)


@settings(deadline=None, max_examples=30)
@given(spec=specs(), n_rows=st.integers(1, 5), seed=st.integers(0, 2**32))
def test_appended_rows_are_zeros_and_go_again(spec: Spec, n_rows: int, seed: int) -> None:
    shapes = tensor_shapes(slo.names(spec), spec)
    sources = {
        n: random_bits(shape, torch.float32, seed + i)
        for i, (n, shape) in enumerate(shapes.items())
    }
    plan = plan_for(spec, parts_for(slo.names(spec), spec), target_for(spec), {}, n_rows)
    plain = plan_for(spec, parts_for(slo.names(spec), spec), target_for(spec), {})
    check_plan(plan, shapes)
    made, usual = run(plan, sources), run(plain, sources)
    longer = {name for name in made if made[name].shape != usual[name].shape}
    assert len(longer) == (1 if spec.tied and not plan.repeats else 2)
    for name in longer:
        assert torch.equal(bits(made[name][:-n_rows]), bits(usual[name]))
        assert made[name].shape[0] == spec.vocab_size + n_rows and not made[name][-n_rows:].any()
    again = restore(plan, made)
    copies = {copy.source for copy in plan.copies}
    assert all(torch.equal(bits(again[n]), bits(sources[n])) for n in sources.keys() - copies)


def test_pairs_to_halves_by_hand() -> None:
    rows = torch.arange(8)  # two heads of four
    assert PairsToHalves(2).forward(rows).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert PairsToHalves(1).forward(rows).tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


def test_transpose_by_hand() -> None:
    assert Transpose().forward(torch.tensor([[1, 2, 3]])).tolist() == [[1], [2], [3]]


def test_several_operations_are_undone_last_first() -> None:
    move = Move("k", "stack", (2, 6), (PairsToHalves(1), Transpose()))
    stack = torch.arange(24).view(8, 3)
    assert move.shape((8, 3)) == (3, 4)
    assert move.run(stack).tolist() == stack[[2, 4, 3, 5]].t().tolist()
    assert torch.equal(move.undo(move.run(stack)), stack[2:6])


SOURCES = {"stack": (6, 2), "norm": (4,), "embed": (5, 2), "head": (5, 2)}
PLAN = Plan(
    moves=(
        Move("q", "stack", (0, 2), (PairsToHalves(1),)),
        Move("k", "stack", (2, 4)),
        Move("v", "stack", (4, 6), (Transpose(),)),
        Move("norm.weight", "norm"),
        Move("embed.weight", "embed"),
    ),
    zeros=(Zeros("norm.bias", (4,)),),
    copies=(Copy("head", "embed"),),
)


def moved(**rows: tuple[int, int]) -> Plan:
    """PLAN with other rows for the named targets."""
    moves = (replace(m, rows=rows[m.target]) if m.target in rows else m for m in PLAN.moves)
    return replace(PLAN, moves=tuple(moves))


def without(target: str) -> Plan:
    return replace(PLAN, moves=tuple(move for move in PLAN.moves if move.target != target))


def test_sound_plan_is_accepted() -> None:
    check_plan(PLAN, SOURCES)
    assert PLAN.target_shapes(SOURCES) == {
        "q": (2, 2),
        "k": (2, 2),
        "v": (2, 2),
        "norm.weight": (4,),
        "embed.weight": (5, 2),
        "norm.bias": (4,),
    }
    repeated = replace(PLAN, repeats=(Move("head.weight", "embed"),))
    check_plan(repeated, SOURCES)
    assert repeated.target_shapes(SOURCES)["head.weight"] == (5, 2)


UNSOUND = {
    "tensor left over": (without("norm.weight"), "leaves norm over"),
    "head left over": (replace(PLAN, copies=()), "leaves head over"),
    "first rows left out": (without("q"), "leaves out rows 0 to 2 of stack"),
    "middle rows left out": (without("k"), "leaves out rows 2 to 4 of stack"),
    "last rows left out": (without("v"), "leaves out rows 4 to 6 of stack"),
    "rows overlap": (moved(k=(1, 4)), "uses twice rows 1 to 2 of stack"),
    "rows doubled": (moved(k=(0, 2)), "uses twice rows 0 to 2 of stack"),
    "rows past the end": (moved(v=(4, 7)), "rows 4 to 7 of 6 of stack"),
    "moved and copied": (
        replace(PLAN, copies=(*PLAN.copies, Copy("norm", "embed"))),
        "uses twice rows 0 to 4 of norm",
    ),
    "source missing": (
        replace(PLAN, moves=(*PLAN.moves, Move("wpe", "positions"))),
        "needs positions, which the checkpoint lacks",
    ),
    "copy of nothing": (replace(PLAN, copies=(Copy("head", "wte"),)), "head for a copy of wte"),
    "copy of a missing source": (
        replace(PLAN, copies=(*PLAN.copies, Copy("tail", "embed"))),
        "tail for a copy of embed",
    ),
    "target twice": (
        replace(PLAN, moves=(*PLAN.moves, Move("k", "norm"))),
        "makes k more than once",
    ),
    "repeats what is not moved": (
        replace(PLAN, repeats=(Move("head.weight", "embed", (0, 4)),)),
        "repeats as head.weight what it does not move",
    ),
    "repeat of a target": (
        replace(PLAN, repeats=(Move("norm.weight", "embed"),)),
        "makes norm.weight more than once",
    ),
    "target also zeros": (replace(PLAN, zeros=(Zeros("q", (2, 2)),)), "makes q more than once"),
}


@pytest.mark.parametrize("kind", UNSOUND)
def test_unsound_plan_is_refused_by_name(kind: str) -> None:
    plan, message = UNSOUND[kind]
    with pytest.raises(CheckpointError, match=message):
        check_plan(plan, SOURCES)


def test_checking_takes_time_in_proportion_to_the_layers() -> None:
    n_tensors = 50_000
    sources = {f"s{i}": (2, 2) for i in range(n_tensors)}
    plan = Plan(tuple(Move(f"t{i}", f"s{i}") for i in range(n_tensors)))
    start = time.process_time()
    check_plan(plan, sources)
    assert len(shards_for(plan.target_shapes(sources), "float32", 10**9)) == 1
    assert time.process_time() - start < 5  # quadratic: a minute


@settings(deadline=None, max_examples=60)
@given(spec=specs(), data=st.data())
def test_a_real_plan_with_one_move_less_or_more_is_refused(spec: Spec, data: st.DataObject) -> None:
    shapes = tensor_shapes(slo.names(spec), spec)
    plan = plan_for(spec, parts_for(slo.names(spec), spec), target_for(spec), {})
    place = data.draw(st.integers(0, len(plan.moves) - 1))
    move = plan.moves[place]
    less = replace(plan, moves=plan.moves[:place] + plan.moves[place + 1 :])
    with pytest.raises(CheckpointError, match=move.source.replace(".", r"\.")):
        check_plan(less, shapes)
    more = replace(plan, moves=(*plan.moves, replace(move, target="again")))
    with pytest.raises(CheckpointError, match=move.source.replace(".", r"\.")):
        check_plan(more, shapes)
