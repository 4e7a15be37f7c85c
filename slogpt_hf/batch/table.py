"""The one table of a batch's progress: rows on a terminal, plain lines in a log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from slogpt_hf.batch.outcome import Outcome
from slogpt_hf.progress import Progress

if TYPE_CHECKING:
    from tqdm import tqdm

WIDEST = 40  # columns of a checkpoint's name
ROW = "  {desc}{percentage:3.0f}% {bar:20} {elapsed}"
WAITING = "  {desc}{elapsed}"


def shown(text: str) -> str:
    """Text without characters that a terminal obeys."""
    return text if text.isprintable() else ascii(text)[1:-1]


class Table:
    """Shows what the processes of a batch say.

    Args:
        progress: where to; nothing is shown if it is quiet.
        names: of the checkpoints, by index; shown as they are.
    """

    def __init__(self, progress: Progress, names: Sequence[str]) -> None:
        self.progress, self.names = progress, names
        self.width = min(WIDEST, max(map(len, names)))
        self.live = progress.is_terminal and not progress.quiet
        self.done = self.failed = 0
        self._rows: dict[int, tqdm[Any]] = {}

    def show(self, index: int, message: Mapping[str, Any]) -> None:
        """Show a message of ``Pool.messages`` about a checkpoint."""
        if text := message.get("line"):
            if not self.live:
                self.progress.line(f"{self.names[index]}: {text.strip()}")
        elif self.live and (stage := message.get("stage")):
            self._row(index, stage, message["total"], message["at"])
        elif message.get("started"):
            self._say(index, "publish" if message["started"] == "publish" else "begins")
        elif message.get("waits"):
            self._say(index, "waits for memory")

    def end(self, index: int, outcome: Outcome) -> None:
        """Say what became of a checkpoint."""
        self.done += 1
        self.failed += outcome.exit_code != 0
        if row := self._rows.pop(index, None):
            row.close()
        said = f"failed (exit code {outcome.exit_code})" if outcome.exit_code else outcome.status
        more = f", {self.failed} failed" if self.failed else ""
        text = f"{self._name(index)}  {said} {shown(outcome.output)}".rstrip()
        self._line(f"{text} in {outcome.seconds:.1f} s  [{self.done}/{len(self.names)}{more}]")
        for row in self._rows.values():  # whoever takes the outcome may print; they are drawn again
            row.clear()

    def close(self) -> None:
        """Leave the terminal as it was."""
        for row in self._rows.values():
            row.close()
        self._rows.clear()

    def _say(self, index: int, text: str) -> None:
        if self.live:
            self._row(index, text, 0, 0)
        else:
            self.progress.line(f"{self.names[index]}: {text}")

    def _row(self, index: int, text: str, total: int, at: int) -> None:
        from tqdm import tqdm

        described = f"{self._name(index)}  {text:<16} "
        row = self._rows.get(index)
        if row is None:
            row = tqdm(
                desc=described,
                total=0,
                file=self.progress.stream,
                leave=False,
                bar_format=WAITING,
            )
            self._rows[index] = row
        elif row.desc != described:
            row.set_description_str(described, refresh=False)
        row.bar_format, row.total, row.n = (ROW if total else WAITING), total, min(at, total)
        row.refresh()

    def _line(self, text: str) -> None:
        if not self.live:
            self.progress.line(text)
            return
        from tqdm import tqdm

        tqdm.write(text, file=self.progress.stream)

    def _name(self, index: int) -> str:
        name = self.names[index]
        if len(name) > self.width:
            name = "..." + name[3 - self.width :]
        return f"{name:<{self.width}}"
