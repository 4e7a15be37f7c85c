"""``slogpt-hf card`` on folders that are no whole artefact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slogpt_hf.cli import run


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff", b"[]", b"{}"])
def test_report_that_cannot_be_read(
    record: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("release.json").write_text(json.dumps(record))
    if content is not None:
        Path("parity.json").write_bytes(content)
    assert run(["card", ".", "--write"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and "parity.json: " in captured.err
    assert not Path("README.md").exists()
