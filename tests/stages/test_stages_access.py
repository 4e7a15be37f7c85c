"""Tokens and identities: what is wrong is found before anything is fetched, where it can be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from stage_lab import TOKEN, Jobs

from slogpt_hf.hub.client import open_hub
from slogpt_hf.hub.embedded import Request, Response, RunningHub, serve

WRONG = "hf_anotherTokenThanTheHubs"


def fetched(jobs: Jobs) -> bool:
    return (jobs.work / "checkpoints").exists()


@pytest.mark.parametrize("ci", ["none", "github", "gitlab"])
@pytest.mark.parametrize("name", ["all", "plan"])
def test_a_bad_token_fails_before_anything_is_fetched(jobs: Jobs, ci: str, name: str) -> None:
    jobs.on(ci)
    ran = jobs.ci("prepare", "--job", name, HF_TOKEN=WRONG)
    assert ran.code == 6 and WRONG not in ran.error
    assert not fetched(jobs)


@pytest.mark.parametrize("job", ["all", "plan"])
def test_no_token_on_github_is_refused_early(jobs: Jobs, job: str) -> None:
    jobs.on("github")
    ran = jobs.ci("prepare", "--job", job, HF_TOKEN="")
    assert ran.code == 6 and "token" in ran.error
    assert not fetched(jobs)


@pytest.mark.parametrize(
    "given",
    [{"GITHUB_EVENT_NAME": "pull_request"}, {"ACTION_PUBLISH": "false"}],
)
def test_a_run_that_publishes_nothing_needs_no_token(jobs: Jobs, given: dict[str, str]) -> None:
    jobs.on("github")
    assert jobs.ci("prepare", HF_TOKEN="", **given).code == 0
    assert fetched(jobs)


def test_the_proving_job_needs_no_token(jobs: Jobs, artifacts: Path) -> None:
    jobs.on("github")
    (key, *_) = sorted(each.name.removeprefix("slogpt-hf-") for each in artifacts.iterdir())
    ran = jobs.ci("prepare", "--job", "prove", "--candidate", key, HF_TOKEN="")
    assert ran.code == 0, ran.err
    assert [each.name for each in (jobs.work / "checkpoints").iterdir()] == [key]


@pytest.mark.parametrize("ci", ["gitlab", "jenkins", "azure"])
def test_another_ci_may_prepare_without_a_token(jobs: Jobs, ci: str) -> None:
    jobs.on(ci)
    assert jobs.ci("prepare", HF_TOKEN="").code == 0
    assert fetched(jobs)


def test_oidc_without_an_identity_plans_on_gitlab(jobs: Jobs) -> None:
    jobs.on("gitlab")
    ran = jobs.ci("prepare", HF_TOKEN="", SLOGPT_OIDC="true")
    assert ran.code == 0, ran.err
    assert jobs.read("settings.json")["oidc"] is True
    assert fetched(jobs)


def test_oidc_without_an_identity_is_refused_early_on_github(jobs: Jobs) -> None:
    jobs.on("github")
    ran = jobs.ci("prepare", HF_TOKEN="", SLOGPT_OIDC="true")
    assert ran.code == 6 and not fetched(jobs)


@pytest.fixture
def reading(tmp_path: Path) -> Iterator[RunningHub]:
    """A hub whose token may read, and may not write."""

    def refuse(request: Request) -> Response | None:
        if request.path[-2:] == ("auth-check", "write"):
            return Response(403, b'{"error": "You need write access"}')
        return None

    with open_hub(tmp_path / "reading") as own:
        own.api.create_repo("me/model")
    with serve(tmp_path / "reading", token=TOKEN, intercept=refuse) as running:
        yield running


@pytest.mark.parametrize("ci", ["gitlab", "jenkins", "azure"])
def test_another_ci_may_prepare_with_a_token_that_only_reads(
    jobs: Jobs, reading: RunningHub, ci: str
) -> None:
    jobs.endpoint = reading.endpoint
    jobs.on(ci)
    ran = jobs.ci("prepare")
    assert ran.code == 0, ran.err
    assert fetched(jobs)


@pytest.mark.parametrize("ci", ["none", "github"])
def test_a_token_that_only_reads_is_refused_early_where_it_is_the_publishers(
    jobs: Jobs, reading: RunningHub, ci: str
) -> None:
    jobs.endpoint = reading.endpoint
    jobs.on(ci)
    ran = jobs.ci("prepare")
    assert ran.code == 6 and not fetched(jobs)
