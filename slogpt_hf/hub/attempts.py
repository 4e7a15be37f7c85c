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
# An answer that is no JSON, or not the JSON expected: from something between here and the hub, or
# cut off.
NOT_THE_HUBS_ANSWER = frozenset({"JSONDecodeError", "KeyError"})
# Raised by the client before anything was sent: the next time is no different.
NOT_SENT = frozenset(
    {"InvalidURL", "UnsupportedProtocol", "TooManyRedirects", "LocalProtocolError"}
)

sleep = time.sleep  # tests put a clock of their own here


def persevere(
    call: Callable[[], Result],
    tell: Callable[[str], None] = lambda text: None,
    attempts: int = ATTEMPTS,
) -> Result:
    """The result of ``call``, called again where the failure may pass.

    Only for calls that may be repeated: what they do twice is the same as once.

    Args:
        call: one request of the client, or several.
        tell: told why and how long it waits.
        attempts: calls altogether.

    Raises:
        Exception: that of the last call.
    """
    for failed in range(1, attempts):
        try:
            return call()
        except Exception as error:
            if not is_transient(error) or not wait_after(error, failed, tell):
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
    tell(f" publish: the hub gave {reason}; trying again in {seconds:.0f} s.")
    sleep(seconds)
    return True


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    status = status_of(error)
    if status is not None:
        return status in TRANSIENT_STATUS
    return any(
        isinstance(cause, ConnectionError | TimeoutError | EOFError)
        or type(cause).__name__ in NOT_THE_HUBS_ANSWER
        or (
            type(cause).__module__.split(".")[0] in TRANSPORT_MODULES
            and type(cause).__name__ not in NOT_SENT
        )
        for cause in causes(error)
    )


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
    """Seconds that the hub asks to wait; None if it says nothing.

    Format: ``Retry-After`` of RFC 9110 section 10.2.3, seconds or a date; and the ``RateLimit``
    field of draft-ietf-httpapi-ratelimit-headers, which the Hub sends with status 429.
    """
    headers: Mapping[str, str] = getattr(getattr(answer_of(error), "response", None), "headers", {})
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    if value:
        try:
            until = parsedate_to_datetime(value)
        except ValueError:
            return None
        until = until if until.tzinfo else until.replace(tzinfo=UTC)
        return max(0.0, (until - datetime.now(UTC)).total_seconds())
    from huggingface_hub.utils import parse_ratelimit_headers

    limit = parse_ratelimit_headers(headers) if status_of(error) == 429 else None
    return float(limit.reset_in_seconds) if limit and limit.remaining == 0 else None
