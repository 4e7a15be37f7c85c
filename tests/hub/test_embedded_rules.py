"""What the Hub refuses and how it says so, as its own client's tests expect it."""

from __future__ import annotations

import httpx2
import pytest
from huggingface_hub import CommitOperationDelete, HfApi, ModelCard, constants
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from slogpt_hf.hub.embedded import RunningHub

REPO = "me/Model"


def test_a_name_is_taken_in_every_case(hub: RunningHub, api: HfApi) -> None:
    api.upload_file(repo_id="ME/mODEL", path_or_fileobj=b"x", path_in_repo="a.bin")
    assert api.model_info("Me/MODEL").id == REPO
    assert api.create_repo("ME/model", exist_ok=True).repo_id == REPO
    with pytest.raises(HfHubHTTPError, match="already created"):
        api.create_repo("ME/model")
    assert api.create_repo("ME/Other").repo_id == "me/Other"
    assert [path.name for path in hub.folder.iterdir() if path.name[0] != "."] == ["me"]
    api.delete_repo("me/model")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info(REPO)


def test_a_folder_is_deleted_by_its_name_alone(api: HfApi) -> None:
    for path in ("1/a", "1/b/c", "10"):
        api.upload_file(repo_id=REPO, path_or_fileobj=b"x", path_in_repo=path)
    delete = CommitOperationDelete("1", is_folder=False)
    api.create_commit(REPO, [delete], commit_message="delete")
    assert api.list_repo_files(REPO) == [".gitattributes", "10"]


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("license: asdf", '"license" must be one of [afl-3.0, '),
        ("license: [mit, asdf]", '"license[1]" must be one of ['),
        ("model-index: foo", '"model-index" must be an array'),
        ("model-index: [{name: a}]", '"model-index[0].results" is required'),
        ("model-index: [{name: a, results: [{task: {}, dataset: {}, metrics: []}]}]",
         '"model-index[0].results[0].task.type" is required'),
        ("tags: a", '"tags" must be an array'),
        ("tags: [1]", '"tags[0]" must be a string'),
        ("language: no", '"language" must be a string'),
        ("language: [English]", '"language[0]" with value "English" is not valid.'),
        ("base_model: ../x/y", '"base_model" with value "../x/y" is not valid.'),
        ("pipeline_tag: 1", '"pipeline_tag" must be a string'),
        ("a: [", "The card's metadata is not valid YAML"),
    ],
)  # fmt: skip
def test_a_card_that_the_hub_refuses(
    hub: RunningHub, api: HfApi, monkeypatch: pytest.MonkeyPatch, head: str, message: str
) -> None:
    text = f"---\n{head}\n---\n# Card\n"
    with pytest.raises(ValueError, match="Invalid metadata") as refused:
        api.upload_file(repo_id=REPO, path_or_fileobj=text.encode(), path_in_repo="README.md")
    assert message in str(refused.value)
    monkeypatch.setattr(HfApi, "_validate_yaml", lambda *_, **__: None)
    with pytest.raises(HfHubHTTPError) as error:
        api.upload_file(repo_id=REPO, path_or_fileobj=text.encode(), path_in_repo="README.md")
    assert error.value.response.status_code == 400
    assert message in str(error.value)
    assert api.list_repo_files(REPO) == [".gitattributes"]


def test_validation_as_the_card_class_asks(
    hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    card = ModelCard("---\nlicense: mit\nlanguage: [en, code]\ndatasets: glue\n---\n# Card\n")
    card.validate()
    card.data.license = "asdf"
    with pytest.raises(ValueError, match='- Error: "license" must be one of'):
        card.validate()


def test_an_unknown_task_is_only_a_warning(api: HfApi) -> None:
    text = b"---\npipeline_tag: soothsaying\n---\n"
    with pytest.warns(UserWarning, match='The pipeline tag "soothsaying" is not in the official'):
        api.upload_file(repo_id=REPO, path_or_fileobj=text, path_in_repo="README.md")


@pytest.mark.parametrize(
    ("sent", "comes_back"),
    [
        ({"X-Request-Id": "custom-id", "X-Amzn-Trace-Id": "other"}, True),
        ({"X-Amzn-Trace-Id": "0f9b"}, True),
        ({"X-Request-Id": "a b"}, False),
        ({"X-Request-Id": "x" * 201}, False),
        ({}, False),
    ],
)
def test_the_clients_request_id(hub: RunningHub, sent: dict[str, str], comes_back: bool) -> None:
    got = httpx2.get(f"{hub.endpoint}/api/models", headers=sent).headers["X-Request-Id"]
    assert (got in sent.values()) == comes_back and got


@pytest.mark.parametrize("path", ["api/models", "api/datasets", "api", "", "api/models/", "a/b/c"])
@pytest.mark.parametrize("server", ["endpoint", "lfs_endpoint"])
def test_short_paths_are_not_found(hub: RunningHub, server: str, path: str) -> None:
    assert httpx2.post(f"{getattr(hub, server)}/{path}").status_code == 404


def test_wording(api: HfApi) -> None:
    api.create_branch(REPO, branch="b")
    for name in ("b", "main"):
        with pytest.raises(HfHubHTTPError, match=f"Reference refs/heads/{name} already exists"):
            api.create_branch(REPO, branch=name)
    with pytest.raises(HfHubHTTPError, match="Cannot delete refs/heads/main"):
        api.delete_branch(REPO, branch="main")
    with pytest.raises(HfHubHTTPError, match="Invalid rev id"):
        api.delete_branch(REPO, branch="none")
    parent = api.model_info(REPO).sha
    for number in range(2):
        upload = {"path_or_fileobj": bytes([number + 65]), "path_in_repo": "a"}
        if number:
            with pytest.raises(HfHubHTTPError, match="The branch was updated since you opened"):
                api.upload_file(repo_id=REPO, parent_commit=parent, **upload)
        else:
            api.upload_file(repo_id=REPO, **upload)
