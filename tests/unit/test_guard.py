"""Who may ask, and how much."""

from __future__ import annotations

from pathlib import Path

import pytest

from screc.serving.errors import BadRequestError, ForbiddenError, TooLargeError, UnauthorizedError
from screc.serving.guard import Guard, is_loopback, read_token


def test_tokens() -> None:
    guard = Guard(token="secret")
    guard.check_token("Bearer secret")
    guard.check_token("bearer  secret ")
    for given in (None, "", "secret", "Bearer", "Bearer Secret", "Basic secret", "Bearer sécret"):
        with pytest.raises(UnauthorizedError):
            guard.check_token(given)
    Guard().check_token(None)


def test_sites() -> None:
    local = Guard(local_only=True)
    for host in ("localhost:8000", "127.0.0.1:8000", "[::1]:8000", "localhost", None):
        local.check_site(host, None)
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example:80", "", "localhost.evil:1"):
        with pytest.raises(ForbiddenError):
            local.check_site(host, None)
    local.check_site("localhost:8000", "http://localhost:8000")
    for origin in ("http://evil.example", "null", "http://localhost:9000"):
        with pytest.raises(ForbiddenError):
            local.check_site("localhost:8000", origin)
    Guard().check_site("models.example:80", None)


def test_lengths() -> None:
    guard = Guard(max_bytes=100)
    guard.check_length(None)
    guard.check_length("100")
    for length in ("101", "9" * 5000):
        with pytest.raises(TooLargeError):
            guard.check_length(length)
    for length in ("-1", "ten", "", "1.5", "²"):
        with pytest.raises(BadRequestError):
            guard.check_length(length)


def test_token_files(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(" s3cret\n")
    assert read_token(file) == "s3cret"
    for text in ("", "two words", "né", "a\nb"):
        file.write_text(text)
        with pytest.raises(ValueError, match="one token"):
            read_token(file)


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org")))
