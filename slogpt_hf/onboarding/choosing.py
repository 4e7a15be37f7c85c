"""What init writes: flags over the settings file at hand over what the repository shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from slogpt_hf.errors import UsageError
from slogpt_hf.onboarding.platforms import CREDENTIALS, PLATFORMS, WITH_OIDC, platforms_of
from slogpt_hf.onboarding.rendering import Values
from slogpt_hf.onboarding.survey import BRANCH, DEFAULT_BRANCHES, Survey, checkpoint_globs
from slogpt_hf.settings import Settings


@dataclass(frozen=True)
class Choices:
    """Everything that the files depend on.

    Attributes:
        ci: a key of ``PLATFORMS``.
        credentials: one of ``CREDENTIALS``.
        settings: of the settings file.
        source: URL that git clones the training repository from.
    """

    ci: str
    credentials: str
    settings: Settings
    source: str = ""

    @property
    def values(self) -> Values:
        """What the templates say."""
        return Values(
            repo_id=self.settings.repo_id or "",
            checkpoints=self.settings.checkpoints,
            branches=self.settings.branches,
            source=self.source,
            is_oidc=self.credentials == "oidc",
        )


def proposed_settings(survey: Survey, saved: Settings, flags: Mapping[str, Any]) -> Settings:
    """The settings to write, as far as flags, the file at hand and the repository tell them.

    Args:
        survey: of the repository.
        saved: what its settings file says.
        flags: name to value; None or empty where not given.
    """
    nothing = Settings()
    told = {name: value for name, value in flags.items() if value}
    said = {name for name in vars(nothing) if getattr(saved, name) != getattr(nothing, name)}
    shown = {
        "checkpoints": checkpoint_globs(each.path for each in survey.checkpoints),
        "branches": survey.globs or DEFAULT_BRANCHES,
        **_vocabulary(survey, said | told.keys()),
    }
    guessed = {name: value for name, value in shown.items() if value and name not in said}
    return replace(saved, **guessed | told)


def likely_ci(survey: Survey) -> tuple[str, ...]:
    """The CIs at hand; one alone is meant, of several none is."""
    return platforms_of(survey.paths, survey.host)


def choose(survey: Survey, settings: Settings, ci: str | None, credentials: str | None) -> Choices:
    """All that is to be written.

    Raises:
        UsageError: something is not known, or the CI cannot do it; one message for all that is
            missing.
    """
    found = likely_ci(survey)
    ci = ci or (found[0] if len(found) == 1 else None)
    missing = {
        "--repo-id NAMESPACE/NAME, the Hub repository to release to": settings.repo_id is None,
        f"--ci, one of {', '.join(found if len(found) > 1 else PLATFORMS)}": ci is None,
    }
    if any(missing.values()):
        wanted = "; ".join(text for text, is_missing in missing.items() if is_missing)
        raise UsageError(
            f"init cannot know {'all of it' if all(missing.values()) else 'this'}: give {wanted}.",
            hint="On a terminal, and without --yes and --json, it asks.",
        )
    assert ci
    credentials = credentials or CREDENTIALS[0]
    if credentials == "oidc" and ci not in WITH_OIDC:
        titles = " and ".join(PLATFORMS[name].title for name in WITH_OIDC)
        raise UsageError(
            f"--credentials oidc: init writes that for {titles} alone.",
            hint="docs/oidc.md tells how any CI with OpenID Connect does it.",
        )
    if ci == "kubernetes" and survey.page is None:
        raise UsageError(
            "--ci kubernetes: the job clones the repository, which has no remote on a server.",
            hint="Add it: git remote add origin https://HOST/OWNER/NAME.git",
        )
    _require_sayable(settings)
    return Choices(ci, credentials, settings, f"{survey.page}.git" if survey.page else "")


def _vocabulary(survey: Survey, told: set[str]) -> dict[str, str]:
    """The only vocabulary of the repository, for checkpoints that neither hold nor name one."""
    readable = [each for each in survey.checkpoints if each.dialect]
    if told & {"dataset", "tokenizer"} or not readable:
        return {}
    if any(each.has_vocabulary or each.dataset for each in readable):
        return {}
    if len(survey.datasets) == 1:
        return {"dataset": survey.datasets[0]}
    if len(survey.tokenizers) == 1 and not survey.datasets:
        return {"tokenizer": survey.tokenizers[0]}
    return {}


def _require_sayable(settings: Settings) -> None:
    for glob in settings.branches:
        if not BRANCH.fullmatch(glob):
            raise UsageError(
                f"--branches {glob[:80]!r}: init writes letters, digits, ./@+=#_- and * alone.",
                hint="Use * for other characters, e.g. 'train/**'.",
            )
    for glob in settings.checkpoints:
        if "," in glob or not glob.isprintable():
            raise UsageError(
                f"--checkpoints {glob[:80]!r}: a comma separates globs.",
                hint="Use ? for a comma and for what cannot be printed.",
            )
