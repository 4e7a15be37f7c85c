"""Which commit published the release that a branch holds."""

from __future__ import annotations

from typing import Any

import pytest

from slogpt_hf.hub.state import commit_of

HEAD, TAGGED = "b" * 40, "a" * 40
RELEASED: dict[str, Any] = {"version": "1.1.0", "tag": "v1.1.0"}


@pytest.mark.parametrize(
    ("record", "tags", "commit"),
    [
        (RELEASED, {}, HEAD),
        (RELEASED, {"v1.1.0": HEAD}, HEAD),
        (RELEASED, {"v1.1.0": TAGGED}, None),
        (RELEASED | {"rollback": {"commit": TAGGED}}, {"v1.1.0": TAGGED}, TAGGED),
        (RELEASED | {"rollback": {"commit": TAGGED}}, {}, TAGGED),
        (RELEASED | {"rollback": {"commit": 1}}, {}, None),
    ],
)
def test_the_commit_of_a_release(
    record: dict[str, Any], tags: dict[str, str], commit: str | None
) -> None:
    assert commit_of(record, HEAD, tags) == commit
