"""The files of init: what each would become, how that differs, and writing them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from slogpt_hf.errors import SloGPTError, UsageError
from slogpt_hf.files import write_atomically
from slogpt_hf.onboarding.choosing import Choices
from slogpt_hf.onboarding.platforms import CREDENTIALS, PLATFORMS, WITH_OIDC, File
from slogpt_hf.onboarding.rendering import render
from slogpt_hf.onboarding.settings_file import says_the_same, settings_file
from slogpt_hf.settings import SETTINGS_FILE, load_settings

OUR_NAME = "slogpt-hf"


@dataclass(frozen=True)
class Change:
    """A file to write.

    Attributes:
        path: relative to the repository.
        content: that it is to have.
        before: that it has; None where nothing is there.
        is_same: what lies there says it already.
        is_foreign: it is somebody else's, and only lines are to be added to it.
    """

    path: str
    content: str
    before: str | None = None
    is_same: bool = False
    is_foreign: bool = False

    @property
    def status(self) -> str:
        """``same``, ``new``, ``differs``, or ``yours`` for a file that is left alone."""
        if self.is_same:
            return "same"
        if self.is_foreign:
            return "yours"
        return "new" if self.before is None else "differs"

    @property
    def diff(self) -> list[str]:
        """From what lies there to what is to be written, as ``diff -u`` shows it."""
        before = (self.before or "").splitlines()
        names = (self.path if self.before is not None else "/dev/null", self.path)
        return list(difflib.unified_diff(before, self.content.splitlines(), *names, lineterm=""))


def plan_changes(folder: Path, choices: Choices) -> tuple[Change, ...]:
    """The CI's files and the settings file, compared to what lies there.

    Raises:
        UsageError: what lies there cannot be read.
    """
    platform = PLATFORMS[choices.ci]
    changes = [_ci_change(folder, file, choices) for file in platform.files]
    path = folder / SETTINGS_FILE
    place = changes[-1].path if platform.repeats else ""
    content = settings_file(choices.settings, platform.repeats, place)
    before = _text(path)
    is_same = before is not None and says_the_same(load_settings({}, {}, folder), choices.settings)
    return (*changes, Change(SETTINGS_FILE, content, before, is_same))


def credentials_at_hand(folder: Path, choices: Choices) -> str | None:
    """The credentials that the CI's files were written for; None if they are not there as such."""
    for credentials in CREDENTIALS if choices.ci in WITH_OIDC else ():
        changes = plan_changes(folder, replace(choices, credentials=credentials))[:-1]
        if all(change.before == change.content for change in changes):
            return credentials
    return None


def write_changes(folder: Path, changes: Sequence[Change], force: bool) -> list[str]:
    """Write what is new, and with ``force`` what differs: all of it or nothing.

    Returns:
        Paths of what was written.

    Raises:
        UsageError: something differs and ``force`` is not given; or a file cannot be written.
    """
    differing = [change.path for change in changes if change.status == "differs"]
    if differing and not force:
        raise UsageError(
            f"{', '.join(differing)}: {'differ' if differing[1:] else 'differs'} from what init "
            "would write; nothing was written.",
            hint="--force overwrites; --dry-run shows all of it.",
        )
    wanted = [change for change in changes if change.status in ("new", "differs")]
    written: list[Change] = []
    try:
        for change in wanted:
            write_atomically(folder / change.path, change.content)
            written.append(change)
    except SloGPTError:
        _undo(folder, written)
        raise
    return [change.path for change in written]


def _undo(folder: Path, written: Iterable[Change]) -> None:
    for change in written:
        if change.before is None:
            (folder / change.path).unlink()
        else:
            write_atomically(folder / change.path, change.before.encode("utf-8", "surrogateescape"))


def _ci_change(folder: Path, file: File, choices: Choices) -> Change:
    content = render(file.template, choices.values)
    before = _text(folder / file.path)
    if before in (None, content):
        return Change(file.path, content, before, is_same=before == content)
    is_ours = OUR_NAME in (before or "")
    if file.is_shared:
        return Change(file.path, content, before, is_same=is_ours, is_foreign=True)
    if file.otherwise and not is_ours:
        return _ci_change(folder, File(file.template, file.otherwise), choices)
    return Change(file.path, content, before)


def _text(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read: {error.strerror}.", hint="Move it out of the way."
        ) from error
