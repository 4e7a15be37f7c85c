"""An embedded hub over a socket, and the client for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from slogpt_hf.hub.embedded import RunningHub, serve


@pytest.fixture
def quiet_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)


@pytest.fixture
def hub(request: pytest.FixtureRequest, quiet_client: None, tmp_path: Path) -> Iterator[RunningHub]:
    """A hub that asks for the TOKEN of the test's module, if that has one."""
    with serve(tmp_path / "hub", token=getattr(request.module, "TOKEN", None)) as running:
        yield running


@pytest.fixture
def api(request: pytest.FixtureRequest, hub: RunningHub) -> HfApi:
    """A client with that token; the REPO of the test's module is there."""
    client = HfApi(endpoint=hub.endpoint, token=getattr(request.module, "TOKEN", False))
    client.create_repo(request.module.REPO)
    return client
