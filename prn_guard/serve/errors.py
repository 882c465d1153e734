"""What can go wrong with one request, and what the client is told.

Each class carries its answer in both protocols, so that REST and gRPC cannot differ in which
failure is whose fault.
"""

from typing import ClassVar

from prn_guard.errors import PrnGuardError


class RequestError(PrnGuardError):
    """Base: one request could not be answered; the server goes on.

    Attributes:
        status: the answer's HTTP status.
        grpc: the name of the answer's `grpc.StatusCode`.
        retry_after: whole seconds after which the same request may succeed, or None.
        outcome: one word for metrics and logs.
    """

    status: ClassVar[int] = 500
    grpc: ClassVar[str] = "INTERNAL"
    retry_after: ClassVar[int | None] = None
    outcome: ClassVar[str] = "error"


class MalformedError(RequestError):
    """The request breaks the protocol, or its tensor does not fit the model."""

    status = 400
    grpc = "INVALID_ARGUMENT"
    outcome = "malformed"


class UnauthenticatedError(RequestError):
    """No bearer token, or a wrong one."""

    status = 401
    grpc = "UNAUTHENTICATED"
    outcome = "unauthenticated"


class ForbiddenError(RequestError):
    """The request was sent by another site's page, or names a host that this server is not."""

    status = 403
    grpc = "PERMISSION_DENIED"
    outcome = "forbidden"


class UnknownModelError(RequestError):
    """A model, a version or a path that is not served."""

    status = 404
    grpc = "NOT_FOUND"
    outcome = "not_found"


class MethodError(RequestError):
    """A path that is served, with another method.

    Args:
        message: for the client.
        allow: the methods that it takes, as the header `Allow` has them.
    """

    status = 405
    grpc = "UNIMPLEMENTED"
    outcome = "method"

    def __init__(self, message: str, allow: str = "") -> None:
        super().__init__(message)
        self.allow = allow


class SlowClientError(RequestError):
    """The request's body did not arrive in time."""

    status = 408
    grpc = "DEADLINE_EXCEEDED"
    outcome = "slow_client"


class DisconnectedError(RequestError):
    """The client went away; nobody reads the answer. The status is the usual one in logs."""

    status = 499
    grpc = "CANCELLED"
    outcome = "disconnected"


class TooLargeError(RequestError):
    """More bytes, pixels or pictures than are accepted."""

    status = 413
    grpc = "RESOURCE_EXHAUSTED"
    outcome = "too_large"


class MediaTypeError(RequestError):
    """A body of a kind that is not read."""

    status = 415
    grpc = "INVALID_ARGUMENT"
    outcome = "media_type"


class InferenceFailedError(RequestError):
    """The session failed on this request, alone; the message tells the client nothing inside."""

    outcome = "failed"


class QueueFullError(RequestError):
    """As many pictures, or bytes, wait as may."""

    status = 503
    grpc = "UNAVAILABLE"
    retry_after = 1
    outcome = "queue_full"


class StoppingError(RequestError):
    """The server stops, or is not ready yet, and takes no further requests."""

    status = 503
    grpc = "UNAVAILABLE"
    retry_after = 5
    outcome = "stopping"


class DeadlineExceededError(RequestError):
    """The request's deadline passed before it was answered."""

    status = 504
    grpc = "DEADLINE_EXCEEDED"
    outcome = "deadline"
