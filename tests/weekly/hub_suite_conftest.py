"""Fixtures for huggingface_hub's own tests, whose source distribution ships none.

`hub_suite.py` copies this file beside those tests as their `conftest.py`. What it offers is what
the tests ask for: `api`, `api_prod`, `repo_factory`, `new_repo_id`, and what their markers mean.
Tests of the list `hub_suite_left_out.txt` are left out, and counted by reason.
"""

from __future__ import annotations

import fnmatch
import json
import os
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, RepoUrl, constants
from huggingface_hub.utils import _auth, _detect_agent

from .testing_constants import ENDPOINT_PRODUCTION, ENDPOINT_STAGING, TOKEN, USER
from .testing_utils import repo_name

REPORT = Path(os.environ["HUB_SUITE_REPORT"])
LEFT_OUT = tuple(
    tuple(line.split(None, 1))
    for line in Path(os.environ["HUB_SUITE_LEFT_OUT"]).read_text("utf-8").splitlines()
    if line.strip() and not line.startswith("#")
)
"""Pairs of a pattern of test ids and the reason why those need the real Hub."""

_resolve = socket.getaddrinfo
_left_out: Counter[str] = Counter()
_outcomes: dict[str, str] = {}
_unread: list[str] = []  # files whose tests could not even be collected


class RepoFactory:
    """Creates repositories, by default with names of their own, and deletes them afterwards."""

    def __init__(self, api: HfApi) -> None:
        self._api = api
        self._made: list[tuple[RepoUrl, Any]] = []

    def __call__(
        self, repo_type: str = "model", *, repo_id: str | None = None, **options: Any
    ) -> RepoUrl:
        url = self._api.create_repo(repo_id or repo_name(), repo_type=repo_type, **options)
        self._made.append((url, options.get("token")))
        return url

    def clean(self) -> None:
        for url, token in self._made:
            self._api.delete_repo(
                url.repo_id, repo_type=url.repo_type, missing_ok=True, token=token
            )


@pytest.fixture(scope="session")
def api() -> HfApi:
    return HfApi(endpoint=ENDPOINT_STAGING, token=TOKEN)


@pytest.fixture(scope="session")
def api_prod() -> HfApi:
    return HfApi(endpoint=ENDPOINT_PRODUCTION, token=False)


@pytest.fixture
def repo_factory(api: HfApi) -> Iterator[RepoFactory]:
    factory = RepoFactory(api)
    yield factory
    factory.clean()


@pytest.fixture
def new_repo_id(api: HfApi) -> Iterator[str]:
    repo_id = f"{USER}/{repo_name()}"
    yield repo_id
    api.delete_repo(repo_id, missing_ok=True)


@pytest.fixture(autouse=True)
def as_their_ci_does(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test as in a fresh process: no agent found, no token remembered; Xet where marked."""
    monkeypatch.setattr(_auth, "_OAUTH_REFRESH_CACHE", None, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_EXPERIMENTAL_WARNING", True)
    monkeypatch.setattr(_detect_agent, "_registry", {"standardEnvVars": [], "harnesses": {}})
    if request.node.get_closest_marker("xet"):
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)


def pytest_configure(config: pytest.Config) -> None:
    socket.getaddrinfo = _only_loopback
    config.addinivalue_line("markers", "vcr: answers that were recorded")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept, dropped = [], []
    for item in items:
        reason = _reason(item)
        if reason:
            _left_out[reason] += 1
        (dropped if reason else kept).append(item)
    config.hook.pytest_deselected(items=dropped)
    items[:] = kept


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        _outcomes[report.nodeid] = max(_outcomes.get(report.nodeid, ""), report.outcome, key=_rank)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed and not _named(report.nodeid):
        _unread.append(report.nodeid)


def pytest_sessionfinish() -> None:
    told = {"outcomes": _outcomes, "left_out": _left_out, "unread": _unread}
    REPORT.write_text(json.dumps(told), "utf-8")


def _only_loopback(host: Any, *rest: Any, **options: Any) -> Any:
    """Name resolution that fails at once for what is not this machine."""
    if host not in ("127.0.0.1", "localhost", "::1", None, ""):
        raise socket.gaierror(socket.EAI_NONAME, f"no network in these tests: {host}")
    return _resolve(host, *rest, **options)


def _rank(outcome: str) -> int:
    return ("", "skipped", "passed", "failed").index(outcome)


def _reason(item: pytest.Item) -> str:
    for marker in ("production", "vcr"):
        if item.get_closest_marker(marker):
            return f"marked as one of {marker}"
    return _named(item.nodeid)


def _named(nodeid: str) -> str:
    """Why the list leaves out a test, or a file that cannot be collected; empty if it does not."""
    name = nodeid.removeprefix("tests/")
    return next((why for pattern, why in LEFT_OUT if fnmatch.fnmatchcase(name, pattern)), "")
