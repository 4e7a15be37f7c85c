"""What to do once the files are written: credentials, checkpoints, commit, the CI's own steps."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from slogpt_hf.onboarding.choosing import Choices
from slogpt_hf.onboarding.platforms import PLATFORMS
from slogpt_hf.onboarding.survey import META, TOKENIZERS, Survey, Weights
from slogpt_hf.onboarding.writing import Change

TOKEN = (
    "Make a fine-grained token with write access to {repo_id}, or while that does not exist to the "
    "repositories of {namespace}: https://huggingface.co/settings/tokens/new?tokenType=fineGrained"
)
PUBLISHER = (
    "Create the Hub repository, unless it exists: hf repos create {repo_id}",
    "Open https://huggingface.co/{repo_id}/settings, Trusted Publishers, and add: {publisher}",
)
LARGE = 10 * 2**20  # bytes; what git should not hold itself
MOST_SHOWN = 3


def next_steps(survey: Survey, choices: Choices, changes: Sequence[Change]) -> list[str]:
    """What is left to do, in this order; each step on one line, with its page or command."""
    platform = PLATFORMS[choices.ci]
    facts = {
        "repo_id": choices.settings.repo_id or "",
        "namespace": (choices.settings.repo_id or "").partition("/")[0],
        "page": survey.page or "https://HOST/OWNER/NAME",
        "slug": survey.slug or "OWNER/NAME",
        "globs": ", ".join(choices.settings.branches),
        "file": changes[-2].path,
    }
    facts["publisher"] = platform.publisher.format(**facts)
    foreign = [change for change in changes if change.status == "yours"]
    kept = [change.path for change in changes if change.status != "yours"]
    steps = PUBLISHER if choices.credentials == "oidc" else (TOKEN, *platform.secret)
    return [
        *(step.format(**facts) for step in steps),
        *(f"Add to your {each.path}:\n{_without_comments(each.content)}" for each in foreign),
        *_tracking(survey, choices.settings.checkpoints),
        f"Commit and push: git add {shlex.join(kept)} && git commit -m 'Release checkpoints' && "
        "git push",
        *(step.format(**facts) for step in platform.steps),
    ]


def _tracking(survey: Survey, globs: Sequence[str]) -> list[str]:
    """How checkpoints and vocabularies that lie on disk alone come into git."""
    loose = [each for each in survey.checkpoints if not each.is_tracked]
    heavy = [each for each in survey.checkpoints if not each.is_lfs and _is_large(each)]
    words = sorted(
        path for path in survey.untracked if path.rpartition("/")[2] in (META, *TOKENIZERS)
    )
    if not loose and not heavy:
        return [f"Bring the vocabulary into git: git add {shlex.join(words)}"] if words else []
    paths = shlex.join([*(each.path for each in (loose or heavy)[:MOST_SHOWN]), *words])
    force = "--force " if any(each.is_ignored for each in loose[:MOST_SHOWN]) else ""
    track = shlex.join(["git", "lfs", "track", *globs])
    what = "Bring checkpoints into git" if loose else "Keep large checkpoints out of git itself"
    if not heavy:
        return [f"{what}, on a training branch: git add {force}{paths}"]
    return [
        f"{what}, by Git LFS, on a training branch: git lfs install && {track} && "
        f"git add {force}.gitattributes {paths}"
    ]


def _is_large(weights: Weights) -> bool:
    return (weights.n_bytes or 0) >= LARGE


def _without_comments(text: str) -> str:
    return "\n".join(f"     {line}" for line in text.splitlines() if not line.startswith("#"))
