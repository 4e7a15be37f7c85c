"""What a CI's log obeys: groups, masks and annotations, and text that must not be obeyed.

Everything here returns text and prints none. Commands go to standard output, one write a line,
not through ``harmless``; whatever else a command prints in a CI goes through it.

Sources: ``ActionCommand.cs`` of actions/runner; ``Command.cs`` and ``CommandStringConvertor.cs``
of microsoft/azure-pipelines-agent; https://docs.gitlab.com/ci/jobs/job_logs/ and
https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TextIO

from slogpt_hf import redaction
from slogpt_hf.card.escaping import printable
from slogpt_hf.ci.markup import visible
from slogpt_hf.ci.outcome import Outcome
from slogpt_hf.parity.claims import MOST_ASSUMED, claim

Level = Literal["error", "warning", "notice"]
MOST_CHARACTERS = 4000  # of one annotation; GitHub cuts it at 4096 bytes of text
FAILURES = {"refused": "not released", "unpublished": "proven, but not published"}
MOST_ANNOTATIONS = 10  # of a level and step; GitHub drops any more

# Characters that a comparison by the rules of a language passes over: old runners compare so.
_PASSED_OVER = (
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff]*"
)
# GitHub reads ``::name::`` where a line begins, after any space, and ``##[name]`` anywhere; Azure
# reads ``##vso[...]`` anywhere and ``##[name]`` where a line begins.
_LINE_COMMAND = re.compile(
    rf"(^(?:[^\S\n]|{_PASSED_OVER[:-1]})*:)(?={_PASSED_OVER}:)", re.MULTILINE
)
_COMMAND = re.compile(
    rf"#{_PASSED_OVER}#(?={_PASSED_OVER}(?:v{_PASSED_OVER}s{_PASSED_OVER}o{_PASSED_OVER})?\[)",
    re.IGNORECASE,
)
_SECTION = re.compile(r"[^a-z0-9]+")


def _escaped(**characters: str) -> dict[int, str]:
    names = {"percent": "%", "cr": "\r", "lf": "\n", "colon": ":", "comma": ","}
    names |= {"semicolon": ";", "bracket": "]"}
    return {ord(names[name]): text for name, text in characters.items()}


@dataclass(frozen=True)
class LogStyle:
    """How a CI writes what is more than text in a log; empty for what it does not know.

    Attributes:
        start: of a group; ``{title}``, ``{section}`` (a name for it) and ``{time}`` (in seconds).
        end: of a group; ``{section}`` and ``{time}``.
        mask: that has a ``{value}`` masked.
        issue: an annotation; ``{level}``, ``{properties}``, ``{message}``.
        levels: of annotations that ``issue`` knows; others are plain text.
        properties: of an annotation (``file``, ``line``, ``title``) as ``issue`` calls them.
        joint: between two properties.
        in_title: characters of a group's title, and how they are written.
        in_data: characters of a value or message, and how they are written.
        in_property: characters of a property, and how they are written.
    """

    start: str = "--- {title}"
    end: str = ""
    mask: str = ""
    issue: str = ""
    levels: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    joint: str = ","
    in_title: Mapping[int, str] = field(default_factory=dict)
    in_data: Mapping[int, str] = field(default_factory=dict)
    in_property: Mapping[int, str] = field(default_factory=dict)


_GITHUB_DATA = _escaped(percent="%25", cr="%0D", lf="%0A")
_AZURE = _escaped(percent="%AZP25", cr="%0D", lf="%0A", semicolon="%3B", bracket="%5D")

PLAIN = LogStyle()
GITHUB = LogStyle(
    start="::group::{title}",
    end="::endgroup::",
    mask="::add-mask::{value}",
    issue="::{level} {properties}::{message}",
    levels=("error", "warning", "notice"),
    properties={"file": "file", "line": "line", "title": "title"},
    in_title=_GITHUB_DATA,
    in_data=_GITHUB_DATA,
    in_property=_GITHUB_DATA | _escaped(colon="%3A", comma="%2C"),
)
GITLAB = LogStyle(
    start="\x1b[0Ksection_start:{time}:{section}[collapsed=true]\r\x1b[0K{title}",
    end="\x1b[0Ksection_end:{time}:{section}\r\x1b[0K",
)
AZURE = LogStyle(
    start="##[group]{title}",
    end="##[endgroup]",
    mask="##vso[task.setsecret]{value}",
    issue="##vso[task.logissue type={level};{properties}]{message}",
    levels=("error", "warning"),
    properties={"file": "sourcepath", "line": "linenumber"},
    joint=";",
    in_data=_AZURE,
    in_property=_AZURE,
)


@dataclass(frozen=True)
class Annotation:
    """A remark that a CI shows beside the run, and beside a file of the repository if it has one.

    Attributes:
        level: how bad it is.
        title: a few words.
        message: what is wrong and what to do, one paragraph.
        file: path in the repository.
        line: of the file, from 1.
    """

    level: Level
    title: str
    message: str
    file: str | None = None
    line: int | None = None


def harmless(text: str) -> str:
    """Text that no CI obeys: a space parts what would be a command, controls become U+FFFD."""
    return _COMMAND.sub("## ", _LINE_COMMAND.sub(r"\1 ", printable(text)))


class HarmlessStream:
    """A stream whose text no CI obeys, in whatever pieces it is written: whole lines pass.

    ``obeyed`` is the stream below, for lines that are to be obeyed.
    """

    def __init__(self, stream: TextIO) -> None:
        self.obeyed = stream
        self._begun = ""
        self._lock = threading.RLock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.obeyed, name)

    def write(self, text: str) -> int:
        """Pass on the lines that are whole; a carriage return ends one, too."""
        with self._lock:
            begun = (self._begun + text).replace("\r\n", "\n").replace("\r", "\n")
            *lines, self._begun = begun.split("\n")
            if lines:
                self.obeyed.write("".join(f"{harmless(line)}\n" for line in lines))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write one after the other."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Pass on what was written, also of a line that has no end yet."""
        with self._lock:
            if self._begun:
                self.write("\n")
            self.obeyed.flush()


