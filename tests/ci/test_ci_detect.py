"""Every CI is recognised by its variables, and nothing that it tells is believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slogpt_hf.ci.detect import CI, ROWS, detect
from slogpt_hf.ci.logs import AZURE, GITHUB, GITLAB, PLAIN
from slogpt_hf.watch.event import Event

A, B, C = "a" * 40, "b" * 40, "c" * 40
ZERO = "0" * 40
GITHUB_BASE = {
    "CI": "true",
    "GITHUB_ACTIONS": "true",
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "me/gpt",
    "GITHUB_RUN_ID": "77",
    "GITHUB_RUN_ATTEMPT": "2",
    "GITHUB_EVENT_PATH": "event.json",
    "GITHUB_SHA": A,
    "RUNNER_DEBUG": "1",
}
RUN = "https://github.com/me/gpt/actions/runs/77"
OWN = {"full_name": "me/gpt"}
PULL = {"number": 7, "head": {"ref": "topic", "sha": B, "repo": {"full_name": "you/gpt"}}}


def on_github(event: str, ref: str, payload: Any, **variables: str) -> CI:
    content = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    environment = GITHUB_BASE | {"GITHUB_EVENT_NAME": event, "GITHUB_REF": ref} | variables
    ci = detect(environment, lambda path: content)
    assert ci is not None
    return ci


def test_outside_of_any_ci_there_is_none() -> None:
    assert detect({"PATH": "/bin", "CI": "false"}) is None


@pytest.mark.parametrize(
    ("event", "ref", "payload", "variables", "expected"),
    [
        (
            "push",
            "refs/heads/train/a",
            {"ref": "refs/heads/train/a", "before": B, "after": C, "deleted": False},
            {},
            Event("push", C, "train/a", None, B, False, RUN),
        ),
        (
            "push",
            "refs/heads/new",
            {"ref": "refs/heads/new", "before": ZERO, "after": A},
            {},
            Event("push", A, "new", None, None, False, RUN),
        ),
        (
            "push",
            "refs/heads/main",
            {"ref": "refs/heads/gone", "before": B, "after": ZERO, "deleted": True},
            {},
            Event("delete", None, "gone", None, None, False, RUN),
        ),
        (
            "delete",
            "refs/heads/main",
            {"ref": "gone", "ref_type": "branch"},
            {},
            Event("delete", None, "gone", None, None, False, RUN),
        ),
        (
            "push",  # of an annotated tag: `after` is the tag's own id
            "refs/tags/v1",
            {"ref": "refs/tags/v1", "before": ZERO, "after": C},
            {},
            Event("push", A, None, "v1", None, False, RUN),
        ),
        ("schedule", "refs/heads/main", {}, {}, Event("schedule", A, "main", run=RUN)),
        ("workflow_dispatch", "refs/heads/x", {}, {}, Event("workflow_dispatch", A, "x", run=RUN)),
        (
            "repository_dispatch",
            "refs/heads/m",
            {},
            {},
            Event("repository_dispatch", A, "m", run=RUN),
        ),
        ("release", "refs/tags/v2", {}, {}, Event("release", A, None, "v2", run=RUN)),
        (
            "pull_request",
            "refs/pull/7/merge",
            {"pull_request": PULL, "repository": OWN},
            {"GITHUB_HEAD_REF": "topic"},
            Event("pull_request", A, "topic", None, None, True, RUN),
        ),
        (
            "pull_request_target",
            "refs/heads/main",
            {"pull_request": PULL, "repository": OWN},
            {},
            Event("pull_request_target", B, "topic", None, None, True, RUN),
        ),
        (
            "merge_group",
            "refs/heads/gh-readonly-queue/main/pr-7",
            {},
            {},
            Event("merge_group", A, None, None, None, True, RUN),
        ),
        (
            "issue_comment",
            "refs/heads/main",
            {"issue": {"number": 7, "pull_request": {"url": "x"}}},
            {},
            Event("issue_comment", A, "main", None, None, True, RUN),
        ),
        (
            "workflow_run",
            "refs/heads/main",
            {"workflow_run": {"event": "push", "head_sha": C, "head_branch": "train"}},
            {},
            Event("workflow_run", C, "train", None, None, False, RUN),
        ),
        (
            "workflow_run",
            "refs/heads/main",
            {"workflow_run": {"event": "pull_request", "head_sha": C, "head_branch": "train"}},
            {},
            Event("workflow_run", C, "train", None, None, True, RUN),
        ),
        (
            "workflow_run",
            "refs/heads/main",
            {
                "repository": OWN,
                "workflow_run": {"event": "push", "head_repository": {"full_name": "you/gpt"}},
            },
            {},
            Event("workflow_run", A, "main", None, None, True, RUN),
        ),
    ],
)
def test_github_events(
    event: str, ref: str, payload: Any, variables: dict[str, str], expected: Event
) -> None:
    ci = on_github(event, ref, payload, **variables)
    assert ci.event == expected
    assert (ci.name, ci.logs, ci.repository) == ("GitHub Actions", GITHUB, "me/gpt")
    assert (ci.attempt, ci.debug) == (2, True)


def test_github_pull_requests_tell_their_number_and_whether_they_are_of_a_fork() -> None:
    ci = on_github("pull_request", "refs/pull/7/merge", {"pull_request": PULL, "repository": OWN})
    assert (ci.request, ci.is_fork) == (7, True)
    same = {"pull_request": PULL | {"head": {"sha": B, "repo": OWN}}, "repository": OWN}
    assert not on_github("pull_request", "refs/pull/7/merge", same).is_fork
    gone = {"pull_request": PULL | {"head": {"sha": B, "repo": None}}, "repository": OWN}
    assert on_github("pull_request_target", "refs/heads/main", gone).is_fork
    assert on_github("pull_request_target", "refs/heads/main", gone).request == 7


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"nonsense",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"after": ' + b"9" * 5000 + b"}",
        b'{"ref": 1, "before": [], "after": {}, "deleted": "true", "pull_request": 3}',
        json.dumps({"after": "--upload-pack=x", "before": ZERO, "ref": "refs/heads/a b"}).encode(),
        b" " * ((32 << 20) + 1),
    ],
)
def test_a_broken_event_file_leaves_the_variables(content: bytes) -> None:
    event = on_github("push", "refs/heads/main", content).event
    assert event == Event("push", A, "main", None, None, False, RUN)


def test_a_missing_event_file_leaves_the_variables(tmp_path: Path) -> None:
    environment = GITHUB_BASE | {
        "GITHUB_EVENT_NAME": "push",
        "GITHUB_REF": "refs/heads/main",
        "GITHUB_EVENT_PATH": str(tmp_path / "none.json"),
    }
    ci = detect(environment)
    assert ci is not None and ci.event.commit == A
    (tmp_path / "none.json").write_text(json.dumps({"after": C, "before": B}))
    ci = detect(environment)
    assert ci is not None and (ci.event.commit, ci.event.before) == (C, B)


FIELDS = (
    *("ref", "after", "before", "deleted", "pull_request", "head", "repo", "number", "issue"),
    *("workflow_run", "head_sha", "event", "repository", "full_name", "head_repository"),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from([A, ZERO, "main"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(
    JSON,
    st.sampled_from(["push", "delete", "pull_request", "pull_request_target", "workflow_run", "x"]),
    st.text(),
)
def test_whatever_the_event_says_it_is_checked(payload: Any, name: str, ref: str) -> None:
    event = on_github(name, ref, payload).event
    for commit in (event.commit, event.before):
        assert commit is None or (len(commit) in (40, 64) and commit.strip("0"))
    for text in (event.branch, event.tag):
        assert text is None or (text.isprintable() and " " not in text and text[0] != "-")
    assert event.is_pull_request or not name.startswith("pull_request")


GITLAB_BASE = {
    "CI": "true",
    "GITLAB_CI": "true",
    "CI_PIPELINE_SOURCE": "push",
    "CI_COMMIT_SHA": A,
    "CI_COMMIT_BEFORE_SHA": B,
    "CI_COMMIT_BRANCH": "train/a",
    "CI_PROJECT_PATH": "group/sub/gpt",
    "CI_PIPELINE_URL": "https://gitlab.example/group/sub/gpt/-/pipelines/3",
}
GITLAB_RUN = GITLAB_BASE["CI_PIPELINE_URL"]
AZURE_BASE = {
    "TF_BUILD": "True",
    "BUILD_REASON": "IndividualCI",
    "BUILD_SOURCEVERSION": A,
    "BUILD_SOURCEBRANCH": "refs/heads/train/a",
    "SYSTEM_COLLECTIONURI": "https://dev.azure.com/me/",
    "SYSTEM_TEAMPROJECT": "my models",
    "BUILD_BUILDID": "9",
}
AZURE_RUN = "https://dev.azure.com/me/my%20models/_build/results?buildId=9"
JENKINS_BASE = {
    "CI": "true",
    "JENKINS_URL": "https://ci.example/",
    "BUILD_URL": "https://ci.example/job/gpt/3/",
    "GIT_COMMIT": A,
}
JENKINS_RUN = JENKINS_BASE["BUILD_URL"]
CIRCLE_BASE = {
    "CIRCLECI": "true",
    "CIRCLE_SHA1": A,
    "CIRCLE_PROJECT_USERNAME": "me",
    "CIRCLE_PROJECT_REPONAME": "gpt",
    "CIRCLE_BUILD_URL": "https://circleci.com/gh/me/gpt/4",
}
CIRCLE_RUN = CIRCLE_BASE["CIRCLE_BUILD_URL"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (
            GITLAB_BASE,
            CI(
                "GitLab CI",
                Event("push", A, "train/a", None, B, False, GITLAB_RUN),
                GITLAB,
                "group/sub/gpt",
            ),
        ),
        (
            GITLAB_BASE
            | {"CI_COMMIT_BRANCH": "", "CI_COMMIT_TAG": "v1", "CI_COMMIT_BEFORE_SHA": ZERO},
            CI("GitLab CI", Event("push", A, None, "v1", run=GITLAB_RUN), GITLAB, "group/sub/gpt"),
        ),
        (
            GITLAB_BASE
            | {
                "CI_PIPELINE_SOURCE": "merge_request_event",
                "CI_COMMIT_BRANCH": "",
                "CI_MERGE_REQUEST_IID": "12",
                "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "topic",
                "CI_MERGE_REQUEST_SOURCE_PROJECT_ID": "5",
                "CI_MERGE_REQUEST_PROJECT_ID": "4",
                "CI_MERGE_REQUEST_PROJECT_PATH": "group/gpt",
            },
            CI(
                "GitLab CI",
                Event("merge_request_event", A, "topic", None, None, True, GITLAB_RUN),
                GITLAB,
                "group/gpt",
                12,
                True,
            ),
        ),
        (
            AZURE_BASE,
            CI("Azure Pipelines", Event("IndividualCI", A, "train/a", run=AZURE_RUN), AZURE),
        ),
        (
            AZURE_BASE
            | {
                "BUILD_REASON": "PullRequest",
                "BUILD_SOURCEBRANCH": "refs/pull/6/merge",
                "SYSTEM_PULLREQUEST_SOURCEBRANCH": "refs/heads/topic",
                "SYSTEM_PULLREQUEST_ISFORK": "True",
                "SYSTEM_JOBATTEMPT": "3",
                "SYSTEM_DEBUG": "true",
            },
            CI(
                "Azure Pipelines",
                Event("PullRequest", A, "topic", None, None, True, AZURE_RUN),
                AZURE,
                None,
                6,
                True,
                3,
                True,
            ),
        ),
        (
            JENKINS_BASE | {"GIT_BRANCH": "origin/train/a", "GIT_PREVIOUS_COMMIT": B},
            CI("Jenkins", Event("build", A, "train/a", None, B, False, JENKINS_RUN)),
        ),
        (
            JENKINS_BASE | {"BRANCH_NAME": "v1", "TAG_NAME": "v1", "GIT_BRANCH": "v1"},
            CI("Jenkins", Event("build", A, None, "v1", run=JENKINS_RUN)),
        ),
        (
            JENKINS_BASE
            | {"BRANCH_NAME": "PR-8", "CHANGE_ID": "8", "CHANGE_BRANCH": "t", "CHANGE_FORK": "you"},
            CI(
                "Jenkins",
                Event("build", A, "t", None, None, True, JENKINS_RUN),
                PLAIN,
                None,
                8,
                True,
            ),
        ),
        (
            CIRCLE_BASE | {"CIRCLE_BRANCH": "train/a", "CIRCLE_PULL_REQUEST": "https://x/pull/3"},
            CI("CircleCI", Event("push", A, "train/a", run=CIRCLE_RUN), PLAIN, "me/gpt"),
        ),
        (
            CIRCLE_BASE | {"CIRCLE_BRANCH": "pull/3", "CIRCLE_PR_NUMBER": "3"},
            CI(
                "CircleCI",
                Event("push", A, None, None, None, True, CIRCLE_RUN),
                PLAIN,
                "me/gpt",
                3,
                True,
            ),
        ),
        (
            {
                "BUILDKITE": "true",
                "BUILDKITE_COMMIT": "HEAD",
                "BUILDKITE_BRANCH": "main",
                "BUILDKITE_PULL_REQUEST": "false",
                "BUILDKITE_SOURCE": "webhook",
            },
            CI("Buildkite", Event("webhook", None, "main")),
        ),
        (
            {
                "TRAVIS": "true",
                "TRAVIS_EVENT_TYPE": "pull_request",
                "TRAVIS_COMMIT": A,
                "TRAVIS_BRANCH": "main",
                "TRAVIS_PULL_REQUEST": "5",
                "TRAVIS_PULL_REQUEST_BRANCH": "topic",
                "TRAVIS_PULL_REQUEST_SLUG": "you/gpt",
                "TRAVIS_REPO_SLUG": "me/gpt",
            },
            CI(
                "Travis CI",
                Event("pull_request", A, "topic", None, None, True),
                PLAIN,
                "me/gpt",
                5,
                True,
            ),
        ),
        ({"CI": "1"}, CI("CI", Event("build"))),
    ],
)
def test_other_cis(environment: dict[str, str], expected: CI) -> None:
    assert detect(environment) == expected


@given(st.sampled_from(ROWS[:-1]), st.text())
def test_whatever_the_variables_say_they_are_checked(row: Any, text: str) -> None:
    class Same(dict[str, str]):
        def get(self, name: str, default: Any = None) -> Any:
            return super().get(name, None if name == "GITHUB_EVENT_PATH" else text)

        def __missing__(self, name: str) -> str:
            return text

    signs = {each.sign: "" for each in ROWS} | {row.sign: "true"}
    ci = detect(Same(signs))
    assert ci is not None and ci.name == row.name
    assert ci.event.commit is None or len(ci.event.commit) in (40, 64)
    assert ci.event.run is None or ci.event.run.startswith(("http://", "https://"))
    assert ci.event.name.isprintable()
