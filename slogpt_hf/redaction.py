"""Secrets stay out of what is printed: those that are known, look like one, or stand in a URL."""

from __future__ import annotations

import base64
import json
import logging
import re
import threading
from collections.abc import Iterator, Mapping
from urllib.parse import quote, quote_plus, unquote, urlsplit

REMOVED = "***"
SHORTEST = 8  # characters; masking anything shorter would tear ordinary words apart
RECOGNISED = 12  # first characters that give a secret away where a message cut it off
TOKEN_END = r"[\w.~+/=%-]*"
SECRET_VARIABLE = re.compile(
    r"(?!SLOGPT_).*(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?"
    r"|(?:API|ACCESS|SECRET|PRIVATE)_?KEY)",
    re.IGNORECASE,
)
PROXY_VARIABLE = re.compile(r"(?:https?|all|ftp)_proxy", re.IGNORECASE)
PATH_STARTS = ("/", "./", "../", "~")  # the variable names a file that holds the secret
# RFC 3986: userinfo and query of a URL; a signed URL's query is as good as a password.
PATTERNS = (
    (re.compile(r"(?<=://)[^/\s'\"<>]*@"), f"{REMOVED}@"),
    (re.compile(r"(\bhttps?://[^\s?#'\"<>]*\?)[^\s'\"<>]+", re.IGNORECASE), rf"\g<1>{REMOVED}"),
    (re.compile(r"\b(bearer|basic)(\s+)(?=\S*\d)[\w.~+/-]{8,}=*", re.I), rf"\1\2{REMOVED}"),
    (re.compile(r"\bhf_(?:jwt_|oauth_)?[A-Za-z0-9]{16,}[\w.-]*"), REMOVED),
    (re.compile(r"\b(?:gh[pousr]_|github_pat_|glpat-)[\w-]{16,}"), REMOVED),
    (re.compile(r"\beyJ[\w-]{10,}(?:\.[\w-]*){0,2}"), REMOVED),  # JSON Web Token, RFC 7519
)

_known: frozenset[str] = frozenset()
_pattern: re.Pattern[str] | None = None
_lock = threading.Lock()


def register_secret(value: str | None) -> None:
    """Have ``value`` masked from now on, also percent-encoded, in JSON and in base64."""
    global _known, _pattern
    if value is None or len(value) < SHORTEST:
        return
    with _lock:
        _known |= {value}
        forms = {form for each in _known for form in _forms(each)}
        whole = map(re.escape, sorted(forms, key=len, reverse=True))
        cut = {form[:RECOGNISED] for form in forms if len(form) >= 2 * RECOGNISED}
        _pattern = re.compile("|".join((*whole, *(re.escape(c) + TOKEN_END for c in cut))))


def register_environment(environment: Mapping[str, str]) -> None:
    """Have the values masked of the variables that hold a secret by their name."""
    for name, value in environment.items():
        if SECRET_VARIABLE.fullmatch(name) and not value.startswith(PATH_STARTS):
            register_secret(value.strip())
        elif PROXY_VARIABLE.fullmatch(name):
            register_secret(_password(value))


def without_known_secrets(text: str) -> str:
    """``text`` with ``***`` for every secret that was registered."""
    return _pattern.sub(REMOVED, text) if _pattern else text


def without_secrets(text: str) -> str:
    """``text`` with ``***`` for registered secrets, for what looks like a token, and for the
    credentials and the query of URLs."""
    text = without_known_secrets(text)
    for pattern, replacement in PATTERNS:
        text = pattern.sub(replacement, text)
    return text


class SecretFilter(logging.Filter):
    """Masks secrets in every record of the handler that it is added to, tracebacks included."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace message and traceback; never drops a record."""
        record.msg, record.args = without_secrets(record.getMessage()), ()
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = without_secrets(record.exc_text)
        return True


def _password(url: str) -> str | None:
    try:
        password = urlsplit(url if "://" in url else f"//{url}").password
    except ValueError:
        return None
    return unquote(password) if password else None


def _forms(secret: str) -> Iterator[str]:
    """The ways to write a secret; of base64, the part that its neighbours have no say in."""
    data = secret.encode("utf-8", "surrogateescape")
    yield from (secret, quote(data, safe=""), quote_plus(data), json.dumps(secret)[1:-1])
    for shift, first in ((0, 0), (1, 2), (2, 3)):  # bytes before it in a group of three
        encoded = base64.b64encode(bytes(shift) + data).decode()
        certain = encoded[first : (shift + len(data)) // 3 * 4]
        yield from (certain, certain.translate(str.maketrans("+/", "-_")))
