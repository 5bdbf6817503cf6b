"""Who may ask, and how much: checks that come before a request is read."""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from screc.serving.errors import BadRequestError, ForbiddenError, TooLargeError, UnauthorizedError

_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]", "::1")


@dataclass(frozen=True, kw_only=True)
class Guard:
    """The access rules of a server.

    Attributes:
        token: what clients give as ``Authorization: Bearer TOKEN``; None: nobody is asked for one.
        max_bytes: of a request's body.
        local_only: whether the server is for this machine: requests then name it as host. A page in a browser
            that has another name point here is refused that way.
    """

    token: str | None = None
    max_bytes: int = 64 * 2**20
    local_only: bool = False

    def check_token(self, authorization: str | None) -> None:
        """Raises :class:`UnauthorizedError` unless the header has the token."""
        if self.token is None:
            return
        kind, _, given = (authorization or "").partition(" ")
        same = hmac.compare_digest(given.strip().encode(), self.token.encode())
        if kind.lower() != "bearer" or not same:
            raise UnauthorizedError("a bearer token is needed: Authorization: Bearer TOKEN")

    def check_site(self, host: str | None, origin: str | None) -> None:
        """Raises :class:`ForbiddenError` for requests that a browser sends for a page from elsewhere."""
        name = (host or "").rpartition(":")[0] if (host or "").rpartition(":")[2].isdigit() else (host or "")
        if self.local_only and host is not None and name.lower() not in _LOCAL_NAMES:
            raise ForbiddenError(f"this server answers for localhost only, not for {host[:80]!r}")
        if origin is not None and urlsplit(origin).netloc.lower() != (host or "").lower():
            raise ForbiddenError("requests from pages of other sites are refused")

    def check_length(self, length: str | None) -> None:
        """Raises for a body that is too long by its own account, or of no length."""
        if length is None:
            return
        if not (length.isascii() and length.isdigit()):
            raise BadRequestError(f"Content-Length: {length[:40]!r} is not a number")
        self.check_bytes(int(length[:20]))

    def check_bytes(self, count: int) -> None:
        """Raises :class:`TooLargeError` beyond the limit."""
        if count > self.max_bytes:
            raise TooLargeError(f"the body is over {self.max_bytes} bytes; send less at a time")


def read_token(path: Path) -> str:
    """The token in a file, without the white space around it.

    Raises:
        ValueError: there is none, or it has characters that a header cannot.
        OSError: the file cannot be read.
    """
    token = path.read_text().strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(f"{path}: must hold one token of printable ASCII characters without spaces")
    return token


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own, reached from nowhere else."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
