"""A disk that fails below the hub is an answer, not a traceback on the releaser's terminal."""

from __future__ import annotations

import errno
import logging
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NoReturn

import pytest

from slogpt_hf.hub.embedded import serve


def test_a_full_disk_is_said_in_the_answer_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def full(request: Any) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    caplog.set_level(logging.INFO)
    with serve(tmp_path / "hub", intercept=full) as hub:
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{hub.endpoint}/api/models/me/a")
        assert caught.value.code == 500
        assert "No space left on device" in str(caught.value.headers) + caught.value.read().decode()
    assert not [record for record in caplog.records if record.exc_info]
