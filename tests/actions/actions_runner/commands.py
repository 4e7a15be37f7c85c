"""What a step says to the runner: commands in its log, and files of outputs and variables."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from actions_runner.expressions import UnsupportedError

COMMAND = re.compile(r"::([a-z-]+)(?: ([^:]*(?::(?!:)[^:]*)*))?::(.*)")
ANNOTATIONS = ("error", "warning", "notice")
STOP = "stop-commands"


@dataclass(frozen=True)
class Annotation:
    """An `::error::`, `::warning::` or `::notice::` with its properties."""

    level: str
    message: str
    properties: dict[str, str]


@dataclass
class Log:
    """What a job printed, masked, and what the commands in it did."""

    lines: list[str] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)
    annotations: list[Annotation] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    stopped: str | None = None

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def read(self, line: str) -> None:
        """Take a line of output: obey it where it is a command, else keep it."""
        if self.stopped:
            if line.strip() == f"::{self.stopped}::":
                self.stopped = None
            else:
                self._keep(line)
            return
        if match := COMMAND.fullmatch(line.strip()):
            self._obey(match[1], match[2] or "", _decoded(match[3]))
        else:
            self._keep(line)

    def _obey(self, name: str, properties: str, message: str) -> None:
        if name == "add-mask":
            self.masks += [mask for mask in (message, *message.splitlines()) if mask]
        elif name in ANNOTATIONS:
            pairs = (each.partition("=")[::2] for each in properties.split(",") if each)
            decoded = {key.strip(): _decoded(value, ":,") for key, value in pairs}
            self.annotations.append(Annotation(name, self._masked(message), decoded))
            self._keep(f"{name}: {message}")
        elif name == "group":
            self.groups.append(message)
            self._keep(message)
        elif name == STOP:
            self.stopped = message
        elif name not in ("endgroup", "debug"):
            raise UnsupportedError(f"command {name!r}")

    def _keep(self, line: str) -> None:
        self.lines.append(self._masked(line))

    def _masked(self, text: str) -> str:
        for mask in self.masks:
            text = text.replace(mask, "***")
        return text


def _decoded(text: str, more: str = "") -> str:
    for character in (*more, "\n", "\r", "%"):
        text = text.replace(f"%{ord(character):02X}", character)
    return text


def read_pairs(path: Path) -> dict[str, str]:
    """Pairs of a step file: `NAME=VALUE`, or `NAME<<END`, lines of the value, and `END`.

    Raises:
        UnsupportedError: it is neither, as the runner says too.
    """
    pairs = {}
    lines = iter(path.read_text("utf-8").splitlines())
    for line in lines:
        name, opening, end = line.partition("<<")
        if opening and "=" not in name:
            value: list[str] = []
            for each in lines:
                if each == end:
                    break
                value.append(each)
            else:
                raise UnsupportedError(f"no {end!r} in {path}")
            pairs[name] = "\n".join(value)
        elif "=" in line:
            name, _, text = line.partition("=")
            pairs[name] = text
        elif line:
            raise UnsupportedError(f"{line!r} in {path}")
    return pairs
