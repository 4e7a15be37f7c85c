"""Untrusted text as Markdown that shows it and does nothing else.

Character references rather than backslashes wherever a character is structure to some parser:
CommonMark never reads a reference as structure, neither do table and math extensions.
"""

from __future__ import annotations

import json
import re

# Control characters, bidirectional overrides, lone surrogates and non-characters.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)
_NOT_SPACE_OR_VISIBLE = "\ufffd"
_INLINE = str.maketrans({c: f"&#{ord(c)};" for c in "\\`|<>&$@~"} | {c: f"\\{c}" for c in "*_[]"})
_AUTOLINK = re.compile(r":(?=//)|(?<=www)\.", re.IGNORECASE)
# At the start of a line: headings, lists, definitions, thematic breaks.
_BLOCK_START = re.compile(r"^( ?(?:\d{1,9}(?=[.)](?:\s|$)))?)([#+\-=:.)])")
_SPACES = re.compile(r"\s+")
_PLAIN_CODE = re.compile(r"[A-Za-z0-9_.,:;/+=()'\"#% -]*")
_BACKTICKS = re.compile("`+")


def escape_markdown(text: str) -> str:
    """Text as one line of Markdown that renders as that text, also in a table cell.

    Runs of white space become one space; what cannot be shown becomes U+FFFD.
    """
    line = _SPACES.sub(" ", printable(text)).translate(_INLINE)
    line = _AUTOLINK.sub(lambda match: _reference(match[0]), line)
    return _BLOCK_START.sub(lambda match: match[1] + _reference(match[2]), line)


def code(text: str) -> str:
    """Text as inline code, also in a table cell; empty for empty text."""
    line = " ".join(printable(text).split())
    if not line:
        return ""
    # A pipe ends a table cell even inside backticks, and a backtick ends the code.
    return f"`{line}`" if _PLAIN_CODE.fullmatch(line) else f"<code>{escape_markdown(line)}</code>"


def fence(text: str, language: str = "text") -> str:
    """Text as a fenced code block that nothing in it can close."""
    block = printable(text).strip("\n")
    longest = max((len(run) for run in _BACKTICKS.findall(block)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{language}\n{block}\n{ticks}"


def python_literal(text: str) -> str:
    """Text as a double-quoted Python string; every JSON string is one."""
    return json.dumps(printable(text, lines=False), ensure_ascii=False)


def printable(text: str, *, lines: bool = True) -> str:
    """Text that UTF-8 and a Markdown reader can take, with ``\\n`` as the only line ending.

    Args:
        text: any text.
        lines: make every line ending ``\\n``; otherwise leave them.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n") if lines else text
    return _UNPRINTABLE.sub(_NOT_SPACE_OR_VISIBLE, text)


def _reference(character: str) -> str:
    return f"&#{ord(character)};"
