"""Which CI runs this, and why: a table with a row for each. Nothing that it tells is believed.

Sources of the names: GitHub's "Variables reference" and "Events that trigger workflows"; GitLab's
"Predefined CI/CD variables reference"; the Jenkins page ``env-vars.html``; CircleCI's "Project
values and variables"; "Use predefined variables" of Azure Pipelines; Buildkite's "Environment
variables"; "Environment Variables" of Travis CI.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from slogpt_hf.ci.logs import AZURE, GITHUB, GITLAB, PLAIN, LogStyle
from slogpt_hf.ci.markup import visible
from slogpt_hf.ci.payload import is_foreign, number_of, read_file, read_payload, refine
from slogpt_hf.ci.values import (
    branch_and_tag,
    commit_id,
    is_true,
    page_url,
    ref_name,
    repository_name,
    request_number,
)
from slogpt_hf.watch.event import Event

Environment = Mapping[str, str]

_VARIABLE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class CI:
    """The CI at hand.

    Attributes:
        name: for people.
        event: why it runs. A branch that was deleted is an event ``delete`` without a commit:
            there is nothing to do.
        logs: how its log is written.
        repository: OWNER/NAME; None if nothing tells.
        request: number of the pull request.
        is_fork: the pull request is of another repository.
        attempt: 1, and more for a rerun.
        debug: somebody asked for more in the log.
    """

    name: str
    event: Event
    logs: LogStyle = PLAIN
    repository: str | None = None
    request: int | None = None
    is_fork: bool = False
    attempt: int = 1
    debug: bool = False


@dataclass(frozen=True)
class Row:
    """Variables of a CI; the first of several that says something counts.

    A name in braces is a variable's value; text without any is itself.

    Attributes:
        name: of the CI, for people.
        sign: variable that only this CI sets.
        logs: how its log is written.
        event: why it runs.
        commit: that it runs for.
        ref: branch or ``refs/...``.
        remote: that may stand before a branch, with its slash.
        tag: that was pushed.
        before: commit that the branch was at.
        head: source branch of a pull request.
        request: number of the pull request, or a URL that ends in it.
        is_request: whether it runs for a pull request, beside having a ``request``.
        fork: pairs that differ if the pull request is of another repository.
        forked: variables that are only set, or true, if it is.
        repository: OWNER/NAME.
        run: URL.
        attempt: number from 1.
        debug: variables that are true if more is asked for.
    """

    name: str
    sign: str
    logs: LogStyle = PLAIN
    event: tuple[str, ...] = ("build",)
    commit: tuple[str, ...] = ()
    ref: tuple[str, ...] = ()
    remote: str = ""
    tag: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    request: tuple[str, ...] = ()
    is_request: Callable[[Environment], bool] = field(default=lambda environment: False)
    fork: tuple[tuple[str, str], ...] = ()
    forked: tuple[str, ...] = ()
    repository: tuple[str, ...] = ()
    run: tuple[str, ...] = ()
    attempt: tuple[str, ...] = ()
    debug: tuple[str, ...] = ()


ROWS = (
    Row(
        name="GitHub Actions",
        sign="GITHUB_ACTIONS",
        logs=GITHUB,
        event=("{GITHUB_EVENT_NAME}",),
        commit=("{GITHUB_SHA}",),
        ref=("{GITHUB_REF}",),
        head=("{GITHUB_HEAD_REF}",),
        is_request=lambda e: (
            e.get("GITHUB_EVENT_NAME", "").startswith(("pull_request", "merge_group"))
            or e.get("GITHUB_REF", "").startswith("refs/pull/")
        ),
        repository=("{GITHUB_REPOSITORY}",),
        run=("{GITHUB_SERVER_URL}/{GITHUB_REPOSITORY}/actions/runs/{GITHUB_RUN_ID}",),
        attempt=("{GITHUB_RUN_ATTEMPT}",),
        debug=("{RUNNER_DEBUG}",),
    ),
    Row(
        name="GitLab CI",
        sign="GITLAB_CI",
        logs=GITLAB,
        event=("{CI_PIPELINE_SOURCE}",),
        commit=("{CI_COMMIT_SHA}",),
        ref=("{CI_COMMIT_BRANCH}",),
        tag=("{CI_COMMIT_TAG}",),
        before=("{CI_COMMIT_BEFORE_SHA}",),
        head=(
            "{CI_MERGE_REQUEST_SOURCE_BRANCH_NAME}",
            "{CI_EXTERNAL_PULL_REQUEST_SOURCE_BRANCH_NAME}",
        ),
        request=("{CI_MERGE_REQUEST_IID}", "{CI_EXTERNAL_PULL_REQUEST_IID}"),
        is_request=lambda e: e.get("CI_PIPELINE_SOURCE", "").endswith("_request_event"),
        fork=(
            ("{CI_MERGE_REQUEST_SOURCE_PROJECT_ID}", "{CI_MERGE_REQUEST_PROJECT_ID}"),
            (
                "{CI_EXTERNAL_PULL_REQUEST_SOURCE_REPOSITORY}",
                "{CI_EXTERNAL_PULL_REQUEST_TARGET_REPOSITORY}",
            ),
        ),
        repository=("{CI_MERGE_REQUEST_PROJECT_PATH}", "{CI_PROJECT_PATH}"),
        run=("{CI_PIPELINE_URL}", "{CI_JOB_URL}"),
        debug=("{CI_DEBUG_TRACE}",),
    ),
    Row(
        name="Azure Pipelines",
        sign="TF_BUILD",
        logs=AZURE,
        event=("{BUILD_REASON}",),
        commit=("{BUILD_SOURCEVERSION}",),
        ref=("{BUILD_SOURCEBRANCH}",),
        head=("{SYSTEM_PULLREQUEST_SOURCEBRANCH}",),
        request=("{SYSTEM_PULLREQUEST_PULLREQUESTNUMBER}", "{SYSTEM_PULLREQUEST_PULLREQUESTID}"),
        is_request=lambda e: (
            e.get("BUILD_REASON", "").lower() == "pullrequest"
            or e.get("BUILD_SOURCEBRANCH", "").startswith("refs/pull/")
        ),
        forked=("{SYSTEM_PULLREQUEST_ISFORK}",),
        repository=("{BUILD_REPOSITORY_NAME}",),
        run=("{SYSTEM_COLLECTIONURI}{SYSTEM_TEAMPROJECT}/_build/results?buildId={BUILD_BUILDID}",),
        attempt=("{SYSTEM_JOBATTEMPT}",),
        debug=("{SYSTEM_DEBUG}",),
    ),
    Row(
        name="CircleCI",
        sign="CIRCLECI",
        event=("push",),
        commit=("{CIRCLE_SHA1}",),
        ref=("{CIRCLE_BRANCH}",),
        tag=("{CIRCLE_TAG}",),
        # It builds pushes; CIRCLE_PULL_REQUEST only says that the branch has a pull request, too.
        request=("{CIRCLE_PR_NUMBER}",),
        is_request=lambda e: e.get("CIRCLE_BRANCH", "").startswith("pull/"),
        forked=("{CIRCLE_PR_NUMBER}", "{CIRCLE_PR_REPONAME}"),
        repository=("{CIRCLE_PROJECT_USERNAME}/{CIRCLE_PROJECT_REPONAME}",),
        run=("{CIRCLE_BUILD_URL}",),
    ),
    Row(
        name="Buildkite",
        sign="BUILDKITE",
        event=("{BUILDKITE_SOURCE}",),
        commit=("{BUILDKITE_COMMIT}",),
        ref=("{BUILDKITE_BRANCH}",),
        tag=("{BUILDKITE_TAG}",),
        head=("{BUILDKITE_BRANCH}",),
        request=("{BUILDKITE_PULL_REQUEST}",),
        fork=(("{BUILDKITE_PULL_REQUEST_REPO}", "{BUILDKITE_REPO}"),),
        run=("{BUILDKITE_BUILD_URL}",),
    ),
    Row(
        name="Travis CI",
        sign="TRAVIS",
        event=("{TRAVIS_EVENT_TYPE}",),
        commit=("{TRAVIS_COMMIT}",),
        ref=("{TRAVIS_BRANCH}",),
        tag=("{TRAVIS_TAG}",),
        head=("{TRAVIS_PULL_REQUEST_BRANCH}",),
        request=("{TRAVIS_PULL_REQUEST}",),
        fork=(("{TRAVIS_PULL_REQUEST_SLUG}", "{TRAVIS_REPO_SLUG}"),),
        repository=("{TRAVIS_REPO_SLUG}",),
        run=("{TRAVIS_JOB_WEB_URL}", "{TRAVIS_BUILD_WEB_URL}"),
    ),
    # Last but one: other CIs may be started by Jenkins, or set its names, too.
    Row(
        name="Jenkins",
        sign="JENKINS_URL",
        commit=("{ghprbActualCommit}", "{GIT_COMMIT}"),
        ref=("{BRANCH_NAME}", "{GIT_LOCAL_BRANCH}", "{GIT_BRANCH}"),
        remote="origin/",
        tag=("{TAG_NAME}",),
        before=("{GIT_PREVIOUS_COMMIT}",),
        head=("{CHANGE_BRANCH}", "{ghprbSourceBranch}", "{gitlabSourceBranch}"),
        request=("{CHANGE_ID}", "{ghprbPullId}", "{gitlabMergeRequestIid}"),
        is_request=lambda e: any(map(e.get, ("CHANGE_ID", "CHANGE_TARGET", "CHANGE_BRANCH"))),
        forked=("{CHANGE_FORK}",),
        run=("{BUILD_URL}",),
    ),
    Row(name="CI", sign="CI"),
)


# Where nothing tells of a CI: a person, or cron.
NONE = CI("no CI", Event("manual"))


def detect(environment: Environment, read: Callable[[Path], bytes] = read_file) -> CI | None:
    """The CI that set these variables; None outside of any.

    Args:
        environment: of the process.
        read: gives the content of the file that ``GITHUB_EVENT_PATH`` names.
    """
    row = next((row for row in ROWS if is_true(environment.get(row.sign))), None)
    if row is None:
        return None
    ci = _from_row(row, environment)
    if row.logs is not GITHUB:
        return ci
    payload = read_payload(environment.get("GITHUB_EVENT_PATH"), read)
    event = refine(ci.event, payload)
    return replace(
        ci,
        event=event,
        request=ci.request or number_of(payload),
        is_fork=ci.is_fork or (event.is_pull_request and is_foreign(payload)),
    )


def _from_row(row: Row, environment: Environment) -> CI:
    def first(templates: tuple[str, ...]) -> str | None:
        return next((text for t in templates if (text := _filled(t, environment))), None)

    ref = (first(row.ref) or "").removeprefix(row.remote)
    request, tag = request_number(first(row.request)), ref_name(first(row.tag))
    if ref.startswith("refs/pull/"):
        request = request or request_number(ref.split("/")[2])
    is_request = request is not None or row.is_request(environment)
    branch, pushed = branch_and_tag(first(row.head) if is_request else ref)
    tag = None if is_request else tag or pushed
    pairs = [(_filled(a, environment), _filled(b, environment)) for a, b in row.fork]
    differ = any(ours and theirs and ours != theirs for ours, theirs in pairs)
    event = Event(
        name=visible(first(row.event) or "")[:60] or "unknown",
        commit=commit_id(first(row.commit)),
        branch=None if tag else branch,
        tag=tag,
        before=None if is_request else commit_id(first(row.before)),
        is_pull_request=is_request,
        run=page_url(first(row.run)),
    )
    return CI(
        name=row.name,
        event=event,
        logs=row.logs,
        repository=repository_name(first(row.repository)),
        request=request,
        is_fork=is_request and (differ or any(is_true(first((each,))) for each in row.forked)),
        attempt=max(1, request_number(first(row.attempt)) or 1),
        debug=is_true(first(row.debug)),
    )


def _filled(template: str, environment: Environment) -> str | None:
    """A template with its variables; None if one of them is not set."""
    names = _VARIABLE.findall(template)
    if not all(map(environment.get, names)):
        return None
    return _VARIABLE.sub(lambda match: environment[match[1]], template)