def group_start(style: LogStyle, title: str, time: float = 0) -> str:
    """The line that begins a group which can be folded.

    Args:
        style: of the CI.
        title: of the group, any text.
        time: seconds since 1970.
    """
    title = harmless(visible(title))
    written = title.translate(dict(style.in_title))
    return style.start.format(title=written, section=_section(title), time=int(time))


def group_end(style: LogStyle, title: str, time: float = 0) -> str:
    """The line that ends the group of that title; empty where a CI knows no end."""
    return style.end.format(section=_section(harmless(visible(title))), time=int(time))


@contextmanager
def grouped(
    style: LogStyle, title: str, write: Callable[[str], object], clock: Callable[[], float]
) -> Iterator[None]:
    """What is printed within the block as one group. ``write`` takes a line without its end."""
    write(group_start(style, title, clock()))
    try:
        yield
    finally:
        if end := group_end(style, title, clock()):
            write(end)


def masks(style: LogStyle, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The lines that have every secret of the environment masked; to be printed before any other.

    Secrets are those that ``redaction.register_environment`` finds; one of several lines is
    masked line by line, since a CI looks at lines. None where a CI masks by its own settings.
    """
    return mask_lines(style, _secrets(environment))


def mask_lines(style: LogStyle, secrets: Iterable[str]) -> tuple[str, ...]:
    """The lines that have ``secrets`` masked, each once; empty where a CI has no such command."""
    lines = (line for secret in secrets for line in re.split(r"[\r\n]+", secret))
    found = dict.fromkeys(line for line in lines if len(line.strip()) >= redaction.SHORTEST)
    if not style.mask:
        return ()
    return tuple(style.mask.format(value=line.translate(dict(style.in_data))) for line in found)


def _secrets(environment: Mapping[str, str]) -> Iterator[str]:
    for name, value in environment.items():
        if redaction.SECRET_VARIABLE.fullmatch(name):
            if not value.startswith(redaction.PATH_STARTS):
                yield value.strip()
        elif redaction.PROXY_VARIABLE.fullmatch(name) and (secret := redaction._password(value)):
            yield secret


def annotation_line(style: LogStyle, annotation: Annotation) -> str:
    """The line that makes an annotation, or that says the same as text."""
    message = harmless(visible(annotation.message[:MOST_CHARACTERS]))
    given = {"file": annotation.file, "line": annotation.line, "title": annotation.title}
    values = {name: harmless(visible(str(v))) for name, v in given.items() if v is not None}
    if annotation.level not in style.levels:
        where = f" {values['file']}:" if "file" in values else ""
        return harmless(f"{annotation.level}:{where} {values['title']}: {message}")
    if "title" not in style.properties:
        message = f"{values['title']}: {message}"
    pairs = (
        f"{called}={values[name].translate(dict(style.in_property))}"
        for name, called in style.properties.items()
        if name in values
    )
    return style.issue.format(
        level=annotation.level,
        properties=style.joint.join(pairs),
        message=message.translate(dict(style.in_data)),
    )


def annotations_of(outcomes: Iterable[Outcome]) -> tuple[Annotation, ...]:
    """A remark for every checkpoint that failed, or that was proven on assumptions.

    It names the file, and the tensor where the models first differ, or what was assumed. Beyond
    MOST_ANNOTATIONS of a level the last one counts the rest.
    """
    outcomes = list(outcomes)
    failed = [_annotation(each) for each in outcomes if each.status in FAILURES or each.is_broken]
    proven = [each for each in outcomes if each.status in ("released", "proven")]
    proven = [each for each in proven if not each.is_broken]
    noted = [note for outcome in proven if (note := _basis(outcome))]
    return (*_at_most(failed), *_at_most(noted))


def _at_most(found: Sequence[Annotation]) -> Sequence[Annotation]:
    if len(found) <= MOST_ANNOTATIONS:
        return found
    shown, rest = found[: MOST_ANNOTATIONS - 1], len(found) - MOST_ANNOTATIONS + 1
    more = Annotation(found[0].level, "More checkpoints", f"{rest} more: see the summary.")
    return (*shown, more)


def _basis(outcome: Outcome) -> Annotation | None:
    """What a proof rests on, where that is more than a witness of the trainer's."""
    if (proof := outcome.proof) is None or proof.level is None:
        return None
    if proof.level == "witnessed" and not proof.assumptions:
        return None
    words = f"{outcome.name}: {claim(proof, MOST_ASSUMED)}."
    return Annotation("notice", f"Proof: {proof.level}", words, _file(outcome))


def _file(outcome: Outcome) -> str | None:
    return None if "://" in outcome.name else outcome.name


def _annotation(outcome: Outcome) -> Annotation:
    what = FAILURES.get(outcome.status, "released, but does not load")
    # The message of a gate's refusal names the tensor by itself.
    is_named = outcome.tensor is None or outcome.tensor in outcome.message
    where = "" if is_named else f" The models first differ at {outcome.tensor}."
    return Annotation(
        "error",
        f"Checkpoint {what}",
        f"{outcome.name}: {outcome.message or 'no reason was given.'}{where}",
        file=_file(outcome),
    )


def _section(title: str) -> str:
    return _SECTION.sub("_", title.lower()).strip("_")[:60] or "section"
