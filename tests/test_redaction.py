"""Secrets are masked in every form, and nothing else is."""

from __future__ import annotations

import base64
import io
import json
import logging
import sys
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slogpt_hf import cli, redaction
from slogpt_hf.errors import HubError
from slogpt_hf.redaction import (
    SHORTEST,
    SecretFilter,
    register_environment,
    register_secret,
    without_known_secrets,
    without_secrets,
)

SECRET = 'p@ss w/rd+&%="ü-0123456789'


@pytest.fixture(autouse=True)
def _nothing_registered() -> Iterator[None]:
    before = redaction._known, redaction._pattern
    redaction._known, redaction._pattern = frozenset(), None
    yield
    redaction._known, redaction._pattern = before


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        quote(SECRET, safe=""),
        quote_plus(SECRET),
        json.dumps(SECRET)[1:-1],
        *(base64.b64encode(b"user:"[:n] + SECRET.encode()).decode() for n in range(6)),
        *(base64.urlsafe_b64encode(b":" * n + SECRET.encode() + b"!").decode() for n in range(3)),
    ],
)
def test_registered_secret_in_any_form(form: str) -> None:
    assert without_known_secrets(form) == form
    register_secret(SECRET)
    left = without_known_secrets(f"<{form}>").strip("<>")
    assert "***" in left and len(left.replace("***", "")) <= 12  # what base64 has of its neighbours


def test_registered_secret_that_a_message_cuts_off() -> None:
    register_secret("abcdefghijklmnopqrstuvwxyz")
    assert without_known_secrets("failed: abcdefghijklmnop") == "failed: ***"
    assert without_known_secrets("abcdefghijk stays") == "abcdefghijk stays"


@given(st.text(min_size=SHORTEST), st.text(), st.text())
def test_no_text_keeps_a_registered_secret(secret: str, before: str, after: str) -> None:
    redaction._known, redaction._pattern = frozenset(), None
    register_secret(secret)
    masked = without_secrets(before + secret + after)
    assert secret not in masked or secret in before + "***" + after


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("https://me:pass@example.org/x", "https://***@example.org/x"),
        ("git+ssh://tok@en@example.org/x", "git+ssh://***@example.org/x"),
        (
            "PUT https://s3.example/b/k?X-Amz-Signature=ab12&x=1 failed",
            "PUT https://s3.example/b/k?*** failed",
        ),
        ("'http://127.0.0.1:80/o?sig=1#f'", "'http://127.0.0.1:80/o?***'"),
        ("Authorization: Bearer abcdef1234 end", "Authorization: Bearer *** end"),
        ("{'authorization': 'basic bWU6c2VjcmV0MQ=='}", "{'authorization': 'basic ***'}"),
        ("hf_abcdefghijABCDEFGHIJ0123456789", "***"),
        ("hf_jwt_eyJhbGciOiJSUzI1NiJ9.eyJzdWIi.sig-_0", "***"),
        ("hf_oauth_abcdefghijABCDEFGHIJ.x", "***"),
        ("ghs_abcdefghijABCDEFGHIJ0123", "***"),
        ("token eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJyZXBv.c2ln-_ here", "token *** here"),
    ],
)
def test_what_looks_like_a_secret(text: str, masked: str) -> None:
    assert without_secrets(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "File 'x.py', line 3, in hf_hub_download hf_raise_for_status",
        "Basic authentication and bearer certificates are not understood.",
        "me/model: reading https://huggingface.co/me/model failed (status 500). Why? Run again.",
        "mail somebody@example.org about eyJ",
        "a sha256 0123456789abcdef0123456789abcdef",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert without_secrets(text) == text


def test_secrets_of_the_environment() -> None:
    register_environment(
        {
            "WANDB_API_KEY": "wandb-value-1",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "mint-value-2",
            "db_password": "database-value-3",
            "https_proxy": "http://me:proxy%2Dvalue-4@proxy:80",
            "SHORT_TOKEN": "release",
            "SLOGPT_TOKEN_FILE": "token-file-name",
            "DEPLOY_TOKEN": "/run/secrets/token",
            "HTTP_PROXY": "http://[broken",
            "PATH": "ordinary-value",
        }
    )
    kept = "release token-file-name /run/secrets/token ordinary-value"
    secret = "wandb-value-1 mint-value-2 database-value-3 proxy-value-4"
    assert without_known_secrets(f"{kept} {secret}") == f"{kept} *** *** *** ***"


def test_log_records(caplog: pytest.LogCaptureFixture) -> None:
    register_secret("registered-secret")
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(SecretFilter())
    logger = logging.getLogger("slogpt_hf.test_redaction")
    logger.addHandler(handler)
    try:
        logger.warning("PUT %s", "http://h/x?signature=registered-secret")
        try:
            raise ValueError("registered-secret")
        except ValueError:
            logger.exception("and %d more", 1)
    finally:
        logger.removeHandler(handler)
    text = stream.getvalue()
    assert "PUT http://h/x?***" in text and "ValueError: ***" in text and "and 1 more" in text
    assert "registered" not in text.replace("test_log_records", "")


def test_errors_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "planted-secret-1")
    for error in (
        HubError("refused: planted-secret-1", hint="ask http://me:pw@host/x?sig=1"),
        ValueError("planted-secret-1"),
    ):
        monkeypatch.setattr(cli.cli, "main", raising(error))
        assert cli.run(["release", "--debug"]) in (1, 6)
        _, text = capsys.readouterr()
        assert "Traceback" in text and text.count("***") >= 2
        assert "planted-secret" not in text and "pw@" not in text and "sig=1" not in text
    monkeypatch.undo()
    assert cli.run(["inspect", "a", "hf_abcdefghijABCDEFGHIJ0123456789"]) == 2
    assert "unexpected extra argument (***)" in capsys.readouterr().err


def raising(error: Exception) -> object:
    def main(*args: object, **options: object) -> None:
        raise error from OSError(str(error))

    return main


def test_nothing_known_passes_to_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setenv("SOME_API_KEY", "planted-secret-1")
    monkeypatch.setattr(cli.cli, "main", lambda *_, **__: logging.warning("planted-secret-1"))
    logging.root.addHandler(handler := Late())
    try:
        with pytest.raises(SystemExit):
            cli.main([])
    finally:
        logging.root.removeHandler(handler)
    assert stream.getvalue() == "***\n"


class Late(logging.StreamHandler[io.StringIO]):
    """A handler of a library that is imported when the command line runs."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr)  # noqa: T201
