"""Pieces of Markdown for summaries and comments, into which nobody's text gets as markup.

Text that somebody else wrote stands in code and nowhere else: there GitHub and GitLab make no
mention, link, reference, emoji or formula of it, and no line begins with it, where GitLab obeys
``/close`` and its like.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from slogpt_hf.card.escaping import code
from slogpt_hf.card.ledger import is_number

MOST_CHARACTERS = 120
NOTHING = "–"
# No credentials, query, fragment or character that Markdown, HTML or a shell could read.
PAGE = re.compile(
    r"https?://[A-Za-z0-9.-]{1,253}(?::\d{1,5})?(?:/(?:[A-Za-z0-9._~+-]|%[0-9A-F]{2})*){0,64}"
)
LONGEST_PAGE = 2000


def visible(text: str) -> str:
    """Text as one line of what can be seen: no control, format or bidirectional characters."""
    line = "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)
    return " ".join(line.split())


def span(value: object, most: int = MOST_CHARACTERS) -> str:
    """Anything as inline code of at most ``most`` characters, also in a table cell."""
    return code(_cut(value, most)) or NOTHING


def link(value: object, url: str | None) -> str:
    """Inline code that leads to a web page; without the link where the URL is not a plain one."""
    return f"[{span(value)}](<{url}>)" if is_page(url) else span(value)


def is_page(url: object) -> bool:
    """Whether ``url`` is a plain URL of a web page, without credentials and query."""
    return isinstance(url, str) and len(url) <= LONGEST_PAGE and bool(PAGE.fullmatch(url))


def scientific(value: Any) -> str:
    """A number as ``1.6e-14``; a dash for what is none."""
    if not is_number(value):
        return NOTHING
    return f"{value:.1e}" if value else "0"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def details(summary: object, body: str) -> str:
    """Markdown that is folded until somebody opens it, under any text."""
    words = html.escape(_cut(summary, MOST_CHARACTERS)) or NOTHING
    return f"<details>\n<summary><code>{words}</code></summary>\n\n{body}\n\n</details>"


def chart(title: str, names: Sequence[str], errors: Sequence[Any], bound: Any) -> str:
    """Errors as bars and their bound as a line, logarithmic: a block that GitHub draws.

    Args:
        title: of the picture, trusted.
        names: of the bars; anything but letters, digits and spaces is left out of them.
        errors: as many numbers; of 0, and of what is no number, there is no bar.
        bound: largest error allowed.

    Format: https://mermaid.js.org/syntax/xyChart.html
    """
    numbers = [math.log10(value) for value in [*errors, bound] if _is_drawn(value)]
    bottom = math.floor(min(numbers, default=0)) - 1
    top = math.ceil(max(numbers, default=0)) + 1
    heights = [math.log10(value) if _is_drawn(value) else bottom for value in errors]
    labels = ", ".join(f'"{_label(name, index)}"' for index, name in enumerate(names, 1))
    limit = f"{math.log10(bound):.2f}" if _is_drawn(bound) else None
    lines = [
        "```mermaid",
        "xychart-beta",
        f'    title "{title}"',
        f"    x-axis [{labels}]",
        f'    y-axis "log10" {bottom} --> {top}',
        f"    bar [{', '.join(f'{height:.2f}' for height in heights)}]",
        *([f"    line [{', '.join([limit] * len(heights))}]"] if limit else []),
        "```",
    ]
    return "\n".join(lines)


def _cut(value: object, most: int) -> str:
    line = visible(str(value)[: 8 * most])
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _is_drawn(value: Any) -> bool:
    return is_number(value) and 1e-300 < value < 1e300


def _label(name: object, index: int) -> str:
    letters = " ".join(re.sub(r"[^A-Za-z0-9]+", " ", str(name)[:100]).split())[:24].strip()
    return f"{index} {letters}".strip()
