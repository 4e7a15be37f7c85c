from __future__ import annotations

from pathlib import Path

import pytest

from slogpt_hf.recording import _public_source


def test_of_a_tokenizer_on_this_machine_only_the_last_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bob").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "bob" / "tokenizer.bin").touch()
    monkeypatch.chdir(tmp_path / "run")
    for source in ("../bob/tokenizer.bin", str(tmp_path / "bob" / "tokenizer.bin")):
        assert _public_source(source) == "tokenizer.bin"
    assert _public_source("../bob") == "bob"
    assert _public_source("me/tokenizer") == "me/tokenizer"
