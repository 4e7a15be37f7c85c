"""Searching an embedded hub by the real client, and hubs that answer something else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slogpt_hf.cli import run
from slogpt_hf.errors import HubError, UsageError
from slogpt_hf.hub.client import Hub, hub_to_search, open_hub
from slogpt_hf.hub.embedded import serve
from slogpt_hf.hub.embedded.wire import Response, json_response
from slogpt_hf.hub.search import SORTS, search_models
from slogpt_hf.settings import Settings

CARD = "---\npipeline_tag: {task}\nlibrary_name: transformers\ntags: [slo]\n---\n"
KEYS = ["id", "modelId", "author", "downloads", "likes", "created_at"]
KEYS += ["tags", "description", "library_name"]
MODELS = {"me/tiny-gpt": "text-generation", "you/gpt-tiny": "text-generation", "you/gpt-seen": "x"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub with MODELS, made in this order."""
    folder = tmp_path_factory.mktemp("search") / "hub"
    with open_hub(folder) as hub:
        for name, task in MODELS.items():
            hub.api.create_repo(name)
            card = CARD.format(task=task).encode()
            hub.api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=name)
    return folder


@pytest.fixture
def hub(folder: Path) -> Iterator[Hub]:
    with open_hub(folder) as hub:
        yield hub


def names(models: list[dict[str, Any]]) -> list[str]:
    return [model["id"] for model in models]


def test_models_are_told_by_the_keys_of_old(hub: Hub) -> None:
    (model,) = search_models(hub, "tiny-gpt")
    assert [*model] == KEYS
    created = model.pop("created_at")
    assert created.startswith("20") and "T" in created
    assert model == {
        "id": "me/tiny-gpt",
        "modelId": "me/tiny-gpt",
        "author": "me",
        "downloads": 0,
        "likes": 0,
        "tags": ["transformers", "slo", "text-generation"],
        "description": "text-generation",
        "library_name": "transformers",
    }


def test_query_author_and_limit(hub: Hub) -> None:
    assert sorted(names(search_models(hub, "gpt"))) == ["me/tiny-gpt", "you/gpt-tiny"]
    assert names(search_models(hub, "GPT tiny", author="you")) == ["you/gpt-tiny"]
    assert len(search_models(hub, "", limit=1)) == 1
    assert search_models(hub, "absent") == []
    for limit in (0, -1):
        with pytest.raises(UsageError, match="limit"):
            search_models(hub, "gpt", limit)
    with pytest.raises(UsageError, match="sort"):
        search_models(hub, "gpt", sort="size")


@pytest.mark.parametrize("sort", SORTS)
def test_the_first_has_the_most(hub: Hub, sort: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from slogpt_hf.hub.embedded import metadata

    told = metadata.model_info
    of_hub = {"created_at": "createdAt", "last_modified": "lastModified"}
    key = of_hub.get(sort, "trendingScore" if sort == "trending_score" else sort)

    def ranked(repo: Any, *rest: Any, **more: Any) -> dict[str, Any]:
        info = told(repo, *rest, **more)
        most = repo.id == wanted
        if key in ("createdAt", "lastModified"):
            return info | {key: f"20{'30' if most else '20'}-01-01T00:00:00.000Z"}
        return info | {key: 7 if most else 3}

    monkeypatch.setattr(metadata, "model_info", ranked)
    for wanted in ("me/tiny-gpt", "you/gpt-tiny"):
        assert names(search_models(hub, "gpt", sort=sort))[0] == wanted


@pytest.mark.parametrize("query", ["sort=size", "limit=x", "limit=²"])
def test_embedded_hub_refuses_what_cannot_be_meant(hub: Hub, query: str) -> None:
    from huggingface_hub import get_session

    answer = get_session().get(f"{hub.endpoint}/api/models?{query}")
    assert answer.status_code == 400 and query.split("=")[0] in answer.json()["error"]


STRANGE = {
    "no list": {"models": 1},
    "no id": [{"likes": 1}],
    "no date": [{"id": "a/b", "createdAt": "yesterday"}],
}


@pytest.mark.parametrize("kind", STRANGE)
def test_answer_that_is_not_the_hubs_is_one_message(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slogpt_hf.hub.attempts.sleep", lambda seconds: None)
    answer = json_response(STRANGE[kind])
    with answering(tmp_path, answer) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        with hub_to_search(Settings()) as hub, pytest.raises(HubError, match="no Hub"):
            search_models(hub, "gpt")


def answering(folder: Path, answer: Response) -> Any:
    return serve(folder / "hub", intercept=lambda request: answer)


def test_values_of_other_types_are_as_if_not_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = {"id": "gpt2\x1b[31m", "downloads": "many", "likes": True, "tags": [1, "a\x1b"]}
    with answering(tmp_path, json_response([odd | {"library_name": 3}])) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        monkeypatch.chdir(tmp_path)
        assert run(["search", "gpt", "--json"]) == 0
        (model,) = json.loads(capsys.readouterr().out)
        assert run(["search", "gpt"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "gpt2\\x1b[31m" in shown
    assert (model["author"], model["downloads"], model["likes"]) == ("Unknown", 0, 0)
    assert (model["tags"], model["library_name"]) == (["a\x1b"], "Unknown")
    assert model["created_at"] == "Unknown"


def test_a_hub_that_is_not_there_is_asked_once(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client waits and tries again by itself; both together took minutes."""
    asked = []

    def gone(**_: Any) -> None:
        asked.append(1)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(hub.api, "list_models", gone)
    with pytest.raises(HubError, match="Connection refused"):
        search_models(hub, "x")
    assert len(asked) == 1


@pytest.mark.parametrize("token", [None, "secret"])
def test_search_needs_no_token_and_sends_the_one_that_there_is(
    token: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An identity of the CI is for one repository; it is not exchanged for a search."""
    seen = []

    def intercept(request: Any) -> Response:
        seen.append(request.headers.get("authorization"))
        return json_response([])

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_OIDC_RESOURCE", "me/other")
    settings = Settings()
    if token:
        (tmp_path / "token").write_text(token)
        settings = Settings(token_file=str(tmp_path / "token"))
    with serve(tmp_path / "hub", intercept=intercept) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        with hub_to_search(settings) as hub:
            assert search_models(hub, "gpt") == []
    assert seen == [f"Bearer {token}" if token else None]


def test_command(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["search", "gpt", "--hub", str(folder)]
    assert run([*asked, "--limit", "1", "--author", "you"]) == 0
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split() == ["model", "downloads", "likes", "created", "library", "tags"]
    assert row.split()[:3] == ["you/gpt-tiny", "0", "0"]
    assert run(["search", "absent", "--hub", str(folder)]) == 0
    assert capsys.readouterr().out == "No models found.\n"
    assert run([*asked, "--limit", "0"]) == 2
    assert run([*asked, "--sort", "size"]) == 2
    assert run(["search", "gpt", "--hub", str(tmp_path / "absent")]) == 2
    assert not (tmp_path / "absent").exists()
