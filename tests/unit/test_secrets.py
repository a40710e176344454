"""A secret in a URL never appears in an error, a record, a log line or a crash report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bootstrap.config.values import uri_problem
from bootstrap.core.errors import ConfigError, FetchError, redacted
from bootstrap.core.paths import Paths
from bootstrap.engine.recorder import crash
from bootstrap.host.log import LOG, close_log, open_log

HIDDEN = [
    "https://user:hidden@h/x",
    "https://hidden@h/x",
    "http://user:hidden@proxy:3128",
    "http://user:hid#hidden@proxy:3128",
    "http://user:@hidden@proxy:3128",
    "http://user:a/hidden?@proxy:3128",
    "Unsupported proxy syntax in 'http://user:'hidden'@proxy:3128'",
    "https://h/x?X-Amz-Signature=hidden",
    "https://h/x?a=1&X-Amz-Security-Token=hidden&b=2",
    "https://h/x?X-Amz-Credential=hidden/20261124/us-east-1",
    "https://h/x?sig=hidden",
    "https://h/x?access_token=hidden",
    "https://h/x?api_key=hidden",
    "Max retries exceeded with url: /x?Signature=hidden&Expires=1 (Caused by",
]
SHOWN = [
    "samtools@1.19",
    "https://h/a@b/x",
    "https://h:8443/a@b/x",
    "http://proxy:3128 and user@host",
    "https://h/x?versionId=3",
    "s3://bucket/key",
    "user@host",
    "https://h/x?design=1",
]


@pytest.mark.parametrize("text", HIDDEN)
def test_only_the_secret_of_a_text_is_masked(text: str) -> None:
    assert "hidden" not in redacted(text)
    assert "***" in redacted(text)
    assert redacted(f"before {text} after").startswith("before ")
    assert redacted(f"before {text} after").endswith(" after")


def test_a_secret_of_the_environment_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exceptions of libraries contain values of headers, for example."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "hidden-session-token\n")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/a-token-file")
    text = "Invalid header value b'hidden-session-token\\n', /var/run/a-token-file"
    assert redacted(text) == "Invalid header value b'***\\n', /var/run/a-token-file"


@pytest.mark.parametrize("text", SHOWN)
def test_a_text_without_a_secret_is_not_changed(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize(
    "uri",
    [
        *(text for text in HIDDEN if text.startswith("https://")),
        "s3://b/k?X-Amz-Signature=1",
        "s3://b/k?versionId=3&x-amz-security-token=1",
        "s3://key:word@b/k",
    ],
)
def test_a_uri_with_a_secret_is_refused(uri: str) -> None:
    assert "password or a signature" in str(uri_problem(uri))


@pytest.mark.parametrize(
    "uri", ["https://h/a@b/x", "https://h/x?versionId=3", "s3://bucket/a?token=1", "/a@b", "file:///x"]
)
def test_a_uri_without_a_secret_is_accepted(uri: str) -> None:
    assert uri_problem(uri) is None


@pytest.mark.parametrize("text", HIDDEN)
def test_errors_log_and_crash_report_are_masked(text: str, tmp_path: Path) -> None:
    errors = (
        FetchError(text, why=text, remedy=(text,)),
        ConfigError("x", [("a", text)]),
        ConfigError(text, [(text, "b")]),
    )
    for error in errors:
        assert "hidden" not in json.dumps(error.to_dict())
        assert "hidden" not in str(error)
    open_log(tmp_path / "log", "run-1")
    try:
        LOG.warning("%s", text)
        bug = RuntimeError(text)
        LOG.error("bug", exc_info=bug)
        report = crash(bug, Paths(tmp_path), "run-1")
    finally:
        close_log()
    assert "hidden" not in json.dumps(report.to_dict())
    kept = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(kept) == 2
    assert "hidden" not in "".join(kept)
