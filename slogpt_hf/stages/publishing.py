"""The third stage: publish what was proven."""

from __future__ import annotations

from dataclasses import replace

from slogpt_hf.ci.markup import visible
from slogpt_hf.ci.outcome import Outcome
from slogpt_hf.errors import HubError, SloGPTError, UsageError
from slogpt_hf.progress import Progress
from slogpt_hf.settings import Settings
from slogpt_hf.stages.work import PUBLISH, Work, keep, proofs, read_json, read_settings
from slogpt_hf.watch.event import Event


def publish(work: Work, event: Event, progress: Progress) -> tuple[Outcome, ...]:
    """Publish what was proven, in the order of the plan; reads no checkpoint.

    After one that the hub refuses, those behind it are not tried: their versions depend on it. One
    whose tag is taken, or that is not what was proven, or does not load, keeps none of the others.

    Raises:
        UsageError: ``prove`` did not run, or this job may not publish, as one for a pull request.
    """
    if event.is_pull_request or read_json(work.plan).get(PUBLISH) is not True:
        raise UsageError(
            "This run proves and does not publish.",
            hint="A pull request never publishes; publish when it is merged.",
        )
    settings = read_settings(work)
    outcomes: list[Outcome] = []
    failed: Outcome | None = None
    for outcome in tuple(proofs(work)):  # all are read before the first is published
        if outcome.status != "proven":
            continue
        if failed is None:
            outcomes.append(_published(work, outcome, settings, progress))
            failed = outcomes[-1] if outcomes[-1].exit_code == HubError.exit_code else None
        else:
            message = f"Not tried, since {failed.name} before it could not be published."
            outcomes.append(
                replace(outcome, status="unpublished", message=message, exit_code=failed.exit_code)
            )
        keep(work.published(outcome.key), outcomes[-1])
    return tuple(outcomes)


def _published(work: Work, outcome: Outcome, settings: Settings, progress: Progress) -> Outcome:
    from slogpt_hf.release import push
    from slogpt_hf.smoke import SmokeError, told

    progress.line(f" publish: {outcome.name}")
    message, code = "", 0
    try:
        release = push(work.artefact(outcome.key), settings, progress)
    except SmokeError as error:
        release, message, code = error.release, visible(str(error)), error.exit_code
        progress.line(f" publish: {outcome.name}: exit code {code}: {message}")
    except SloGPTError as error:
        message, code = visible(str(error)), error.exit_code
        progress.line(f" publish: {outcome.name}: refused (exit code {code}): {message}")
        return replace(outcome, status="unpublished", message=message, exit_code=code)
    verb = "released as" if release.released else "released before as"
    progress.line(f" publish: {outcome.name}: {verb} {release.repo_id} {release.tag}")
    return replace(
        outcome,
        status="released" if release.released else "known",
        message=message,
        exit_code=code,
        repo_id=release.repo_id,
        version=release.version,
        tag=release.tag,
        release_commit=release.commit,
        url=release.url,
        smoke=visible(told(**release.smoke)) if release.smoke else None,
    )
