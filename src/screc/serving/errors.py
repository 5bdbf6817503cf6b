"""What a server answers instead of predictions, with its HTTP status; gRPC's codes follow from it."""

from __future__ import annotations


class ServingError(Exception):
    """An answer other than predictions.

    Attributes:
        status: the HTTP status.
        retry_after: seconds after which the same request may succeed; None where it will not.
    """

    status = 500

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BadRequestError(ServingError):
    """A request that can never be answered; its message names the field, the value and the remedy."""

    status = 400


class UnauthorizedError(ServingError):
    """The bearer token is missing or wrong."""

    status = 401


class ForbiddenError(ServingError):
    """A browser sends it for another site."""

    status = 403


class NotFoundError(ServingError):
    """There is no such model, version or page."""

    status = 404


class TooLargeError(ServingError):
    """Beyond a limit of the server, which the message names."""

    status = 413


class UnsupportedEncodingError(ServingError):
    """A body in an encoding that is not read here."""

    status = 415


class OverloadedError(ServingError):
    """There is more work than is done in time; refused at once."""

    status = 429


class ClientGoneError(ServingError):
    """The client closed its connection before the answer; nobody reads this."""

    status = 499


class UnavailableError(ServingError):
    """The model is not loaded, or the server is stopping."""

    status = 503


class DeadlineError(ServingError):
    """The request waited longer than it may."""

    status = 504
