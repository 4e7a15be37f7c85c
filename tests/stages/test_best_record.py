"""Of what several jobs proved, the best: the lowest validation loss."""

from __future__ import annotations

from typing import Any

import pytest

from slogpt_hf.planning import best_record

NAN = float("nan")


@pytest.mark.parametrize(
    ("losses", "best"),
    [
        ([], None),
        ([2.0, 1.0, 3.0], 1),
        ([1.0, 1.0], 1),  # the last of those
        ([None, 3.0, None], 1),
        ([None, None], 1),
        ([NAN, 2.0, 3.0], 1),
        ([2.0, NAN], 0),
        ([NAN, NAN], 1),
        (["0", 2.0, True], 1),
        ([float("-inf"), 2.0], 1),
        ([[], 1], 1),
    ],
)
def test_the_lowest_loss_counts(losses: list[Any], best: int | None) -> None:
    records = [(str(n), {"checkpoint": {"val_loss": loss}}) for n, loss in enumerate(losses)]
    assert best_record(records) == (None if best is None else str(best))


def test_a_record_may_lack_a_loss() -> None:
    assert best_record([("a", {"checkpoint": {}})]) == "a"
    assert best_record([("a", {"checkpoint": {}})], 2.0) is None


@pytest.mark.parametrize(("released", "best"), [(None, "a"), (1.5, "a"), (1.0, None), (0.5, None)])
def test_what_is_not_better_than_what_is_released_is_not_the_best(
    released: float | None, best: str | None
) -> None:
    assert best_record([("a", {"checkpoint": {"val_loss": 1.0}})], released) == best
