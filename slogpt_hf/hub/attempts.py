"""Trying again what may succeed the next time: the client does so for uploads only."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

Result = TypeVar("Result")

ATTEMPTS = 6
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 30.0
LONGEST_ASKED_SECONDS = 600.0  # a hub that asks for more is not waited for
TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
TRANSPORT_MODULES = frozenset({"httpx", "httpx2", "httpcore", "httpcore2"})
CLIENT = "huggingface_hub"
LFS_REFUSAL = "LFS batch API returned errors"  # in a reply of status 200, one for each file
CONFLICT = 409
NOT_JSON = frozenset({"JSONDecodeError", "UnicodeDecodeError"})
MISREAD = frozenset({AttributeError, IndexError, KeyError, TypeError, ValueError})
# Raised by the client before anything was sent: the next time is no different.
NOT_SENT = frozenset(
    {
        "InvalidURL",
        "LocalProtocolError",
        "OfflineModeIsEnabled",
        "TooManyRedirects",
        "UnsupportedProtocol",
    }
)

sleep = time.sleep  # tests put a clock of their own here


def persevere(
    call: Callable[[], Result],
    tell: Callable[[str], None] = lambda text: None,
    attempts: int = ATTEMPTS,
    may_pass: Callable[[BaseException], bool] | None = None,
) -> Result:
    """The result of ``call``, called again where the failure may pass.

    Only for calls that may be repeated: what they do twice is the same as once.

    Args:
        call: one request of the client, or several.
        tell: told why and how long it waits.
        attempts: calls altogether.
        may_pass: which failures may pass; ``is_transient`` if None.

    Raises:
        Exception: that of the last call.
    """
    may_pass = may_pass or is_transient
    for failed in range(1, attempts):
        try:
            return call()
        except Exception as error:
            if not may_pass(error) or not wait_after(error, failed, tell):
                raise
    return call()


def wait_after(error: Exception, failed: int, tell: Callable[[str], None]) -> bool:
    """Wait as long as the hub asks, or else longer with each failure.

    Args:
        error: what the last call raised.
        failed: calls that failed so far, from 1.
        tell: told why and how long it waits.

    Returns:
        False, at once, if the hub asks for more than LONGEST_ASKED_SECONDS.
    """
    asked = asked_wait(error)
    if asked is not None and asked > LONGEST_ASKED_SECONDS:
        return False
    longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (failed - 1))
    # Several releases that a hub turned away together must not come back together.
    jitter = random.uniform(0.5, 1.0)
    seconds = longest * jitter if asked is None else asked + jitter
    status = status_of(error)
    reason = f"status {status}" if status else "no answer"
    tell(f"     hub: it gave {reason}; trying again in {seconds:.0f} s.")
    sleep(seconds)
    return True


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    status = status_of(error)
    if status is not None:
        return status in TRANSIENT_STATUS or is_busy(error)
    if any(type(cause).__name__ in NOT_SENT for cause in causes(error)):
        return False
    return is_garbled(error) or any(
        isinstance(cause, ConnectionError | TimeoutError | EOFError)
        or (type(cause).__module__.split(".")[0] in TRANSPORT_MODULES)
        for cause in causes(error)
    )


def is_busy(error: BaseException) -> bool:
    """Whether the hub refused since it does something else there: the Hub says so with 409."""
    said = str(answer_of(error)).lower()
    return status_of(error) == CONFLICT and ("in progress" in said or "try again" in said)


def is_garbled(error: BaseException) -> bool:
    """Whether the client could not read an answer: no JSON, or JSON that is not the Hub's.

    Something between here and the hub gave it, or cut it off.
    """
    if status_of(error) is not None or any(LFS_REFUSAL in str(c) for c in causes(error)):
        return False
    return any(map(_is_misreading, causes(error)))


def _is_misreading(error: BaseException) -> bool:
    if type(error).__name__ in NOT_JSON:
        return True
    trace = error.__traceback__
    if type(error) not in MISREAD or trace is None:
        return False
    while trace.tb_next:
        trace = trace.tb_next
    module: str = trace.tb_frame.f_globals.get("__name__", "")
    return module.split(".")[0] == CLIENT


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it was raised from, the outermost first."""
    inner: BaseException | None = error
    while inner is not None:
        yield inner
        inner = inner.__cause__ or inner.__context__


def answer_of(error: BaseException) -> BaseException:
    """The error that carries the hub's answer, where the client wrapped it into another one."""
    return next((e for e in causes(error) if getattr(e, "response", None) is not None), error)


def status_of(error: BaseException) -> int | None:
    """The HTTP status of the hub's answer; None if there was none."""
    status = getattr(getattr(answer_of(error), "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def asked_wait(error: BaseException) -> float | None:
    """Seconds that the hub asks to wait before the next try; None if it says nothing."""
    headers = getattr(getattr(answer_of(error), "response", None), "headers", {})
    return wait_of_headers(status_of(error), headers)


def wait_of_headers(status: int | None, headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer asks to wait before the next try; None if it says nothing.

    Format: ``Retry-After`` of RFC 9110 section 10.2.3, seconds or a date; and the ``RateLimit``
    field of draft-ietf-httpapi-ratelimit-headers, which the Hub sends with status 429.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    if value:
        try:
            until = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        until = until if until.tzinfo else until.replace(tzinfo=UTC)
        return max(0.0, (until - datetime.now(UTC)).total_seconds())
    from huggingface_hub.utils import parse_ratelimit_headers

    limit = parse_ratelimit_headers(headers) if status == 429 else None
    return float(limit.reset_in_seconds) if limit and limit.remaining == 0 else None
