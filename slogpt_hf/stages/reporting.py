"""The last stage: tell people and later jobs what became of every checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from slogpt_hf.ci.comment import LARGEST, comment, thread_of
from slogpt_hf.ci.detect import CI
from slogpt_hf.ci.logs import Annotation, annotation_line, annotations_of
from slogpt_hf.ci.outcome import Outcome
from slogpt_hf.ci.outputs import outputs_of, write_outputs
from slogpt_hf.ci.summary import summary_of, write_summary
from slogpt_hf.errors import UsageError
from slogpt_hf.files import write_atomically
from slogpt_hf.progress import Progress
from slogpt_hf.stages.work import REMARKED, Work

Environment = Mapping[str, str]
NO_MORE: Environment = {}


def report(
    work: Work,
    outcomes: Sequence[Outcome],
    ci: CI,
    environment: Environment,
    say: Callable[[str], object],
    progress: Progress,
    *,
    annotated: Collection[str] = REMARKED,
    with_comment: bool = False,
    more: Mapping[str, str] = NO_MORE,
) -> None:
    """Outputs, summary, annotations and the comment on the pull request.

    Args:
        work: folder of the job; gets summary and outputs where the CI takes none of its own.
        outcomes: of the job, in the order of the plan.
        ci: at hand.
        environment: of the process.
        say: prints a line that the CI obeys.
        progress: told what else happens.
        annotated: statuses that get an annotation; those of a job before have theirs already.
            A release that does not load always gets one.
        with_comment: comment on the pull request.
        more: outputs beside those of the outcomes.

    Raises:
        UsageError: a file of the CI cannot be written.
    """
    shown = (each for each in outcomes if each.status in annotated or each.is_broken)
    for annotation in annotations_of(shown):
        say(annotation_line(ci.logs, annotation))
    markdown = summary_of(outcomes)
    if not write_summary(markdown, environment):
        _write_or_say(work, markdown, progress)
    for line in write_outputs(outputs_of(outcomes) | dict(more), environment, work.outputs):
        say(line)
    if with_comment:
        _comment(outcomes, ci, environment, say, progress)


def _write_or_say(work: Work, markdown: str, progress: Progress) -> None:
    try:
        write_atomically(work.summary, markdown)
    except UsageError:  # a folder that is handed on for reading only
        for line in markdown.splitlines():
            progress.line(line)
    else:
        progress.line(f"  report: {work.summary}")


def _comment(
    outcomes: Sequence[Outcome],
    ci: CI,
    environment: Environment,
    say: Callable[[str], object],
    progress: Progress,
) -> None:
    thread = thread_of(ci, environment)
    if thread is None:
        progress.line("  report: no comment: this run is for no pull request, or has no token.")
        return
    repo_id = next((outcome.repo_id for outcome in outcomes if outcome.repo_id), None) or ""
    if problem := comment(thread, repo_id, summary_of(outcomes, LARGEST)):
        say(annotation_line(ci.logs, Annotation("warning", "slogpt-hf", problem)))
    else:
        progress.line("  report: commented on the pull request.")
